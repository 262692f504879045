"""The pool of assistants against the model library's own forward pass, without an engine."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unlearn_guard.corruptions.assistant import Assistant, AssistantShape, cut_trunk, materialise
from unlearn_guard.guard.errors import BundleError, EngineError

pytestmark = pytest.mark.vllm

MODELS = {
    "llama": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "mistral": {"num_key_value_heads": 4, "sliding_window": 6},
}


def make_target(kind: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=60,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=256,
        pad_token_id=0,
        **MODELS[kind],
    )
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="module", params=list(MODELS))
def target(request: pytest.FixtureRequest) -> Any:
    return make_target(request.param)


def make_assistants(target: Any, trainable: str) -> dict[str, Assistant]:
    """Three assistants whose tensors differ."""
    from unlearn_guard.corruptions.assistant import find_linears, own_names

    shape = AssistantShape(2, trainable, 4, 8)  # type: ignore[arg-type]
    trunk = cut_trunk(target, 2)
    found = {}
    for number, name in enumerate(("a", "b", "c")):
        torch.manual_seed(number)
        if trainable == "layers":
            tensors = {
                own: trunk.get_parameter(own) + 0.1 * torch.randn(trunk.get_parameter(own).shape)
                for own in own_names(trunk, shape)
            }
        else:
            tensors = {}
            for linear, module in find_linears(trunk, 0, 2).items():
                tensors[f"{linear}.weight.lora_a"] = 0.2 * torch.randn(4, module.in_features)
                tensors[f"{linear}.weight.lora_b"] = 0.2 * torch.randn(module.out_features, 4)
        found[name] = Assistant(name, (name,), shape, tensors)
    return found


def open_chorus(target: Any, assistants: dict[str, Assistant], **options: Any) -> Any:
    from unlearn_guard.serving.vllm.assistants import Chorus

    given = {"n_tokens": 512, "max_length": 64, "device": torch.device("cpu"), **options}
    return Chorus.of(cut_trunk(target, 2), assistants, **given)


def read_alone(target: Any, assistant: Assistant, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return materialise(assistant, cut_trunk(target, 2))(input_ids=torch.tensor([ids])).logits[0, -1]


class Request:
    """A request that grows."""

    def __init__(self, chorus: Any, assistant: str, ids: list[int]) -> None:
        self.assistant, self.ids = assistant, ids
        self.context = chorus.open(assistant, lambda start: self.ids[start:])


@pytest.mark.parametrize("trainable", ["layers", "lora"])
@pytest.mark.parametrize("n_assistants", [1, 3])
def test_packed_passes_equal_the_library(target: Any, trainable: str, n_assistants: int) -> None:
    """Prompts of different lengths, then tokens one by one, requests that join late, in every mixture."""
    assistants = dict(list(make_assistants(target, trainable).items())[:n_assistants])
    chorus = open_chorus(target, assistants)
    names = list(assistants)
    torch.manual_seed(7)
    requests = [
        Request(chorus, names[number % n_assistants], torch.randint(1, 60, (length,)).tolist())
        for number, length in enumerate((5, 17, 1, 9))
    ]
    for step in range(12):
        if step == 4:
            requests.append(Request(chorus, names[-1], torch.randint(1, 60, (20,)).tolist()))
        if step == 8:
            chorus.close(requests.pop(1).context)
        found = chorus.listen([request.context for request in requests])
        for request, logits in zip(requests, found, strict=True):
            expected = read_alone(target, assistants[request.assistant], request.ids)
            assert logits.allclose(expected, atol=2e-4), (step, request.assistant)
            request.ids.append(int(torch.randint(1, 60, (1,))))


def test_the_same_place_can_be_asked_for_again() -> None:
    """A prompt that is prefilled in chunks is asked about at every chunk."""
    target = make_target("llama")
    assistants = make_assistants(target, "layers")
    chorus = open_chorus(target, assistants)
    request = Request(chorus, "b", list(range(1, 20)))
    first, second = (chorus.listen([request.context])[0] for _ in range(2))
    assert first.allclose(second, atol=1e-5)
    assert request.context.length == 19


def test_long_prompts_are_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pass reads more than PASS new tokens, and what is said is the same."""
    from unlearn_guard.serving.vllm import assistants as module

    target = make_target("llama")
    assistants = make_assistants(target, "layers")
    chorus = open_chorus(target, assistants)
    widths = []
    forward = chorus.model.forward
    monkeypatch.setattr(module, "PASS", 8)
    monkeypatch.setattr(
        chorus.model,
        "forward",
        lambda **inputs: (widths.append(inputs["input_ids"].shape[1]), forward(**inputs))[1],
    )
    torch.manual_seed(5)
    requests = [Request(chorus, name, torch.randint(1, 60, (30,)).tolist()) for name in ("a", "b", "c")]
    found = chorus.listen([request.context for request in requests])
    for request, logits in zip(requests, found, strict=True):
        assert logits.allclose(read_alone(target, assistants[request.assistant], request.ids), atol=2e-4)
    assert max(widths) <= 8
    requests[0].ids[20:] = []  # An engine that takes tokens back.
    (logits,) = chorus.listen([requests[0].context])
    assert logits.allclose(read_alone(target, assistants["a"], requests[0].ids), atol=2e-4)


def test_a_small_pool_makes_room_and_reads_again() -> None:
    """More contexts than the pool holds: in parts, and those that had to go are read anew."""
    target = make_target("llama")
    assistants = make_assistants(target, "layers")
    chorus = open_chorus(target, assistants, n_tokens=1, max_length=40)
    torch.manual_seed(3)
    requests = [
        Request(chorus, name, torch.randint(1, 60, (length,)).tolist())
        for name, length in (("a", 30), ("b", 33), ("c", 12), ("a", 20))
    ]
    for _ in range(6):
        found = chorus.listen([request.context for request in requests])
        for request, logits in zip(requests, found, strict=True):
            assert logits.allclose(read_alone(target, assistants[request.assistant], request.ids), atol=2e-4)
            request.ids.append(int(torch.randint(1, 60, (1,))))
    for request in requests:
        chorus.close(request.context)
    assert sorted(chorus._free) == list(range(chorus.keys.shape[1] // 16))
    chorus.listen([Request(chorus, "a", [5] * 48).context])
    with pytest.raises(EngineError, match="longer than the assistants' pool"):
        chorus.listen([Request(chorus, "a", [5] * 70).context])


def test_placeholders_are_an_error() -> None:
    target = make_target("llama")
    chorus = open_chorus(target, make_assistants(target, "layers"))
    with pytest.raises(EngineError, match="placeholder"):
        chorus.listen([Request(chorus, "a", [3, 4, -1]).context])


def test_shapes_must_agree() -> None:
    from dataclasses import replace

    target = make_target("llama")
    assistants = make_assistants(target, "layers")
    assistants["b"] = replace(assistants["b"], shape=AssistantShape(1, "layers"))
    with pytest.raises(BundleError, match="different shapes"):
        open_chorus(target, assistants)


def test_need_is_what_is_taken_and_a_budget_is_kept() -> None:
    from unlearn_guard.serving.vllm.assistants import check_budget, measure_need

    target = make_target("llama")
    assistants = list(make_assistants(target, "lora").values())
    options = {"n_tokens": 500, "max_length": 64, "dtype": torch.bfloat16}
    need = measure_need(target.config, 2, assistants, **options)
    trunk = sum(parameter.numel() for parameter in cut_trunk(target, 2).parameters())
    own = sum(tensor.numel() for one in assistants for tensor in one.tensors.values())
    assert (need.trunk, need.own) == (2 * trunk, 2 * own)
    assert need.pool == 2 * 2 * 2 * 512 * 2 * 8, "whole blocks"
    assert need.work > 2 * 64 * 3 * 48
    merged = measure_need(target.config, 2, assistants[:1], **options)
    linears = sum(target.get_parameter(name).numel() for name in assistants[0].factors())
    assert merged.own == 2 * (own // 3 + linears)
    check_budget(need, need.total, 512)
    with pytest.raises(EngineError, match=r"assistants need [\d.]+ MiB .* pool of 512 tokens .* may take 0\.0"):
        check_budget(need, 1, 512)
