"""Every row that a report can have: importing this registers the references, the guards and the weight editing."""

from __future__ import annotations

from dataclasses import dataclass

from unlearn_guard.benchmarks import guard_rows, weight_rows
from unlearn_guard.benchmarks.editing.catalogue import list_methods, load_method
from unlearn_guard.benchmarks.editing.sharding import load_sharding
from unlearn_guard.benchmarks.guard_catalogue import list_guards, load_guard
from unlearn_guard.benchmarks.subjects import SUBJECTS

_REFERENCES = {
    "none": "The model that knows the forget set, unguarded",
    "retain-only": "The gold reference: trained without the forget set",
    "retain-only-twin": "The same with another training seed: what two models that never knew differ by",
    "none-mixture": "The mixture of experts that `uoe` starts from",
}


@dataclass(frozen=True, slots=True)
class RowEntry:
    """What a row is: its name, its kind, a line about it, and where it comes from."""

    name: str
    family: str
    title: str
    source: str


def describe_rows() -> list[RowEntry]:
    """Return an entry for every row, in the order of a report."""
    return [_describe(name) for name in SUBJECTS]


def _describe(name: str) -> RowEntry:
    if name in _REFERENCES:
        return RowEntry(name, "reference", _REFERENCES[name], "trained by the benchmark")
    if name in list_guards():
        guard = load_guard(name)
        family = "guard" if guard.family == "ours" else guard.family
        return RowEntry(name, family, guard.title, guard.source)
    if name in list_methods():
        method = load_method(name)
        return RowEntry(name, f"editing {method.tier}", method.title, method.source)
    exact = load_sharding(name)
    return RowEntry(name, "exact", exact.title, exact.source)


__all__ = ["SUBJECTS", "RowEntry", "describe_rows", "guard_rows", "weight_rows"]
