"""Rows that edit weights: every method file, with the values that were tuned for the suite."""

from __future__ import annotations

import time
from dataclasses import asdict

from unlearn_guard.benchmarks.editing.catalogue import list_methods, load_tuned
from unlearn_guard.benchmarks.editing.procedures import edit_weights
from unlearn_guard.benchmarks.subjects import SUBJECTS, Bench, Build, Subject


def _edit(name: str) -> Build:
    def build(bench: Bench) -> Subject:
        start = time.perf_counter()
        file = load_tuned(name, bench.suite.name)
        method = file.to_method(bench.seed)
        edited = edit_weights(bench.full, method, bench.suite.forget_rows, bench.suite.retain_rows)
        settings = {"tier": file.tier, **asdict(method), "settings": dict(method.settings)}
        return Subject(name, "weights", edited, fit_seconds=time.perf_counter() - start, settings=settings)

    return build


for _name in list_methods():
    SUBJECTS.register(_name)(_edit(_name))
