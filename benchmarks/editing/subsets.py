"""Which weights an editing method may change: all, those of some modules, a mask chosen by gradients, or low-rank adapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from unlearn_guard.guard.errors import DataError
from unlearn_guard.guard.registry import Registry

Masks = dict[str, torch.Tensor | None]
"""By name of a trainable parameter: where it may change, everywhere for None."""


@dataclass(frozen=True, slots=True)
class Gradients:
    """Mean gradients of ℓ over the rows to forget and over kept ones, by parameter; computed when asked for."""

    model: Any
    measure: Callable[[str], dict[str, torch.Tensor]]
    """`forget` or `retain` to gradients."""


Settings = Mapping[str, float]
Select = Callable[[Gradients, Settings], Masks]


@dataclass(frozen=True, slots=True)
class Subset:
    """How weights are selected, the settings with their published values, and whether adapters stand for what is selected."""

    select: Select
    settings: Settings
    is_adapted: bool = False


SUBSETS: Registry[Subset] = Registry("trainable subset")


def _subset(name: str, *, is_adapted: bool = False, **settings: float) -> Callable[[Select], Select]:
    def keep(select: Select) -> Select:
        SUBSETS.register(name)(Subset(select, settings, is_adapted))
        return select

    return keep


def _name(model: Any) -> list[str]:
    return [name for name, _ in model.named_parameters()]


@_subset("all")
def _select_all(gradients: Gradients, settings: Settings) -> Masks:
    """Every weight."""
    return dict.fromkeys(_name(gradients.model))


@_subset("down", depth=0.5, layers=3)
def _select_down(gradients: Gradients, settings: Settings) -> Masks:
    """Down projections of some layers up to one at a part of the depth (RMU: three)."""
    n_layers = int(gradients.model.config.num_hidden_layers)
    last = find_layer(n_layers, settings["depth"])
    wanted = {f".{layer}.mlp.down_proj." for layer in range(max(0, last + 1 - int(settings["layers"])), last + 1)}
    return {name: None for name in _name(gradients.model) if any(part in name for part in wanted)}


@_subset("salun", share=0.5)
def _select_salient(gradients: Gradients, settings: Settings) -> Masks:
    """SalUn: the half of all weights with the largest |∇ℓ_f| (Fan et al., arXiv 2310.12508)."""
    return _keep_largest({name: found.abs() for name, found in gradients.measure("forget").items()}, settings["share"])


@_subset("wagle", share=0.95, mu=1e-6)
def _select_attributed(gradients: Gradients, settings: Settings) -> Masks:
    """WAGLE: the weights with the largest |(θ − ∇ℓ_r / μ) · ∇ℓ_f| (Jia et al., arXiv 2410.17509)."""
    forget, retain = gradients.measure("forget"), gradients.measure("retain")
    weights = dict(gradients.model.named_parameters())
    scores = {
        name: ((weights[name].detach() - retain[name] / settings["mu"]) * found).abs() for name, found in forget.items()
    }
    return _keep_largest(scores, settings["share"])


@_subset("lora", is_adapted=True, rank=8, alpha=16)
def _select_linear(gradients: Gradients, settings: Settings) -> Masks:
    """Every linear layer of the blocks, by a low-rank adapter."""
    return dict.fromkeys(_find_linear(gradients.model))


@_subset("memflex", is_adapted=True, rank=8, alpha=16, cosine=0.92, quantile=0.5)
def _select_private(gradients: Gradients, settings: Settings) -> Masks:
    """MemFlex: adapters where ∇ℓ_f points elsewhere than ∇ℓ_r and is large (Tian et al., arXiv 2407.01920).

    The published threshold of the mean |∇ℓ_f|, 6e-4, depends on a model's size; here it is a quantile.
    """
    forget, retain = gradients.measure("forget"), gradients.measure("retain")
    names = _find_linear(gradients.model)
    sizes = {name: float(forget[name].abs().mean()) for name in names}
    least = float(torch.tensor(list(sizes.values())).quantile(settings["quantile"]))
    similar = {
        name: float(torch.cosine_similarity(forget[name].flatten(), retain[name].flatten(), dim=0)) for name in names
    }
    chosen = [name for name in names if similar[name] < settings["cosine"] and sizes[name] >= least]
    if not chosen:
        raise DataError("no layer is private to what must be forgotten", allowed=f"cosine below {settings['cosine']:g}")
    return dict.fromkeys(chosen)


def find_layer(n_layers: int, depth: float) -> int:
    """Return the layer, counted from 0, at a part of the depth."""
    return min(n_layers - 1, max(0, round(depth * n_layers) - 1))


def _find_linear(model: Any) -> list[str]:
    return [
        f"{name}.weight" for name, module in model.named_modules() if _is_linear(module) and ".layers." in f".{name}"
    ]


def _is_linear(module: Any) -> bool:
    return isinstance(module, torch.nn.Linear)


def _keep_largest(scores: Mapping[str, torch.Tensor], share: float) -> Masks:
    """Keep that share of all weights together."""
    flat = torch.cat([score.flatten() for score in scores.values()])
    n = max(1, round(share * flat.numel()))
    least = flat.kthvalue(flat.numel() - n + 1).values
    return {name: score >= least for name, score in scores.items()}
