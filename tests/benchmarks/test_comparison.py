"""What two reports do not share, and nothing else."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from unlearn_guard.benchmarks.comparison import Difference, compare_reports, read_report
from unlearn_guard.guard import cli
from unlearn_guard.guard.errors import DataError


def make_report() -> dict[str, Any]:
    rows = [
        {"name": name, "seed": 0, "sets": {"world.retain": {"n": 9, "rouge_l_recall": 0.5}}, "cost": {"fit_s": 1.0}}
        for name in ("none", "eco")
    ]
    return {"schema_version": 1, "suite": "world", "profile": "smoke", "environment": {"cores": 2}, "rows": rows}


def test_cost_and_environment_are_no_difference() -> None:
    first, second = make_report(), make_report()
    second["environment"]["cores"] = 64
    second["rows"][1]["cost"]["fit_s"] = 9.0
    assert compare_reports(first, second) == []


def test_studies_are_compared_without_their_cost_inside_lists_too() -> None:
    def make(seconds: float, leak: float) -> dict[str, Any]:
        steps = [{"guard": {"leak": leak, "cost": {"seconds": seconds}}}]
        return {**make_report(), "studies": [{"study": "sequence-1", "seed": 0, "steps": steps}]}

    assert compare_reports(make(1.0, 0.5), make(2.0, 0.5)) == []
    assert compare_reports(make(1.0, 0.5), make(2.0, 0.25)) == [
        Difference("study sequence-1, seed 0", "steps[0].guard.leak", 0.5, 0.25)
    ]


def test_figures_and_rows_that_differ() -> None:
    first, second = make_report(), make_report()
    second["rows"][0]["sets"]["world.retain"]["rouge_l_recall"] = 0.25
    del second["rows"][0]["sets"]["world.retain"]["n"]
    second["rows"][1]["name"] = "npo"
    second["profile"] = "small"
    assert compare_reports(first, second) == [
        Difference("report", "profile", "smoke", "small"),
        Difference("none, seed 0", "sets.world.retain.n", 9, None),
        Difference("none, seed 0", "sets.world.retain.rouge_l_recall", 0.5, 0.25),
        Difference("eco, seed 0", "row", "there", None),
        Difference("npo, seed 0", "row", None, "there"),
    ]


def test_reports_of_two_suites_do_not_compare() -> None:
    with pytest.raises(DataError, match=r"two suites.*tofu.*world"):
        compare_reports(make_report(), {**make_report(), "suite": "tofu"})


@pytest.mark.parametrize("content", ["", "[]", '{"rows": 3, "suite": "world"}', '{"rows": []}'])
def test_what_is_no_report_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "report.json"
    file.write_text(content)
    with pytest.raises(DataError, match=r"not a benchmark report.*report\.json"):
        read_report(file)


def test_command_line_says_what_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / name for name in ("a.json", "b.json", "c.json")]
    other = copy.deepcopy(make_report())
    other["rows"][0]["sets"]["world.retain"]["n"] = 8
    for file, report in zip(files, (make_report(), make_report(), other), strict=True):
        file.write_text(json.dumps(report))
    for second, code, said in (
        (files[1], 0, "no difference"),
        (files[2], 1, "none, seed 0: sets.world.retain.n 9 → 8"),
    ):
        monkeypatch.setattr("sys.argv", ["unlearn-guard", "bench", "compare", str(files[0]), str(second)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert (caught.value.code or 0) == code
        assert said in " ".join(capsys.readouterr().out.split())
