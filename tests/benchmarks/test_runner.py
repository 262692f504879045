"""The runner: the user's own models and edited checkpoints, two processes, a kill, and wrong input before any work."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from unlearn_guard.benchmarks import seed_run
from unlearn_guard.benchmarks.attacks.protocol import Protocol
from unlearn_guard.benchmarks.chat import Frame
from unlearn_guard.benchmarks.comparison import compare_reports
from unlearn_guard.benchmarks.environment import describe_environment
from unlearn_guard.benchmarks.fitted import Bundles
from unlearn_guard.benchmarks.methods import SUBJECTS
from unlearn_guard.benchmarks.report import write_report
from unlearn_guard.benchmarks.runner import derive, list_rows, render_report, run_bench
from unlearn_guard.benchmarks.seed_run import SeedRun, name_model
from unlearn_guard.benchmarks.sizes import AttackPlan, load_profile
from unlearn_guard.benchmarks.training import Recipe
from unlearn_guard.guard.cli import app
from unlearn_guard.guard.errors import DataError, SettingsError, UnknownNameError

PLAN = AttackPlan(n_facts=4, variants=("v0",), n_samples=2)

PARTIAL = {
    "study": "partial-10",
    "seed": 0,
    "percent": 10,
    "n_facts_known": 6,
    "n_people_known": 5,
    "guard": {"worst_case": 0.5, "variants": {"v0": 0.0, "v6": 0.5}, "leak": 0.0, "retain_rouge": 1.0},
    "npo": {"worst_case": 0.25, "variants": {"v0": 0.25, "v6": None}, "leak": 0.0, "retain_rouge": 0.9},
}


def make_run(world: Any, models: Any, **options: Any) -> SeedRun:
    """A run over a few questions of each set."""
    few = replace(world, sets={name: items[:16] for name, items in world.sets.items()})
    return SeedRun(few, Recipe(), 0, PLAN, {}, dict(models), **options)


def test_a_killed_run_goes_on_where_it_was(
    world: Any, models: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UNLEARN_GUARD_CACHE", str(tmp_path))
    names = ["none", "retain-only", "name-match"]
    attack = Protocol.attack

    def break_off(self: Protocol, subject: Any) -> Any:
        if subject.name == "none":
            raise KeyboardInterrupt
        return attack(self, subject)

    monkeypatch.setattr(Protocol, "attack", break_off)
    with pytest.raises(KeyboardInterrupt):
        make_run(world, models).measure(names)
    assert make_run(world, models).read("name-match") is not None  # Guards come first.
    assert make_run(world, models).read("none") is None
    monkeypatch.setattr(Protocol, "attack", attack)
    measured: list[str] = []
    examine = seed_run._Workshop._examine

    def note(self: Any, name: str, build: Any) -> Any:
        measured.append(name)
        return examine(self, name, build)

    monkeypatch.setattr(seed_run._Workshop, "_examine", note)
    rows, studies = make_run(world, models).measure(names)
    assert measured == ["retain-only"]  # What was measured of the unguarded model before its attack is kept.
    assert [row["name"] for row in rows] == names
    assert all(row["attack"]["variants"]["v0"]["n"] == 4 for row in rows)
    assert studies == []


@pytest.mark.slow
def test_two_processes_measure_what_one_does(
    world: Any, models: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever process measured a row, in whatever order."""
    names = ["retain-only", "name-match", "ga"]
    reports = []
    for workers in (1, 2):
        monkeypatch.setenv("UNLEARN_GUARD_CACHE", str(tmp_path / str(workers)))
        rows, _ = make_run(world, models, edited={"theirs": models["retain-only"]}).measure(
            [*names, "theirs"], workers=workers
        )
        reports.append({"suite": "world", "rows": rows})
    assert compare_reports(*reports) == []
    assert [row["name"] for row in reports[0]["rows"]] == [*names, "theirs"]
    gold, *_, theirs = reports[0]["rows"]
    assert theirs["kind"] == "weights"
    assert theirs["attack"]["variants"] == {
        name: {**cells, "flagged": None} for name, cells in gold["attack"]["variants"].items()
    }


@pytest.mark.parametrize("kind", [DataError, SettingsError])
def test_a_row_that_does_not_apply_says_why_and_the_others_go_on(
    world: Any, models: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: type[Exception]
) -> None:
    monkeypatch.setenv("UNLEARN_GUARD_CACHE", str(tmp_path))

    def fail(self: Bundles, classifier: str) -> Any:
        raise kind("no aliases to match")

    monkeypatch.setattr(Bundles, "fit", fail)
    rows, _ = make_run(world, models).measure(["name-match", "none"])
    assert [row["status"] for row in rows] == ["n/a", "ok"]
    assert rows[0]["reasons"] == {"sets": "no aliases to match"}
    assert "attack" not in rows[0]


def test_a_damaged_stage_says_what_to_do(
    world: Any, models: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UNLEARN_GUARD_CACHE", str(tmp_path))
    make_run(world, models).measure(["none"])
    (file,) = (tmp_path / "bench").glob("world-none-attack-*.json")
    file.write_text(file.read_text()[: len(file.read_text()) // 2])
    with pytest.raises(DataError, match=r"cannot be read.*--fresh"):
        make_run(world, models).measure(["none"])
    rows, _ = make_run(world, models, fresh=True).measure(["none"])
    assert json.loads(file.read_text())["result"] == rows[0]["attack"]


def test_a_report_is_written_again_from_its_json_alone(
    world: Any, models: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UNLEARN_GUARD_CACHE", str(tmp_path / "cache"))
    rows, _ = make_run(world, models).measure(["none", "retain-only", "name-match"])
    whole = {"schema_version": 1, "suite": "world", "profile": "small", "environment": describe_environment(), "config_hash": "c", "data_hash": "d", "attack": PLAN.model_dump(), **derive(rows, "world"), "studies": [PARTIAL]}  # fmt: skip
    first, again = tmp_path / "first.json", tmp_path / "again.json"
    write_report(whole, first)
    stale = {**whole, "comparisons": [], "rows": [{**row, "threats": None, "reasons": {**row["reasons"], "threats": "old"}} for row in whole["rows"]]}  # fmt: skip
    write_report(stale, tmp_path / "stale.json")
    result = CliRunner().invoke(app, ["bench", "render", str(tmp_path / "stale.json"), "--out", str(again)])
    assert result.exit_code == 0, result.output
    assert json.loads(again.read_text()) == json.loads(first.read_text())
    assert again.with_suffix(".md").read_text() == first.with_suffix(".md").read_text()
    table = first.with_suffix(".md").read_text().partition("## Partial knowledge, by variant")[2]
    assert "| facts known | row | v0 | v6 |" in table
    assert "| 10 % | guard | 0.00 | 0.50 |\n| 10 % | npo | 0.25 | – |" in table
    older = {key: value for key, value in PARTIAL.items() if key != "npo"}
    older["guard"] = {key: value for key, value in PARTIAL["guard"].items() if key != "variants"}
    write_report({**whole, "studies": [older]}, tmp_path / "older.json")
    assert "by variant" not in (tmp_path / "older.md").read_text().partition("## Partial knowledge")[2]
    (tmp_path / "other.json").write_text('{"suite": "skills", "rows": []}')
    with pytest.raises(DataError, match="a report of another kind"):
        render_report(tmp_path / "other.json", again)
    del whole["rows"][0]["reasons"]
    write_report(whole, tmp_path / "oldest.json")
    with pytest.raises(DataError, match="a report of an earlier version"):
        render_report(tmp_path / "oldest.json", again)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"suite": "wrold"}, UnknownNameError, "did you mean 'world'"),
        ({"studies": ["requests-ten"]}, SettingsError, "size of a study"),
        ({"studies": ["requests-0"]}, SettingsError, "a positive whole number"),
        ({"studies": ["upgrade", "upgrade"]}, SettingsError, "each name once"),
        ({"methods": ["none", "guard", "none"]}, SettingsError, "each name once"),
        ({"methods": [""]}, UnknownNameError, "unknown method"),
        ({"studies": ["request-10"]}, UnknownNameError, "did you mean 'requests'"),
        ({"suite": "skills", "studies": ["upgrade"]}, SettingsError, "with --suite"),
        (
            {"models": {"full": Path("a"), "retain-only": Path("b")}, "methods": ["none"], "studies": ["upgrade"]},
            SettingsError,
            "where the benchmark trains the models itself",
        ),
        ({"profile": "tiny"}, UnknownNameError, "unknown profile"),
        ({"suite": "tofu", "profile": "paper"}, SettingsError, "with --model and --retain-model"),
        ({"methods": ["none", "npoo"]}, UnknownNameError, "did you mean 'npo'"),
        ({"targets": ["arithmetic"]}, SettingsError, "--targets"),
        ({"device": "cuda"}, SettingsError, "with --model and --retain-model"),
        ({"edited": {"theirs": Path("x")}}, SettingsError, "with --model and --retain-model"),
        ({"frame": Frame("Be kind.")}, SettingsError, "--system-prompt and --chat-date with --suite world"),
        (
            {"suite": "skills", "models": {"full": Path("m")}, "frame": Frame("Be kind.")},
            SettingsError,
            "--system-prompt and --chat-date with --suite skills",
        ),
        ({"suite": "detection", "methods": ["npoo"]}, SettingsError, "--methods with --suite detection"),
        ({"suite": "rwku", "profile": "small", "seeds": [0, 1]}, SettingsError, "more than one of --seeds"),
        ({"suite": "rwku", "profile": "small", "models": {"full": Path("a")}}, SettingsError, "--model with"),
        (
            {"models": {"full": Path("a"), "retain-only": Path("b")}, "methods": ["none", "s3t"]},
            SettingsError,
            "where the benchmark trains the models itself",
        ),
        (
            {"models": {"full": Path("a"), "retain-only": Path("b")}, "edited": {"npo": Path("x")}},
            SettingsError,
            "one that no row has",
        ),
    ],
)
def test_wrong_input_is_an_error_before_any_work(
    options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seed_run, "train_models", lambda jobs: pytest.fail("nothing is to be trained"))
    given = {"suite": "world", "profile": "smoke", "out": tmp_path / "report.json", **options}
    with pytest.raises(error, match=message):
        run_bench(**given)
    assert not list(tmp_path.iterdir())


def test_a_suite_may_have_no_place_for_a_row() -> None:
    every = list_rows(load_profile("world", "full")["without"], own_models=False)
    assert set(every) == set(SUBJECTS)
    small = list_rows(load_profile("world", "small")["without"], own_models=False)
    assert set(every) - set(small) == {"uld-each", "uld-each-max", "eco+uld-each"}
    left_out = set(every) - set(list_rows(load_profile("muse", "small")["without"], own_models=False))
    assert {"uld-each", "key-space"} <= left_out
    assert "guard" not in left_out
    # What the benchmark would have to train is no row of somebody else's models.
    assert set(every) - set(list_rows((), own_models=True)) >= {"uoe", "s3t"}


@pytest.mark.parametrize(
    ("out", "message"), [("report.md", "ends in .json"), ("file/report.json", "a folder to write to")]
)
def test_a_report_that_cannot_be_written_is_an_error_before_any_work(out: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=message):
        run_bench(suite="world", profile="smoke", out=tmp_path / out)


def test_a_frame_is_a_part_of_what_was_measured(world: Any, models: Any, tmp_path: Path) -> None:
    keys = [
        make_run(world, models, **options).name_stage("none", "", None)
        for options in ({}, {"frame": Frame()}, {"frame": Frame("Be kind.")})
    ]
    assert keys[0] == keys[1] != keys[2]


def test_studies_alone_make_a_report(world: Any, models: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UNLEARN_GUARD_CACHE", str(tmp_path))
    asked: list[tuple[Any, Any]] = []

    def measure(self: SeedRun, names: Any, studies: Any = (), **options: Any) -> Any:
        asked.append((list(names), list(studies)))
        return [], [{"study": name, "seed": self.seed, "failed": "by hand"} for name in studies]

    monkeypatch.setattr(SeedRun, "measure", measure)
    report = run_bench(
        suite="world", profile="small", studies=["requests-2", "upgrade"], seeds=[20, 21], out=tmp_path / "report.json"
    )
    assert asked == [([], ["requests-2", "upgrade"]), ([], ["upgrade"])]  # What leaks differs from seed to seed.
    assert [record["study"] for record in report["studies"]] == ["requests-2", "upgrade", "upgrade"]
    text = (tmp_path / "report.md").read_text()
    assert "Studies that failed" in text
    assert "Forgetting and keeping" not in text  # No table of rows where there are none.
    assert "by hand" in (tmp_path / "report.html").read_text()


def test_a_report_does_not_say_where_a_checkpoint_lies(tmp_path: Path) -> None:
    (tmp_path / "private" / "edited").mkdir(parents=True)
    assert name_model(tmp_path / "private" / "edited") == "edited"
    assert name_model(Path("open-unlearning/tofu")) == "open-unlearning/tofu"
