"""Cells of the detection report: how many prompts, how many flagged, which scores; and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from unlearn_guard.benchmarks.attacks.variants import Prompt
from unlearn_guard.benchmarks.detectors import Detectors
from unlearn_guard.benchmarks.privacy import measure_auc
from unlearn_guard.guard.replaying import wilson


@dataclass(slots=True)
class Counts:
    """One cell of the report: how many prompts, how many flagged, how many stopped by prompt or answer."""

    n: int = 0
    flagged: int = 0
    stopped: int = 0
    scores: list[float] = field(default_factory=list)
    groups: list[tuple[str, bool]] = field(default_factory=list)
    """Whose each prompt is, and whether it was flagged."""

    def add(self, flagged: bool, stopped: bool, score: float = 0.0, group: str = "") -> None:
        """Count one prompt."""
        self.n += 1
        self.flagged += flagged
        self.stopped += flagged or stopped
        self.scores.append(float(score))
        self.groups.append((group, bool(flagged)))

    def merge(self, other: Counts) -> None:
        """Take over another cell's prompts."""
        self.n += other.n
        self.flagged += other.flagged
        self.stopped += other.stopped
        self.scores += other.scores
        self.groups += other.groups

    def to_record(self) -> dict[str, Any]:
        """Return counts, and Wilson's 95 % interval of the flagged share."""
        low, high = wilson(self.flagged, self.n)
        return {
            "n": self.n,
            "flagged": self.flagged,
            "stopped": self.stopped,
            "flagged_low": round(low, 6),
            "flagged_high": round(high, 6),
        }


class Tally:
    """Cells by detector and name, and what is to be known of how they came about."""

    def __init__(self) -> None:
        self.cells: dict[str, dict[str, Counts]] = {}
        self.notes: dict[str, Any] = {}

    def add(
        self, detectors: Detectors, names: Sequence[str], prompt: Prompt, answer: str = "", group: str = ""
    ) -> None:
        """Judge one prompt and count it in every named cell."""
        for row, (flagged, stopped, score) in detectors.judge(prompt, answer).items():
            for name in names:
                self.cells.setdefault(row, {}).setdefault(name, Counts()).add(flagged, stopped, score, group)

    def merge(self, state: Mapping[str, Any]) -> None:
        """Take over what another tally has counted, as `to_state` has it."""
        for row, cells in state["cells"].items():
            for name, found in cells.items():
                groups = [(group, flagged) for group, flagged in found["groups"]]
                self.cells.setdefault(row, {}).setdefault(name, Counts()).merge(Counts(**{**found, "groups": groups}))
        self.notes |= state["notes"]

    def to_state(self) -> dict[str, Any]:
        """Return everything that was counted, as plain data."""
        cells = {row: {name: asdict(counts) for name, counts in own.items()} for row, own in self.cells.items()}
        return {"cells": cells, "notes": self.notes}


def bootstrap_groups(cells: Sequence[tuple[str, bool]], *, seed: int = 0, n_draws: int = 2000) -> tuple[float, float]:
    """Return the 95 % percentile interval of a share under resampling of groups (authors)."""
    by_group: dict[str, list[bool]] = {}
    for group, hit in cells:
        by_group.setdefault(group, []).append(hit)
    sums = np.array([(sum(hits), len(hits)) for hits in by_group.values()], np.float64)
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(sums), (n_draws, len(sums)))
    shares = sums[draws, 0].sum(axis=1) / sums[draws, 1].sum(axis=1)
    return float(np.quantile(shares, 0.025)), float(np.quantile(shares, 0.975))


_CURVES = {
    "TOFU unseen": ("tofu.forget.unseen", "clean.tofu"),
    "TOFU nameless": ("tofu.forget.unseen+nameless", "clean.tofu"),
    "TOFU paraphrases": ("tofu.forget.paraphrase", "clean.tofu"),
    "RWKU": ("rwku.forget", "rwku.neighbor"),
    "world": ("world.forget.unseen", "world.neighbour"),
    "your rows": ("files.forget", "files.clean"),
}


def measure_areas(cells: Mapping[str, Counts]) -> dict[str, float]:
    """Return the area under each curve of `draw_curves`: how often what is to be noticed scores above what stays; ties count half."""
    return {name: round(measure_auc(misses, hits), 6) for name, (hits, misses) in _list_pairs(cells).items()}


def _list_pairs(cells: Mapping[str, Counts]) -> dict[str, tuple[list[float], list[float]]]:
    """Return the scores of what is to be noticed and of what stays, by the name of their curve."""
    return {
        name: (cells[positive].scores, cells[negative].scores)
        for name, (positive, negative) in _CURVES.items()
        if positive in cells and negative in cells
    }


def draw_curves(cells: Mapping[str, Counts]) -> dict[str, list[list[float]]]:
    """Return receiver operating curves, (false flags, recall) at up to 100 thresholds, of pairs of cells."""
    curves = {}
    for name, pair in _list_pairs(cells).items():
        hits, misses = (np.array(scores) for scores in pair)
        levels = np.unique(np.quantile(np.concatenate([hits, misses]), np.linspace(0, 1, 100)))[::-1]
        curves[name] = [
            [round(float((misses >= level).mean()), 6), round(float((hits >= level).mean()), 6)] for level in levels
        ]
    return curves
