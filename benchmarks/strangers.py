"""Invented people of built-in traffic, as forget requests: as many as a study of their number needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from unlearn_guard.classifiers.fitting import collect_aliases
from unlearn_guard.classifiers.traffic import make_traffic
from unlearn_guard.guard.rows import Row, group_requests

_SEED = 77
_ROWS_OF_A_STRANGER = 4


def find_strangers(n_people: int, *, seed: int = 0) -> list[tuple[str, list[Row]]]:
    """Return up to n invented people of built-in traffic, each with four rows that own their name and forget id."""
    people: dict[str, list[Row]] = {}
    for row in make_traffic(20 * max(n_people, 50), seed=_SEED + seed):
        if row.forget_id:
            people.setdefault(row.forget_id, []).append(row)
    whole = [(owner, rows) for owner, rows in people.items() if len(rows) == _ROWS_OF_A_STRANGER][:n_people]
    named = [(owner, rows, _find_stranger(rows)) for owner, rows in whole]
    return [
        (owner, [replace(row, forget_id=f"many-{owner}", aliases=(name,)) for row in rows])
        for owner, rows, name in named
        if name
    ]


def _find_stranger(rows: Sequence[Row]) -> str:
    """Return the name that all of an invented person's rows hold."""
    request = group_requests([replace(row, aliases=()) for row in rows])[0]
    return next(iter(collect_aliases([request], [])[request.forget_id]), "")
