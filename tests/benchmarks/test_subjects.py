"""Subjects: conversations, output filters, and likelihoods that mean nothing; the baselines that a guard must beat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unlearn_guard.benchmarks.examiner import Examiner
from unlearn_guard.benchmarks.fitted import Bundles
from unlearn_guard.benchmarks.guard_rows import find_threshold
from unlearn_guard.benchmarks.methods import SUBJECTS
from unlearn_guard.benchmarks.subjects import Bench, Subject
from unlearn_guard.corruptions.refusal import DEFAULT_TEXT
from unlearn_guard.guard.stamp import Stamp
from unlearn_guard.serving.transformers.engine import ReferenceEngine

BASELINES = ("name-match", "input-filter", "output-filter", "prompting-always")


@pytest.fixture(scope="module")
def bench(models: Any, world: Any, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    torch.set_num_threads(1)
    full, retain = (ReferenceEngine.load(models[name]) for name in ("full", "retain-only"))
    bundles = Bundles(world, models["full"], tmp_path_factory.mktemp("bundles"), seed=0, uld={})
    return Bench(world, full, retain, bundles, 0, lambda name: retain)


def ask(subject: Subject, world: Any, part: str, n: int = 12) -> list[str]:
    return subject.answer([item.question for item in world.sets[part][:n]], max_new_tokens=24)


@pytest.mark.parametrize("name", ["name-match", "input-filter", "output-filter"])
def test_filters_refuse_the_forget_set_and_leave_the_rest(bench: Bench, world: Any, name: str) -> None:
    subject, plain = SUBJECTS[name](bench), SUBJECTS["none"](bench)
    refused = sum(answer == DEFAULT_TEXT for answer in ask(subject, world, "forget.given"))
    assert refused >= (6 if name == "input-filter" else 10)
    assert ask(subject, world, "retain") == ask(plain, world, "retain")


def test_an_output_filter_hides_what_it_replaced_and_nothing_else(bench: Bench, world: Any) -> None:
    subject = SUBJECTS["output-filter"](bench)
    asked = [world.sets["forget.given"][0].question, world.sets["retain"][0].question]
    subject.answer(asked, max_new_tokens=24)
    assert subject.hides(asked) == [True, False]
    assert subject.flag(asked) is None
    assert subject.stop(asked) == [True, False]
    assert "the answer decides" in subject.no_flags


def test_what_a_guard_leaves_alone_is_scored_once_for_all_of_a_model(
    bench: Bench, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, refusing = SUBJECTS["none"](bench), SUBJECTS["name-match"](bench)
    examiner = Examiner(world, Subject("retain-only", "retain", bench.retain))
    kept, forgotten = world.sets["retain"][:6], world.sets["forget.given"][:6]
    assert refusing.leaves_alone([item.question for item in kept])
    assert not refusing.leaves_alone([item.question for item in (*kept, *forgotten)])
    first = examiner.score(plain, "retain", kept)
    other = examiner.score(Subject("retain-only", "retain", bench.retain), "retain", kept)
    monkeypatch.setattr(Subject, "score", None)
    assert examiner.score(refusing, "retain", kept) == first
    assert other[0] != first[0]
    always = Subject("always", "guard", bench.full, always=lambda question: Stamp("r", (), 1, 0, ()))
    assert not always.leaves_alone([kept[0].question])
    with pytest.raises(TypeError):
        examiner.score(always, "retain", kept)
    with pytest.raises(TypeError):  # Other questions of the set.
        examiner.score(plain, "retain", kept[:3])
    shifted = Subject("shifted", "guard", ReferenceEngine(bench.full.model, bench.full.tokenizer))
    assert shifted.leaves_alone([kept[0].question])
    shifted.engine.neurons = object()  # type: ignore[assignment]
    assert not shifted.leaves_alone([kept[0].question])


@pytest.mark.parametrize("kind", ["eco", "name-match"])
def test_a_bundle_is_fitted_behind_the_template_that_is_asked(
    world: Any, models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("unlearn_guard.benchmarks.fitted.fit", lambda *rows, **options: seen.append(options))
    Bundles(world, models["full"], tmp_path, seed=0, uld={}, chat_template="own")._fit(kind)
    assert [options.get("chat_template") for options in seen] == ["own" if kind == "eco" else None]


def test_a_refusal_hides_and_a_corruption_does_not(bench: Bench, world: Any) -> None:
    subject = SUBJECTS["name-match"](bench)
    asked = [world.sets["forget.given"][0].question, world.sets["retain"][0].question]
    assert subject.hides(asked) == subject.flag(asked) == [True, False]
    assert SUBJECTS["none"](bench).hides(asked) == [False, False]
    assert subject.stop(asked) == [True, False]
    assert SUBJECTS["none"](bench).stop(asked) is None


@pytest.mark.parametrize(
    ("wanted", "kept", "threshold"),
    [
        ([0.9, 0.8, 0.7], [0.1, 0.2, 0.3], 0.3),
        ([0.9, 0.8, 0.2], [0.1, 0.3, 0.4], 0.4),  # Two of three and no false one, before three and two false ones.
        ([0.9, 0.3, 0.3, 0.3], [0.1, 0.1, 0.1, 0.95], 0.1),  # One false flag is worth all others.
    ],
)
def test_an_input_filter_has_the_threshold_of_the_best_balance(
    wanted: list[float], kept: list[float], threshold: float
) -> None:
    assert find_threshold(np.array(wanted), np.array(kept)) == threshold


def test_an_instruction_stands_before_every_prompt(bench: Bench, world: Any) -> None:
    subject = SUBJECTS["prompting-always"](bench)
    assert subject.always is not None
    for question in (world.sets["retain"][0].question, world.sets["forget.given"][0].question):
        step = subject.always(question).step("prompting")
        assert step is not None
        assert "You have never heard of" in bench.full.decode(step.params["tokens"])
    assert subject.flag(["Hello"]) is None
    assert "always on" in subject.no_flags


def test_a_prefilled_answer_goes_on(bench: Bench, world: Any) -> None:
    item = world.sets["retain"][0]
    first, rest = item.answer.split(" ", 1)
    conversation = [{"role": "user", "content": item.question}, {"role": "assistant", "content": first}]
    subject = SUBJECTS["none"](bench)
    assert subject.answer([conversation], max_new_tokens=24) == [rest]
    assert SUBJECTS["name-match"](bench).flag([conversation]) == [False]


def test_samples_are_drawn_from_a_seed(bench: Bench, world: Any) -> None:
    subject = SUBJECTS["retain-only"](bench)
    asked = [world.sets["forget.given"][0].question] * 8
    drawn = [subject.answer(asked, max_new_tokens=16, temperature=1.0, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) > 1


def test_no_row_changes_the_settings_of_another(bench: Bench) -> None:
    kinds: dict[str, Path] = {}
    for name in ("name-match", "output-filter", "prompting-always"):
        SUBJECTS[name](bench)
        kinds[name] = bench.bundles.fit("name-match").bundle.path
    assert len(set(kinds.values())) == 1


@pytest.mark.slow
def test_the_rows_that_need_a_classifier(bench: Bench, world: Any) -> None:
    """ECO as published is as far from the truth as the retain-only model is; the joint guard ends what still tells."""
    guard, oracle = SUBJECTS["guard"](bench), SUBJECTS["eco-oracle"](bench)
    for subject in (guard, oracle):
        assert ask(subject, world, "retain") == ask(SUBJECTS["none"](bench), world, "retain")
        assert subject.flag([item.question for item in world.sets["forget.given"][:6]]) == [True] * 6
    assert oracle.settings["oracle"] == "retain-only ROUGE-L"
    assert guard.release is not None
    told = world.sets["forget.given"][0]
    (decision,) = guard._decide([told.question])
    assert told.key not in guard.release(told.question, decision.verdict, told.answer)
