"""Fluency against cases computed by hand."""

from __future__ import annotations

import math

import pytest

from unlearn_guard.benchmarks import language


def test_entropy_of_pairs_and_triples() -> None:
    # a b c: two pairs (1 bit), one triple (0 bits): 2/3 · 1 / 2.
    assert language.measure_entropy(["a b c"]) == pytest.approx(1 / 3)
    assert language.measure_entropy(["a a a a", "a b c"]) == pytest.approx(1 / 6)
    assert language.measure_entropy([]) == 0.0


def test_distinct_pairs() -> None:
    assert language.measure_distinct(["a b a b"]) == pytest.approx(2 / 3)
    assert language.measure_distinct(["a b", "a b"]) == 0.5
    assert language.measure_distinct([""]) == 0.0


def test_indices_of_richness() -> None:
    words = "a b b c".split()
    assert language.measure_brunet(words) == pytest.approx(4 ** (3**-0.165))
    assert language.measure_honore(words) == pytest.approx(100 * math.log(4) / (1 - 2 / 3), rel=1e-4)
    assert language.measure_honore([]) == 0.0


def test_the_linguistic_score_is_a_harmonic_mean() -> None:
    words = "a b b c".split()
    sigmoid = [1 / (1 + 2.0), 1 / (1 + language.measure_brunet(words)), 1 / (1 + 1 / language.measure_honore(words))]
    assert language.score_language(["a b", "b c"], 2.0) == pytest.approx(3 / sum(1 / part for part in sigmoid))
    assert language.score_language([""], 2.0) == 0.0
