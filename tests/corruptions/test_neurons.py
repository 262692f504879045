"""Statistics, choice and shift of skill neurons."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from unlearn_guard.corruptions.gated_mlp import find_gated_mlps
from unlearn_guard.corruptions.neurons import (
    Moments,
    MomentStream,
    NeuronStatistics,
    Normals,
    Peaks,
    Text,
    choose_highest,
    measure_keys,
    measure_neurons,
    rank_neurons,
    select_neurons,
    shift_by_coin,
    shift_posterior,
    toss_coins,
)
from unlearn_guard.guard.errors import DataError, SettingsError

SHAPE = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()


@pytest.fixture(scope="module")
def texts() -> list[Text]:
    generator = torch.Generator().manual_seed(1)
    lengths = [3 + number % 7 for number in range(25)]
    return [Text(tuple(torch.randint(1, 50, (length,), generator=generator).tolist()), 1, length) for length in lengths]


def make_statistics(
    gate: list[float], key: list[float], spread: list[float], peaks: tuple[list[float], list[float]] | None = None
) -> NeuronStatistics:
    variance = np.array([spread]) ** 2
    found = Peaks(*(np.array([values]) for values in peaks or (key, key)))
    return NeuronStatistics(Moments(9, np.array([gate]), variance), Moments(9, np.array([key]), variance), found)


def test_stream_equals_the_whole() -> None:
    rows = torch.randn(101, 5, dtype=torch.float64) * 3 + 1e4
    stream = MomentStream(5)
    for start in range(0, 101, 17):
        stream.update(rows[start : start + 17])
    assert stream.n == 101
    assert torch.allclose(stream.mean, rows.mean(0), atol=1e-9)
    assert torch.allclose(stream.variance, rows.var(0, unbiased=False), rtol=1e-9)


def test_statistics_are_of_the_counted_tokens_alone(model: LlamaForCausalLM, texts: list[Text]) -> None:
    """Padding and positions outside of a text's range do not count."""
    found = measure_neurons(model, texts, what="test")
    gates, keys = [], []
    mlp = model.model.layers[1].mlp
    handle = mlp.register_forward_hook(lambda module, args, output: gates.append(args[0]))
    for text in texts:
        with torch.no_grad():
            model(torch.tensor([text.ids]))
        states = gates.pop()[0, text.start : text.stop]
        gates_of = mlp.gate_proj(states)
        keys.append((gates_of, mlp.act_fn(gates_of) * mlp.up_proj(states)))
    handle.remove()
    for place, moments in ((0, found.gate), (1, found.key)):
        whole = torch.cat([pair[place] for pair in keys]).double().detach()
        assert moments.n == len(whole)
        assert moments.mean[1] == pytest.approx(whole.mean(0).numpy(), abs=1e-6)
        assert moments.variance[1] == pytest.approx(whole.var(0, unbiased=False).numpy(), abs=1e-6)


def test_peaks_are_of_whole_texts_and_padding_has_none(model: LlamaForCausalLM, texts: list[Text]) -> None:
    """Each text counts once, whatever its length, prompt included; what follows the counted tokens does not."""
    cut = [Text(text.ids, text.start, len(text.ids) - 1) for text in texts]
    found = measure_neurons(model, cut, what="test").peaks
    seen: list[torch.Tensor] = []
    handle = model.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    peaks = []
    for text in cut:
        with torch.no_grad():
            model(torch.tensor([text.ids]))
        peaks.append((seen.pop()[0, : text.stop] ** 2).amax(0).double())
    handle.remove()
    whole = torch.stack(peaks)
    assert found.mean[1] == pytest.approx(whole.mean(0).numpy(), rel=1e-4)
    assert found.norm[1] == pytest.approx((whole**4).mean(0).pow(0.25).numpy(), rel=1e-4)


def test_keys_are_those_of_each_prompts_last_token(model: LlamaForCausalLM, texts: list[Text]) -> None:
    prompts = [text.ids for text in texts]
    found = measure_keys(model, prompts, [1])
    seen: list[torch.Tensor] = []
    handle = model.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        model(torch.tensor([prompts[3]]))
    handle.remove()
    assert torch.allclose(found[1][3], seen[0][0, -1], atol=1e-5)


def test_too_few_texts_and_broken_activations_are_errors(model: LlamaForCausalLM, texts: list[Text]) -> None:
    with pytest.raises(DataError, match="too few skill texts"):
        measure_neurons(model, texts[:5], what="skill")
    broken = LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()
    with torch.no_grad():
        broken.model.layers[0].mlp.gate_proj.weight[0, 0] = float("nan")
    with pytest.raises(DataError, match="not finite"):
        measure_neurons(broken, texts, what="skill")


def test_a_model_without_gated_mlps_is_an_error(texts: list[Text]) -> None:
    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2)
    with pytest.raises(DataError, match="gated MLP"):
        measure_neurons(GPT2LMHeadModel(config), texts, what="skill")


def test_gated_mlps_are_found_by_layer(model: LlamaForCausalLM) -> None:
    found = find_gated_mlps(model)
    assert [(mlp.layer, mlp.width, mlp.first, mlp.n_neurons) for mlp in found] == [(0, 24, 0, 24), (1, 24, 0, 24)]


def test_scores_by_hand() -> None:
    forget = make_statistics([2.0, 1.0, 0.0, 5.0], [3.0, 1.0, 0.0, 1.0], [1.0, 0.1, 1.0, 0.0])
    retain = make_statistics([0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 2.0, 1.0], [1.0, 0.1, 1.0, 1.0])
    assert rank_neurons(forget, retain, "gap").tolist() == [[2.0, 1.0, -1.0, -np.inf]]
    contrast = rank_neurons(forget, retain, "contrast")[0]
    assert contrast[:2] == pytest.approx([2.0, 10.0])
    energy = rank_neurons(forget, retain, "energy")[0]
    floor = 0.03 * np.mean([2.0, 1.01, 5.0, 2.0])
    assert energy[:3] == pytest.approx([10 / (2 + floor), 1.01 / (1.01 + floor), 1 / (5 + floor)])
    forget = make_statistics([1.0] * 2, [1.0] * 2, [1.0] * 2, ([4.0, 4.0], [9.0, 9.0]))
    retain = make_statistics([0.0] * 2, [1.0] * 2, [1.0] * 2, ([1.0, 1.0], [1.0, 8.0]))
    assert rank_neurons(forget, retain, "peak")[0] == pytest.approx([4 / 1.1, 4 / 8.1])
    with pytest.raises(SettingsError, match="energy"):
        rank_neurons(forget, retain, "size")  # type: ignore[arg-type]


def test_share_is_of_all_layers_together_and_constant_neurons_are_never_chosen() -> None:
    forget = make_statistics([2.0, 1.0, 0.0, 5.0], [1.0] * 4, [1.0, 0.1, 1.0, 0.0])
    retain = make_statistics([0.0] * 4, [1.0] * 4, [1.0] * 4)
    assert select_neurons(forget, retain, 0.5, "gap").tolist() == [[True, True, False, False]]
    with pytest.raises(SettingsError, match="share"):
        select_neurons(forget, retain, 0.7, "gap")
    with pytest.raises(DataError, match="not constant"):
        choose_highest(rank_neurons(forget, retain, "gap"), 4)


def mirror_by_hand(value: float, forget: tuple[float, float], retain: tuple[float, float]) -> tuple[float, float]:
    """Return v' and p_f / (p_f + p_r) of the paper (§3.1), from densities."""

    def density(mean: float, std: float) -> float:
        return math.exp(-0.5 * ((value - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))

    own, other = density(*forget), density(*retain)
    return retain[0] - (value - forget[0]) / forget[1] * retain[1], own / (own + other)


@pytest.mark.parametrize("value", [-2.0, 0.4, 1.1, 2.5, 7.0])
def test_shift_by_hand(value: float) -> None:
    forget, retain = (2.0, 0.5), (0.0, 1.5)
    normals = Normals(*(torch.tensor([number]) for number in (*forget, *retain)))
    mirrored, weight = mirror_by_hand(value, forget, retain)
    expected = value + weight * (mirrored - value) if weight >= 0.5 else value
    assert shift_posterior(torch.tensor([[value]]), normals).item() == pytest.approx(expected, rel=1e-4)
    for coin in (0.1, 0.7, 0.99):
        tossed = mirrored if weight >= 0.5 and coin < weight else value
        found = shift_by_coin(torch.tensor([[value]]), normals, torch.tensor([[coin]]))
        assert found.item() == pytest.approx(tossed, rel=1e-4)


def test_far_values_stay_finite() -> None:
    normals = Normals(*(torch.tensor([number]) for number in (2.0, 0.01, 0.0, 0.01)))
    assert torch.isfinite(shift_posterior(torch.tensor([[1e4], [-1e4]]), normals)).all()


def test_coins_are_even_and_depend_on_nothing_but_their_place() -> None:
    positions, neurons = torch.arange(200), torch.arange(300)
    coins = toss_coins(7, 3, positions, neurons)
    assert coins.mean().item() == pytest.approx(0.5, abs=0.01)
    assert coins.var().item() == pytest.approx(1 / 12, abs=0.002)
    assert torch.equal(toss_coins(7, 3, positions[50:60], neurons[20:]), coins[50:60, 20:])
    assert not torch.equal(toss_coins(8, 3, positions, neurons), coins)
    assert abs(torch.corrcoef(torch.stack([coins[0], coins[1]]))[0, 1].item()) < 0.2
