"""Tuning: which model a method edits, what is recorded, and what an earlier grid's trials become."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from unlearn_guard.benchmarks.dataset import Item
from unlearn_guard.benchmarks.editing import tuning
from unlearn_guard.benchmarks.editing.catalogue import list_methods, load_method
from unlearn_guard.benchmarks.editing.tuning import Kept, list_earlier, list_trials, run_tuning, score_trial

SIZES = {"recipe": {"hidden": 64}}


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, float]]:
    """Tune without training: a trial is noted with its model and what that one kept, and the highest rate is best."""
    seen: list[tuple[str, float, float]] = []
    kept = {"full": 0.9, "mixture": 0.7, "retain-only": 0.1}

    def note(
        engine: Any, suite: Any, file: Any, trial: Any, chance: float, unedited: Kept, examiner: Any
    ) -> dict[str, Any]:
        seen.append((engine.name, chance, unedited.retain))
        return {"values": dict(trial), "score": trial["learning_rate"], "extraction_strength": 0.5}

    monkeypatch.setattr(tuning, "make_jobs", lambda *_, **__: ["full", "retain-only"])
    monkeypatch.setattr(tuning, "make_further_job", lambda name, *_, **__: name)
    monkeypatch.setattr(tuning, "train_models", lambda jobs: {job: job for job in jobs})
    monkeypatch.setattr(
        tuning, "ReferenceEngine", SimpleNamespace(load=lambda name: SimpleNamespace(name=name, hidden=64))
    )
    monkeypatch.setattr(tuning, "_measure", lambda engine, items: kept[engine.name])
    monkeypatch.setattr(tuning, "_measure_kept", lambda engine, suite, examiner: Kept(kept[engine.name], 0.5))
    monkeypatch.setattr(tuning, "Examiner", lambda suite, reference: None)
    monkeypatch.setattr(tuning, "_measure_strength", lambda engine, items: 0.2)
    monkeypatch.setattr(tuning, "_try", note)
    return seen


def tune(folder: Path, *methods: str) -> dict[str, Any]:
    suite: Any = SimpleNamespace(name="world", sets={"forget.unseen": [], "retain": []})
    return run_tuning(suite, SIZES, name="world", profile="small", methods=methods or None, folder=folder)


def test_a_mixture_is_tuned_from_a_mixture(tried: list[tuple[str, float, float]], tmp_path: Path) -> None:
    record = tune(tmp_path, "npo", "uoe")
    assert tried == [("full", 0.1, 0.9)] * 6 + [("mixture", 0.1, 0.7)] * 3
    assert record["methods"]["uoe"]["unedited_retain_rouge"] == 0.7
    assert "unedited_retain_rouge" not in record["methods"]["npo"]
    assert record["unedited_retain_rouge"] == 0.9
    assert record["unedited_utility"] == 0.5
    assert record["methods"]["npo"]["values"]["learning_rate"] == max(load_method("npo").trials["learning_rate"])
    assert record["methods"]["npo"]["tuned_at"] == 64


def test_without_a_mixture_none_is_trained(tried: list[tuple[str, float, float]], tmp_path: Path) -> None:
    tune(tmp_path, "ga")
    assert {name for name, _, _ in tried} == {"full"}


def test_all_methods_are_tuned_where_none_are_named(tried: list[tuple[str, float, float]], tmp_path: Path) -> None:
    assert set(tune(tmp_path)["methods"]) == set(list_methods())
    assert len(tried) == sum(len(list_trials(load_method(name))) for name in list_methods())


def test_other_records_and_trials_of_earlier_grids_stay(tried: list[tuple[str, float, float]], tmp_path: Path) -> None:
    again = list_trials(load_method("ga"))[0]
    old = [{"values": again, "score": 0.1}, {"values": {"learning_rate": 9.0, "epochs": 5}, "score": 0.2}]
    (tmp_path / "world.yaml").write_text(yaml.safe_dump({"methods": {"ga": {"trials": old}, "kl": {"score": 0.3}}}))
    methods = tune(tmp_path, "ga")["methods"]
    assert methods["kl"] == {"score": 0.3}
    assert methods["ga"]["earlier"] == [old[1]]
    assert yaml.safe_load((tmp_path / "world.yaml").read_text())["methods"] == methods
    # A second time they are still there.
    assert tune(tmp_path, "ga")["methods"]["ga"]["earlier"] == [old[1]]
    assert list_earlier({}, []) == []


def test_what_nobody_asked_to_lose_counts() -> None:
    whole = Kept(1.0, 0.8)
    # Forgotten to the retain-only level: the harmonic mean of 1, 1 and a quarter.
    assert score_trial(0.4, Kept(1.0, 0.2), chance=0.4, unedited=whole) == pytest.approx(3 / (1 + 1 + 4))
    assert score_trial(0.3, Kept(1.2, 0.9), chance=0.4, unedited=whole) == 1.0
    # A suite without the sets of it: half of what is above chance is left.
    assert score_trial(0.7, Kept(1.0, None), chance=0.4, unedited=Kept(1.0, None)) == pytest.approx(2 / (2 + 1))


def test_what_is_kept_is_asked_and_scored_of_the_sets_of_utility(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [Item(f"q{number}", "red hat", wrong=("a",)) for number in range(3)]
    suite: Any = SimpleNamespace(sets=dict.fromkeys(("retain", "real_authors", "world_facts", "forget.unseen"), items))
    scores = {"retain": 0.5, "real_authors": 1.0, "world_facts": 0.25}
    asked: list[str] = []

    def score(subject: Any, name: str, items: Any) -> tuple[dict[str, float], list[float], list[Any]]:
        asked.append(name)
        return {"probability": scores[name], "truth_ratio": 1.0}, [], []

    monkeypatch.setattr(tuning, "_measure", lambda engine, items: 0.5)
    kept = tuning._measure_kept(cast(Any, None), suite, cast(Any, SimpleNamespace(score=score)))
    assert asked == ["retain", "real_authors", "world_facts"]
    assert kept.retain == 0.5
    # The harmonic mean of ½, ½, 1, of 1, ½, 1, and of ¼, ½, 1.
    assert kept.utility == pytest.approx(9 / (2 + 2 + 1 + 1 + 2 + 1 + 4 + 2 + 1))
