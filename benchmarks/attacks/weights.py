"""Attacks of whoever holds the weights: quantisation, and a little training that does not show the facts asked for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch

from unlearn_guard.benchmarks.attacks.protocol import Protocol
from unlearn_guard.benchmarks.dataset import Suite
from unlearn_guard.benchmarks.editing.procedures import edit_weights
from unlearn_guard.benchmarks.editing.trainer import DivergedError, EditingMethod
from unlearn_guard.benchmarks.subjects import Subject
from unlearn_guard.serving.transformers.engine import ReferenceEngine

_GROUP = 64
_RELEARN = EditingMethod(forget_loss="learn", learning_rate=3e-4, epochs=2)
"""Two passes over the rows; OpenUnlearning relearns for one at 2e-5, on models a thousand times as large."""


def attack_weights(subject: Subject, suite: Suite, protocol: Protocol) -> dict[str, str]:
    """Return which facts a model tells after each attack on its weights, as lines of cells.

    int8, int4: rounded to nearest, in groups of 64 weights. relearn-related: trained on the other facts of the forgotten
    people; relearn-unrelated: on kept rows (Hu et al., arXiv 2406.13356). A training that diverges tells nothing.
    """
    asked = {(item.subject, item.answer) for item in protocol.facts}
    related = [row for row in suite.forget_rows if (row.forget_id, row.answer) not in asked and row.answer]
    unrelated = [row for row in suite.retain_rows if row.answer][: max(1, len(related)) * 2]
    attacks: dict[str, Callable[[], ReferenceEngine]] = {
        "int8": lambda: quantise(subject.engine, 8),
        "int4": lambda: quantise(subject.engine, 4),
        "relearn-unrelated": lambda: edit_weights(subject.engine, _RELEARN, unrelated, []),
    }
    if related:
        attacks["relearn-related"] = lambda: edit_weights(subject.engine, _RELEARN, related, [])
    found = {}
    for name, attack in attacks.items():
        try:
            found[name] = protocol.ask_plainly(Subject(name, "weights", attack()))
        except DivergedError:
            found[name] = "0" * len(protocol.facts)
    return found


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
