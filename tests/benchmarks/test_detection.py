"""What detectors notice: the world end to end, one's own rows, what a kill leaves, and the report's files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unlearn_guard.benchmarks import detection
from unlearn_guard.benchmarks.detection import run_detection
from unlearn_guard.benchmarks.detection_cells import Counts, Tally
from unlearn_guard.benchmarks.detection_report import tabulate_cells, write_detection
from unlearn_guard.benchmarks.detection_sets import Draw
from unlearn_guard.guard import cli
from unlearn_guard.guard.errors import DependencyError

ROWS = ["guard", "name-match", "o3-ood"]


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
        "areas": {"world": 0.875},
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
    assert "Area under the curve of world: 0.8750." in out.with_suffix(".md").read_text()
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
    return run_detection(sizes={"part": "test", "sets": []}, fresh=True)


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
        "--suite", "detection", "--profile", "smoke", "--forget", str(forget), "--clean", str(clean), "--fresh",
        "--out", str(out)
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
    from unlearn_guard.benchmarks.runner import run_bench

    monkeypatch.setenv("UNLEARN_GUARD_DATA", str(tmp_path))
    monkeypatch.setattr(detection, "measure_world", lambda *arguments: pytest.fail("nothing is to be measured"))
    with pytest.raises(DependencyError, match=r"rwku/intro\.jsonl"):
        run_bench(suite="rwku", profile="smoke", out=tmp_path / "report.json")


def test_a_run_that_was_killed_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLEARN_GUARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("UNLEARN_GUARD_DATA", str(tmp_path))
    measured: list[str] = []
    killed = {"b"}

    def make(name: str) -> Any:
        def measure(tally: Tally, draw: Draw, folder: Path) -> None:
            assert list(folder.iterdir()) == []
            if name in killed:
                raise KeyboardInterrupt
            measured.append(name)
            tally.cells["guard"] = {f"{name}.forget": Counts(4, draw.seed, 4, [0.5], [("x", True)])}
            tally.notes[name] = {"alpha": 0.001}

        return name, f"{name}-part", measure

    monkeypatch.setattr(detection, "_list_work", lambda *arguments: [make(name) for name in "abc"])
    with pytest.raises(KeyboardInterrupt):
        run_detection(sizes={}, seed=2)
    killed.clear()
    report = run_detection(sizes={}, seed=2)
    assert measured == ["a", "b", "c"]
    assert [found["flagged"] for found in report["rows"][0]["detection"].values()] == [2, 2, 2]
    again = run_detection(sizes={}, seed=2)
    assert measured == ["a", "b", "c"]
    assert again["rows"] == report["rows"]
    assert again["notes"] == report["notes"]
    run_detection(sizes={}, seed=2, fresh=True)
    run_detection(sizes={}, seed=3)
    assert measured == list("abc" * 3)
    (tmp_path / "tofu").mkdir()
    (tmp_path / "tofu" / "full.jsonl").write_text("{}\n")  # Other data is another measurement.
    run_detection(sizes={}, seed=3)
    assert measured == list("abc" * 4)


def test_a_set_that_is_not_there_is_noted_and_its_parts_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLEARN_GUARD_CACHE", str(tmp_path / "cache"))

    def fill(tally: Tally, draw: Draw, folder: Path) -> None:
        tally.cells["guard"] = {"world.forget": Counts(1)}

    def fail(tally: Tally, draw: Draw, folder: Path) -> None:
        raise DependencyError("data is not at hand", value="tofu/full.jsonl")

    monkeypatch.setattr(detection, "_list_work", lambda *arguments: [("world", "w", fill), ("tofu", "t", fail)])
    assert "tofu/full.jsonl" in run_detection(sizes={})["notes"]["tofu"]
    assert len(list((tmp_path / "cache" / "bench").iterdir())) == 1
    monkeypatch.setattr(detection, "_list_work", lambda *arguments: [("world", "w", fail)])
    with pytest.raises(DependencyError):
        run_detection(sizes={}, fresh=True)
