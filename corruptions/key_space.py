"""Key Space Detection (Li et al., arXiv 2503.21730, §3.2): does the key at the prompt's last token lie where a skill's keys lie?

The paper's detector is a box around the keys of N queries, mean ± α·k·σ in every dimension, with α set by hand. Ours is a linear probe on the
same features, the whitened mean difference (Fisher's discriminant) or logistic regression, with a threshold from clean prompts: the rate of
false flags is stated, not hoped for. Each forget request has its own and can be removed with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from unlearn_guard.corruptions.neuron_settings import ProbeKind
from unlearn_guard.guard.errors import DataError, SettingsError

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
MIN_PROMPTS = 20
_LEAST_STD, _QUIETEST = 1e-6, 0.01
"""The smallest deviation a neuron is taken to have: absolute, and as a part of the mean one."""
_RIDGE = 0.1
"""Of the mean variance, added to every direction before whitening: as many prompts as dimensions leave the rest unknown."""


@dataclass(frozen=True, slots=True)
class Box:
    """The paper's hypercube: a key is inside where |key − mean| ≤ reach · std in every dimension; reach is α·k."""

    mean: Floats
    std: Floats
    k: float

    def score(self, keys: Floats) -> Doubles:
        """Return −max |key − mean| / (k·std): −1 is the edge of the smallest box that holds all it was made from."""
        return -np.max(np.abs(keys - self.mean) / (self.k * self.std), axis=-1).astype(np.float64)


def fit_box(keys: Floats) -> Box:
    """Return the smallest box, in units of each dimension's deviation, that holds all keys, (prompts, neurons).

    k is found in closed form; the public code bisects for it.
    """
    _check(keys, "forget")
    mean, std = keys.mean(0), keys.std(0)
    if not (varying := std > _LEAST_STD).any():
        raise DataError("every key neuron is constant over the forget prompts", mend="give more varied prompts")
    # A neuron that never moves would make the box flat; the public code divides by zero there.
    std = np.where(varying, std, _LEAST_STD).astype(np.float32)
    k = float(np.max(np.abs(keys - mean)[:, varying] / std[varying]))
    return Box(mean.astype(np.float32), std, k)


@dataclass(frozen=True, slots=True)
class Probe:
    """A linear score per layer, added up: weights (neurons) by layer, and the threshold from which on a prompt is flagged."""

    weights: dict[int, Floats]
    threshold: float

    def score(self, keys: Mapping[int, Floats]) -> Doubles:
        """Return the scores of prompts; keys are (prompts, neurons) by layer."""
        return np.sum([keys[layer] @ weight for layer, weight in self.weights.items()], axis=0).astype(np.float64)


def fit_probe(forget: Mapping[int, Floats], clean: Mapping[int, Floats], kind: ProbeKind = "whitened") -> Probe:
    """Return a probe that tells keys of forget prompts from clean ones, by layer; its threshold is 0 until it is calibrated.

    Raises DataError for too few prompts, keys that are not finite, or keys that are all constant.
    """
    if kind not in get_args(ProbeKind):
        raise SettingsError("key-space probe", value=kind, allowed=", ".join(get_args(ProbeKind)))
    layers = list(forget)
    for layer in layers:
        _check(forget[layer], "forget")
        _check(clean[layer], "clean")
    joint_forget, joint_clean = (np.concatenate([keys[layer] for layer in layers], axis=1) for keys in (forget, clean))
    fit = _whiten if kind == "whitened" else _regress
    weight = fit(joint_forget.astype(np.float64), joint_clean.astype(np.float64)).astype(np.float32)
    borders = np.cumsum([forget[layer].shape[1] for layer in layers])[:-1]
    return Probe(dict(zip(layers, np.split(weight, borders), strict=True)), 0.0)


def calibrate(scores: Doubles, alpha: float) -> float:
    """Return the lowest threshold at which (1 + #{clean scores ≥ it}) / (n + 1) ≤ alpha (split conformal).

    Raises DataError where n is too small for alpha, or a score is not finite.
    """
    if not 0.0 < alpha < 1.0:
        raise SettingsError("key-space alpha", value=alpha, allowed="a number between 0 and 1, exclusive")
    if not np.isfinite(scores).all():
        raise DataError("scores of clean prompts are not finite", mend="fit again with a model whose keys are finite")
    n_above = int(np.floor(alpha * (len(scores) + 1) + 1e-9)) - 1
    if n_above < 0:
        raise DataError(
            "too few clean prompts to calibrate the key-space probe",
            value=len(scores),
            allowed=f"{int(np.ceil(1 / alpha)) - 1} or more at alpha {alpha:g}",
            mend="give more clean traffic, or a larger alpha",
        )
    ordered = np.sort(scores)[::-1]
    return float(np.nextafter(ordered[n_above], np.inf))


def _whiten(forget: Doubles, clean: Doubles) -> Doubles:
    """Return (Σ + λI)⁻¹ (μ_f − μ_c), Σ within classes, of keys in units of each neuron's own deviation.

    Without these units the ridge, which loud neurons set, would silence the quiet ones. Solved in the space of prompts where these
    are fewer than dimensions.
    """
    std = np.sqrt((len(forget) * forget.var(0) + len(clean) * clean.var(0)) / (len(forget) + len(clean)))
    std = np.maximum(std, max(_LEAST_STD, _QUIETEST * float(std.mean())))
    forget, clean = forget / std, clean / std
    shift = forget.mean(0) - clean.mean(0)
    centred = np.concatenate([forget - forget.mean(0), clean - clean.mean(0)]) / np.sqrt(len(forget) + len(clean))
    ridge = _RIDGE * float((centred**2).sum()) / centred.shape[1]
    if not ridge > 0.0:
        raise DataError("every key neuron is constant", mend="give more varied prompts")
    if len(centred) < centred.shape[1]:
        inner = np.linalg.solve(centred @ centred.T + ridge * np.eye(len(centred)), centred @ shift)
        return (shift - centred.T @ inner) / ridge / std
    solved: Doubles = np.linalg.solve(centred.T @ centred + ridge * np.eye(centred.shape[1]), shift)
    return solved / std


def _regress(forget: Doubles, clean: Doubles) -> Doubles:
    from sklearn.linear_model import LogisticRegression

    std = np.concatenate([forget, clean]).std(0) + _LEAST_STD
    rows = np.concatenate([forget, clean]) / std
    labels = np.r_[np.ones(len(forget)), np.zeros(len(clean))]
    model = LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000).fit(rows, labels)
    weight: Doubles = model.coef_[0] / std
    return weight


def _check(keys: Floats, what: str) -> None:
    if len(keys) < MIN_PROMPTS:
        raise DataError(f"too few {what} prompts for key space", value=len(keys), allowed=f"{MIN_PROMPTS} or more")
    if not np.isfinite(keys).all():
        raise DataError(f"keys of {what} prompts are not finite")


def to_tensors(owner: str, probe: Probe) -> dict[str, Any]:
    """Return a probe as named arrays for safetensors."""
    record = {f"{owner}/{layer}": weight for layer, weight in probe.weights.items()}
    return {**record, f"{owner}/threshold": np.array([probe.threshold], np.float64)}


def from_tensors(tensors: Mapping[str, Any]) -> dict[str, Probe]:
    """Return probes by forget request from named arrays."""
    owners = [name.removesuffix("/threshold") for name in tensors if name.endswith("/threshold")]
    probes = {}
    for owner in owners:
        own: Sequence[str] = [name for name in tensors if name.rpartition("/")[0] == owner]
        weights = {int(last): tensors[name] for name in own if (last := name.rpartition("/")[2]) != "threshold"}
        probes[owner] = Probe(weights, float(tensors[f"{owner}/threshold"][0]))
    return probes
