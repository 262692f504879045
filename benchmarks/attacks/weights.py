"""Attacks of whoever holds the weights: quantisation, and a little training that does not show the facts asked for."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from unlearn_guard.benchmarks.attacks.cells import NO_CELL
from unlearn_guard.benchmarks.attacks.protocol import Protocol
from unlearn_guard.benchmarks.dataset import Suite
from unlearn_guard.benchmarks.editing.procedures import edit_weights
from unlearn_guard.benchmarks.editing.rates import fit_rate
from unlearn_guard.benchmarks.editing.trainer import DivergedError, EditingMethod
from unlearn_guard.benchmarks.metrics import find_fact
from unlearn_guard.benchmarks.subjects import Subject
from unlearn_guard.corruptions.fluency import reveals
from unlearn_guard.guard.rows import Row
from unlearn_guard.serving.transformers.engine import ReferenceEngine

_GROUP = 64
_RELEARN = EditingMethod(forget_loss="learn", learning_rate=3e-4, epochs=2)
"""Two passes over the rows, at a rate that shrinks with the width as those of methods do; OpenUnlearning relearns once at 2e-5."""
_LONGER = EditingMethod(forget_loss="learn", learning_rate=1e-3, epochs=10)
"""As long as edits take, at the upper end of their rates."""
_N_UNRELATED = 100


def attack_weights(subject: Subject, suite: Suite, protocol: Protocol) -> dict[str, str]:
    """Return which facts a model tells after each attack on its weights, as lines of cells.

    int8, int4: rounded to nearest, in groups of 64 weights. relearn-related: trained on other facts of the forgotten
    people (where few are left beside those asked for, on one half of these for the other half); relearn-unrelated: on 100 kept rows
    (Hu et al., arXiv 2406.13356). relearn-longer: as the first, five times as long at three times the rate. A training that diverges, or that a card has no room for, has no cells.
    """
    engine = subject.engine
    relearn, longer = (
        replace(method, learning_rate=fit_rate(method.learning_rate, engine.hidden)) for method in (_RELEARN, _LONGER)
    )
    unrelated = [row for row in suite.retain_rows if row.answer][:_N_UNRELATED]
    everything = list(range(len(protocol.facts)))
    attacks: dict[str, list[tuple[Callable[[], ReferenceEngine], list[int]]]] = {
        "int8": [(lambda: quantise(engine, 8), everything)],
        "int4": [(lambda: quantise(engine, 4), everything)],
        "relearn-unrelated": [(lambda: edit_weights(engine, relearn, unrelated, []), everything)],
    }
    folds = fold_facts(suite, protocol)
    if folds:
        for name, method in (("relearn-related", relearn), ("relearn-longer", longer)):
            attacks[name] = [(partial(edit_weights, engine, method, rows, []), judged) for rows, judged in folds]
    return {name: _ask_all(attack, protocol) for name, attack in attacks.items()}


def fold_facts(suite: Suite, protocol: Protocol) -> list[tuple[list[Row], list[int]]]:
    """Return pairs of rows to relearn and the numbers of the facts that are then asked for; no row answers or says what is asked for."""
    asked = [(item.subject, item.answer) for item in protocol.facts]
    known = [row for row in suite.forget_rows if row.answer]
    others = {(row.forget_id, row.answer) for row in known} - set(asked)
    if 2 * len(others) >= len(asked):
        parts = [list(range(len(asked)))]
    else:
        parts = [part for part in (list(range(0, len(asked), 2)), list(range(1, len(asked), 2))) if part]
    folds = []
    for part in parts:
        judged = {asked[place] for place in part}
        told: dict[str, list[frozenset[str]]] = {}
        for place in part:
            told.setdefault(protocol.facts[place].subject, []).append(find_fact(protocol.facts[place]))
        rows = [
            row
            for row in known
            if (row.forget_id, row.answer) not in judged
            and not any(reveals(row.query, fact) for fact in told.get(row.forget_id, ()))
        ]
        folds += [(rows, part)] if rows else []
    return folds


def _ask_all(attack: Sequence[tuple[Callable[[], ReferenceEngine], list[int]]], protocol: Protocol) -> str:
    cells = [NO_CELL] * len(protocol.facts)
    for edit, judged in attack:
        try:
            told = protocol.ask_plainly(Subject("attacked", "weights", edit()))
        except (DivergedError, torch.OutOfMemoryError):
            continue
        for place in judged:
            cells[place] = told[place]
    return "".join(cells)


def quantise(engine: ReferenceEngine, bits: int) -> ReferenceEngine:
    """Return an engine whose matrices are rounded to the nearest of 2^bits − 1 symmetric levels, in groups of 64 inputs.

    Embeddings and head, which kernels leave alone too, stay as they are.
    """
    model = copy.deepcopy(engine.model)
    ends = [part.weight for part in (model.get_input_embeddings(), model.get_output_embeddings()) if part is not None]
    for weight in model.parameters():
        if weight.dim() >= 2 and not any(weight is end for end in ends):
            weight.data = round_weights(weight.data.flatten(0, -2), bits).view_as(weight)
    return ReferenceEngine(model, engine.tokenizer, batch_size=engine.batch_size)


def round_weights(weight: Any, bits: int) -> Any:
    """Return weights, (outputs, inputs), rounded to nearest in groups along their inputs."""
    levels = 2 ** (bits - 1) - 1
    parts = []
    for part in weight.split(_GROUP, dim=1):
        scale = part.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / levels
        parts.append((part / scale).round().clamp(-levels, levels) * scale)
    return torch.cat(parts, dim=1)
