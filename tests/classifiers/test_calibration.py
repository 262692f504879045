"""Calibration: p-values by hand, and the promised rate of false flags."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn_guard.classifiers.calibration import Calibration
from unlearn_guard.classifiers.cascade import BUILT_IN, read_calibrations
from unlearn_guard.guard.errors import DataError


def calibrate(scores: list[float], alpha: float = 0.1) -> Calibration:
    return Calibration(np.sort(np.array(scores, np.float32)), alpha, alpha)


@pytest.mark.parametrize(
    ("score", "p_value"),
    [(0.5, 5 / 5), (1.0, 5 / 5), (1.5, 4 / 5), (2.0, 4 / 5), (2.5, 2 / 5), (3.0, 2 / 5), (3.1, 1 / 5)],
)
def test_p_value_counts_scores_at_least_as_high(score: float, p_value: float) -> None:
    assert calibrate([3.0, 1.0, 2.0, 2.0]).p_value(score) == p_value


def test_tie_with_the_highest_score_is_counted() -> None:
    assert calibrate([5.0] * 9).p_value(5.0) == 1.0
    assert calibrate([5.0] * 9).p_value(np.nextafter(np.float32(5), np.float32(6))) == 0.1


@pytest.mark.parametrize("score", [-np.inf, np.inf])
def test_infinite_scores_are_the_ends(score: float) -> None:
    assert calibrate([1.0, 2.0, 3.0]).p_value(score) == (1.0 if score < 0 else 0.25)


def test_double_precision_does_not_break_a_tie() -> None:
    scores = np.array([0.1] * 60, np.float32)
    assert Calibration.fit(scores, 0.05).p_value(0.1) == 1.0
    assert Calibration.fit(scores, 0.05).p_value(float(scores[0])) == 1.0


def test_fit_sorts() -> None:
    scores = np.random.default_rng(0).permutation(60).astype(np.float32)
    assert Calibration.fit(scores, 0.05).p_value(58.0) == 3 / 61


@pytest.mark.parametrize(("n", "asked", "used"), [(50, 0.001, 1 / 51), (1000, 0.001, 0.001), (99, 0.01, 0.01)])
def test_alpha_is_no_smaller_than_the_rows_can_hold(n: int, asked: float, used: float) -> None:
    calibration = Calibration.fit(np.arange(n, dtype=np.float32), asked)
    assert (calibration.alpha, calibration.alpha_requested) == (used, asked)
    assert calibration.p_value(float(n)) <= calibration.alpha


@pytest.mark.parametrize("n", [0, 49])
def test_too_few_rows_are_refused(n: int) -> None:
    with pytest.raises(DataError, match=f"too few calibration rows: {n} — allowed: 50 or more"):
        Calibration.fit(np.zeros(n, np.float32), 0.01)


@pytest.mark.parametrize("alpha", [0.02, 0.1])
def test_clean_draws_are_flagged_at_most_at_alpha(alpha: float) -> None:
    rng = np.random.default_rng(7)
    n, trials, draws = 99, 300, 50
    flagged = 0
    for _ in range(trials):
        scores = np.round(rng.standard_normal(n + draws), 2).astype(np.float32)  # Rounded, so that ties happen.
        calibration = Calibration.fit(scores[:n], alpha)
        flagged += sum(calibration.p_value(float(score)) <= calibration.alpha for score in scores[n:])
    rate = flagged / (trials * draws)
    assert alpha * 0.6 < rate < alpha + 3 * np.sqrt(alpha * (1 - alpha) * (1 / n + 1 / draws) / trials)


SCORES = st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=40)


@given(SCORES, SCORES, st.floats(0.01, 1.0))
def test_threshold_is_the_lowest_score_that_alpha_allows(
    scores: list[float], stratum: list[float], alpha: float
) -> None:
    strata = {"a": np.sort(np.array(stratum, np.float32))}
    calibration = Calibration(np.sort(np.array(scores, np.float32)), alpha, alpha, strata)
    threshold = calibration.find_threshold(alpha)
    if threshold == np.inf:
        assert calibration.p_value(threshold) > alpha
    else:
        assert calibration.p_value(threshold) <= alpha
    if alpha < 1.0:
        below = np.nextafter(np.float32(min(threshold, 1e9)), np.float32(-np.inf))
        assert calibration.p_value(float(below)) > alpha


def test_p_value_is_the_largest_over_the_strata() -> None:
    high = np.arange(60, 120, dtype=np.float32)
    calibration = Calibration.fit(np.arange(120, dtype=np.float32), 0.05, {"high": high, "few": high[:49]})
    assert set(calibration.strata) == {"high"}
    assert calibration.p_value(90.0) == 31 / 61
    assert calibration.p_value(10.0) == 1.0


@pytest.mark.parametrize("stratum", ["low", "high"])
def test_rate_of_false_flags_holds_in_every_stratum(stratum: str) -> None:
    rng = np.random.default_rng(1)
    draw = {"low": lambda n: rng.normal(0, 1, n), "high": lambda n: rng.normal(3, 1, n)}
    parts = {name: sample(500).astype(np.float32) for name, sample in draw.items()}
    calibration = Calibration.fit(np.concatenate([*parts.values(), *[parts["low"]] * 8]), 0.05, parts)
    flagged = [calibration.p_value(score) <= 0.05 for score in draw[stratum](2000)]
    assert np.mean(flagged) <= 0.08


@given(SCORES, st.lists(SCORES, min_size=1, max_size=3), st.floats(-6, 6, width=32))
def test_p_value_is_the_largest_that_any_part_gives(
    scores: list[float], parts: list[list[float]], score: float
) -> None:
    strata = {str(number): np.sort(np.array(part, np.float32)) for number, part in enumerate(parts)}
    whole = Calibration(np.sort(np.array(scores, np.float32)), 0.1, 0.1, strata)
    assert whole.p_value(score) == max(calibrate(part).p_value(score) for part in (scores, *parts))


@given(SCORES, SCORES, st.floats(0.01, 0.99), st.floats(-6, 6, width=32))
def test_score_is_flagged_exactly_from_the_threshold_on(
    scores: list[float], stratum: list[float], alpha: float, score: float
) -> None:
    strata = {"a": np.sort(np.array(stratum, np.float32))}
    calibration = Calibration(np.sort(np.array(scores, np.float32)), alpha, alpha, strata)
    assert (calibration.p_value(score) <= alpha) == (score >= calibration.find_threshold(alpha))


@pytest.mark.parametrize("n_stratum", [50, 500])
def test_highest_score_is_flagged_whatever_the_strata(n_stratum: int) -> None:
    scores = np.arange(2000, dtype=np.float32)
    calibration = Calibration.fit(scores, 0.001, {"small": scores[:n_stratum]})
    assert calibration.p_value(1e9) <= calibration.alpha
    assert calibration.find_threshold(calibration.alpha) < np.inf


def test_rows_without_an_answer_are_no_calibration_of_answers() -> None:
    scores = np.arange(100, dtype=np.float32)
    gaps = np.where(scores % 4 == 0, scores, np.nan).astype(np.float32)
    arrays = {
        "fused": scores,
        "joint": gaps,
        "built-in": scores,
        "built-in-joint": np.concatenate([scores[:80], [np.nan] * 3]).astype(np.float32),
        "strata": np.zeros(100, np.int32),
    }
    prompts, answers = read_calibrations(arrays, ["mine"], 0.001)
    assert (len(prompts.scores), prompts.smallest_p) == (100, 1 / 101)
    assert (len(answers.scores), answers.smallest_p) == (
        80,
        1 / 81,
    )  # Of 25 rows nothing is learnt: built-in traffic it is.
    assert answers.p_value(200.0) == answers.smallest_p == answers.alpha
    most = {**arrays, "joint": np.where(scores < 60, scores, np.nan).astype(np.float32)}
    assert {name: len(part) for name, part in read_calibrations(most, ["mine"], 0.001)[1].strata.items()} == {
        "mine": 60,
        BUILT_IN: 80,
    }
