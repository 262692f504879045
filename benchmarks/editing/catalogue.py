"""The weight-editing methods by name: one YAML file each, with its source and what was published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from unlearn_guard.benchmarks.editing.rates import BUILT_IN_WIDTH, fit_rate
from unlearn_guard.benchmarks.editing.trainer import EditingMethod
from unlearn_guard.benchmarks.entries import list_entries, read_model

_FOLDER = Path(__file__).parent / "methods"
TUNED_FOLDER = Path(__file__).parent / "tuned"
_NEAREST = ("tofu", "world")
"""Whose tuned values a suite takes that has no validation people: questions and answers of public data are more like TOFU's than the built-in world's."""


class MethodFile(BaseModel):
    """What a file says of a method; methods of a tier have grids of one size: tier 1 rates times what its loss has beside, tier 2 rates alone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    source: str
    published: str
    tier: int = Field(ge=1, le=2)
    forget_loss: str
    retain_loss: str = "none"
    subset: str = "all"
    procedure: str = "train"
    answers: str = ""
    forget_weight: float = 1.0
    retain_weight: float = 1.0
    learning_rate: float = Field(gt=0)
    epochs: int = Field(ge=1)
    batch_size: int = Field(default=8, ge=1)
    weight_decay: float = 0.01
    settings: dict[str, float] = {}
    trials: dict[str, list[float]] = {}
    """Values to try, by name of a field or a setting; every combination is one trial."""
    tuned_at: int = BUILT_IN_WIDTH
    """Width of the models that the learning rate is for."""

    def with_values(self, values: Mapping[str, float]) -> MethodFile:
        """Return the method with other values of fields or settings."""
        own = {name: value for name, value in values.items() if name in type(self).model_fields}
        rest = {name: value for name, value in values.items() if name not in own}
        return self.model_validate({**self.model_dump(), **own, "settings": {**self.settings, **rest}})

    def to_method(self, hidden: int = BUILT_IN_WIDTH, *, seed: int = 0) -> EditingMethod:
        """Return what the trainer takes for a model of this width."""
        known = {entry.name for entry in fields(EditingMethod)} - {"seed", "learning_rate"}
        rate = fit_rate(self.learning_rate, hidden, tuned_at=self.tuned_at)
        return EditingMethod(**self.model_dump(include=known), learning_rate=rate, seed=seed)


def list_methods() -> list[str]:
    """Return the names of all methods, those of the first tier first."""
    return sorted(list_entries(_FOLDER), key=lambda name: load_method(name).tier)


def load_tuned(name: str, suite: str) -> MethodFile:
    """Return a method with the values that were tuned for a suite, or for the nearest that has any; as its file has it where none were.

    What stands behind a dash in a suite's name says which part of it is measured, not which models it has.
    """
    source = find_tuned(name, suite)
    if source is None:
        return load_method(name)
    found = _read_tuned(source)[name]
    return load_method(name).with_values({**found["values"], "tuned_at": found["tuned_at"]})


def find_tuned(name: str, suite: str) -> str | None:
    """Return the suite on whose validation people a method was tuned: this one, else the nearest that has any; None where nobody's."""
    sources = dict.fromkeys((suite.partition("-")[0], *_NEAREST))
    return next((source for source in sources if name in _read_tuned(source)), None)


def _read_tuned(family: str) -> dict[str, Any]:
    file = TUNED_FOLDER / f"{family}.yaml"
    return dict(yaml.safe_load(file.read_text(encoding="utf-8"))["methods"]) if file.is_file() else {}


@cache
def load_method(name: str) -> MethodFile:
    """Return what the file of a method says; raise UnknownNameError for an unknown one."""
    return read_model(MethodFile, _FOLDER, "weight-editing method", name)
