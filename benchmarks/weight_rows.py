"""Rows that edit weights: every method file, with the values that were tuned for the suite, or for the nearest."""

from __future__ import annotations

import time
from dataclasses import asdict

from unlearn_guard.benchmarks.editing.catalogue import find_tuned, list_methods, load_tuned
from unlearn_guard.benchmarks.editing.procedures import edit_weights
from unlearn_guard.benchmarks.editing.sharding import list_shardings, load_sharding, plan_shards, train_shards
from unlearn_guard.benchmarks.subjects import SUBJECTS, Bench, Build, Subject

_NO_REFERENCE = "a mixture of experts; what would be its measure is dense"


def _edit(name: str) -> Build:
    def build(bench: Bench) -> Subject:
        file = load_tuned(name, bench.suite.name)
        is_mixture = file.procedure == "one-expert"
        before = bench.open_model("mixture") if is_mixture else bench.full
        method = file.to_method(before.hidden, seed=bench.seed)
        start = time.perf_counter()
        edited = edit_weights(before, method, bench.suite.forget_rows, bench.suite.retain_rows)
        tuned_on = find_tuned(name, bench.suite.name)
        settings = {"tier": file.tier, "tuned_on": tuned_on, **asdict(method), "settings": dict(method.settings)}
        seconds = time.perf_counter() - start
        reason = _NO_REFERENCE if is_mixture else ""
        return Subject(name, "weights", edited, fit_seconds=seconds, no_reference=reason, settings=settings)

    return build


WEIGHT_ROWS = (*list_methods(), *list_shardings())
"""Rows of edited weights, by name."""

for _name in list_methods():
    SUBJECTS.register(_name)(_edit(_name))


@SUBJECTS.register("none-mixture")
def _mixture(bench: Bench) -> Subject:
    """Return the mixture of experts before `uoe` edits it."""
    return Subject("none-mixture", "none", bench.open_model("mixture"), no_reference=_NO_REFERENCE)


def _shard(name: str) -> Build:
    file = load_sharding(name)

    def build(bench: Bench) -> Subject:
        base = bench.open_model("base")
        people = sorted(
            {example.subject for example in bench.suite.full if example.subject}
        )  # Who will go is not known.
        forgotten = frozenset(row.forget_id for row in bench.suite.forget_rows)
        plan = plan_shards(people, forgotten, n_shards=file.n_shards, n_slices=file.n_slices)
        start = time.perf_counter()
        engine = train_shards(
            base, bench.suite.full, plan, epochs=file.epochs, learning_rate=file.learning_rate, seed=bench.seed
        )
        kept = sum(len(part) for shard in plan for part in shard)
        settings = {
            **file.model_dump(include={"n_shards", "n_slices", "epochs", "learning_rate"}),
            "exact": True,
            "n_people_kept": kept,
            "n_people_lost": len(people) - kept - len(forgotten),
        }
        return Subject(name, "weights", engine, fit_seconds=time.perf_counter() - start, settings=settings)

    return build


for _name in list_shardings():
    SUBJECTS.register(_name)(_shard(_name))
