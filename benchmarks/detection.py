"""What a detector notices, and what it flags without need: recall, false flags and attacks, without a language model.

Every set is measured in stages that are kept once they are finished.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from unlearn_guard.benchmarks.detection_cells import Tally, bootstrap_groups, draw_curves, measure_areas
from unlearn_guard.benchmarks.detection_sets import (
    NEEDS,
    Draw,
    Measure,
    list_measures,
    measure_files,
    measure_multiplicity,
    measure_world,
)
from unlearn_guard.benchmarks.environment import describe_environment
from unlearn_guard.benchmarks.hub import describe_local
from unlearn_guard.benchmarks.known_sets import read_set
from unlearn_guard.benchmarks.stages import Stages, hash_content
from unlearn_guard.guard.errors import DependencyError
from unlearn_guard.guard.progress import report_step

_SETS = ("tofu", "rwku", "mmlu")


def run_detection(
    *,
    sizes: dict[str, Any],
    forget: Path | None = None,
    clean: Path | None = None,
    seed: int = 0,
    fresh: bool = False,
) -> dict[str, Any]:
    """Measure the detectors on every set at hand; return the report (schema 1), whose rows hold `detection` alone.

    `sizes` names the part (`dev` or `test`) and caps; `forget` and `clean` are the user's own JSON lines instead. What an earlier run has
    finished comes from disk, unless `fresh`. Raises DependencyError, before any work, for a set that is asked for by name and not at hand.
    """
    draw = Draw(sizes.get("part", "test"), sizes.get("limit"), seed)
    for name in sizes.get("sets", ()):
        if name in NEEDS:
            read_set(*NEEDS[name])
    stages, tally = Stages(fresh=fresh), Tally()
    own = [file for file in (forget, clean) if file is not None and file.is_file()]
    key = [asdict(draw), describe_local(), [hashlib.sha256(file.read_bytes()).hexdigest() for file in own]]
    for name, label, measure in _list_work(sizes, forget, clean):
        try:
            with report_step(f"detection: {label}"):
                tally.merge(stages.run(f"detection-{label}", key, partial(_measure, measure, draw)))
        except DependencyError as error:
            if name not in _SETS:
                raise
            tally.notes[name] = str(error)
    if found := tally.cells["guard"].get("clean.tofu"):
        low, high = bootstrap_groups(found.groups, seed=seed)
        tally.notes["clean.tofu"] = {"flagged_low_by_author": low, "flagged_high_by_author": high}
    return _report(tally, sizes, seed)


def _list_work(sizes: dict[str, Any], forget: Path | None, clean: Path | None) -> list[tuple[str, str, Measure]]:
    """Return what is to be measured, in order: the set, the name of a part of it, and what measures that."""
    if forget is not None and clean is not None:
        return [("files", "your-rows", partial(measure_files, forget, clean))]
    work: list[tuple[str, str, Measure]] = [("world", "world", measure_world)]
    work += [
        ("many", f"requests-{n_requests}", partial(measure_multiplicity, n_requests))
        for n_requests in sizes.get("requests", ())
    ]
    for name in sizes.get("sets", _SETS):
        work += [(name, label, measure) for label, measure in list_measures(name).items()]
    return work


def _measure(measure: Measure, draw: Draw) -> dict[str, Any]:
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        measure(tally, draw, Path(folder))
    return tally.to_state()


def _report(tally: Tally, sizes: dict[str, Any], seed: int) -> dict[str, Any]:
    rows = [
        {
            "name": name,
            "kind": "guard",
            "seed": seed,
            "status": "ok",
            "reasons": {"sets": "detection alone: no model answers"},
            "sets": {},
            "detection": {cell: counts.to_record() for cell, counts in sorted(cells.items())},
        }
        for name, cells in tally.cells.items()
    ]
    ours = tally.cells["guard"]
    return {
        "environment": describe_environment(),
        "config_hash": hash_content(sizes),
        "data_hash": hash_content({name: counts.n for name, counts in ours.items()}),
        "rows": rows,
        "curves": draw_curves(ours),
        "areas": measure_areas(ours),
        "notes": tally.notes,
    }
