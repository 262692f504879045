"""ULD, unlearning from logit differences (Ji et al., arXiv 2406.08607): the formula of one decode step.

A small assistant knows what must be forgotten and little else; its logits are subtracted from the target's:
l_f = l − α·l_a (eq. 2), over the tokens that the target itself finds likely. What the paper's filter keeps and what
decoding does with the rest is stated here, because a model that memorised its answer leaves a filter of "log p ≥
max + log 0.01" one token only, and then nothing can be forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch

from unlearn_guard.guard.errors import SettingsError
from unlearn_guard.guard.stamp import Step

Penalty = Literal["raw", "advantage"]
Combine = Literal["sum", "max"]
MAX_WEIGHT = 8.0


@dataclass(frozen=True, slots=True)
class UldSettings:
    """How assistants change a step's distribution.

    weight: α of eq. 2 (0.75 in the paper). penalty: `raw`, the assistant's logits as in the paper, or `advantage`,
    relu(log p_a + ln V): what it prefers over the uniform distribution that it was taught for everything else.
    combine: how several assistants' penalties add up. filter_rate: the paper's filter, a share of the largest
    probability. kept_share and kept_tokens: how many tokens stay at least, whatever the filter says.
    """

    weight: float = 0.75
    penalty: Penalty = "raw"
    combine: Combine = "sum"
    filter_rate: float = 1e-2
    kept_share: float = 0.01
    kept_tokens: int = 40

    def __post_init__(self) -> None:
        for name, kind in (("penalty", Penalty), ("combine", Combine)):
            if getattr(self, name) not in get_args(kind):
                raise SettingsError(f"uld {name}", value=getattr(self, name), allowed=", ".join(get_args(kind)))
        if not 0.0 < self.weight <= MAX_WEIGHT:
            raise SettingsError("uld weight", value=self.weight, allowed=f"above 0, at most {MAX_WEIGHT:g}")
        if not 0.0 < self.filter_rate < 1.0 or not 0.0 <= self.kept_share <= 1.0 or self.kept_tokens < 1:
            raise SettingsError(
                "uld filter_rate, kept_share and kept_tokens",
                value=(self.filter_rate, self.kept_share, self.kept_tokens),
                allowed="between 0 and 1; 0 to 1; 1 or more",
            )

    def to_record(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def plan_uld(settings: UldSettings, assistants: Sequence[str]) -> Step:
    """Return the step that subtracts these assistants at every decode step."""
    return Step("uld", (), {**settings.to_record(), "assistants": list(assistants)})


def read_settings(step: Step) -> tuple[UldSettings, tuple[str, ...]]:
    """Return a step's settings and the names of its assistants."""
    params = dict(step.params)
    names = tuple(str(name) for name in params.pop("assistants"))
    return UldSettings(**params), names


def find_kept(logits: torch.Tensor, settings: UldSettings) -> torch.Tensor:
    """Return which tokens stay, shape (rows, vocabulary), by the target's own log-probabilities.

    The max(kept_share · V, kept_tokens) best stay, and every token within log(filter_rate) of the best one.
    """
    best, limit = _find_best(logits, settings)
    return (logits >= limit).scatter_(-1, best.indices, True)


def _find_best(logits: torch.Tensor, settings: UldSettings) -> tuple[Any, torch.Tensor]:
    """Return the tokens that stay in any case, best first, and the logit from which on others stay too."""
    n_tokens = logits.shape[-1]
    n_kept = min(n_tokens, max(math.ceil(settings.kept_share * n_tokens), settings.kept_tokens))
    best = logits.topk(n_kept, dim=-1)
    # Differences of logits are differences of log-probabilities.
    return best, best.values[..., :1] + math.log(settings.filter_rate)


def measure_penalty(assistants: Sequence[torch.Tensor], settings: UldSettings) -> torch.Tensor:
    """Combine assistants' logits, each (rows, vocabulary), into what is subtracted, before the weight."""
    if settings.penalty == "advantage":
        surprise = math.log(assistants[0].shape[-1])
        assistants = [logits.log_softmax(-1).add_(surprise).clamp_(min=0.0) for logits in assistants]
    if len(assistants) == 1:
        return assistants[0]
    stacked = torch.stack(list(assistants))
    return stacked.sum(0) if settings.combine == "sum" else stacked.amax(0)


def suppress(logits: torch.Tensor, penalty: torch.Tensor, settings: UldSettings) -> torch.Tensor:
    """Return the logits that decoding uses: the filter's tokens less the weighted penalty, −inf elsewhere.

    logits and penalty: (rows, vocabulary), float32. Tokens that a grammar has masked stay masked.
    """
    best, limit = _find_best(logits, settings)
    result = torch.full_like(logits, float("-inf"))
    result.scatter_(-1, best.indices, best.values - settings.weight * penalty.gather(-1, best.indices))
    wide = best.values[..., -1:] >= limit
    # A walk over the whole vocabulary costs a CPU as much as finding the best; a GPU would only wait for the question.
    if logits.device.type != "cpu" or bool(wide.any()):
        result = torch.where(logits >= limit, logits - settings.weight * penalty, result)
    return result


def suppress_everywhere(logits: torch.Tensor, penalty: torch.Tensor, settings: UldSettings) -> torch.Tensor:
    """Return the logits that scoring uses: the whole vocabulary is the support.

    Under the filter a reference answer often has probability zero, and likelihood ratios of it mean nothing.
    """
    return logits - settings.weight * penalty
