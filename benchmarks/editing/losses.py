"""Forget losses and retain losses, each a function of a batch's log-likelihoods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from unlearn_guard.guard.registry import Registry


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """Summed log-likelihoods of a batch's answers, shape (n,), and their token counts.

    `reference` are those of the model before editing, None unless the loss asked for them.
    """

    model: torch.Tensor
    n_tokens: torch.Tensor
    reference: torch.Tensor | None = None


Loss = Callable[[Likelihoods], torch.Tensor]


@dataclass(frozen=True, slots=True)
class LossRecord:
    """A loss and whether it needs the reference model."""

    compute: Loss
    needs_reference: bool = False


FORGET_LOSSES: Registry[LossRecord] = Registry("forget loss")
RETAIN_LOSSES: Registry[LossRecord] = Registry("retain loss")
NPO_BETA = 0.1


def _gradient_ascent(batch: Likelihoods) -> torch.Tensor:
    """Maximise the mean negative log-likelihood of the answers to forget (Jang et al., arXiv 2210.01504)."""
    return (batch.model / batch.n_tokens).mean()


def _negative_preference(batch: Likelihoods) -> torch.Tensor:
    """NPO (Zhang et al., arXiv 2404.05868, eq. 3): −(2/β) log σ(−β log(π/π₀)), sums over answer tokens."""
    assert batch.reference is not None
    ratio = batch.model - batch.reference
    return (-2.0 / NPO_BETA) * torch.nn.functional.logsigmoid(-NPO_BETA * ratio).mean()


def _likelihood(batch: Likelihoods) -> torch.Tensor:
    """Keep the mean negative log-likelihood of retained answers low."""
    return -(batch.model / batch.n_tokens).mean()


FORGET_LOSSES.register("ga")(LossRecord(_gradient_ascent))
FORGET_LOSSES.register("npo")(LossRecord(_negative_preference, needs_reference=True))
RETAIN_LOSSES.register("none")(LossRecord(lambda batch: batch.model.sum() * 0.0))
RETAIN_LOSSES.register("nll")(LossRecord(_likelihood))
