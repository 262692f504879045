"""The files of methods: complete, sourced, and tuned with one budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from unlearn_guard.benchmarks.editing import catalogue
from unlearn_guard.benchmarks.editing.catalogue import (
    MethodFile,
    find_tuned,
    list_methods,
    load_method,
    load_tuned,
)
from unlearn_guard.benchmarks.editing.tuning import Kept, choose_trial, list_trials, score_trial
from unlearn_guard.benchmarks.sizes import load_profile
from unlearn_guard.guard.errors import UnknownNameError

FIRST = {"ga", "graddiff", "kl", "idk", "npo", "simnpo", "altpo", "rmu", "relearn", "task-vector"}


def test_each_tier_is_tuned_with_one_budget() -> None:
    assert {name for name in list_methods() if load_method(name).tier == 1} == FIRST
    assert {len(list_trials(load_method(name))) for name in FIRST} == {6}
    second = [load_method(name) for name in list_methods() if name not in FIRST]
    assert {tuple(file.trials) for file in second} == {("learning_rate",)}
    assert {len(list_trials(file)) for file in second} == {3}
    # The middle one is what a method has where nothing was tuned.
    assert all(file.trials["learning_rate"][1] == file.learning_rate for file in second)


@pytest.mark.parametrize(("suite", "tuned"), [("world", set(list_methods())), ("tofu", FIRST)])
def test_tuned_values_are_one_of_the_methods_trials(suite: str, tuned: set[str]) -> None:
    found = catalogue._read_tuned(suite)
    assert set(found) == tuned
    for name, record in found.items():
        assert [trial["values"] for trial in record["trials"]] == list_trials(load_method(name)), name
        assert record["values"] in list_trials(load_method(name)), name


@pytest.mark.parametrize("name", list_methods())
def test_every_method_names_its_source(name: str) -> None:
    file = load_method(name)
    assert "arXiv" in file.source
    assert file.published


def test_values_are_of_fields_or_settings() -> None:
    file = load_method("rmu").with_values({"learning_rate": 0.5, "strength": 3.0, "epochs": 2.0})
    assert (file.learning_rate, file.epochs, file.settings["strength"], file.settings["layers"]) == (0.5, 2, 3.0, 3)
    assert file.to_method(seed=4).seed == 4


def test_tuned_values_replace_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "TUNED_FOLDER", tmp_path)
    assert load_tuned("ga", "world") == load_method("ga")
    (tmp_path / "world.yaml").write_text("methods: {ga: {values: {learning_rate: 0.25}, tuned_at: 256}}")
    assert load_tuned("ga", "world").learning_rate == 0.25
    assert load_tuned("npo", "world") == load_method("npo")
    # A suite without validation people takes the nearest's, and says so.
    assert load_tuned("ga", "pistol").learning_rate == 0.25
    assert (find_tuned("ga", "pistol"), find_tuned("npo", "pistol")) == ("world", None)
    (tmp_path / "tofu.yaml").write_text("methods: {ga: {values: {learning_rate: 0.5}, tuned_at: 256}}")
    assert (find_tuned("ga", "pistol"), find_tuned("ga", "world-nearest"), find_tuned("ga", "tofu-05")) == (
        "tofu",
        "world",
        "tofu",
    )
    # At the width that it was tuned at a rate is what was tuned; the files' own are for the built-in world's.
    assert load_tuned("ga", "world-nearest").to_method(256).learning_rate == 0.25
    assert load_tuned("ga", "world").to_method(1024).learning_rate == pytest.approx(0.25 / 8)
    assert load_method("ga").to_method(768).learning_rate == pytest.approx(load_method("ga").learning_rate / 8)


@pytest.mark.parametrize(("suite", "profile"), [("world", "small"), ("tofu", "small"), ("tofu", "full")])
def test_rows_edit_at_the_rate_that_was_tuned(suite: str, profile: str) -> None:
    """`fit_rate` must not shrink a rate on the very models that it was chosen for."""
    hidden = load_profile(suite, profile)["recipe"]["hidden"]
    for name in FIRST:
        file = load_tuned(name, suite)
        assert file.to_method(hidden).learning_rate == file.learning_rate


def test_unknown_method_and_unknown_key() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'simnpo'"):
        load_method("simpo")
    given: dict[str, Any] = {**load_method("ga").model_dump(), "learning_rat": 1.0}
    with pytest.raises(ValidationError, match="learning_rat"):
        MethodFile(**given)


def test_of_trials_that_score_alike_the_one_that_holds_least_wins() -> None:
    trials = [
        {"values": {"learning_rate": rate}, "score": score, "extraction_strength": strength}
        for rate, score, strength in ((1, 1.0, 0.6), (2, 0.998, 0.2), (3, 0.99, 0.0))
    ]
    diverged = {"values": {}, "score": 0.0, "diverged": "loss is nan"}
    assert choose_trial([*trials, diverged], strength=0.1) is trials[1]
    assert choose_trial([{"score": 0.9}, trials[2]], strength=0.1) is trials[2]
    # Both hold no more than a model that never knew: the better score wins.
    assert choose_trial([*trials, diverged], strength=0.7) is trials[0]


@pytest.mark.parametrize(
    ("forget", "retain", "score"),
    [(1.0, 1.0, 0.0), (0.5, 1.0, 1.0), (0.2, 1.0, 1.0), (0.75, 1.0, 2 / 3), (0.5, 0.0, 0.0), (0.5, 0.4, 2 / 3)],
)
def test_score_by_hand(forget: float, retain: float, score: float) -> None:
    """The retain-only model answers half of it; the unedited model keeps 0.8."""
    assert score_trial(forget, Kept(retain, None), chance=0.5, unedited=Kept(0.8, None)) == pytest.approx(score)
