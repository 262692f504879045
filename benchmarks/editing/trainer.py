"""The one trainer of weight-editing methods."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from unlearn_guard.benchmarks.editing.losses import FORGET_LOSSES, RETAIN_LOSSES, Likelihoods
from unlearn_guard.guard.registry import Registry
from unlearn_guard.guard.rows import Row
from unlearn_guard.serving.transformers.engine import ReferenceEngine

Subset = Callable[[str], bool]
SUBSETS: Registry[Subset] = Registry("trainable subset")
SUBSETS.register("all")(lambda name: True)
SUBSETS.register("mlp")(lambda name: ".mlp." in name)


@dataclass(frozen=True, slots=True)
class EditingMethod:
    """A weight-editing method: its two losses, what is trained, and its settings."""

    forget_loss: str
    retain_loss: str = "none"
    subset: str = "all"
    retain_weight: float = 1.0
    learning_rate: float = 1e-4
    epochs: int = 5
    batch_size: int = 8
    seed: int = 0


# Published epochs (TOFU: 5 for GA; OpenUnlearning: 10 for NPO); one learning rate for both, above the published 1e-5
# because these models are three orders of magnitude smaller. Not tuned.
METHODS = {
    "ga": EditingMethod("ga", "none", learning_rate=3e-4, epochs=5),
    "npo": EditingMethod("npo", "nll", learning_rate=3e-4, epochs=10),
}


class DivergedError(Exception):
    """The loss or a weight is no longer finite."""


def edit_weights(
    engine: ReferenceEngine, method: EditingMethod, forget: Sequence[Row], retain: Sequence[Row]
) -> ReferenceEngine:
    """Return an engine with an edited copy of the model; the given one stays as it is.

    Raises DivergedError when training leaves the finite numbers, UnknownNameError for an unknown loss or subset.
    """
    forget_loss, retain_loss = FORGET_LOSSES[method.forget_loss], RETAIN_LOSSES[method.retain_loss]
    chosen = SUBSETS[method.subset]
    rng = random.Random(method.seed)
    torch.manual_seed(method.seed)
    model = copy.deepcopy(engine.model)
    parameters = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(chosen(name))
        if parameter.requires_grad:
            parameters.append(parameter)
    optimizer = torch.optim.AdamW(parameters, lr=method.learning_rate, weight_decay=0.01)
    forget_pairs, retain_pairs = _encode(engine, forget), _encode(engine, retain)
    total = method.epochs * math.ceil(len(forget_pairs) / method.batch_size)
    step = 0
    model.train()
    for _ in range(method.epochs):
        rng.shuffle(forget_pairs)
        for start in range(0, len(forget_pairs), method.batch_size):
            batch = forget_pairs[start : start + method.batch_size]
            anchor = rng.sample(retain_pairs, min(len(batch), len(retain_pairs)))
            step += 1
            for group in optimizer.param_groups:
                group["lr"] = method.learning_rate * min(1.0, step / (0.2 * total)) * (1.0 - step / (total + 1))
            reference = None
            if forget_loss.needs_reference:
                with torch.no_grad():
                    reference = _likelihoods(engine.model, engine, batch).model
            found = _likelihoods(model, engine, batch)
            loss = forget_loss.compute(Likelihoods(found.model, found.n_tokens, reference))
            if method.retain_loss != "none":
                loss = loss + method.retain_weight * retain_loss.compute(_likelihoods(model, engine, anchor))
            if not torch.isfinite(loss):
                raise DivergedError(f"loss is {loss.item()} at step {step}")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    if not all(torch.isfinite(parameter).all() for parameter in parameters):
        raise DivergedError("a weight is not finite")
    return ReferenceEngine(model, engine.tokenizer, batch_size=engine.batch_size)


Pair = tuple[list[int], list[int]]


def _encode(engine: ReferenceEngine, rows: Sequence[Row]) -> list[Pair]:
    return [
        (
            engine.render(row.query),
            [*engine.tokenizer(row.answer, add_special_tokens=False).input_ids, engine.end_token],
        )
        for row in rows
        if row.answer
    ]


def _likelihoods(model: Any, engine: ReferenceEngine, batch: Sequence[Pair]) -> Likelihoods:
    width = max(len(prompt) + len(answer) for prompt, answer in batch)
    ids = torch.full((len(batch), width), engine.end_token)
    mask = torch.zeros((len(batch), width), dtype=torch.int64)
    counted = torch.zeros((len(batch), width), dtype=torch.bool)
    for row, (prompt, answer) in enumerate(batch):
        length = len(prompt) + len(answer)
        ids[row, :length] = torch.tensor([*prompt, *answer])
        mask[row, :length] = 1
        counted[row, len(prompt) : length] = True
    logits = model(input_ids=ids.to(engine.device), attention_mask=mask.to(engine.device)).logits[:, :-1]
    chosen = logits.log_softmax(-1).gather(-1, ids[:, 1:].to(engine.device).unsqueeze(-1)).squeeze(-1)
    kept = counted[:, 1:].to(engine.device)
    return Likelihoods((chosen * kept).sum(-1), kept.sum(-1))
