"""Every loss against a case that was computed by hand: one answer of two tokens, a vocabulary of three, a prompt token beside it."""

from __future__ import annotations

import math
from math import exp, log

import pytest
import torch

from unlearn_guard.benchmarks.editing.losses import FORGET_LOSSES, RETAIN_LOSSES, Batch, Pass

AFTER = ((0.5, 0.25, 0.25), (0.2, 0.7, 0.1))
BEFORE = ((0.8, 0.1, 0.1), (0.1, 0.8, 0.1))
LABELS = (0, 1)
OTHER_AFTER = ((0.1, 0.1, 0.8), (0.3, 0.3, 0.4))
OTHER_BEFORE = ((0.2, 0.2, 0.6), (0.25, 0.25, 0.5))
OTHER_LABELS = (2, 2)
PROMPT = (0.9, 0.05, 0.05)
"""What is predicted within the prompt: it counts in no loss."""
L, L0 = -log(0.5) - log(0.7), -log(0.8) - log(0.8)
OTHER, OTHER0 = -log(0.8) - log(0.4), -log(0.6) - log(0.5)


def make_pass(rows: tuple[tuple[float, ...], ...], labels: tuple[int, int], states: float = 0.0) -> Pass:
    """The logits of given probabilities, up to a constant that no softmax sees."""
    logits = torch.tensor([[PROMPT, *rows]]).log() + 1.7
    return Pass(
        logits.requires_grad_(),
        torch.tensor([[1, *labels]]),
        torch.tensor([[False, True, True]]),
        torch.full((1, 4, 2), states),
        torch.tensor([[True, True, True, False]]),
    )


@pytest.fixture
def batch() -> Batch:
    return Batch(
        make_pass(AFTER, LABELS, 2.0),
        make_pass(BEFORE, LABELS, 0.5),
        make_pass(OTHER_AFTER, OTHER_LABELS),
        make_pass(OTHER_BEFORE, OTHER_LABELS),
        torch.tensor([0.6, 0.8]),
    )


def softplus(value: float) -> float:
    """−log σ(−value)."""
    return math.log1p(exp(value))


def undial() -> float:
    total = 0.0
    for before, after, label in zip(BEFORE, AFTER, LABELS, strict=True):
        weights = [p * (exp(-3.0) if place == label else 1.0) for place, p in enumerate(before)]
        total -= sum(w / sum(weights) * log(p) for w, p in zip(weights, after, strict=True))
    return total / 2


def ceu() -> float:
    """The first token of an answer does not count."""
    return -(0.2 / 0.3 * log(0.2) + 0.1 / 0.3 * log(0.1))


def kl() -> float:
    return sum(b * log(b / a) for row in zip(BEFORE, AFTER, strict=True) for b, a in zip(*row, strict=True)) / 2


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("ga", {}, -L / 2),
        ("learn", {}, L / 2),
        ("npo", {"beta": 0.1}, 20 * softplus(0.1 * (L0 - L))),
        ("simnpo", {"beta": 4.5, "delta": 0.2}, 2 / 4.5 * softplus(-4.5 * (L / 2 - 0.2))),
        ("instead", {}, OTHER / 2),
        ("dpo", {"beta": 0.1}, 20 * softplus(-0.1 * ((OTHER0 - OTHER) - (L0 - L)))),
        ("rmu", {"strength": 5.0}, ((2 - 3.0) ** 2 + (2 - 4.0) ** 2) / 2),
        ("llmu", {"ascent": 0.5}, -0.5 * L / 2 + OTHER / 2),
        ("flat", {}, 0.5 * math.tanh(0.6) - 0.5 * math.tanh(0.6)),
        ("undial", {"beta": 3.0}, undial()),
        ("ihl", {}, ((1 + 0.5 - 0.25) + (1 + 0.7 - 0.2)) / 2),
        ("wga", {"beta": 1.0}, (0.5 * log(0.5) + 0.7 * log(0.7)) / 2),
        ("satimp", {"beta1": 5.0, "beta2": 1.0}, (0.5**6 * log(0.5) + 0.7**5 * 0.3 * log(0.7)) / 2),
        ("ceu", {}, ceu()),
        ("maximise-entropy", {}, -(log(0.5) + 2 * log(0.25) + log(0.2) + log(0.7) + log(0.1)) / 6),
    ],
)
def test_forget_losses_by_hand(batch: Batch, name: str, settings: dict[str, float], expected: float) -> None:
    found = FORGET_LOSSES[name].compute(batch, settings)
    assert float(found.detach()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("none", 0.0), ("nll", L / 2), ("kl", kl()), ("nll+kl", L / 2 + kl()), ("states", 1.5**2)],
)
def test_retain_losses_by_hand(batch: Batch, name: str, expected: float) -> None:
    assert float(RETAIN_LOSSES[name].compute(batch, {}).detach()) == pytest.approx(expected, abs=1e-5)


def test_every_loss_was_computed_by_hand() -> None:
    assert set(FORGET_LOSSES) == {
        mark.args[1][place][0]
        for mark in test_forget_losses_by_hand.pytestmark  # type: ignore[attr-defined]
        for place in range(len(mark.args[1]))
    }
    assert set(RETAIN_LOSSES) == {"none", "nll", "kl", "nll+kl", "states"}


def test_total_variation_falls_where_the_other_answer_gains() -> None:
    """Both mean probabilities are 0.6 above, where every term is checked by its cancelling; here they differ."""
    batch = Batch(make_pass(AFTER, LABELS), other=make_pass(((0.05, 0.05, 0.9), (0.05, 0.05, 0.9)), OTHER_LABELS))
    expected = 0.5 * math.tanh(0.6) - 0.5 * math.tanh(0.9)
    assert float(FORGET_LOSSES["flat"].compute(batch, {}).detach()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", [name for name in FORGET_LOSSES if name not in ("rmu",)])
def test_prompt_tokens_have_no_gradient(batch: Batch, name: str) -> None:
    loss = FORGET_LOSSES[name]
    settings = dict(loss.settings)
    loss.compute(batch, settings).backward()
    seen = [part for part in (batch.model, batch.other) if part is not None and part.logits.grad is not None]
    assert seen
    for part in seen:
        assert part.logits.grad is not None
        assert float(part.logits.grad[:, 0].abs().max()) == 0.0
        assert bool(torch.isfinite(part.logits.grad).all())
