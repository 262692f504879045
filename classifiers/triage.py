"""The first stage: clear plainly clean windows by their lexical signals alone, with a measured bound on misses.

A window is cleared when its attribute weight or share stays below a threshold: the highest one at which at most `miss` of
the forget windows (cross-fitted) that the whole cascade flags would have been cleared; how many of a half that had no part in
choosing it, and the upper Clopper-Pearson limit of it, are kept. In a text of many windows, whose scores are charged for their number, a window is
cleared too where the most that the encoder ever added to a forget row could not make up for the charge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unlearn_guard.classifiers.signals import SIGNALS, Lexical, Reading

Floats = npt.NDArray[np.float64]
_SURE = ("name", "part", "fact", "passage", "namesake")
"""Evidence that always goes to the encoder."""
_MOST_WEIGHT, _MOST_SHARE = 0.6, 0.3
"""However little the measurement shows: one rare word sends a window to the encoder."""
_MARGIN = 0.8
_HEAVY_WEIGHT = 1.5
"""From this weight on no padding makes a window plainly clean."""


@dataclass(frozen=True, slots=True)
class Triage:
    """Clear windows without sure evidence whose attribute weight (nats / 10) or share is low."""

    least_weight: float = 0.0
    least_share: float = 0.0
    n_measured: int = 0
    n_missed: int = 0
    fusion: tuple[float, ...] = ()
    """What each lexical signal adds to the fused score."""
    least_fused: float = -math.inf
    """The lexical part of a score below which no encoder helps, in a text of one window."""

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Triage:
        """Read what `to_record` wrote."""
        return cls(**{**record, "fusion": tuple(record.get("fusion", ()))})

    def to_record(self) -> dict[str, Any]:
        """Return plain JSON."""
        return asdict(self)

    def clears(self, lexical: Lexical, charge: float = 0.0) -> bool:
        """Return whether a window is plainly clean; `charge` is what its score loses to the number of windows."""
        if any(lexical[name] for name in _SURE):
            return False
        weight = lexical["attribute"]
        if weight < self.least_weight or (lexical["share"] < self.least_share and weight < _HEAVY_WEIGHT):
            return True
        if not self.fusion or not charge:
            return False
        part = sum(factor * value for factor, value in zip(self.fusion, lexical.values, strict=True))
        return part < self.least_fused + charge

    def clears_unread(self, reading: Reading, start: int, end: int) -> bool:
        """Return whether bounds alone show that a window of a long text is plainly clean."""
        return self.least_weight > 0.0 and reading.is_faint(
            start, end, weight=self.least_weight, share=self.least_share, heavy=_HEAVY_WEIGHT
        )

    @property
    def miss_limit(self) -> float:
        """The 95 % upper limit of the share of flagged forget windows that are cleared (Clopper-Pearson)."""
        return upper_limit(self.n_missed, self.n_measured)

    @classmethod
    def fit(cls, lexical: Floats, flagged: npt.NDArray[np.bool_], *, miss: float) -> Triage:
        """Choose thresholds from held-out forget windows, shape (n, lexical signals), and which of them are flagged."""
        sure = lexical[:, [SIGNALS.index(name) for name in _SURE]].any(axis=1)
        wanted = lexical[flagged & ~sure][:, [SIGNALS.index("attribute"), SIGNALS.index("share")]]
        n_flagged = int(flagged.sum())
        if not len(wanted):
            return cls(_MOST_WEIGHT, _MOST_SHARE, n_flagged, 0)
        # Counted on rows other than those the thresholds come from; in force are the lower ones.
        halves = (
            [(wanted[::2], wanted[1::2]), (wanted[1::2], wanted[::2])] if len(wanted) > 1 else [(wanted, wanted[:0])]
        )
        chosen = [_choose(half, int(miss * n_flagged / 2)) for half, _ in halves]
        least = min(weight for weight, _ in chosen), min(share for _, share in chosen)
        n_missed = max(_count_missed(other, *own) for own, (_, other) in zip(chosen, halves, strict=True))
        n_sure = int((flagged & sure).sum())
        return cls(*least, n_sure + max(len(other) for _, other in halves), n_missed)


def _choose(wanted: Floats, allowed: int) -> tuple[float, float]:
    """Return the highest thresholds of weight and share that clear about `allowed` of some windows."""
    place = min(allowed // 2, len(wanted) - 1)
    weight, share = (_MARGIN * float(np.sort(column)[place]) for column in wanted.T)
    return min(_MOST_WEIGHT, weight), min(_MOST_SHARE, share)


def _count_missed(wanted: Floats, least_weight: float, least_share: float) -> int:
    weight, share = wanted.T
    return int(((weight < least_weight) | ((share < least_share) & (weight < _HEAVY_WEIGHT))).sum())


def upper_limit(n_hits: int, n: int, level: float = 0.95) -> float:
    """Return the one-sided Clopper-Pearson upper limit of a proportion, by bisection on the binomial tail."""
    if n == 0 or n_hits >= n:
        return 1.0
    low, high = n_hits / n, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        tail = sum(_binomial(n, k, middle) for k in range(n_hits + 1))
        low, high = (middle, high) if tail > 1 - level else (low, middle)
    return high


def _binomial(n: int, k: int, p: float) -> float:
    if p in (0.0, 1.0):
        return float(k == n * p)
    logarithm = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(logarithm + k * math.log(p) + (n - k) * math.log1p(-p))
