"""Edits in a Hugging Face model: of flagged texts, or of every text, and of nothing once the model is left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from unlearn_guard.corruptions.mlp_edit import AblationTable, AdjustTable
from unlearn_guard.corruptions.neurons import Moments
from unlearn_guard.guard.stamp import Stamp, Step
from unlearn_guard.serving.transformers.neurons import NeuronHooks

WIDTH = 24
IDS = torch.tensor([[0, 0, 5, 6, 7], [8, 9, 10, 11, 12]])
PADDED = IDS != 0
SPANS = [(2, 0), (0, 0)]


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, **shape)).eval()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tables() -> dict[str, AdjustTable | AblationTable]:
    chosen = np.ones((2, WIDTH), np.bool_)

    def spread(mean: float) -> Moments:
        return Moments(9, np.full((2, WIDTH), mean), np.full((2, WIDTH), 1.0))

    return {
        "neuron-adjust/a": AdjustTable(chosen, spread(0.2), spread(-3.0)),
        "concept-ablation/b": AblationTable(chosen),
    }


def run(model: Any, hooks: NeuronHooks, flagged: str = "") -> torch.Tensor:
    """Return the logits of two texts; the second is flagged for a table where one is named."""
    stamp = Stamp("", (), 0, 0, (Step("neurons", (), {"tables": [flagged]}),)) if flagged else None
    with torch.inference_mode(), hooks.acting([None, stamp], SPANS, IDS.shape[1]):
        return model(IDS, attention_mask=PADDED).logits  # type: ignore[no-any-return]


def leave_alone(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(IDS, attention_mask=PADDED).logits  # type: ignore[no-any-return]


def test_flagged_texts_alone_change(model: Any, tables: Any) -> None:
    hooks, plain = NeuronHooks(model, tables), leave_alone(model)
    assert torch.equal(run(model, hooks), plain)
    for name in tables:
        found = run(model, hooks, name)
        assert torch.equal(found[0], plain[0])
        assert not torch.allclose(found[1], plain[1])
    assert torch.equal(leave_alone(model), plain)


def test_what_is_always_on_changes_every_text(model: Any, tables: Any) -> None:
    hooks, plain = NeuronHooks(model, tables, always_on=["neuron-adjust/a"]), leave_alone(model)
    found = run(model, hooks)
    assert not torch.allclose(found[0, 2:], plain[0, 2:])
    assert torch.equal(found[1], run(model, NeuronHooks(model, tables), "neuron-adjust/a")[1])
    assert torch.equal(run(model, hooks, "neuron-adjust/a"), found)  # Once, not twice.
    assert not torch.allclose(run(model, hooks, "concept-ablation/b")[1], found[1])  # Beside it.
    assert torch.equal(leave_alone(model), plain)
