"""A section of a report: a table with what is said before it, and how its cells are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Section:
    """A table of the report with what is said before it; cells of `heat` columns are shares, and coloured."""

    title: str
    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    text: str = ""
    heat: tuple[int, int] = (0, 0)


def show(value: Any, form: str = "{:.3f}") -> str:
    """Return a figure in a form, a dash for one that is missing."""
    return "–" if value is None else form.format(value)


def show_all(found: Mapping[str, Any], *names: str) -> list[str]:
    """Return some of the figures that were found."""
    return [show(found.get(name)) for name in names]


def count(counts: Mapping[str, int | None] | None, *known: int | None) -> str:
    """Return how many are flagged, and stopped where that is known; `known` is how many are flagged where counts do not say that nothing decides."""
    if not counts:
        return "–"
    (number,) = known or (counts["flagged"],)
    flagged = "–" if number is None else str(number)
    return f"{flagged}, {counts['stopped']} of {counts['n']}" if "stopped" in counts else f"{flagged}/{counts['n']}"
