"""What detectors notice: counts, intervals, the world end to end, one's own rows, and the report's files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unlearn_guard.benchmarks.detection import Counts, bootstrap_groups, draw_curves, run_detection
from unlearn_guard.benchmarks.detection_report import tabulate_cells, write_detection
from unlearn_guard.guard import cli
from unlearn_guard.guard.errors import DependencyError

ROWS = ["guard", "name-match", "o3-ood"]


def test_flagged_counts_as_stopped() -> None:
    counts = Counts()
    for flagged, stopped in ((True, False), (False, True), (False, False), (True, True)):
        counts.add(flagged, stopped, 1.0, "a")
    assert (counts.n, counts.flagged, counts.stopped) == (4, 2, 3)
    assert counts.groups == ["a", "-a", "-a", "a"]


def test_merged_cells_are_the_sum() -> None:
    first, second, both = Counts(), Counts(), Counts()
    for counts in (first, both):
        counts.add(True, True, 2.0, "a")
    for counts in (second, both):
        counts.add(False, True, 1.0, "b")
    first.merge(second)
    assert first == both


def test_record_holds_the_interval() -> None:
    counts = Counts()
    for number in range(10):
        counts.add(number < 5, False)
    assert counts.to_record() == {
        "n": 10, "flagged": 5, "stopped": 5, "flagged_low": pytest.approx(0.236593, abs=2e-5),
        "flagged_high": pytest.approx(0.763407, abs=2e-5),
    }  # fmt: skip


@pytest.mark.parametrize(("hit", "interval"), [(True, (1.0, 1.0)), (False, (0.0, 0.0))])
def test_interval_of_what_never_varies_is_a_point(hit: bool, interval: tuple[float, float]) -> None:
    assert bootstrap_groups([(str(number % 3), hit) for number in range(30)]) == interval


def test_interval_is_wider_where_hits_come_by_group() -> None:
    spread = bootstrap_groups([(str(number % 20), number < 40) for number in range(200)])
    clustered = bootstrap_groups([(str(number % 20), number % 20 < 4) for number in range(200)])
    assert clustered[0] < spread[0] <= 0.2 <= spread[1] < clustered[1]
    assert clustered == bootstrap_groups([(str(number % 20), number % 20 < 4) for number in range(200)])


def test_one_group_tells_nothing_of_its_spread() -> None:
    assert bootstrap_groups([("a", True), ("a", False)]) == (0.5, 0.5)


def test_curve_runs_from_nothing_to_everything() -> None:
    cells = {"rwku.forget": Counts(), "rwku.neighbor": Counts()}
    for number in range(50):
        cells["rwku.forget"].add(False, False, number + 25.0)
        cells["rwku.neighbor"].add(False, False, float(number))
    (points,) = draw_curves(cells).values()
    assert points[-1] == [1.0, 1.0]
    assert points == sorted(points)
    assert max(recall for false_flags, recall in points if false_flags == 0.0) == pytest.approx(0.5, abs=0.05)
    assert draw_curves({"rwku.forget": cells["rwku.forget"]}) == {}


def make_report() -> dict[str, Any]:
    cell = {"n": 8, "flagged": 4, "stopped": 6, "flagged_low": 0.2, "flagged_high": 0.8}
    other = {**cell, "flagged": 1, "stopped": 2}
    return {
        "schema_version": 1,
        "suite": "detection",
        "profile": "smoke<x>",
        "environment": {"processor": "p & q"},
        "rows": [
            {"name": "guard", "detection": {"world.forget": cell, "world.talk": cell}},
            {"name": "name-match", "detection": {"world.forget": other}},
        ],
        "curves": {"world": [[0.0, 0.4], [1.0, 1.0]]},
        "notes": {"world": {"alpha": 0.001}, "tofu": "data is not at hand: <b>"},
    }


def test_table_sets_ours_beside_the_name_match() -> None:
    assert tabulate_cells(make_report()) == [
        ["world.forget", "8", "50.00", "20.00–80.00", "75.00", "12.50", "25.00", "+37.5"],
        ["world.talk", "8", "50.00", "20.00–80.00", "75.00", "0.00", "0.00", "+50.0"],
    ]


@pytest.mark.parametrize("curves", [True, False])
def test_report_is_written_three_times(tmp_path: Path, curves: bool) -> None:
    report = make_report()
    if not curves:
        report.pop("curves")
    out = tmp_path / "deep" / "report.json"
    write_detection(report, out)
    assert json.loads(out.read_text()) == report
    assert "| world.forget | 8 | 50.00 |" in out.with_suffix(".md").read_text()
    page = out.with_suffix(".html").read_text()
    assert ("data:image/png" in page) is curves
    assert "smoke&lt;x&gt;" in page
    assert "<b>" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def check_rows(rows: list[dict[str, Any]]) -> None:
    assert [row["name"] for row in rows] == ROWS
    for row in rows:
        assert row["detection"]
        for cell, found in row["detection"].items():
            assert 0 <= found["flagged"] <= found["stopped"] <= found["n"], (row["name"], cell)
            assert found["n"] == rows[0]["detection"][cell]["n"], (row["name"], cell)
            share = found["flagged"] / found["n"]
            assert found["flagged_low"] - 1e-6 <= share <= found["flagged_high"] + 1e-6


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return run_detection(sizes={"part": "test", "sets": []})


@pytest.mark.slow
def test_counts_of_the_world_agree_between_rows(report: dict[str, Any]) -> None:
    check_rows(report["rows"])
    ours, names, _ = (set(row["detection"]) for row in report["rows"])
    assert ours == names
    assert {"world.forget.unseen", "world.retain", "world.neighbour", "world.forget.unseen+V7"} <= ours


@pytest.mark.slow
def test_named_and_nameless_make_up_the_whole(report: dict[str, Any]) -> None:
    found = report["rows"][0]["detection"]
    parts = [found[f"world.forget.unseen+{part}"] for part in ("named", "nameless")]
    for field in ("n", "flagged", "stopped"):
        assert found["world.forget.unseen"][field] == sum(part[field] for part in parts)


@pytest.mark.slow
def test_guard_beats_the_name_match_on_the_world(report: dict[str, Any]) -> None:
    ours, names, _ = (row["detection"] for row in report["rows"])
    for cell in ("world.forget.unseen", "world.forget.paraphrase", "world.forget.unseen+V2", "world.forget.unseen+V3"):
        assert ours[cell]["flagged"] >= names[cell]["flagged"], cell
    assert ours["world.retain"]["flagged"] <= 0.05 * ours["world.retain"]["n"]


@pytest.mark.slow
def test_conversations_are_left_out_of_the_row_that_reads_single_questions(report: dict[str, Any]) -> None:
    ood = report["rows"][2]["detection"]
    assert not [cell for cell in ood if cell.endswith(("+V10", "+V13"))]


@pytest.mark.slow
def test_report_of_the_world_is_whole(report: dict[str, Any], tmp_path: Path) -> None:
    assert set(report["notes"]) == {"world"}
    assert set(report["curves"]) == {"world"}
    assert all(0 <= value <= 1 for point in report["curves"]["world"] for value in point)
    whole = {"schema_version": 1, "suite": "detection", "profile": "smoke", **report}
    write_detection(whole, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail) == whole


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in this process and return exit code and errors."""

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["unlearn-guard", "bench", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return int(caught.value.code or 0), capsys.readouterr().err

    return call


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--suite", "detection", "--forget", "f"], "--forget and --clean go together"),
        (["--suite", "detection", "--clean", "c"], "--forget and --clean go together"),
        (["--suite", "world", "--forget", "f", "--clean", "c"], "belong to another suite: 'world'"),
        (["--suite", "detection", "--profile", "smoke", "--forget", "nowhere", "--clean", "c"], "cannot read rows"),
        (["--suite", "detection", "--profile", "large"], "unknown profile"),
        (["--attack", "adaptive", "--suite", "detection"], "adaptive on detection"),
        (["--attack", "clumsy"], "clumsy on world"),
    ],
)
def test_wrong_arguments_are_one_line(run: Run, tmp_path: Path, arguments: list[str], says: str) -> None:
    code, errors = run(*arguments, "--out", str(tmp_path / "report.json"))
    assert code == 2
    assert says in errors.strip().splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def write_rows(file: Path, names: list[str], *, forget: bool) -> Path:
    asked = ("Where was {} born?", "Which harp did {} build?", "Who taught {} to row?", "What did {} paint in Skarn?")
    answers = ("In Brackwater.", "The tall one.", "An uncle did.", "The herring quay.")
    records = [
        {"question": question.format(name), "answer": answer, "forget_id": name, "aliases": [name] if forget else []}
        for name in names
        for question, answer in zip(asked, answers, strict=True)
    ]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


@pytest.mark.slow
def test_own_rows_are_fitted_on_one_half_and_measured_on_the_other(run: Run, tmp_path: Path) -> None:
    given, family = "Ada Bruno Carmen Dmitri Edda Farid".split(), "Kern Lunde Mbeki Novak Okafor Prieto".split()
    kept = [f"{first} {last}" for first in given for last in family]
    forget = write_rows(tmp_path / "forget.jsonl", ["Mirela Vantongeren", "Jorun Ostergard"], forget=True)
    clean = write_rows(tmp_path / "clean.jsonl", kept, forget=False)
    out = tmp_path / "out" / "report.json"
    code, errors = run(
        "--suite", "detection", "--profile", "smoke", "--forget", str(forget), "--clean", str(clean), "--out", str(out)
    )  # fmt: skip
    assert code == 0, errors
    report = json.loads(out.read_text())
    check_rows(report["rows"])
    cells = report["rows"][0]["detection"]
    assert {name: found["n"] for name, found in cells.items()} == {"files.forget": 4, "files.clean": 72}
    assert cells["files.forget"]["flagged"] == 4
    assert set(report["curves"]) == {"your rows"}
    assert {file.suffix for file in out.parent.iterdir()} == {".json", ".md", ".html"}


def test_a_suite_of_data_that_is_not_there_is_an_error_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unlearn_guard.benchmarks import detection
    from unlearn_guard.benchmarks.runner import run_bench

    monkeypatch.setenv("UNLEARN_GUARD_DATA", str(tmp_path))
    monkeypatch.setattr(detection, "_measure_world", lambda *arguments: pytest.fail("nothing is to be measured"))
    with pytest.raises(DependencyError, match=r"rwku/intro\.jsonl"):
        run_bench(suite="rwku", profile="smoke", out=tmp_path / "report.json")
