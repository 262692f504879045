"""The world of skills, and what is measured with it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unlearn_guard.benchmarks.dataset import Item
from unlearn_guard.benchmarks.skill_bench import (
    METHODS,
    choose_sets,
    find_drop,
    gather_clean,
    gather_targets,
    render_skills,
)
from unlearn_guard.benchmarks.skills import HUB, SKILLS, SkillWorld, load_hub_skills, make_skills, measure_right
from unlearn_guard.guard.errors import DependencyError, SettingsError, UnknownNameError


@pytest.fixture(scope="module")
def skill_world() -> SkillWorld:
    return make_skills(n_train=120, n_fit=40, n_validation=20, n_test=30, n_people=6)


def test_world_is_a_function_of_its_seed(skill_world: SkillWorld) -> None:
    again = make_skills(n_train=120, n_fit=40, n_validation=20, n_test=30, n_people=6)
    assert again == skill_world
    assert make_skills(n_train=120, n_fit=40, n_validation=20, n_test=30, n_people=6, seed=1) != skill_world


def test_no_problem_is_in_two_sets(skill_world: SkillWorld) -> None:
    for skill in SKILLS:
        tested = [item.question for name, items in skill_world.sets.items() if name.startswith(skill) for item in items]
        seen = [row.prompt for row in (*skill_world.fit_rows[skill], *skill_world.validation_rows[skill])]
        trained = [example.phrasings[0] for example in skill_world.examples if example.subject == skill]
        everything = [*tested, *seen, *trained]
        assert len(set(everything)) == len(everything)
    tested = {item.question for name in ("facts.retain", "facts.general") for item in skill_world.sets[name]}
    shown = {row.prompt for row in (*skill_world.validation_rows["facts"], *skill_world.general_rows)}
    assert len(tested) > 20
    assert not tested & shown


def test_arithmetic_is_right(skill_world: SkillWorld) -> None:
    for item in skill_world.sets["arithmetic.given"]:
        sum_text = item.answer.split(" = ")[0].split()
        left, sign, right = int(sum_text[0]), sum_text[1], int(sum_text[2])
        assert int(item.key) == {"+": left + right, "-": left - right, "*": left * right}[sign]
        assert {str(left), str(right)} <= set(item.question.replace(".", "").split()) or sign == "*"


def test_languages_are_dictionaries_with_an_order_of_their_own(skill_world: SkillWorld) -> None:
    for language in ("valdorian", "keshite"):
        item = skill_world.sets[f"{language}.given"][0]
        n_words = len(item.answer.split())
        assert n_words in (5, 6)
    assert skill_world.sets["valdorian.given"][0].answer != skill_world.sets["keshite.given"][0].answer


def test_scores_by_hand() -> None:
    sum_item = Item("q", "3 + 4 = 7 , so it is 7 apples.", "arithmetic", key="7")
    assert measure_right("arithmetic", sum_item, "it is 7 apples") == 1.0
    assert measure_right("arithmetic", sum_item, "3 + 4 = 8 , so it is 8 apples.") == 0.0
    assert measure_right("arithmetic", sum_item, "") == 0.0
    program = Item("q", "in x ; add 3 ; out x", "code")
    assert measure_right("code", program, "IN x ; add 3 ; out x") == 1.0
    assert measure_right("code", program, "in x ; add 4 ; out x") == 0.0
    assert measure_right("facts", Item("q", "a b c d"), "a b") == pytest.approx(0.5)
    assert find_drop(0.8, 0.2) == pytest.approx(0.75)
    assert find_drop(0.0, 0.0) == 0.0


def test_clean_prompts_are_of_other_skills_and_what_is_tested_calibrates_nothing(skill_world: SkillWorld) -> None:
    clean = gather_clean(skill_world, "arithmetic")
    assert not any(name.startswith("arithmetic") for name in clean.tested)
    tested = {text for texts in clean.tested.values() for text in texts}
    assert not tested & {row.query for row in clean.given}
    # Facts about people who are kept are the hardest clean prompts of those about people who are not.
    facts = {name for name in gather_clean(skill_world, "facts").tested if name.startswith("facts")}
    assert facts == {"facts.retain", "facts.general"}
    targets = gather_targets(skill_world, "arithmetic")
    assert {"given", "known", "novel", "worked examples", "reworded"} <= set(targets)
    assert not tested & {text for texts in targets.values() for text in texts}


def test_graded_sets(skill_world: SkillWorld) -> None:
    assert set(choose_sets(skill_world, "arithmetic")) == {*SKILLS, "facts.forget", "facts.retain", "facts.general"}
    assert set(choose_sets(skill_world, "facts")) == {*SKILLS, "facts", "facts.retain", "facts.general"}


def test_real_skills_come_from_the_hub_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that is made up: its rows have the columns of GSM8K, MBPP and MLQA, and MLQA's needs the converted revision."""
    asked: list[tuple[str, str | None, str | None]] = []

    def load_dataset(name: str, part: str | None, *, split: str, revision: str | None = None) -> list[dict[str, Any]]:
        asked.append((name, part, revision))
        assert split == "test"
        rows = [{"question": f"{part} {number}?", "answer": f"#### {number}"} for number in range(40)]
        if name.endswith("mbpp"):
            return [{"text": f"Write {number}.", "code": f"return {number}"} for number in range(40)]
        if name.endswith("mlqa"):
            if revision is None:
                raise RuntimeError("Dataset scripts are no longer supported")
            return [{**row, "context": "Es war.", "answers": {"text": [row["answer"]]}} for row in rows]
        return rows

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    world = load_hub_skills(n_fit=20, n_validation=8, n_test=9)
    assert {name: len(items) for name, items in world.sets.items()} == {f"{skill}.known": 9 for skill in HUB}
    for skill in HUB:
        rows = [*world.fit_rows[skill], *world.validation_rows[skill]]
        questions = [*(row.prompt for row in rows), *(item.question for item in world.sets[f"{skill}.known"])]
        assert len(set(questions)) == 20 + 8 + 9
    assert world.sets["german.known"][0].question.startswith("Es war.")
    assert ("facebook/mlqa", "mlqa.de.de", "refs/convert/parquet") in asked
    with pytest.raises(DependencyError, match="too few rows: 40"):
        load_hub_skills(n_fit=39)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DependencyError, match=r"openai/gsm8k is not at hand.*go online once"):
        load_hub_skills()


def test_unknown_method_and_suite_name_what_there_is(tmp_path: Path) -> None:
    from unlearn_guard.benchmarks.runner import run_bench

    with pytest.raises(UnknownNameError, match="neuron-adjust-posterior"):
        run_bench(suite="skills", profile="smoke", methods=["neuron-adjusts"], out=tmp_path / "report.json")
    with pytest.raises(UnknownNameError, match=r"aritmetic.*arithmetic"):
        run_bench(suite="skills", profile="smoke", targets=["aritmetic"], out=tmp_path / "report.json")
    if not torch.cuda.is_available():
        with pytest.raises(DependencyError, match="no GPU: 'cuda' — allowed: cpu"):
            run_bench(suite="skills", profile="smoke", device="cuda", out=tmp_path / "report.json")
    with pytest.raises(SettingsError, match="with --model and --retain-model"):
        run_bench(suite="world", profile="smoke", device="cuda", out=tmp_path / "report.json")


@pytest.mark.slow
def test_suite_runs_end_to_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A model that has barely learned anything: every row is there, and what is plain data stays so."""
    from unlearn_guard.benchmarks import runner, skill_bench
    from unlearn_guard.classifiers.traffic import make_traffic

    monkeypatch.setattr(skill_bench, "make_traffic", lambda without=(): make_traffic(300, without=without))
    monkeypatch.setattr(skill_bench, "SHARES", (0.05, 0.1))
    monkeypatch.setattr(skill_bench, "CONCEPTS", (20,))
    monkeypatch.delenv("UNLEARN_GUARD_DATA", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("UNLEARN_GUARD_CACHE", str(tmp_path / "cache"))
    sizes: dict[str, Any] = {
        "skills": {"n_train": 30, "n_fit": 25, "n_validation": 4, "n_test": 6, "n_people": 6, "fact_repeats": 1},
        "recipe": {"hidden": 64, "heads": 1, "mlp": 96, "vocabulary": 1024, "epochs": 1, "draws": 1},
        "targets": ["arithmetic"],
        "seeds": [0],
    }
    monkeypatch.setattr(runner, "load_profile", lambda suite, profile: sizes)
    wanted = ["none", "neuron-adjust", "concept-ablation-gated", "key-space", "key-space-probe", "refusal"]
    assert set(wanted) <= set(METHODS)
    report = runner.run_bench(suite="skills", profile="smoke", methods=wanted, out=tmp_path / "report.json")
    names = [row["name"] for row in report["rows"]]
    assert set(wanted) <= set(names)
    assert {"neuron-adjust at 3%", "neuron-adjust at 10%"} <= set(names)
    by_name = {row["name"]: row for row in report["rows"]}
    probe = by_name["key-space-probe"]
    assert probe["detection"]["clean"]["n"] > 300
    for name, found in probe["sets"].items():
        assert found["flagged"] == found["abstained"], name
    assert by_name["none"]["sets"]["skills.code"]["flagged"] is None
    assert by_name["concept-ablation-gated"]["cost"]["edited_pass_ratio"] > 0
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(report))
    assert "key-space-probe" in render_skills(report)
    monkeypatch.setattr(skill_bench, "SkillExam", lambda *arguments: pytest.fail("what is finished is not fitted"))
    again = runner.run_bench(suite="skills", profile="smoke", methods=wanted[::-1], out=tmp_path / "again.json")
    assert {row["name"]: row for row in again["rows"]} == by_name
    with pytest.raises(pytest.fail.Exception):
        runner.run_bench(suite="skills", profile="smoke", methods=["none"], fresh=True, out=tmp_path / "again.json")
