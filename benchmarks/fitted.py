"""Bundles fitted on a suite's full model, each when a row first asks for it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from unlearn_guard.benchmarks.dataset import Suite
from unlearn_guard.benchmarks.memory import watch_memory
from unlearn_guard.guard.bundle import Bundle, write_atomic
from unlearn_guard.guard.compose import fit
from unlearn_guard.guard.errors import UnknownNameError

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


_FIXED: dict[str, dict[str, Any]] = {
    "eco": {},
    "name-match": {"classifier": "name-match", "interventions": ("refusal",)},
    "neuron-adjust": {"interventions": ("neuron-adjust",)},
    "key-space": {"interventions": ("refusal",), "key_space": True},
}
"""Bundles without assistants."""
_ASSISTED = ("ours", "paper", "upstream", "each", "max")


def list_bundles() -> list[str]:
    """Return the kinds of bundles that rows can ask for."""
    return [*_FIXED, *_ASSISTED]


@dataclass(frozen=True, slots=True)
class Fit:
    """A bundle, the seconds that it took, and the memory that fitting it added at most."""

    bundle: Bundle
    seconds: float
    added_mb: float


class Bundles:
    """Fit bundles of one suite and seed in a folder; `uld` are the suite's settings of assistants, chosen on validation people.

    chat_template: what the model's questions are rendered by, None for its own. Processes that share the folder share the bundles: each is
    fitted by who asks for it first.
    """

    def __init__(
        self,
        suite: Suite,
        model: Path,
        folder: Path,
        *,
        seed: int,
        uld: Mapping[str, Any],
        device: str = "cpu",
        chat_template: Any = None,
    ) -> None:
        self.suite, self.model, self.folder, self.seed, self.uld, self.device = suite, model, folder, seed, uld, device
        self.chat_template = chat_template

    def fit(self, kind: str) -> Fit:
        """Return a bundle: one of those without assistants, or settings of assistants (`choose_assistants`).

        Raises UnknownNameError for a kind that is none.
        """
        if kind not in list_bundles():
            raise UnknownNameError("kind of bundle", kind, list_bundles())
        record = self.folder / f"{kind}.json"
        if kind not in _FIXED:  # Its cost is a part of theirs, and two watches of memory must not overlap.
            self.fit("eco")
        with FileLock(self.folder / f"{kind}.lock"):
            if not record.is_file():
                with watch_memory() as memory:
                    seconds = self._fit(kind)
                write_atomic(record, json.dumps({"seconds": seconds, "added_mb": memory.added_mb}).encode())
            return Fit(Bundle.load(self.folder / kind), **json.loads(record.read_text()))

    def _fit(self, kind: str) -> float:
        options: dict[str, Any] = {
            "clean": self.suite.clean_rows,
            "seed": self.seed,
            "device": self.device,
            "chat_template": self.chat_template,
        }
        if kind in _FIXED:
            options |= _FIXED[kind]
        else:
            options |= {"interventions": ("eco", "uld"), "uld": choose_assistants(kind, self.uld)}
        if kind == "name-match":  # It asks no model, and is not timed with opening one.
            del options["clean"], options["seed"], options["chat_template"]
        start = time.perf_counter()
        bundle = fit(self.model, self.suite.forget_rows, self.suite.retain_rows, out=self.folder / kind, **options)
        seconds = time.perf_counter() - start
        if kind not in _FIXED:
            # What the cache saved was spent once: the training counts as if it had been done now.
            trained = float(bundle.manifest.metrics["uld"].get("train_s", 0.0))
            seconds = max(seconds, self.fit("eco").seconds + trained)
        return seconds


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
