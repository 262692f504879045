"""Assistants: cut from the target without a copy, saved without what they share, merged as they were trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from unlearn_guard.corruptions.assistant import (
    Assistant,
    AssistantShape,
    choose_shape,
    count_flops,
    cut_trunk,
    load_assistants,
    load_trunk,
    materialise,
    own_names,
)
from unlearn_guard.guard.errors import BundleMismatchError, SettingsError

Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def target() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=60, hidden_size=16, intermediate_size=24, num_hidden_layers=4, num_attention_heads=2, pad_token_id=0
    )
    return LlamaForCausalLM(config).eval()


def read(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits[0]


def make_lora(scale: float = 1.0, **shape: Any) -> Assistant:
    torch.manual_seed(1)
    factors = {f"{Q}.lora_a": torch.randn(3, 16), f"{Q}.lora_b": scale * torch.randn(16, 3)}
    return Assistant("p1", ("p1",), AssistantShape(2, "lora", 3, 6, **shape), factors)


def test_trunk_shares_every_tensor_with_its_target(target: Any) -> None:
    trunk = cut_trunk(target, 2)
    own = dict(target.named_parameters())
    assert all(parameter.data_ptr() == own[name].data_ptr() for name, parameter in trunk.named_parameters())
    assert len(trunk.model.layers) == 2
    assert len(target.model.layers) == 4
    whole = cut_trunk(target, 4)
    assert read(whole, [1, 2, 3]).equal(read(target, [1, 2, 3]))


def test_trunk_from_a_checkpoint_is_the_same(target: Any, tmp_path: Path) -> None:
    target.save_pretrained(tmp_path)
    loaded = load_trunk(tmp_path, 2, dtype=torch.float32, device="cpu")
    assert read(loaded, [1, 2, 3]).equal(read(cut_trunk(target, 2), [1, 2, 3]))


def test_lora_is_merged_with_its_scale(target: Any) -> None:
    assistant = make_lora()
    model = materialise(assistant, cut_trunk(target, 2))
    a, b = assistant.factors()[Q]
    expected = target.get_parameter(Q) + 2.0 * b @ a
    assert model.get_parameter(Q).allclose(expected, atol=1e-6)
    assert model.get_parameter(Q).data_ptr() != target.get_parameter(Q).data_ptr()
    assert model.lm_head.weight.data_ptr() == target.lm_head.weight.data_ptr()
    zero = materialise(make_lora(0.0), cut_trunk(target, 2))
    assert read(zero, [4, 5]).equal(read(cut_trunk(target, 2), [4, 5]))


def test_whole_layers_replace_the_trunks(target: Any) -> None:
    norm = "model.norm.weight"
    assistant = Assistant("p1", ("p1",), AssistantShape(2, "layers"), {norm: torch.full((16,), 0.5)})
    model = materialise(assistant, cut_trunk(target, 2))
    assert read(model, [1, 2]).allclose(read(cut_trunk(target, 2), [1, 2]) * 0.5, atol=1e-6)
    assert target.get_parameter(norm).eq(1.0).all()


def test_saved_files_hold_its_own_tensors_alone(target: Any, tmp_path: Path) -> None:
    assistant = make_lora()
    assistant.save(tmp_path / "0000")
    (found,) = load_assistants(tmp_path).values()
    assert found.shape == assistant.shape
    assert found.forget_ids == ("p1",)
    assert set(found.tensors) == {f"{Q}.lora_a", f"{Q}.lora_b"}
    assert all(found.tensors[name].equal(tensor) for name, tensor in assistant.tensors.items())
    assert set(own_names(cut_trunk(target, 2), AssistantShape(2, "layers"))) >= {"model.norm.weight", Q}
    assert not any("embed" in name or "lm_head" in name for name in own_names(cut_trunk(target, 2), found.shape))


def test_first_trained_leaves_lower_layers_alone(target: Any) -> None:
    names = own_names(cut_trunk(target, 3), AssistantShape(3, "layers", first_trained=1))
    assert not any(name.startswith("model.layers.0.") for name in names)
    assert any(name.startswith("model.layers.1.") for name in names)


def test_an_assistant_of_another_model_is_refused(target: Any) -> None:
    strange = Assistant("p1", ("p1",), AssistantShape(2, "layers"), {"model.norm.weight": torch.ones(17)})
    with pytest.raises(BundleMismatchError, match=r"model.norm.weight is \(17,\) there and \(16,\) here"):
        materialise(strange, cut_trunk(target, 2))
    wide = {f"{Q}.lora_a": torch.ones(3, 20), f"{Q}.lora_b": torch.ones(16, 3)}
    with pytest.raises(BundleMismatchError, match="made for another model"):
        materialise(Assistant("p1", (), AssistantShape(2, "lora", 3), wide), cut_trunk(target, 2))


def test_shape_follows_paper_and_size(target: Any) -> None:
    config = target.config
    assert choose_shape(config) == AssistantShape(2, "layers", 32, 32)
    big = type(config)(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32)
    assert choose_shape(big) == AssistantShape(8, "lora", 32, 32)
    assert choose_shape(big).scale == 1.0
    for values in ({"n_layers": 5}, {"n_layers": 0}, {"trainable": "all"}, {"rank": 0}, {"first_trained": 2}):
        with pytest.raises(SettingsError):
            choose_shape(config, **values)


def test_flops_by_hand(target: Any) -> None:
    """Per layer 4·16² + 3·16·24 = 2,176; head 16·60 = 960; LoRA of rank 3: 3·(4·32 + 3·40) = 744."""
    assert count_flops(target.config, None) == 4 * 2176 + 960
    assert count_flops(target.config, AssistantShape(2, "layers")) == 2 * 2176 + 960
    assert count_flops(target.config, AssistantShape(2, "lora", 3)) == 2 * (2176 + 744) + 960
