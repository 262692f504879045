"""The baseline: an alias, or nothing."""

from __future__ import annotations

import pytest

from unlearn_guard.classifiers.name_match import NameMatch
from unlearn_guard.guard.protocols import PromptClassifier
from unlearn_guard.guard.verdict import TextScore

NAMES = NameMatch({"p1": ["Ann Lee"], "p2": ["Bo Li", "Ann Lee"]}, 0.01)


def test_keeps_the_protocol() -> None:
    assert isinstance(NAMES, PromptClassifier)
    assert NAMES.alpha == 0.01


def test_any_alpha_can_be_held() -> None:
    assert NAMES.smallest_p == NAMES.p_value(1.0) == 0.0


@pytest.mark.parametrize("operation", [NAMES.score, NAMES.match])
def test_name_is_flagged_with_owners_and_spans(operation) -> None:  # type: ignore[no-untyped-def]
    found, clean, twice = operation(["who is ANN LEE?", "who is Ann?", "Bo Li, Bo Li, Ann Lee"])
    assert found == TextScore(1.0, "alias", ("p1", "p2"), ((7, 14),))
    assert clean == TextScore(0.0, "alias")
    assert twice == TextScore(1.0, "alias", ("p2", "p1"), ((0, 5), (7, 12), (14, 21)))


@pytest.mark.parametrize(("score", "p_value"), [(1.0, 0.0), (0.0, 1.0), (0.99, 1.0)])
def test_p_value_is_all_or_nothing(score: float, p_value: float) -> None:
    assert NAMES.p_value(score) == p_value


def test_text_of_any_length_is_one_window() -> None:
    assert NAMES.split_windows("x" * 10_000) == [(0, 10_000)]
