"""The bench end to end on the demo's world: bars, report files, weight editing."""

from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from unlearn_guard.benchmarks.demo import check_bars, render_demo
from unlearn_guard.benchmarks.editing.catalogue import list_methods, load_method
from unlearn_guard.benchmarks.editing.procedures import edit_weights
from unlearn_guard.benchmarks.guard_catalogue import list_guards
from unlearn_guard.benchmarks.methods import SUBJECTS
from unlearn_guard.benchmarks.runner import run_bench


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, models: Any) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("bench") / "report.json"
    names = ["none", "retain-only", "name-match", "refusal", "eco", "eco-span", "eco-swap"]
    found = run_bench(suite="world", profile="smoke", methods=names, out=out, fresh=True)
    return {**found, "out": out}


def rows_of(report: dict[str, Any]) -> dict[str, Any]:
    return {row["name"]: row for row in report["rows"]}


def test_every_bar_of_the_demo_world_holds(report: dict[str, Any]) -> None:
    rows = rows_of(report)
    n_retain = rows["eco"]["sets"]["world.retain"]["n"]
    assert not [check for check in check_bars(rows, n_retain) if not check["passed"]]
    assert [check for check in check_bars(rows, n_retain - 1) if not check["passed"]]


def test_report_files_are_valid_and_self_contained(report: dict[str, Any]) -> None:
    out: Path = report["out"]
    assert json.loads(out.read_text(), parse_constant=pytest.fail)["schema_version"] == 1
    page = out.with_suffix(".html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "data:image/png" in page
    assert "| eco | 0 | ok |" in out.with_suffix(".md").read_text()


def test_a_refusal_has_no_truth_ratio(report: dict[str, Any]) -> None:
    for name in ("refusal", "name-match"):
        row = rows_of(report)[name]
        assert row["sets"]["world.forget.given"]["truth_ratio"] is None
        assert row["forget_quality"]["p_value"] is None
        assert "refusal" in row["reasons"]["forget_quality.p_value"]


def test_every_null_has_its_reason(report: dict[str, Any]) -> None:
    """A path of a null is a reason's, below a reason's, or fits one with a star; what an attacker did not find needs none."""
    for row in report["rows"]:
        for path in find_nulls({key: value for key, value in row.items() if key != "reasons"}):
            said = [reason for reason in row["reasons"] if fnmatch(path, reason) or path.startswith(f"{reason}.")]
            assert said or path.startswith(("adaptive.needed", "adaptive.prompts")), (row["name"], path)


def find_nulls(value: Any, path: str = "") -> list[str]:
    """Return the paths of all nulls, parts joined by dots."""
    if value is None:
        return [path]
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, entry in pairs for found in find_nulls(entry, f"{path}.{key}" if path else str(key))]


def test_forget_quality_names_the_corrupted_positions(report: dict[str, Any]) -> None:
    assert rows_of(report)["eco"]["forget_quality"]["corrupted_positions"].startswith("prompt")


def test_guards_leave_unflagged_sets_as_they_are(report: dict[str, Any]) -> None:
    rows = rows_of(report)
    for name in ("eco", "eco-swap", "refusal"):
        assert rows[name]["sets"]["world.retain"]["flagged"] == 0
        assert rows[name]["sets"]["world.retain"]["probability"] == rows["none"]["sets"]["world.retain"]["probability"]


def test_the_issues_rows_are_registered() -> None:
    wanted = {"none", "retain-only", "name-match", "refusal", "prompting", "eco", "eco-span", "eco-swap", "ga", "npo"}
    wanted |= {
        "uld",
        "uld-advantage",
        "uld-gated",
        "uld-upstream",
        "uld-each",
        "eco+uld",
        "eco+uld-ungated",
        "eco+uld-each",
    }
    assert wanted <= set(SUBJECTS)
    assert len(list_methods()) >= 18
    assert set(list_methods()) <= set(SUBJECTS)
    assert set(list_guards()) <= set(SUBJECTS)


@pytest.fixture(scope="module")
def engine(models: Any) -> Any:
    from unlearn_guard.serving.transformers.engine import ReferenceEngine

    return ReferenceEngine.load(models["full"])


def mean_score(engine: Any, rows: Any) -> float:
    answers = [[*engine.tokenizer(row.answer, add_special_tokens=False).input_ids, engine.end_token] for row in rows]
    scored = engine.score([engine.render(row.prompt) for row in rows], answers, [None] * len(rows))
    return float(sum(item.logprobs.mean() for item in scored) / len(scored))


def test_editing_forgets_and_leaves_the_original_alone(engine: Any, world: Any) -> None:
    forget, retain = world.forget_rows[:32], world.retain_rows[:64]
    before = mean_score(engine, forget)
    edited = edit_weights(engine, load_method("npo").to_method(), forget, retain)
    assert mean_score(edited, forget) < before - 1.0
    assert mean_score(edited, retain) > mean_score(edited, forget)
    assert mean_score(engine, forget) == pytest.approx(before)


def test_demo_page_escapes_and_stands_alone() -> None:
    sets = {
        f"world.{part}": {"leak_rate": 0.1, "rouge_l_recall": 0.2, "flagged": 0, "n": 4}
        for part in ("forget.given", "forget.unseen", "forget.paraphrase", "retain")
    }
    sample = {"set": "a", "question": "<b>", "truth": "", "before": "x", "after": "y", "effect": "forgotten"}
    page = render_demo(
        {
            "rows": [{"name": name, "sets": sets} for name in ("none", "retain-only", "eco")],
            "samples": [sample],
            "channels": [],
            "checks": [{"name": "c", "value": 1, "limit": "≤ 1", "passed": False}],
            "environment": {"processor": "p", "cores": 2},
            "seconds": 1.0,
        }
    )
    assert "&lt;b&gt;" in page
    assert "missed" in page


@pytest.mark.slow
def test_rows_with_assistants(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gated and always-on rows differ in the gate alone; assistants trained for two epochs are enough to see it."""
    from unlearn_guard.benchmarks import runner

    profile = runner.load_profile("world", "smoke")
    monkeypatch.setattr(runner, "load_profile", lambda suite, name: {**profile, "uld": {"epochs": 4, "weight": 3.0}})
    names = ["none", "eco+uld", "eco+uld-ungated", "uld-gated"]
    found = run_bench(suite="world", profile="smoke", methods=names, out=tmp_path / "report.json")
    rows = {row["name"]: row for row in found["rows"]}
    gated, ungated = rows["eco+uld"], rows["eco+uld-ungated"]
    retain = "world.retain"
    assert gated["sets"][retain]["flagged"] == 0
    assert gated["sets"][retain]["probability"] == rows["none"]["sets"][retain]["probability"]
    assert ungated["sets"][retain]["flagged"] is None
    assert "always on" in ungated["reasons"][f"sets.{retain}.flagged"]
    assert ungated["sets"][retain]["probability"] != rows["none"]["sets"][retain]["probability"]
    given = "world.forget.given"
    assert gated["sets"][given]["rouge_l_recall"] < rows["none"]["sets"][given]["rouge_l_recall"] - 0.2
    assert gated["sets"][given]["rouge_l_recall"] != rows["uld-gated"]["sets"][given]["rouge_l_recall"]
    asked = world.sets["forget.given"]
    assert (
        gated["forget_quality"]["n"] == len({(item.subject, item.answer) for item in asked}) == len(asked) / 2
    )  # Two phrasings of a fact count once.
    assert gated["forget_quality"]["corrupted_positions"].startswith("prompt and answer")


def test_a_second_run_measures_nothing_again(
    report: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a report that lacks a row of the first is completed without what the others needed."""
    from unlearn_guard.benchmarks import seed_run

    monkeypatch.setattr(seed_run, "train_models", lambda jobs: pytest.fail("nothing is left to measure"))
    names = ["eco", "none", "retain-only"]
    found = run_bench(suite="world", profile="smoke", methods=names, out=tmp_path / "report.json")
    assert found["rows"] == [rows_of(report)[name] for name in names]
