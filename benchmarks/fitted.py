"""Bundles fitted on a suite's full model, each when a row first asks for it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn_guard.benchmarks.dataset import Suite
from unlearn_guard.guard.bundle import Bundle
from unlearn_guard.guard.compose import fit

UPSTREAM: dict[str, str | float] = {
    "assistants": "one",
    "penalty": "raw",
    "weight": 1.0,
    "filter_rate": 0.1,
    "kept_share": 0.1,
    "trainable": "lora",
    "rank": 16,
    "lora_alpha": 32,
    "epochs": 10,
    "batch_size": 32,
    "learning_rate": 2e-5,
    "retain_weight": 5.0,
}
"""ULD's public configuration files (UCSB-NLP-Chang/ULD, 2024-06-05), without their dropout; the paper differs in weight, filter,
rank, learning rate and retain weight."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A bundle, and the seconds that it took."""

    bundle: Bundle
    seconds: float


class Bundles:
    """Fit bundles of one suite and seed; `uld` are the suite's settings of assistants, chosen on validation people."""

    def __init__(self, suite: Suite, model: Path, folder: Path, *, seed: int, uld: Mapping[str, Any]) -> None:
        self.suite, self.model, self.folder, self.seed, self.uld = suite, model, folder, seed, uld
        self._found: dict[str, Fit] = {}

    def fit(self, kind: str) -> Fit:
        """Return a bundle: `eco` has everything but assistants, `name-match` aliases alone; all others are settings of assistants."""
        if kind not in self._found:
            self._found[kind] = self._fit(kind)
        return self._found[kind]

    def _fit(self, kind: str) -> Fit:
        options: dict[str, Any] = {"clean": self.suite.clean_rows, "seed": self.seed}
        if kind == "name-match":
            options = {"classifier": "name-match", "interventions": ("refusal",)}
        elif kind != "eco":
            options |= {"interventions": ("eco", "uld"), "uld": choose_assistants(kind, self.uld)}
        start = time.perf_counter()
        bundle = fit(self.model, self.suite.forget_rows, self.suite.retain_rows, out=self.folder / kind, **options)
        seconds = time.perf_counter() - start
        if kind not in ("eco", "name-match"):
            # What the cache saved was spent once: the training counts as if it had been done now.
            trained = float(bundle.manifest.metrics["uld"].get("train_s", 0.0))
            seconds = max(seconds, self.fit("eco").seconds + trained)
        return Fit(bundle, seconds)


def choose_assistants(settings: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of assistants: `ours` and `paper` (its own penalty) at the suite's weights, or `upstream`.

    `each` is ours with an assistant per forget request, `max` the same, of which the loudest one counts instead of the sum.
    """
    if settings == "upstream":
        return UPSTREAM
    weights = {name: value for name, value in chosen.items() if name != "raw_weight"}
    if settings == "paper":
        return {"assistants": "one", **weights, "penalty": "raw", "weight": chosen.get("raw_weight", 0.75)}
    if settings in ("each", "max"):
        return {"assistants": "each", **weights, "combine": "sum" if settings == "each" else "max"}
    return {"assistants": "one", **weights}
