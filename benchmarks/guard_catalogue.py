"""The guard rows by name: one YAML file each, with where it comes from and what is fitted for it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict

from unlearn_guard.benchmarks.entries import list_entries, read_model

_FOLDER = Path(__file__).parent / "guards"
Family = Literal["ours", "intervention", "always", "baseline"]
_HIDDEN = {
    "served": "",
    "refused": "a refusal replaces the answer: it has no likelihood under the served policy",
    "ended": "an answer that the output guard ends has no likelihood under the served policy",
    "replaced": "an answer that the filter replaces has no likelihood under the served policy",
}


class GuardFile(BaseModel):
    """What a file says of a guard row.

    family: ours in full, one intervention behind a classifier, always on, or a baseline that a guard must beat. procedure: what builds it
    (`guard_rows.PROCEDURES`). bundle: what is fitted for it (`fitted.Bundles.fit`). scores: what becomes of an answer, which decides whether
    its likelihood means anything.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    source: str
    family: Family
    procedure: str = "plan"
    bundle: str = "eco"
    intervention: str = "eco"
    gated: bool = True
    corrupted_positions: str = "none"
    scores: Literal["served", "refused", "ended", "replaced"] = "served"
    settings: dict[str, Any] = {}

    @property
    def no_scores(self) -> str:
        """Why teacher-forced scores mean nothing here; empty where they do."""
        return _HIDDEN[self.scores]


@cache
def list_guards() -> tuple[str, ...]:
    """Return the names of all guard rows, family by family."""
    families = get_args(Family)
    return tuple(sorted(list_entries(_FOLDER), key=lambda name: families.index(load_guard(name).family)))


@cache
def load_guard(name: str) -> GuardFile:
    """Return what the file of a guard row says; raise UnknownNameError for an unknown one."""
    return read_model(GuardFile, _FOLDER, "guard row", name)
