"""A classifier that tells answers apart: both a leak and garbage are told, like answers are not."""

from __future__ import annotations

import random

from unlearn_guard.benchmarks.indistinguishability import tell_apart

CITIES = "Graz Lviv Cadiz Oaxaca Tartu Kandy Luxor Hobart".split()


def guess(seed: int, n: int = 80) -> list[str]:
    rng = random.Random(seed)
    return [f"Ada Lee was born in {rng.choice(CITIES)}." for _ in range(n)]


GROUPS = [str(number // 2) for number in range(80)]


def test_the_same_answers_are_not_told_apart() -> None:
    assert tell_apart(guess(0), guess(0), GROUPS) == 0.5


def test_other_guesses_of_the_same_kind_are_hardly_told_apart() -> None:
    assert 0.3 < tell_apart(guess(0), guess(1), GROUPS) < 0.7


def test_refusals_garbage_and_what_is_always_the_same_are_told() -> None:
    for own in (["I'm sorry."] * 80, ["xq zz xq"] * 80, ["Ada Lee was born in Graz, I know."] * 80):
        assert tell_apart(own, guess(1), GROUPS) > 0.95


def test_empty_answers_are_answers() -> None:
    assert tell_apart([""] * 80, guess(0), GROUPS) > 0.95
