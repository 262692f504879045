"""What surrounds the training of a weight-editing method: nothing, a subtraction, other labels, pruned rows, adapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from unlearn_guard.benchmarks.editing.subsets import SUBSETS, Masks
from unlearn_guard.benchmarks.editing.trainer import EditingMethod, Pair, Trainer
from unlearn_guard.guard.errors import SettingsError
from unlearn_guard.guard.registry import Registry
from unlearn_guard.guard.rows import Row
from unlearn_guard.serving.transformers.engine import ReferenceEngine

Settings = Mapping[str, float]
Run = Callable[[Trainer, Settings], Any]


@dataclass(frozen=True, slots=True)
class Procedure:
    """From a trainer to an edited model, and the settings with their published values."""

    run: Run
    settings: Settings
    is_adapted: bool | None = None
    """Whether it goes with adapters, with whole weights, or with either."""


PROCEDURES: Registry[Procedure] = Registry("editing procedure")


def edit_weights(
    engine: ReferenceEngine, method: EditingMethod, forget: Sequence[Row], retain: Sequence[Row]
) -> ReferenceEngine:
    """Return an engine with an edited copy of the model; the given one stays as it is.

    Raises DivergedError when training leaves the finite numbers, UnknownNameError for an unknown loss, subset, procedure or rule of
    other answers, SettingsError for a setting that nothing reads.
    """
    procedure = PROCEDURES[method.procedure]
    trainer = Trainer(engine, method, forget, retain)
    trainer.check_settings(procedure.settings)
    if procedure.is_adapted not in (None, trainer.subset.is_adapted):
        allowed = [name for name in SUBSETS if SUBSETS[name].is_adapted == procedure.is_adapted]
        raise SettingsError(
            f"subset of the procedure {method.procedure}", value=method.subset, allowed=", ".join(allowed)
        )
    settings = {name: float(method.settings.get(name, value)) for name, value in procedure.settings.items()}
    model = procedure.run(trainer, settings).eval().requires_grad_(False).to(next(engine.model.parameters()).dtype)
    return ReferenceEngine(model, engine.tokenizer, batch_size=engine.batch_size)


def _procedure(name: str, *, is_adapted: bool | None = None, **settings: float) -> Callable[[Run], Run]:
    def keep(run: Run) -> Run:
        PROCEDURES.register(name)(Procedure(run, settings, is_adapted))
        return run

    return keep


@_procedure("train")
def _train(trainer: Trainer, settings: Settings) -> Any:
    """Train, through adapters where the subset says so."""
    masks = trainer.select()
    return _train_adapters(trainer, masks) if trainer.subset.is_adapted else trainer.train(trainer.copy_model(), masks)


@_procedure("negate", is_adapted=False, scale=1.0)
def _negate(trainer: Trainer, settings: Settings) -> Any:
    """Task vector: θ₀ − α (θ_f − θ₀), θ_f trained on the forget set (Ilharco et al., arXiv 2212.04089)."""
    learned = trainer.train(trainer.copy_model(), trainer.select())
    model = trainer.copy_model()
    with torch.no_grad():
        for weight, other in zip(model.parameters(), learned.parameters(), strict=True):
            weight.sub_(settings["scale"] * (other - weight))
    return model


@_procedure("generic-labels", is_adapted=False, alpha=5.0, reinforce_epochs=3.0)
def _learn_generic_labels(trainer: Trainer, settings: Settings) -> Any:
    """Who's Harry Potter: learn argmax(v₀ − α ReLU(v₊ − v₀)), v₊ of a model reinforced on the forget set (arXiv 2310.02238, eq. 1)."""
    masks = trainer.select()
    method = replace(trainer.method, forget_loss="learn", retain_loss="none", epochs=int(settings["reinforce_epochs"]))
    reinforced = trainer.train(trainer.copy_model(), masks, method)
    relabelled: list[Pair] = []
    for pair in trainer.forget_pairs:
        with torch.no_grad():
            plain, strong = (trainer.run(model, [pair]).logits[0] for model in (trainer.engine.model, reinforced))
        labels = find_generic(plain, strong, settings["alpha"])
        relabelled.append(replace(pair, labels=tuple(labels.tolist())))
    trainer.forget_pairs = relabelled
    return trainer.train(trainer.copy_model(), masks)


def find_generic(plain: Any, strong: Any, alpha: float) -> Any:
    """Return the likeliest tokens where what reinforcement made likelier counts less by `alpha` times as much; logits, (tokens, vocabulary)."""
    return (plain - alpha * (strong - plain).relu()).argmax(-1)


@_procedure("prune-rows", contamination=0.1)
def _prune_rows(trainer: Trainer, settings: Settings) -> Any:
    """UPCORE: leave out the rows whose hidden states are outliers (isolation forest), then train (Patil et al., arXiv 2502.15082)."""
    from sklearn.ensemble import IsolationForest

    states = []
    for pair in trainer.forget_pairs:
        with torch.no_grad():
            seen = trainer.run(trainer.engine.model, [pair], states=True)
        assert seen.states is not None
        states.append(seen.states[0, len(pair.prompt) - 1].float().cpu().numpy())
    forest = IsolationForest(contamination=settings["contamination"], random_state=trainer.method.seed)
    is_kept = forest.fit_predict(np.stack(states)) > 0
    trainer.forget_rows = [row for row, keep in zip(trainer.forget_rows, is_kept, strict=True) if keep]
    trainer.forget_pairs = [pair for pair, keep in zip(trainer.forget_pairs, is_kept, strict=True) if keep]
    return _train(trainer, settings)


@_procedure("fila", is_adapted=True)
def _train_from_fisher(trainer: Trainer, settings: Settings) -> Any:
    """LoKU's initialisation: adapters begin as the part of W that matters to the forget set (arXiv 2408.06621).

    The rank-r part of D·W by singular values, D = diag(√Σ_row F_f / (F_r + 1e-5)), F the mean squared gradients; what the adapter takes
    over is subtracted from W, so that the model before training is unchanged.
    """
    masks = trainer.select()
    forget, retain = (_measure_fisher(trainer, pairs) for pairs in (trainer.forget_pairs, trainer.retain_pairs))

    def start(name: str, layer: Any, rank: int, scale: float) -> None:
        weight = layer.base_layer.weight
        ratio = forget[name] / (retain[name] + 1e-5)
        importance = ratio.sum(1).sqrt().clamp(min=1e-8)
        left, values, right = torch.linalg.svd((importance[:, None] * weight).float(), full_matrices=False)
        rank = min(rank, len(values))
        root = values[:rank].sqrt() / scale**0.5
        up, down = left[:, :rank] * root / importance[:, None], root[:, None] * right[:rank]
        layer.lora_A["default"].weight[:rank] = down
        layer.lora_B["default"].weight[:, :rank] = up
        weight.sub_(scale * up @ down)

    return _train_adapters(trainer, masks, start)


@_procedure("one-expert", is_adapted=False, anchor=1.0)
def _train_one_expert(trainer: Trainer, settings: Settings) -> Any:
    """UOE: train the expert that reads the forget set most, and hold its layer's router to it (SEUF, arXiv 2411.18797).

    The expert is the one with the highest mean share of the router over the tokens of the rows to forget; the anchor is the mean over tokens
    of ‖G(x) − onehot(e*)‖². Raises SettingsError for a model without experts.
    """
    model = trainer.copy_model()
    routers = {name: module for name, module in model.named_modules() if name.endswith(".mlp.gate")}
    if not routers:
        raise SettingsError(
            "model of the procedure one-expert", value=type(model).__name__, allowed="a mixture of experts"
        )
    shares = _measure_shares(trainer, model, routers)
    router, expert = max(
        ((name, place) for name, own in shares.items() for place in range(len(own))),
        key=lambda entry: float(shares[entry[0]][entry[1]]),
    )
    masks: Masks = {f"{router}.weight": None}
    for part in ("gate_up_proj", "down_proj"):
        name = f"{router.removesuffix('gate')}experts.{part}"
        mask = torch.zeros_like(model.get_parameter(name), dtype=torch.bool)
        mask[expert] = True
        masks[name] = mask
    seen: list[torch.Tensor] = []
    hook = routers[router].register_forward_hook(lambda module, inputs, found: seen.append(found[0]))

    def anchor() -> torch.Tensor:
        read = seen[0].float().softmax(-1)
        seen.clear()
        target = torch.zeros_like(read)
        target[:, expert] = 1.0
        return settings["anchor"] * (read - target).square().sum(-1).mean()

    try:
        # What is read of kept rows must not stand before what is read of the next rows to forget.
        cleared = routers[router].register_forward_pre_hook(lambda module, inputs: seen.clear())
        return trainer.train(model, masks, anchor=anchor)
    finally:
        hook.remove()
        cleared.remove()


def _measure_shares(trainer: Trainer, model: Any, routers: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the mean share that each expert of each layer has of the tokens of the rows to forget."""
    sums = {name: torch.zeros(router.weight.shape[0], device=trainer.engine.device) for name, router in routers.items()}
    n_tokens = 0

    def note(name: str) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, found: Any) -> None:
            sums[name] += found[0].float().softmax(-1).sum(0)

        return hook

    hooks = [router.register_forward_hook(note(name)) for name, router in routers.items()]
    try:
        with torch.no_grad():
            for pair in trainer.forget_pairs:
                trainer.run(model, [pair])
                n_tokens += len(pair.prompt) + len(pair.answer)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: own / n_tokens for name, own in sums.items()}


def _train_adapters(trainer: Trainer, masks: Masks, start: Callable[..., None] | None = None) -> Any:
    """Train low-rank adapters of the named weights, and merge them."""
    from peft import LoraConfig, get_peft_model

    known = {**trainer.subset.settings, **trainer.method.settings}
    rank, alpha = int(known["rank"]), int(known["alpha"])
    modules = [name.removesuffix(".weight") for name in masks]
    torch.manual_seed(trainer.method.seed)
    adapted = get_peft_model(
        trainer.copy_model(), LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=modules)
    )
    if start is not None:
        layers = dict(adapted.base_model.model.named_modules())
        with torch.no_grad():
            for name in masks:
                start(name, layers[name.removesuffix(".weight")], rank, alpha / rank)
    trained = {name: None for name, _ in adapted.named_parameters() if ".lora_" in name}
    trainer.train(adapted, trained)
    return adapted.merge_and_unload()


def _measure_fisher(trainer: Trainer, pairs: Sequence[Pair]) -> dict[str, torch.Tensor]:
    """Return the mean over batches of squared gradients of ℓ, by weight."""
    model = trainer.copy_model().eval()
    size = trainer.method.batch_size
    sums = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
    parts = [pairs[first : first + size] for first in range(0, len(pairs), size)]
    for part in parts:
        model.zero_grad(set_to_none=True)
        trainer.run(model, part).nll.mean().backward()
        for name, weight in model.named_parameters():
            if weight.grad is not None:
                sums[name] += weight.grad**2 / len(parts)
    return sums
