"""The paper's box, and our probe with its conformal threshold."""

from __future__ import annotations

import numpy as np
import pytest

from unlearn_guard.corruptions.key_space import Probe, calibrate, fit_box, fit_probe, from_tensors, to_tensors
from unlearn_guard.guard.errors import DataError, SettingsError


def draw(n: int, shift: float, seed: int, width: int = 40) -> np.ndarray:
    rng = np.random.default_rng(seed)
    spread = np.linspace(0.1, 5.0, width)
    keys = rng.normal(size=(n, width)) * spread
    keys[:, :4] += shift * spread[:4]  # The telling dimensions are the quiet ones.
    return keys.astype(np.float32)


def test_box_holds_exactly_what_it_was_made_from() -> None:
    keys = draw(60, 0.0, 0)
    box = fit_box(keys)
    inside = np.abs(keys - box.mean) <= 1.00001 * box.k * box.std
    assert inside.all()
    assert box.score(keys).min() == pytest.approx(-1.0, abs=1e-5)
    assert not (np.abs(keys - box.mean) <= 0.99 * box.k * box.std).all()


def test_box_survives_a_constant_neuron_and_refuses_nothing_but_those() -> None:
    keys = draw(60, 0.0, 0)
    keys[:, 3] = 1.0
    assert np.isfinite(fit_box(keys).k)
    with pytest.raises(DataError, match="constant"):
        fit_box(np.ones((60, 4), np.float32))


@pytest.mark.parametrize("kind", ["whitened", "logistic"])
@pytest.mark.parametrize("width", [40, 900])
def test_probe_flags_its_skill_at_the_calibrated_rate(kind: str, width: int) -> None:
    """More dimensions than prompts, too."""
    probe = fit_probe({2: draw(200, 4.0, 1, width)}, {2: draw(400, 0.0, 2, width)}, kind)  # type: ignore[arg-type]
    threshold = calibrate(probe.score({2: draw(1999, 0.0, 3, width)}), 0.01)
    assert (probe.score({2: draw(300, 4.0, 4, width)}) >= threshold).mean() > 0.95
    assert (probe.score({2: draw(4000, 0.0, 5, width)}) >= threshold).mean() < 0.02


def test_whitening_in_the_space_of_prompts_is_the_same() -> None:
    forget, clean = draw(30, 2.0, 1), draw(40, 0.0, 2)
    few = fit_probe({0: forget}, {0: clean})
    wide = fit_probe(
        {0: np.pad(forget, ((0, 0), (0, 60)))}, {0: np.pad(clean, ((0, 0), (0, 60)))}
    )  # 100 dimensions, 70 prompts; the ridge is spread over more of them.
    cosine = few.weights[0] @ wide.weights[0][:40]
    cosine /= np.linalg.norm(few.weights[0]) * np.linalg.norm(wide.weights[0])
    assert cosine > 0.95


def test_threshold_is_conformal() -> None:
    scores = np.arange(1, 1000, dtype=np.float64)
    for alpha in (0.001, 0.004, 0.0999):
        threshold = calibrate(scores, alpha)
        assert (1 + (scores >= threshold).sum()) / 1000 <= alpha
        assert (1 + (scores >= threshold - 1.001).sum()) / 1000 > alpha
    with pytest.raises(DataError, match="999"):
        calibrate(scores[:500], 0.001)
    with pytest.raises(SettingsError, match="alpha"):
        calibrate(scores, 1.5)


def test_layers_add_up_and_survive_the_disk() -> None:
    probe = fit_probe({1: draw(40, 3.0, 1), 3: draw(40, 3.0, 6)}, {1: draw(80, 0.0, 2), 3: draw(80, 0.0, 7)})
    keys = {1: draw(9, 0.0, 8), 3: draw(9, 0.0, 9)}
    by_layer = [keys[layer] @ probe.weights[layer] for layer in (1, 3)]
    assert probe.score(keys) == pytest.approx(by_layer[0] + by_layer[1], rel=1e-5)
    found = from_tensors(to_tensors("0000", Probe(probe.weights, 0.25)))
    assert found["0000"].threshold == 0.25
    assert found["0000"].score(keys) == pytest.approx(probe.score(keys))


def test_bad_input_is_refused() -> None:
    good = draw(40, 0.0, 0)
    with pytest.raises(DataError, match="too few forget prompts"):
        fit_probe({0: good[:5]}, {0: good})
    broken = good.copy()
    broken[0, 0] = np.nan
    with pytest.raises(DataError, match="not finite"):
        fit_probe({0: good}, {0: broken})
    with pytest.raises(DataError, match="constant"):
        fit_probe({0: np.ones_like(good)}, {0: np.ones_like(good)})
    with pytest.raises(SettingsError, match="whitened"):
        fit_probe({0: good}, {0: good}, "cosine")  # type: ignore[arg-type]


def test_scores_that_are_not_numbers_calibrate_nothing() -> None:
    with pytest.raises(DataError, match="not finite"):
        calibrate(np.array([0.0, np.nan] * 100), 0.1)
