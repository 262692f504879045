"""Forget losses and retain losses, each a function of what models compute about a batch of answers.

Notation: p the edited model, p₀ the model before editing, y the answer of T tokens, L = −Σ log p(y_t), ℓ = L / T. On answer tokens,
the end token counted; on states, of every token. Formulae follow the papers, where those and their public code differ, the code (docs/editing.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn.functional import kl_div, logsigmoid, mse_loss

from unlearn_guard.guard.registry import Registry


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass over questions and answers.

    logits: (n, width, vocabulary), those that predict `labels`; labels: (n, width), the next tokens from the first answer's on; counted:
    (n, width), True where the next token belongs to the answer; states: (n, whole width, hidden) of one layer, where a loss asked for them;
    read: (n, whole width), True where a state is of a real token.
    """

    logits: torch.Tensor
    labels: torch.Tensor
    counted: torch.Tensor
    states: torch.Tensor | None = None
    read: torch.Tensor | None = None

    @property
    def logprobs(self) -> torch.Tensor:
        """Log-likelihood of each answer token, (n, width), 0 elsewhere."""
        chosen = self.logits.log_softmax(-1).gather(-1, self.labels.unsqueeze(-1)).squeeze(-1)
        return chosen * self.counted

    @property
    def n_tokens(self) -> torch.Tensor:
        """How many tokens each answer has, (n)."""
        return self.counted.sum(-1)

    @property
    def sums(self) -> torch.Tensor:
        """Log-likelihood of each answer, −L, (n)."""
        return self.logprobs.sum(-1)

    @property
    def nll(self) -> torch.Tensor:
        """Mean negative log-likelihood of each answer's tokens, ℓ, (n)."""
        return -self.sums / self.n_tokens

    def average(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean over each answer's tokens, then over answers; values: (n, width)."""
        return ((values * self.counted).sum(-1) / self.n_tokens).mean()


@dataclass(frozen=True, slots=True)
class Batch:
    """What a loss may look at: the edited model's pass, that of the model before, and both on other answers to the same questions."""

    model: Pass
    reference: Pass | None = None
    other: Pass | None = None
    other_reference: Pass | None = None
    direction: torch.Tensor | None = None
    """A fixed random unit vector, (hidden)."""

    @property
    def before(self) -> Pass:
        """The pass of the model before editing."""
        assert self.reference is not None
        return self.reference

    @property
    def instead(self) -> Pass:
        """The pass over other answers."""
        assert self.other is not None
        return self.other

    @property
    def instead_before(self) -> Pass:
        """The same of the model before editing."""
        assert self.other_reference is not None
        return self.other_reference


Settings = Mapping[str, float]
Compute = Callable[[Batch, Settings], torch.Tensor]
REFERENCE, OTHER, STATES = "reference", "other", "states"


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss, what it needs beside the edited model's pass, and the settings it knows with their published values."""

    compute: Compute
    needs: frozenset[str]
    settings: Settings


FORGET_LOSSES: Registry[Loss] = Registry("forget loss")
RETAIN_LOSSES: Registry[Loss] = Registry("retain loss")


def _forget(name: str, *needs: str, **settings: float) -> Callable[[Compute], Compute]:
    def keep(compute: Compute) -> Compute:
        FORGET_LOSSES.register(name)(Loss(compute, frozenset(needs), settings))
        return compute

    return keep


def _retain(name: str, *needs: str, **settings: float) -> Callable[[Compute], Compute]:
    def keep(compute: Compute) -> Compute:
        RETAIN_LOSSES.register(name)(Loss(compute, frozenset(needs), settings))
        return compute

    return keep


@_forget("ga")
def _ascend(batch: Batch, settings: Settings) -> torch.Tensor:
    """Gradient ascent: −ℓ (Jang et al., arXiv 2210.01504)."""
    return -batch.model.nll.mean()


@_forget("npo", REFERENCE, beta=0.1)
def _disprefer(batch: Batch, settings: Settings) -> torch.Tensor:
    """NPO: −(2/β) log σ(−β log(p/p₀)), sums over tokens (Zhang et al., arXiv 2404.05868, eq. 3)."""
    beta = settings["beta"]
    return -2.0 / beta * logsigmoid(-beta * (batch.model.sums - batch.before.sums)).mean()


@_forget("simnpo", beta=4.5, delta=0.0)
def _disprefer_by_length(batch: Batch, settings: Settings) -> torch.Tensor:
    """SimNPO: −(2/β) log σ(β (ℓ − δ)), no reference model (Fan et al., arXiv 2410.07163)."""
    beta = settings["beta"]
    return -2.0 / beta * logsigmoid(beta * (batch.model.nll - settings["delta"])).mean()


@_forget("instead", OTHER)
def _answer_otherwise(batch: Batch, settings: Settings) -> torch.Tensor:
    """Learn another answer to the same question: IDK (Maini et al., arXiv 2401.06121), random labels, ReLearn's vague answers."""
    return batch.instead.nll.mean()


@_forget("dpo", REFERENCE, OTHER, beta=0.1)
def _prefer_other(batch: Batch, settings: Settings) -> torch.Tensor:
    """DPO: −(2/β) log σ(β [log(p/p₀)(other) − log(p/p₀)(y)]), sums; other an IDK (TOFU) or an alternative answer (AltPO, arXiv 2409.13474)."""
    beta = settings["beta"]
    gain = batch.instead.sums - batch.instead_before.sums
    return -2.0 / beta * logsigmoid(beta * (gain - (batch.model.sums - batch.before.sums))).mean()


@_forget("rmu", STATES, strength=6.5)
def _misdirect(batch: Batch, settings: Settings) -> torch.Tensor:
    """RMU: mean squared distance of a layer's states to c·u, u a fixed random direction (Li et al., arXiv 2403.03218)."""
    assert batch.model.states is not None
    assert batch.model.read is not None
    assert batch.direction is not None
    states = batch.model.states[batch.model.read]
    return mse_loss(states, (settings["strength"] * batch.direction).expand_as(states))


@_forget("llmu", OTHER, ascent=0.5)
def _ascend_and_mismatch(batch: Batch, settings: Settings) -> torch.Tensor:
    """LLMU: 0.5 · (−ℓ) + ℓ(random answer) (Yao et al., arXiv 2310.10683, weights of the code)."""
    return -settings["ascent"] * batch.model.nll.mean() + batch.instead.nll.mean()


@_forget("flat", OTHER)
def _separate(batch: Batch, settings: Settings) -> torch.Tensor:
    """FLAT with total variation: −½ tanh P(other) + ½ tanh P(y), P the mean token probability (Wang et al., arXiv 2410.11143)."""

    def measure(seen: Pass) -> torch.Tensor:
        return (seen.logprobs.exp() * seen.counted).sum(-1) / seen.n_tokens

    return (0.5 * torch.tanh(measure(batch.model)) - 0.5 * torch.tanh(measure(batch.instead))).mean()


@_forget("undial", REFERENCE, beta=10.0)
def _distil_adjusted(batch: Batch, settings: Settings) -> torch.Tensor:
    """UNDIAL: cross-entropy to softmax(z₀ − β·onehot(y)) (Dong et al., arXiv 2402.10052)."""
    logits, labels = batch.before.logits, batch.before.labels.unsqueeze(-1)
    lowered = logits.scatter_add(-1, labels, torch.full_like(logits[..., :1], -settings["beta"]))
    return batch.model.average(-(lowered.softmax(-1) * batch.model.logits.log_softmax(-1)).sum(-1))


@_forget("ihl")
def _hinge(batch: Batch, settings: Settings) -> torch.Tensor:
    """Inverted hinge loss: 1 + p(y_t) − max over v ≠ y_t of p(v) (Cha et al., LoKU, arXiv 2408.06621)."""
    probabilities, labels = batch.model.logits.softmax(-1), batch.model.labels.unsqueeze(-1)
    others = probabilities.scatter(-1, labels, -1.0)
    return batch.model.average(1.0 + probabilities.gather(-1, labels).squeeze(-1) - others.amax(-1))


@_forget("learn")
def _learn(batch: Batch, settings: Settings) -> torch.Tensor:
    """Learn the labels: what a task vector is made of, and how the labels of Who's Harry Potter are taught."""
    return batch.model.nll.mean()


@_forget("wga", beta=1.0)
def _ascend_weighted(batch: Batch, settings: Settings) -> torch.Tensor:
    """WGA: ascent weighed by each token's own confidence, Σ p^β log p, weights detached (Wang et al., arXiv 2502.19301)."""
    logprobs = batch.model.logprobs
    return batch.model.average(logprobs.exp().detach() ** settings["beta"] * logprobs)


@_forget("satimp", beta1=5.0, beta2=1.0)
def _ascend_saturated(batch: Batch, settings: Settings) -> torch.Tensor:
    """SatImp: ascent weighed by p^β₁ (1 − p)^β₂, weights detached (Yang et al., arXiv 2505.11953)."""
    logprobs = batch.model.logprobs
    sure = logprobs.exp().detach()
    return batch.model.average(sure ** settings["beta1"] * (1.0 - sure) ** settings["beta2"] * logprobs)


@_forget("ceu")
def _exclude(batch: Batch, settings: Settings) -> torch.Tensor:
    """CEU: cross-entropy to the model's own distribution without the true token, from the second token on (Yang, arXiv 2503.01224)."""
    seen = batch.model
    target = seen.logits.detach().scatter(-1, seen.labels.unsqueeze(-1), float("-inf")).softmax(-1)
    values = -(target * seen.logits.log_softmax(-1)).sum(-1)
    later = seen.counted & (seen.counted.cumsum(-1) > 1)
    return ((values * later).sum(-1) / later.sum(-1).clamp(min=1)).mean()


@_forget("maximise-entropy")
def _flatten(batch: Batch, settings: Settings) -> torch.Tensor:
    """ME: KL(uniform ‖ p) on answer tokens, up to a constant (Yuan et al., arXiv 2410.08109)."""
    return batch.model.average(-batch.model.logits.log_softmax(-1).mean(-1))


@_retain("none")
def _ignore(batch: Batch, settings: Settings) -> torch.Tensor:
    """Nothing is done for what must be kept."""
    return batch.model.logits.sum() * 0.0


@_retain("nll")
def _keep_likely(batch: Batch, settings: Settings) -> torch.Tensor:
    """Keep ℓ of retained answers low."""
    return batch.model.nll.mean()


@_retain("kl", REFERENCE)
def _keep_distribution(batch: Batch, settings: Settings) -> torch.Tensor:
    """KL(p₀ ‖ p) on the tokens of retained answers (Maini et al., arXiv 2401.06121)."""
    before, after = batch.before.logits.log_softmax(-1), batch.model.logits.log_softmax(-1)
    return batch.model.average(kl_div(after, before, reduction="none", log_target=True).sum(-1))


@_retain("nll+kl", REFERENCE)
def _keep_both(batch: Batch, settings: Settings) -> torch.Tensor:
    """Both of these (ReLearn, Xu et al., arXiv 2502.11190)."""
    return _keep_likely(batch, settings) + _keep_distribution(batch, settings)


@_retain("states", REFERENCE, STATES)
def _keep_states(batch: Batch, settings: Settings) -> torch.Tensor:
    """Mean squared distance of a layer's states to those before editing (RMU's retain term)."""
    assert batch.model.states is not None
    assert batch.before.states is not None
    assert batch.model.read is not None
    return mse_loss(batch.model.states[batch.model.read], batch.before.states[batch.model.read])
