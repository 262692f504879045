"""The one trainer of weight-editing methods: forget loss × retain loss × trainable subset."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from unlearn_guard.benchmarks.editing.answers import ANSWERS, Source
from unlearn_guard.benchmarks.editing.losses import (
    FORGET_LOSSES,
    OTHER,
    REFERENCE,
    RETAIN_LOSSES,
    STATES,
    Batch,
    Loss,
    Pass,
)
from unlearn_guard.benchmarks.editing.subsets import SUBSETS, Gradients, Masks, find_layer
from unlearn_guard.guard.errors import DataError, SettingsError
from unlearn_guard.guard.rows import Row
from unlearn_guard.serving.transformers.engine import ReferenceEngine, keep_last

_GENERAL: Mapping[str, float] = {"depth": 0.5}
"""Settings that belong to no loss or subset alone: the layer whose states are looked at, as a part of the depth."""


@dataclass(frozen=True, slots=True)
class EditingMethod:
    """A weight-editing method: losses, what is trained, and its settings.

    answers: the rule by which other answers are made, for losses that need some. procedure: what surrounds the training
    (`procedures.py`). settings: of losses, subset and procedure, by name; what is left out has its published value.
    """

    forget_loss: str
    retain_loss: str = "none"
    subset: str = "all"
    procedure: str = "train"
    answers: str = ""
    forget_weight: float = 1.0
    retain_weight: float = 1.0
    learning_rate: float = 1e-4
    epochs: int = 5
    batch_size: int = 8
    weight_decay: float = 0.01
    settings: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0


class DivergedError(Exception):
    """The loss or a weight is no longer finite."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Token ids of a question and its answer, the end token included; `labels` are what is learned in the answer's place."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    labels: tuple[int, ...] = ()


class Trainer:
    """Trains copies of one model for one method."""

    def __init__(
        self, engine: ReferenceEngine, method: EditingMethod, forget: Sequence[Row], retain: Sequence[Row]
    ) -> None:
        """Raise UnknownNameError for an unknown loss, subset or rule, SettingsError for a setting that nothing reads, DataError for no rows."""
        self.engine, self.method = engine, method
        self.forget_rows = [row for row in forget if row.answer and row.query]
        self.source = Source(forget, retain)
        self.rng = random.Random(method.seed)
        self.forget_pairs = [self.encode(row.query, row.answer) for row in self.forget_rows]
        self.retain_pairs = [self.encode(row.query, row.answer) for row in retain if row.answer and row.query]
        if not self.forget_pairs:
            raise DataError("no row to forget has a question and an answer", value=len(forget))
        if method.retain_loss != "none" and not self.retain_pairs:
            raise DataError("no row to keep has a question and an answer", value=len(retain))
        self.subset = SUBSETS[method.subset]
        losses = (FORGET_LOSSES[method.forget_loss], RETAIN_LOSSES[method.retain_loss])
        if any(OTHER in loss.needs for loss in losses):
            ANSWERS[method.answers]
        self.layer = find_layer(
            int(engine.model.config.num_hidden_layers), method.settings.get("depth", _GENERAL["depth"])
        )
        self._gradients: dict[str, dict[str, torch.Tensor]] = {}

    def encode(self, question: str, answer: str) -> Pair:
        """Return the token ids of a question, as it is served, and its answer."""
        answer_ids = self.engine.tokenizer(answer, add_special_tokens=False).input_ids
        return Pair(tuple(self.engine.render(question)), (*answer_ids, self.engine.end_token))

    def copy_model(self) -> Any:
        """Return a copy of the model before editing, in float32: steps of an ordinary rate are lost in bfloat16's eight bits."""
        return copy.deepcopy(self.engine.model).float()

    def select(self) -> Masks:
        """Return what the method may change."""
        gradients = Gradients(self.engine.model, self.measure_gradients)
        return self.subset.select(gradients, self._read(self.subset.settings))

    def measure_gradients(self, which: str) -> dict[str, torch.Tensor]:
        """Return the mean gradients of ℓ of the model before editing, over the rows to forget or over kept ones."""
        if which not in self._gradients:
            pairs = self.forget_pairs if which == "forget" else self.retain_pairs
            model = self.copy_model().eval()
            for start in range(0, len(pairs), self.method.batch_size):
                part = pairs[start : start + self.method.batch_size]
                (self.run(model, part).nll.sum() / len(pairs)).backward()
            self._gradients[which] = {
                name: weight.grad.detach() if weight.grad is not None else torch.zeros_like(weight)
                for name, weight in model.named_parameters()
            }
        return self._gradients[which]

    def train(
        self,
        model: Any,
        masks: Masks,
        method: EditingMethod | None = None,
        *,
        anchor: Callable[[], torch.Tensor] | None = None,
    ) -> Any:
        """Train what `masks` names, of a model, in place; return it. Raises DivergedError where numbers are no longer finite.

        anchor: a further loss, asked for right after the model has read rows to forget.
        """
        method = method or self.method
        forget_loss, retain_loss = FORGET_LOSSES[method.forget_loss], RETAIN_LOSSES[method.retain_loss]
        torch.manual_seed(method.seed)
        direction = torch.rand(self.engine.hidden, device=self.engine.device)
        direction /= direction.norm()
        weights = []
        for name, weight in model.named_parameters():
            weight.requires_grad_(name in masks)
            if weight.requires_grad:
                weights.append((weight, masks[name]))
        kept = [(weight, mask, weight.detach().clone()) for weight, mask in weights if mask is not None]
        optimizer = torch.optim.AdamW(
            [weight for weight, _ in weights], lr=method.learning_rate, weight_decay=method.weight_decay, fused=True
        )
        total = method.epochs * math.ceil(len(self.forget_pairs) / method.batch_size)
        order = list(range(len(self.forget_pairs)))
        step = 0
        model.train()
        for _ in range(method.epochs):
            self.rng.shuffle(order)
            for start in range(0, len(order), method.batch_size):
                chosen = order[start : start + method.batch_size]
                step += 1
                for group in optimizer.param_groups:
                    group["lr"] = method.learning_rate * min(1.0, step / (0.2 * total)) * (1.0 - step / (total + 1))
                forget = self._look(model, forget_loss, chosen, direction)
                loss = method.forget_weight * forget_loss.compute(forget, self._read(forget_loss.settings))
                if anchor is not None:
                    loss = loss + anchor()
                if method.retain_loss != "none":
                    beside = self.rng.sample(self.retain_pairs, min(len(chosen), len(self.retain_pairs)))
                    retain = self._look_at(model, retain_loss, beside, direction)
                    loss = loss + method.retain_weight * retain_loss.compute(retain, self._read(retain_loss.settings))
                if not torch.isfinite(loss):
                    raise DivergedError(f"loss is {loss.item()} at step {step}")
                loss.backward()
                for weight, mask, _ in kept:  # What stays must not decide how far the rest may go.
                    if weight.grad is not None:
                        weight.grad.mul_(mask)
                torch.nn.utils.clip_grad_norm_([weight for weight, _ in weights], 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                with torch.no_grad():
                    for weight, mask, before in kept:
                        weight.copy_(torch.where(mask, weight, before))
        if not all(bool(torch.isfinite(weight).all()) for weight, _ in weights):
            raise DivergedError("a weight is not finite")
        return model.eval().requires_grad_(False)

    def run(self, model: Any, pairs: Sequence[Pair], *, states: bool = False) -> Pass:
        """Return a model's pass over questions and answers."""
        width = max(len(pair.prompt) + len(pair.answer) for pair in pairs)
        end = self.engine.end_token
        ids, labels = torch.full((len(pairs), width), end), torch.full((len(pairs), width), end)
        mask = torch.zeros((len(pairs), width), dtype=torch.int64)
        counted = torch.zeros((len(pairs), width), dtype=torch.bool)
        for row, pair in enumerate(pairs):
            first, length = len(pair.prompt), len(pair.prompt) + len(pair.answer)
            ids[row, :length] = torch.tensor([*pair.prompt, *pair.answer])
            labels[row, first:length] = torch.tensor(pair.labels or pair.answer)
            mask[row, :length] = 1
            counted[row, first:length] = True
        ids, labels, mask, counted = (part.to(self.engine.device) for part in (ids, labels, mask, counted))
        # What predicts a question costs as much as what predicts an answer, and no loss looks at it.
        first = max(1, min(len(pair.prompt) for pair in pairs))
        found = model(
            input_ids=ids,
            attention_mask=mask,
            output_hidden_states=states,
            **keep_last(model, width - first + 1),
        )
        return Pass(
            logits=found.logits[:, first - width - 1 : -1].float(),
            labels=labels[:, first:],
            counted=counted[:, first:],
            states=found.hidden_states[self.layer + 1] if states else None,
            read=mask.bool() if states else None,
        )

    def _look(self, model: Any, loss: Loss, chosen: Sequence[int], direction: torch.Tensor) -> Batch:
        """Run everything that a forget loss needs on some of the rows to forget."""
        seen = self._look_at(model, loss, [self.forget_pairs[place] for place in chosen], direction)
        if OTHER not in loss.needs:
            return seen
        make = ANSWERS[self.method.answers]
        rows = [self.forget_rows[place] for place in chosen]
        others = [self.encode(row.query, make(row, self.source, self.rng)) for row in rows]
        before = None
        if REFERENCE in loss.needs:
            with torch.no_grad():
                before = self.run(self.engine.model, others)
        return replace(seen, other=self.run(model, others), other_reference=before)

    def _look_at(self, model: Any, loss: Loss, pairs: Sequence[Pair], direction: torch.Tensor) -> Batch:
        states = STATES in loss.needs
        before = None
        if REFERENCE in loss.needs:
            with torch.no_grad():
                before = self.run(self.engine.model, pairs, states=states)
        return Batch(self.run(model, pairs, states=states), before, direction=direction if states else None)

    def _read(self, known: Mapping[str, float]) -> dict[str, float]:
        return {name: float(self.method.settings.get(name, value)) for name, value in known.items()}

    def check_settings(self, procedure: Mapping[str, float]) -> None:
        """Raise SettingsError for a setting that nothing reads."""
        losses = (FORGET_LOSSES[self.method.forget_loss], RETAIN_LOSSES[self.method.retain_loss])
        known = {*_GENERAL, *procedure, *self.subset.settings}.union(*(loss.settings for loss in losses))
        if unknown := sorted(set(self.method.settings) - known):
            raise SettingsError("setting of an editing method", value=unknown[0], allowed=", ".join(sorted(known)))
