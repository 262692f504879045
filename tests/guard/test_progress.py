"""Progress: everything passes through, and nothing goes to standard output."""

from __future__ import annotations

import pytest

from unlearn_guard.guard.progress import report_step, track


def test_items_pass_in_order_and_standard_output_stays_free(capfd: pytest.CaptureFixture[str]) -> None:
    assert list(track(iter("abc"), "letters", total=3)) == ["a", "b", "c"]
    with report_step("load"):
        pass
    assert capfd.readouterr().out == ""


def test_step_lets_errors_through() -> None:
    with pytest.raises(KeyError), report_step("load"):
        raise KeyError("x")
