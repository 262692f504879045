"""What may change is what was chosen, and gradients are those of the whole set."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unlearn_guard.benchmarks.editing.procedures import edit_weights
from unlearn_guard.benchmarks.editing.subsets import SUBSETS, Gradients, find_layer
from unlearn_guard.benchmarks.editing.trainer import EditingMethod, Trainer
from unlearn_guard.guard.errors import DataError


def count_changed(tiny: Any, rows: Any, subset: str, **settings: float) -> tuple[dict[str, float], float]:
    """Return which share of each weight changed, and of all."""
    method = EditingMethod("ga", "nll", subset, learning_rate=1e-2, epochs=2, settings=settings)
    edited = edit_weights(tiny, method, *rows).model.state_dict()
    before = dict(tiny.model.named_parameters())
    shares = {name: float((edited[name] != weight).float().mean()) for name, weight in before.items()}
    total = sum(shares[name] * weight.numel() for name, weight in before.items())
    return shares, total / sum(weight.numel() for weight in before.values())


def test_modules(tiny: Any, rows: Any) -> None:
    shares, _ = count_changed(tiny, rows, "down", depth=1.0, layers=1)
    assert {name for name, share in shares.items() if share} == {"model.layers.1.mlp.down_proj.weight"}
    _, total = count_changed(tiny, rows, "all")
    assert total > 0.9


@pytest.mark.parametrize(("subset", "share"), [("salun", 0.3), ("wagle", 0.4)])
def test_masks_hold_that_share_of_all_weights(tiny: Any, rows: Any, subset: str, share: float) -> None:
    trainer = Trainer(tiny, EditingMethod("ga", subset=subset, settings={"share": share}), *rows)
    masks = trainer.select()
    chosen, size = (sum(int(part) for part in parts) for parts in zip(*((mask.sum(), mask.numel()) for mask in masks.values() if mask is not None), strict=True))  # fmt: skip
    assert chosen / size == pytest.approx(share, abs=0.01)
    _, changed = count_changed(tiny, rows, subset, share=share)
    assert changed <= chosen / size + 1e-6
    assert changed > 0.8 * share


def test_what_stays_does_not_decide_how_far_the_rest_goes(
    tiny: Any, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(tiny, EditingMethod("ga", subset="salun", epochs=1, settings={"share": 0.1}), *rows)
    masks, model = trainer.select(), trainer.copy_model()
    clipped: list[float] = []

    def clip(weights: Any, most: float) -> None:
        assert most == 1.0
        for name, weight in model.named_parameters():
            mask = masks.get(name)
            if mask is not None:
                clipped.append(float(weight.grad[~mask].abs().sum()))
                assert weight.grad[mask].abs().sum() > 0 or not mask.any()

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
    trainer.train(model, masks)
    assert clipped
    assert not any(clipped)


def test_gradients_are_of_the_whole_set(tiny: Any, rows: Any) -> None:
    trainer = Trainer(tiny, EditingMethod("ga", batch_size=7), *rows)
    found = trainer.measure_gradients("forget")
    model = trainer.copy_model()
    trainer.run(model, trainer.forget_pairs).nll.mean().backward()
    for name, weight in model.named_parameters():
        assert torch.allclose(found[name], weight.grad, atol=1e-6)


def test_salient_weights_by_hand(tiny: Any) -> None:
    gradients = Gradients(tiny.model, lambda which: {"a": torch.tensor([0.1, -0.9, 0.3]), "b": torch.tensor([[-0.5]])})
    masks = SUBSETS["salun"].select(gradients, {"share": 0.5})
    assert masks["a"] is not None
    assert masks["b"] is not None
    assert masks["a"].tolist() == [False, True, False]
    assert masks["b"].tolist() == [[True]]


def test_attributed_weights_by_hand(tiny: Any) -> None:
    """|(θ − ∇ℓ_r / μ) · ∇ℓ_f| with θ = (1, 2, 4), ∇ℓ_r = (0, .1, −.2), μ = .1, ∇ℓ_f = (3, 5, .1): 3, |2 − 1| · 5 = 5, |4 + 2| · .1 = .6."""
    model = torch.nn.Linear(3, 1, bias=False)
    model.weight.data = torch.tensor([[1.0, 2.0, 4.0]])
    found = {"forget": torch.tensor([[3.0, 5.0, 0.1]]), "retain": torch.tensor([[0.0, 0.1, -0.2]])}
    gradients = Gradients(model, lambda which: {"weight": found[which]})
    masks = SUBSETS["wagle"].select(gradients, {"share": 2 / 3, "mu": 0.1})
    assert masks["weight"] is not None
    assert masks["weight"].tolist() == [[True, True, False]]
    one = SUBSETS["wagle"].select(gradients, {"share": 1 / 3, "mu": 0.1})["weight"]
    assert one is not None
    assert one.tolist() == [[False, True, False]]


def test_private_layers_point_elsewhere(tiny: Any) -> None:
    names = [name for name, weight in tiny.model.named_parameters() if "_proj" in name]
    weights = dict(tiny.model.named_parameters())
    forget = {name: torch.ones_like(weights[name]) for name in names}
    retain = {name: torch.ones_like(weights[name]) for name in names}
    settings = {"cosine": 0.92, "quantile": 0.5}
    with pytest.raises(DataError, match="no layer is private"):
        SUBSETS["memflex"].select(Gradients(tiny.model, {"forget": forget, "retain": retain}.__getitem__), settings)
    retain[names[3]] = -retain[names[3]]
    masks = SUBSETS["memflex"].select(Gradients(tiny.model, {"forget": forget, "retain": retain}.__getitem__), settings)
    assert list(masks) == [names[3]]


@pytest.mark.parametrize(("n", "depth", "layer"), [(4, 0.5, 1), (32, 0.25, 7), (4, 1.0, 3), (1, 0.1, 0)])
def test_layer_at_a_part_of_the_depth(n: int, depth: float, layer: int) -> None:
    assert find_layer(n, depth) == layer
