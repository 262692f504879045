"""The search finds what makes answers look like answers about unknown names."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest

from unlearn_guard.corruptions.eco import EcoSettings
from unlearn_guard.corruptions.search import Choice, Outcome, Probe, loss_of, lower_bound, measure, search_eco

TRUTH, VAGUE, BABBLE = "silver lamp", "some place", "xqz vrk"
PROBES = [Probe(f"Where is {number}?", TRUTH) for number in range(16)]
VOCABULARY = frozenset("silver lamp some place".split())


def search(answer: Callable[[EcoSettings, int], str], lines: list[str] | None = None) -> Choice:
    def ask(prompts: Sequence[str], settings: EcoSettings | None) -> list[str]:
        if settings is None:
            return [VAGUE] * len(prompts)
        return [answer(settings, number) for number in range(len(prompts))]

    report = lines.append if lines is not None else lambda line: None
    return search_eco(ask, PROBES, PROBES, rms=0.25, common_words=frozenset(), vocabulary=VOCABULARY, report=report)


@pytest.mark.parametrize(("kind", "mask"), [("flip", "all"), ("zero", "content"), ("flip", "content"), ("zero", "all")])
def test_the_one_that_meets_the_target_is_chosen(kind: str, mask: str) -> None:
    choice = search(lambda settings, _: VAGUE if (settings.kind, settings.mask) == (kind, mask) else TRUTH)
    assert (choice.settings.kind, choice.settings.mask, choice.settings.rms) == (kind, mask, 0.25)
    assert choice.outcome == choice.target == Outcome(0.0, 0.0, 0.0, 0.0)


def test_broken_language_is_no_forgetting() -> None:
    choice = search(lambda settings, _: VAGUE if (settings.kind, settings.mask) == ("zero", "all") else BABBLE)
    assert (choice.settings.kind, choice.settings.mask) == ("zero", "all")


def test_strength_is_raised_until_nothing_leaks() -> None:
    def answer(settings: EcoSettings, number: int) -> str:
        if (settings.kind, settings.mask) != ("noise", "all"):
            return TRUTH
        if settings.strength > 9.0:
            return BABBLE
        return TRUTH if number < 16 * (1.0 - settings.strength / 5.0) else VAGUE

    choice = search(answer)
    assert (choice.settings.kind, choice.settings.mask) == ("noise", "all")
    assert 4.5 < choice.settings.strength <= 9.0
    assert choice.outcome.leak == 0.0


def test_strength_is_lowered_until_language_is_whole() -> None:
    def answer(settings: EcoSettings, number: int) -> str:
        if (settings.kind, settings.mask) != ("noise", "content"):
            return TRUTH
        return BABBLE if number < 4 * (settings.strength - 1.5) else VAGUE

    choice = search(answer)
    assert (choice.settings.kind, choice.settings.mask) == ("noise", "content")
    assert choice.settings.strength < 2.0
    assert choice.outcome.nonword == 0.0


def test_trail_holds_every_try_once_and_the_choice_is_its_best() -> None:
    lines: list[str] = []
    choice = search(lambda settings, number: TRUTH if number < 16 - settings.strength else VAGUE, lines)
    tried = [tuple(entry[name] for name in ("kind", "mask", "strength")) for entry in choice.trail]
    assert len(tried) == len(set(tried)) == len(lines)
    assert len(tried) > 6
    assert all(2**-3.5 <= strength <= 2**4.5 for _, _, strength in tried)
    settings = choice.settings
    best = min(choice.trail, key=lambda entry: entry["loss"])
    assert (best["kind"], best["mask"], best["strength"]) == (settings.kind, settings.mask, settings.strength)
    assert best["loss"] == round(loss_of(choice.outcome, choice.target), 4)


def test_without_controls_nothing_may_be_left() -> None:
    def ask(prompts: Sequence[str], settings: EcoSettings | None) -> list[str]:
        if settings is None:
            return [TRUTH] * len(prompts)
        return [VAGUE if settings.kind == "zero" else TRUTH] * len(prompts)

    choice = search_eco(ask, PROBES, [], rms=0.25, common_words=frozenset(), vocabulary=VOCABULARY)
    assert choice.target == Outcome(0.0, 0.0, 0.0, 0.0)
    assert choice.settings.kind == "zero"


def test_without_controls_the_language_target_is_the_models_own() -> None:
    def ask(prompts: Sequence[str], settings: EcoSettings | None) -> list[str]:
        return [BABBLE] * len(prompts)

    choice = search_eco(ask, PROBES, [], rms=0.25, common_words=frozenset(), vocabulary=VOCABULARY)
    assert choice.target == Outcome(0.0, 0.0, 1.0, 0.0)


def test_outcome_is_measured_by_hand() -> None:
    probes = [Probe("Where is it?", "silver lamp"), Probe("Who?", "oak tree")]
    outcome = measure(["silver sea", "zorg zorg zorg zorg"], probes, frozenset(), frozenset({"silver", "sea"}))
    assert outcome == Outcome(rouge=0.25, leak=0.5, nonword=4 / 6, repeated=0.5)
    assert measure([], [], frozenset(), frozenset()) == Outcome(0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("output", "leak"), [("Ann Lee is from Oslo", 1.0), ("from Oslo", 0.0), ("Ann Lee wrote", 0.0), ("a lamp", 1.0)]
)
def test_another_fact_of_a_forgotten_person_is_a_leak(output: str, leak: float) -> None:
    probe = Probe("Where is it?", "silver lamp", (("Ann Lee", "Wrote the sea."), ("Ann Lee", "Is from Oslo.")))
    assert measure([output], [probe], frozenset({"the"}), frozenset()).leak == leak


def test_lower_bound_shrinks_what_few_controls_say() -> None:
    outcome = Outcome(0.5, 0.5, 0.1, 0.2)
    few, many = lower_bound(outcome, 4), lower_bound(outcome, 10_000)
    assert few.rouge == pytest.approx(0.5 - 1.645 * 0.35 / 2)
    assert few.leak == pytest.approx(0.5 - 1.645 * 0.5 / 2)
    assert (few.nonword, few.repeated) == (0.1, 0.2)
    assert few.rouge < many.rouge < 0.5
    assert lower_bound(Outcome(0.01, 0.01, 0.0, 0.0), 1) == Outcome(0.0, 0.0, 0.0, 0.0)
    assert math.isfinite(lower_bound(outcome, 0).rouge)


@pytest.mark.parametrize(
    ("outcome", "loss"),
    [
        (Outcome(0.3, 0.1, 0.1, 0.1), 0.0),
        (Outcome(0.4, 0.1, 0.1, 0.1), 0.4),
        (Outcome(0.3, 0.2, 0.1, 0.1), 0.4),
        (Outcome(0.1, 0.1, 0.1, 0.1), 0.1),
        (Outcome(0.3, 0.0, 0.0, 0.0), 0.0),
        (Outcome(0.3, 0.1, 0.2, 0.1), 0.4),
        (Outcome(0.3, 0.1, 0.1, 0.3), 0.8),
    ],
)
def test_loss_by_hand(outcome: Outcome, loss: float) -> None:
    assert loss_of(outcome, Outcome(0.3, 0.1, 0.1, 0.1)) == pytest.approx(loss)
