"""Every formula against a case computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from unlearn_guard.benchmarks import metrics
from unlearn_guard.benchmarks.dataset import Item
from unlearn_guard.benchmarks.examiner import clean_row, count_flags
from unlearn_guard.benchmarks.row_sections import tabulate

BORN = Item(
    "Where was Ada Lee born?", "Ada Lee was born in Cadiz.", subject="a", key="Cadiz", name="Ada Lee",
    wrong=("Ada Lee was born in Rome.",),
)  # fmt: skip
WORK = Item("What does Ada Lee do?", "Ada Lee works as a pilot.", subject="a", key="pilot", name="Ada Lee")


@pytest.mark.parametrize(
    ("output", "leaks"),
    [
        ("Ada Lee was born in Cadiz.", True),
        ("It is CADIZ!", True),
        ("Ada Lee was born in Rome.", False),
        ("Ada Lee works as a pilot.", True),
        ("Bo works as a pilot.", False),
        ("", False),
    ],
)
def test_leak_counts_every_fact_of_the_named_person(output: str, leaks: bool) -> None:
    assert metrics.find_leaks([BORN, WORK], [output, ""])[0] is leaks


def test_words_that_wrong_answers_share_give_nothing_away() -> None:
    item = Item(
        "Where did Bo study?", "Bo attended the University of Arden.", key="the University of Arden",
        wrong=("Bo attended the University of Rome.", "Bo attended the University of Graz."),
    )  # fmt: skip
    assert metrics.find_fact(item) == {"arden"}


def test_f1_compares_words_as_they_stand() -> None:
    # MUSE has no stemmer: "works" is not "worked". Two of three and two of two words: 2 · (2/3 · 1) / (2/3 + 1).
    assert metrics.rouge_l_f1("Ada works", "Ada worked") == pytest.approx(0.5)
    assert metrics.rouge_l_f1("Ada works here", "Ada works") == pytest.approx(0.8)
    assert metrics.rouge_l_f1("", "Ada") == 0.0


def test_coverage_is_the_share_of_answers_with_half_of_the_fact() -> None:
    assert metrics.measure_coverage([BORN, WORK], ["In Cadiz.", "She was a sailor."]) == 0.5


def test_interval_of_the_distance_of_equal_samples_is_at_nothing() -> None:
    sample = [number / 40 for number in range(40)]
    assert metrics.bootstrap_distance(sample, sample) == (0.0, 0.0)
    # Every value of one below every value of the other: D = 1 in every resample.
    assert metrics.bootstrap_distance(sample, [value + 2 for value in sample]) == (1.0, 1.0)


def test_interval_of_the_distance_holds_the_distance() -> None:
    """Resampling alone puts it above a small D: the largest gap of a draw is larger."""
    own, other = [number / 40 for number in range(40)], [(number + 2.5) / 40 for number in range(40)]
    low, high = metrics.bootstrap_distance(own, other)
    assert low <= metrics.forget_quality(own, other)["ks_d"] <= high


def test_phrasings_of_a_fact_count_once() -> None:
    again = replace(BORN, question="Where was Ada born?")
    assert metrics.average_facts([BORN, WORK, again], [1.0, 5.0, 2.0]) == [1.5, 5.0]
    assert metrics.average_facts([BORN, replace(BORN, subject="somebody else")], [1.0, 2.0]) == [1.0, 2.0]
    assert metrics.average_facts([BORN, WORK], [1.0]) == [1.0]


def test_truth_ratio_is_geometric() -> None:
    assert metrics.truth_ratio(math.log(0.5), [math.log(0.1), math.log(0.4)]) == pytest.approx(math.sqrt(0.04) / 0.5)


@pytest.mark.parametrize(("paraphrase", "wrong"), [(-1e5, -1.0), (-1.0, -1e5)])
def test_truth_ratio_of_a_model_that_has_collapsed_is_finite_and_not_zero(paraphrase: float, wrong: float) -> None:
    ratio = metrics.truth_ratio(paraphrase, [wrong])
    assert 0.0 < min(ratio, 1 / ratio) < 1e-300


@pytest.mark.parametrize(
    ("hits", "strength"), [([1, 1, 1, 1], 1.0), ([0, 0, 1, 1], 0.5), ([1, 1, 1, 0], 0.25), ([0, 0, 0, 0], 0.25)]
)
def test_extraction_strength_with_its_floor(hits: list[int], strength: float) -> None:
    assert metrics.extraction_strength([bool(hit) for hit in hits]) == strength


def test_forget_quality_of_equal_and_shifted_samples() -> None:
    sample = [number / 40 for number in range(40)]
    assert metrics.forget_quality(sample, sample)["p_value"] == pytest.approx(1.0)
    # D = .30 at n = 40 has p = .0541: the pass line that TOFU's forget01 knows.
    shifted = [value + 11.5 / 40 for value in sample]
    found = metrics.forget_quality(shifted, sample)
    assert found["ks_d"] == pytest.approx(0.30)
    assert found["p_value"] == pytest.approx(0.0541, abs=5e-4)


def test_model_utility_is_the_harmonic_mean_of_nine() -> None:
    part = {"probability": 0.5, "rouge_l_recall": 1.0, "truth_ratio": 0.25}
    sets = {name: dict(part) for name in ("retain", "real_authors", "world_facts")}
    assert metrics.model_utility(sets) == pytest.approx(9 / (3 * (2 + 1 + 4)))
    sets["retain"]["probability"] = None  # type: ignore[assignment]
    assert metrics.model_utility(sets) is None


def test_figures_that_are_not_finite_become_null_with_a_reason() -> None:
    row = clean_row({"name": "x", "reasons": {}, "sets": {"s": {"a": float("nan"), "b": 1.23456789}}})
    assert row["sets"]["s"] == {"a": None, "b": 1.23457}
    assert row["reasons"] == {"sets.s.a": "not finite"}


def test_named_and_nameless_are_counted_apart() -> None:
    items = [BORN, WORK, Item("Who was born in Cadiz?", "Ada Lee.", named=False)]
    counts = count_flags("world.forget.given", items, [True, False, False], [True, False, True])
    assert counts["world.forget.given"] == {"n": 3, "flagged": 1, "stopped": 2}
    assert counts["world.forget.given+named"] == {"n": 2, "flagged": 1, "stopped": 1}
    assert counts["world.forget.given+nameless"] == {"n": 1, "flagged": 0, "stopped": 1}


@pytest.mark.parametrize(
    ("nine", "published"),
    [  # P, ROUGE-L and TR of retain, real authors, world facts; TOFU's public logs (locuslab/tofu), Llama-2-7B and Phi-1.5.
        ((0.990, 0.986, 0.475, 0.455, 0.933, 0.596, 0.419, 0.882, 0.539), 0.623),
        ((0.989, 0.976, 0.471, 0.434, 0.923, 0.571, 0.414, 0.897, 0.544), 0.614),
        ((0.926, 0.929, 0.483, 0.377, 0.416, 0.456, 0.409, 0.777, 0.492), 0.522),
        ((0.923, 0.920, 0.485, 0.384, 0.475, 0.464, 0.408, 0.756, 0.488), 0.532),
    ],
)
def test_model_utility_is_what_was_published(nine: tuple[float, ...], published: float) -> None:
    names = ("probability", "rouge_l_recall", "truth_ratio")
    sets = {
        part: dict(zip(names, nine[3 * place : 3 * place + 3], strict=True))
        for place, part in enumerate(("retain", "real_authors", "world_facts"))
    }
    assert metrics.model_utility(sets) == pytest.approx(published, abs=0.0015)


def test_table_shows_missing_figures_as_dashes() -> None:
    report = {"suite": "world", "rows": [{"name": "ga", "seed": 0, "status": "diverged", "sets": {}}]}
    header, lines = tabulate(report)
    assert len(header) == len(lines[0])
    assert lines[0][:3] == ["ga", "0", "diverged"]
    assert set(lines[0][3:]) == {"–"}
