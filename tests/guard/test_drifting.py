"""The drift monitor: quiet on traffic like the calibration's, loud on any other."""

from __future__ import annotations

import math

import numpy as np
import pytest

from unlearn_guard.guard.drifting import ALARM, DriftMonitor


def draw(n: int, seed: int, shift: float = 0.0) -> list[float]:
    return [float(value) for value in np.random.default_rng(seed).normal(shift, 1.0, n)]


def watch(monitor: DriftMonitor, scores: list[float]) -> float:
    """Return the highest log martingale on the way."""
    return max(monitor.update(score) for score in scores)


@pytest.mark.parametrize("seed", range(8))
def test_unchanged_traffic_raises_no_alarm(seed: int) -> None:
    monitor = DriftMonitor(draw(2000, seed), seed=seed)
    assert watch(monitor, draw(1000, seed + 100)) < ALARM
    assert not monitor.alarms
    assert monitor.n == 1000


@pytest.mark.parametrize("shift", [-1.0, 1.0])
def test_shifted_traffic_raises_an_alarm(shift: float) -> None:
    monitor = DriftMonitor(draw(500, 0))
    watch(monitor, draw(300, 1, shift))
    assert monitor.alarms


def test_change_in_the_middle_is_noticed() -> None:
    monitor = DriftMonitor(draw(2000, 0))
    assert watch(monitor, draw(1000, 1)) < ALARM
    assert watch(monitor, draw(300, 2, 1.5)) >= ALARM


@pytest.mark.parametrize("n_calibration", [50, 100, 200])
def test_unchanged_traffic_alarms_as_rarely_as_promised(n_calibration: int) -> None:
    alarms = 0
    for seed in range(60):
        monitor = DriftMonitor(draw(n_calibration, 2 * seed), seed=seed)
        alarms += watch(monitor, draw(1500, 2 * seed + 1)) >= ALARM
    assert alarms <= 4


def test_p_values_of_ties_are_spread_evenly() -> None:
    monitor = DriftMonitor([0.0] * 99)
    values = sorted(monitor.p_value(0.0) for _ in range(4000))
    assert values[0] >= 0.0
    assert values[-1] <= 1.0
    for share in (0.1, 0.5, 0.9):
        assert np.quantile(values, share) == pytest.approx(share, abs=0.03)


def test_p_value_is_between_the_neighbouring_ranks() -> None:
    monitor = DriftMonitor([1.0, 2.0, 3.0, 4.0])
    for score, low, high in ((5.0, 0.0, 0.2), (3.5, 0.2, 0.4), (3.0, 0.2, 0.6), (0.0, 0.8, 1.0)):
        assert all(low <= monitor.p_value(score) <= high for _ in range(50))


def test_cleared_traffic_alone_is_no_drift() -> None:
    monitor = DriftMonitor([-1e6] * 300)
    assert watch(monitor, [-1e6] * 1000) < ALARM


def test_without_calibration_scores_nothing_is_known_and_nothing_alarms() -> None:
    monitor = DriftMonitor([])
    assert 0.0 <= monitor.p_value(5.0) <= 1.0
    assert watch(monitor, [5.0] * 1000) < ALARM


@pytest.mark.parametrize("score", [-9.0, 9.0])
def test_long_drift_stays_finite(score: float) -> None:
    monitor = DriftMonitor(draw(500, 0))
    watch(monitor, [score] * 20_000)
    assert math.isfinite(monitor.log_martingale)
    assert monitor.log_martingale > 10 * ALARM
    assert all(math.isfinite(share) and share > 0 for share in monitor._capital)


def test_same_seed_gives_the_same_course() -> None:
    first, second = (DriftMonitor(draw(100, 0), seed=4) for _ in range(2))
    assert [first.update(0.0) for _ in range(50)] == [second.update(0.0) for _ in range(50)]
