"""The first stage: sure evidence never passes, and what is missed is bounded and known."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from unlearn_guard.classifiers.signals import N_LEXICAL, SIGNALS, Lexical
from unlearn_guard.classifiers.triage import Triage, upper_limit

TRIAGE = Triage(0.4, 0.2, 300, 2)
WEIGHT, SHARE = SIGNALS.index("attribute"), SIGNALS.index("share")
WINDOWS = st.lists(
    st.tuples(st.floats(0, 3), st.floats(0, 1), st.booleans(), st.sampled_from([0.0, 0.0, 1.0])), max_size=300
)


def say(**signals: float) -> Lexical:
    return Lexical(tuple(signals.get(name, 0.0) for name in SIGNALS[:N_LEXICAL]))


def stack(windows: list[tuple[float, float, bool, float]]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    rows = [say(attribute=weight, share=share, name=name).values for weight, share, _, name in windows]
    return np.array(rows).reshape(len(rows), N_LEXICAL), np.array([flagged for _, _, flagged, _ in windows], bool)


def test_silent_window_is_cleared() -> None:
    assert TRIAGE.clears(say())
    assert TRIAGE.clears(say(attribute=0.39, share=0.19, kept=3.0, other=1.0))


@pytest.mark.parametrize("name", ["name", "namesake", "part", "fact", "passage"])
def test_sure_evidence_is_never_cleared(name: str) -> None:
    assert not TRIAGE.clears(say(**{name: 0.01}))


def test_telling_window_is_not_cleared() -> None:
    assert not TRIAGE.clears(say(attribute=0.4, share=0.2))


@pytest.mark.parametrize("signals", [{"attribute": 1.49, "share": 0.19}, {"attribute": 0.39, "share": 1.0}])
def test_window_is_cleared_where_its_weight_or_its_share_is_low(signals: dict[str, float]) -> None:
    assert TRIAGE.clears(say(**signals))


@pytest.mark.parametrize("weight", [1.5, 3.0])
def test_heavy_window_is_not_cleared_for_its_low_share(weight: float) -> None:
    assert not TRIAGE.clears(say(attribute=weight, share=0.0))


def test_first_stage_that_was_not_fitted_clears_nothing() -> None:
    assert not Triage().clears(say())


@given(WINDOWS, st.floats(0, 0.2))
def test_at_most_the_allowed_share_of_flagged_windows_is_missed(windows: Any, miss: float) -> None:
    lexical, flagged = stack(windows)
    triage = Triage.fit(lexical, flagged, miss=miss)
    missed = sum(triage.clears(Lexical(tuple(row))) for row in lexical[flagged])
    assert missed <= miss * flagged.sum()
    assert triage.n_missed <= triage.n_measured <= flagged.sum()


def test_misses_are_counted_on_windows_that_chose_nothing() -> None:
    windows = [(0.5, 0.25, True, 0.0), (0.2, 0.1, True, 0.0)] * 10  # One half is heavy, the other light.
    triage = Triage.fit(*stack(windows), miss=0.0)
    assert (triage.n_measured, triage.n_missed) == (10, 10)
    assert not triage.clears(say(attribute=0.2, share=0.1))


def test_weight_and_share_together_miss_no_more_than_is_allowed() -> None:
    rng = np.random.default_rng(0)
    windows = [(weight, share, True, 0.0) for weight, share in rng.random((1000, 2)) * (0.7, 0.35)]
    triage = Triage.fit(*stack(windows), miss=0.1)
    missed = sum(triage.clears(say(attribute=weight, share=share)) for weight, share, _, _ in windows)
    assert 40 < missed <= 100


@given(WINDOWS)
def test_one_rare_word_is_never_below_the_thresholds(windows: Any) -> None:
    triage = Triage.fit(*stack(windows), miss=0.01)
    assert not triage.clears(say(attribute=0.6, share=0.5))


def test_thresholds_follow_the_quietest_flagged_window() -> None:
    windows = [(0.3, 0.15, True, 0.0), (2.0, 0.9, True, 0.0), (0.01, 0.01, False, 0.0), (0.0, 0.0, True, 1.0)]
    triage = Triage.fit(*stack(windows), miss=0.0)
    assert (triage.n_measured, triage.n_missed) == (2, 1)
    assert 0.2 < triage.least_weight < 0.3
    assert 0.1 < triage.least_share < 0.15


def test_windows_that_are_not_flagged_do_not_count() -> None:
    nothing = Triage.fit(*stack([(0.0, 0.0, False, 0.0)] * 9), miss=0.01)
    assert (nothing.n_measured, nothing.n_missed, nothing.miss_limit) == (0, 0, 1.0)


def test_a_charge_clears_what_no_encoder_could_lift_over_it() -> None:
    triage = Triage(0.1, 0.1, fusion=(0.0,) * 4 + (3.0, 3.0, 0.0, 0.0, 0.0), least_fused=-1.0)
    window = say(attribute=0.5, share=0.5)
    assert [triage.clears(window, charge) for charge in (0.0, 3.9, 4.1)] == [False, False, True]
    assert not triage.clears(say(attribute=0.5, share=0.5, name=1.0), 100.0)


def test_record_survives_json() -> None:
    assert Triage.from_record(json.loads(json.dumps(TRIAGE.to_record()))) == TRIAGE


def test_miss_limit_is_of_what_was_measured() -> None:
    assert TRIAGE.miss_limit == upper_limit(2, 300)
    assert Triage().miss_limit == 1.0


@given(st.integers(0, 400), st.integers(1, 400), st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_upper_limit_is_clopper_and_pearsons(n_hits: int, n: int, level: float) -> None:
    n_hits = min(n_hits, n)
    expected = 1.0 if n_hits == n else beta.ppf(level, n_hits + 1, n - n_hits)
    assert upper_limit(n_hits, n, level) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("n_hits", "n"), [(0, 1), (0, 100_000), (3, 100_000), (999, 1000)])
def test_upper_limit_holds_at_the_edges(n_hits: int, n: int) -> None:
    assert upper_limit(n_hits, n) == pytest.approx(beta.ppf(0.95, n_hits + 1, n - n_hits), rel=1e-3, abs=1e-6)


def test_rule_of_three() -> None:
    assert upper_limit(0, 1000) == pytest.approx(3 / 1000, rel=0.01)
