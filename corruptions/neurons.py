"""Skill neurons (Li et al., arXiv 2503.21730): what they are, how they are found, and how their activations are shifted.

Per neuron, the gate pre-activation is taken to be normal in texts of the skill, N(μ_f, σ_f), and in other texts, N(μ_r, σ_r). Neuron
Adjust (§3.1) takes those with the largest gap μ_f − μ_r. Where a value v is likelier under the skill, it becomes its mirror
image: with z = (v − μ_f) / σ_f, v' = μ_r − z·σ_r; the paper tosses a coin with p_f / (p_f + p_r), ours weighs by it. The public code
has the forget mean in the place of σ_f, the variance in the place of the others, and one coin per forward pass; not here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch

from unlearn_guard.corruptions.gated_mlp import GatedMlp, find_gated_mlps
from unlearn_guard.corruptions.neuron_settings import MAX_SHARE, Score
from unlearn_guard.guard.errors import DataError, SettingsError

Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
MIN_TEXTS = 20
"""Fewer texts say nothing about the spread of a neuron."""
_LEAST_VARIANCE = 1e-12
_SILENT = 0.03
"""Of the mean energy of all neurons."""
_PEAK_NORM, _LOW_PEAK = 4, 0.1
"""How much the texts that need a neuron most outweigh the others, and what counts as a low peak, of the mean of all."""
_BATCH = 16


@dataclass(frozen=True, slots=True)
class Text:
    """Token ids, and the positions that count: from `start` to `stop`."""

    ids: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean and variance of each neuron over n tokens; arrays are (layers, neurons)."""

    n: int
    mean: Doubles
    variance: Doubles


class MomentStream:
    """Mean and variance of rows that come in batches, in float64 (Welford; batches merged as by Chan et al. 1983)."""

    def __init__(self, width: int) -> None:
        self.n = 0
        self.mean = torch.zeros(width, dtype=torch.float64)
        self._squares = torch.zeros(width, dtype=torch.float64)

    def update(self, rows: torch.Tensor) -> None:
        """Take in rows, (n, width)."""
        rows = rows.double().cpu()
        n, mean = len(rows), rows.mean(0)
        shift, total = mean - self.mean, self.n + n
        self._squares += ((rows - mean) ** 2).sum(0) + shift**2 * (self.n * n / total)
        self.mean += shift * (n / total)
        self.n = total

    @property
    def variance(self) -> torch.Tensor:
        """The variance, (width)."""
        return self._squares / max(1, self.n)


@dataclass(frozen=True, slots=True)
class Peaks:
    """The largest squared key of each neuron in a text, prompt included: its mean over texts, and its 4-norm; (layers, neurons)."""

    mean: Doubles
    norm: Doubles


class PeakStream:
    """Peaks of texts that come in batches, in float64."""

    def __init__(self, width: int) -> None:
        self.n = 0
        self._sums = {power: torch.zeros(width, dtype=torch.float64) for power in (1, _PEAK_NORM)}

    def update(self, keys: torch.Tensor, read: torch.Tensor) -> None:
        """Take in keys, (texts, tokens, width), of the tokens that are `read`, (texts, tokens)."""
        peaks = (keys.float() ** 2).masked_fill(~read[..., None], 0.0).amax(1).double().cpu()
        self.n += len(peaks)
        for power, total in self._sums.items():
            total += (peaks**power).sum(0)

    def measure(self, power: int) -> torch.Tensor:
        """Return the mean of that power of the peaks, brought back to their unit."""
        return (self._sums[power] / max(1, self.n)) ** (1.0 / power)


@dataclass(frozen=True, slots=True)
class NeuronStatistics:
    """What neurons do in a set of texts: the gate's pre-activation, the key behind it, and the key's peaks."""

    gate: Moments
    key: Moments
    peaks: Peaks


def measure_neurons(model: Any, texts: Sequence[Text], *, what: str) -> NeuronStatistics:
    """Read texts once and return the statistics of every neuron; `what` names the set in errors.

    Raises DataError for fewer than 20 texts, activations that are not finite, or a model without gated MLPs.
    """
    if len(texts) < MIN_TEXTS:
        raise DataError(f"too few {what} texts for neuron statistics", value=len(texts), allowed=f"{MIN_TEXTS} or more")
    mlps = find_gated_mlps(model)
    streams = {(kind, mlp.layer): MomentStream(mlp.n_neurons) for mlp in mlps for kind in ("gate", "key")}
    peaks = {mlp.layer: PeakStream(mlp.n_neurons) for mlp in mlps}
    for batch in _cut(texts):
        counted = _count(batch)
        whole = _count([Text(text.ids, 0, text.stop) for text in batch])
        for place, states in read_neurons(model, mlps, batch).items():
            rows = states[counted.to(states.device)]
            if not torch.isfinite(states[whole.to(states.device)]).all():
                raise DataError(f"activations of {what} texts are not finite", value=f"layer {place[1]}")
            streams[place].update(rows)
            if place[0] == "key":
                peaks[place[1]].update(states, whole.to(states.device))

    def collect(kind: str) -> Moments:
        chosen = [streams[kind, mlp.layer] for mlp in mlps]
        mean, variance = (
            np.stack([getattr(stream, name).numpy() for stream in chosen]) for name in ("mean", "variance")
        )
        return Moments(chosen[0].n, mean, variance)

    mean, norm = (np.stack([peaks[mlp.layer].measure(power).numpy() for mlp in mlps]) for power in (1, _PEAK_NORM))
    return NeuronStatistics(collect("gate"), collect("key"), Peaks(mean, norm))


def measure_keys(model: Any, prompts: Sequence[Sequence[int]], layers: Sequence[int]) -> dict[int, torch.Tensor]:
    """Return the keys at each prompt's last token, (prompts, neurons), float32, by layer."""
    mlps = [mlp for mlp in find_gated_mlps(model) if mlp.layer in layers]
    found: dict[int, torch.Tensor] = {
        mlp.layer: torch.empty(len(prompts), mlp.n_neurons, dtype=torch.float32) for mlp in mlps
    }
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH]
        batch = [Text(tuple(prompts[row]), len(prompts[row]) - 1, len(prompts[row])) for row in rows]
        counted = _count(batch)
        for (kind, layer), keys in read_neurons(model, mlps, batch).items():
            if kind == "key":
                found[layer][rows] = keys[counted.to(keys.device)].float().cpu()
    return found


@torch.inference_mode()
def read_neurons(model: Any, mlps: Sequence[GatedMlp], batch: Sequence[Text]) -> dict[tuple[str, int], torch.Tensor]:
    """Run a batch and return what each layer's `gate` and `key` hold, (texts, tokens, neurons), right-padded."""
    read: dict[tuple[str, int], torch.Tensor] = {}
    handles = []
    for mlp in mlps:

        def keep_gate(module: Any, args: Any, output: Any, mlp: GatedMlp = mlp) -> None:
            read["gate", mlp.layer] = output[..., : mlp.width]

        def keep_key(module: Any, args: Any, mlp: GatedMlp = mlp) -> None:
            read["key", mlp.layer] = args[0]

        handles += [mlp.gate.register_forward_hook(keep_gate), mlp.down.register_forward_pre_hook(keep_key)]
    try:
        width = max(len(text.ids) for text in batch)
        ids = torch.zeros((len(batch), width), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(batch):
            ids[row, : len(text.ids)] = torch.tensor(text.ids)
            mask[row, : len(text.ids)] = 1
        device = next(model.parameters()).device
        model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False, logits_to_keep=1)
    finally:
        for handle in handles:
            handle.remove()
    return read


def _cut(texts: Sequence[Text]) -> Iterator[list[Text]]:
    ordered = sorted(texts, key=lambda text: len(text.ids))
    for start in range(0, len(ordered), _BATCH):
        yield ordered[start : start + _BATCH]


def _count(batch: Sequence[Text]) -> torch.Tensor:
    counted = torch.zeros((len(batch), max(len(text.ids) for text in batch)), dtype=torch.bool)
    for row, text in enumerate(batch):
        counted[row, text.start : text.stop] = True
    return counted


def rank_neurons(forget: NeuronStatistics, retain: NeuronStatistics, score: Score = "peak") -> Doubles:
    """Return how much each neuron belongs to the skill, (layers, neurons); −∞ for one that is constant.

    gap: μ_f − μ_r of the gate (the paper's); contrast: the gap over the root mean square of both deviations; energy (ours, after
    Selective Pruning's importance ratio, arXiv 2403.01267): E_f[key²] / E_r[key²], with a floor below which a neuron counts as silent;
    peak (ours): the same of each text's largest key², in the kept texts their 4-norm, so that what a single kind of text needs is spared.
    """
    if score not in get_args(Score):
        raise SettingsError("neurons score", value=score, allowed=", ".join(get_args(Score)))
    if score == "energy":
        energy, other = measure_energy(forget.key), measure_energy(retain.key)
        ranks = energy / (other + _SILENT * other.mean())
    elif score == "peak":
        ranks = forget.peaks.mean / (retain.peaks.norm + _LOW_PEAK * retain.peaks.mean.mean())
    else:
        ranks = forget.gate.mean - retain.gate.mean
    if score == "contrast":
        ranks = ranks / np.sqrt(np.maximum((forget.gate.variance + retain.gate.variance) / 2, _LEAST_VARIANCE))
    constant = np.minimum(forget.gate.variance, retain.gate.variance) < _LEAST_VARIANCE
    return np.where(constant, -np.inf, ranks)


def measure_energy(moments: Moments) -> Doubles:
    """Return the mean square of each neuron."""
    return moments.mean**2 + moments.variance


def select_neurons(forget: NeuronStatistics, retain: NeuronStatistics, share: float, score: Score = "peak") -> Flags:
    """Return the share of all neurons, over all layers together, that rank highest.

    Raises SettingsError for a share out of range, DataError where too few neurons vary at all.
    """
    if not 0.0 < share <= MAX_SHARE:
        raise SettingsError("neurons share", value=share, allowed=f"above 0, at most {MAX_SHARE:g}")
    ranks = rank_neurons(forget, retain, score)
    return choose_highest(ranks, max(1, round(share * ranks.size)))


def choose_highest(ranks: Doubles, n_chosen: int) -> Flags:
    """Return the n neurons that rank highest; raise DataError where fewer vary."""
    if (n_varying := int(np.isfinite(ranks).sum())) < n_chosen:
        raise DataError(
            "neurons that are not constant",
            value=n_varying,
            allowed=f"at least {n_chosen}",
            mend="give more varied texts",
        )
    chosen = np.zeros(ranks.size, np.bool_)
    chosen[np.argsort(-ranks, axis=None, kind="stable")[:n_chosen]] = True
    return chosen.reshape(ranks.shape)


@dataclass(frozen=True, slots=True)
class Normals:
    """The two normal distributions of some neurons, float32 tensors of one shape (…, neurons)."""

    forget_mean: torch.Tensor
    forget_std: torch.Tensor
    retain_mean: torch.Tensor
    retain_std: torch.Tensor


def shift_posterior(values: torch.Tensor, normals: Normals) -> torch.Tensor:
    """Return values moved to their mirror image by the weight with which they belong to the skill (ours: no coin)."""
    mirrored, weight = _mirror(values, normals)
    return torch.where(weight >= 0.5, values + weight * (mirrored - values), values)


def shift_by_coin(values: torch.Tensor, normals: Normals, coins: torch.Tensor) -> torch.Tensor:
    """Return values of which those likelier under the skill are mirrored where a coin in [0, 1) falls below their weight."""
    mirrored, weight = _mirror(values, normals)
    return torch.where((weight >= 0.5) & (coins < weight), mirrored, values)


def _mirror(values: torch.Tensor, normals: Normals) -> tuple[torch.Tensor, torch.Tensor]:
    """Return μ_r − z·σ_r and p_f / (p_f + p_r)."""
    z = (values - normals.forget_mean) / normals.forget_std
    other = (values - normals.retain_mean) / normals.retain_std
    odds = 0.5 * (other**2 - z**2) + (normals.retain_std / normals.forget_std).log()
    return normals.retain_mean - z * normals.retain_std, odds.sigmoid()


def toss_coins(seed: int, layer: int, positions: torch.Tensor, neurons: torch.Tensor) -> torch.Tensor:
    """Return a number in [0, 1) for each position and neuron, (positions, neurons): a hash, the same wherever it is computed.

    The mixing function is lowbias32 (C. Wellons, 2018, public domain).
    """
    mask = 0xFFFFFFFF
    mixed = (positions[:, None] * 0x9E3779B1 + neurons[None, :] * 0x85EBCA77 + salt_coins(seed, layer)) & mask
    for right, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        mixed = ((mixed ^ (mixed >> right)) * factor) & mask
    return (mixed ^ (mixed >> 16)).double().div(2**32).float()


def salt_coins(seed: int, layer: int) -> int:
    """Return what seed and layer add to the hash of a coin."""
    return (seed * 0x9E3779B1 + layer * 0xC2B2AE3D) & 0xFFFFFFFF
