"""Every method of the catalogue edits a copy; what surrounds the training does what its paper says."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unlearn_guard.benchmarks.editing import procedures
from unlearn_guard.benchmarks.editing.catalogue import list_methods, load_method
from unlearn_guard.benchmarks.editing.procedures import PROCEDURES, edit_weights
from unlearn_guard.benchmarks.editing.sharding import ShardedModel
from unlearn_guard.benchmarks.editing.trainer import DivergedError, EditingMethod, Trainer
from unlearn_guard.guard.errors import DataError, SettingsError, UnknownNameError


def weights(engine: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in engine.model.named_parameters()}


@pytest.mark.parametrize("name", list_methods())
def test_every_method_edits_a_copy(tiny: Any, tiny_mixture: Any, rows: Any, name: str) -> None:
    tiny = tiny_mixture if name == "uoe" else tiny
    before = weights(tiny)
    edited = edit_weights(tiny, replace(load_method(name).to_method(seed=3), epochs=1), *rows)
    after = weights(edited)
    assert set(after) == set(before)
    assert all(torch.isfinite(weight).all() for weight in after.values())
    assert any(not torch.equal(after[key], before[key]) for key in before)
    assert all(torch.equal(old, new) for old, new in zip(before.values(), weights(tiny).values(), strict=True))
    assert not any(weight.requires_grad for weight in edited.model.parameters())


@pytest.mark.parametrize("name", ["npo", "altpo", "relearn", "loku", "upcore"])
def test_an_edit_is_a_function_of_its_seed(tiny: Any, rows: Any, name: str) -> None:
    method = replace(load_method(name).to_method(seed=1), epochs=1)
    first, again, other = (
        weights(edit_weights(tiny, each, *rows)) for each in (method, method, replace(method, seed=2))
    )
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_ascent_makes_the_answers_less_likely_and_descent_more(tiny: Any, rows: Any) -> None:
    def measure(engine: Any, which: int) -> float:
        trainer = Trainer(engine, EditingMethod("ga"), *rows)
        with torch.no_grad():
            return float(trainer.run(engine.model, (trainer.forget_pairs, trainer.retain_pairs)[which]).nll.mean())

    edited = edit_weights(tiny, EditingMethod("ga", "nll", learning_rate=1e-3, epochs=4), *rows)
    assert measure(edited, 0) > measure(tiny, 0)
    assert measure(edited, 1) < measure(tiny, 1)


def test_shards_are_edited_as_any_model_is(tiny: Any, rows: Any) -> None:
    """Relearning trains what S3T gives: a model of several, that has no type of its own."""
    mixture = type(tiny)(ShardedModel([copy.deepcopy(tiny.model), copy.deepcopy(tiny.model)]), tiny.tokenizer)
    edited = edit_weights(mixture, EditingMethod("learn", learning_rate=1e-3, epochs=1), rows[0], [])
    assert any(not torch.equal(old, new) for old, new in zip(weights(mixture).values(), weights(edited).values(), strict=True))  # fmt: skip


def test_task_vector_by_hand(tiny: Any, rows: Any) -> None:
    method = EditingMethod("learn", learning_rate=1e-3, epochs=1)
    before, learned = weights(tiny), weights(edit_weights(tiny, method, *rows))
    edited = weights(edit_weights(tiny, replace(method, procedure="negate", settings={"scale": 2.0}), *rows))
    for name, weight in before.items():
        assert torch.allclose(edited[name], weight - 2.0 * (learned[name] - weight), atol=1e-6)


def test_a_pass_predicts_answers_and_as_little_else_as_it_can(tiny: Any, rows: Any) -> None:
    trainer = Trainer(tiny, EditingMethod("learn"), *rows)
    pairs = sorted(trainer.forget_pairs, key=lambda pair: len(pair.prompt))[:: len(trainer.forget_pairs) - 1]
    seen = trainer.run(tiny.model, pairs)
    first, width = len(pairs[0].prompt), max(len(pair.prompt) + len(pair.answer) for pair in pairs)
    assert seen.logits.shape[:2] == seen.labels.shape == seen.counted.shape == (2, width - first)
    for row, pair in enumerate(pairs):
        assert tuple(seen.labels[row][seen.counted[row]].tolist()) == pair.answer
        (alone,) = tiny.score([pair.prompt], [pair.answer], [None])
        assert torch.allclose(seen.logprobs[row][seen.counted[row]], torch.from_numpy(alone.logprobs), atol=1e-4)


def test_generic_labels_of_a_model_that_learned_nothing_are_its_own_choice(
    tiny: Any, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    method = EditingMethod("learn", procedure="generic-labels", settings={"reinforce_epochs": 0.0}, epochs=1)
    trainer = Trainer(tiny, method, *rows)
    first = trainer.forget_pairs[0]
    monkeypatch.setattr(trainer, "train", lambda model, masks, method=None: seen.append(model) or model)
    PROCEDURES["generic-labels"].run(trainer, {"alpha": 5.0, "reinforce_epochs": 0.0})
    ids = torch.tensor([[*first.prompt, *first.answer]])
    expected = tiny.model(ids).logits[0, len(first.prompt) - 1 : -1].argmax(-1).tolist()
    assert list(trainer.forget_pairs[0].labels) == expected
    assert len(seen) == 2


def test_generic_labels_damp_what_was_reinforced(tiny: Any, rows: Any) -> None:
    """A token that reinforcement makes much likelier is not the label."""
    method = EditingMethod(
        "learn", procedure="generic-labels", learning_rate=1e-2, epochs=1, settings={"reinforce_epochs": 8.0}
    )
    trainer = Trainer(tiny, method, *rows)
    PROCEDURES["generic-labels"].run(trainer, {"alpha": 5.0, "reinforce_epochs": 8.0})
    same = [a == b for pair in trainer.forget_pairs for a, b in zip(pair.labels, pair.answer, strict=True)]
    assert sum(same) < 0.2 * len(same)


def test_outliers_are_left_out(tiny: Any, rows: Any) -> None:
    method = replace(load_method("upcore").to_method(), epochs=1)
    trainer = Trainer(tiny, method, *rows)
    PROCEDURES["prune-rows"].run(trainer, {"contamination": 0.1})
    assert len(trainer.forget_pairs) == len(trainer.forget_rows) == 18


def test_the_row_that_is_unlike_the_others_is_left_out(tiny: Any, rows: Any) -> None:
    strange = replace(rows[0][0], prompt="metres deep lake It is How deep is lake metres", answer="In Graz.")
    trainer = Trainer(tiny, replace(load_method("upcore").to_method(), epochs=1), [*rows[0][1:], strange], rows[1])
    PROCEDURES["prune-rows"].run(trainer, {"contamination": 0.05})
    assert strange not in trainer.forget_rows
    assert len(trainer.forget_rows) == 19


def test_an_edit_in_bfloat16_goes_where_one_in_float32_goes(tiny: Any, rows: Any) -> None:
    method = EditingMethod("ga", learning_rate=1e-4, epochs=1)
    half = type(tiny)(copy.deepcopy(tiny.model).to(torch.bfloat16), tiny.tokenizer)
    before, exact, rough = (
        weights(tiny),
        weights(edit_weights(tiny, method, *rows)),
        weights(edit_weights(half, method, *rows)),
    )
    name = "model.layers.0.mlp.gate_proj.weight"
    assert rough[name].dtype == torch.bfloat16
    moved, wanted = rough[name].float() - before[name], exact[name] - before[name]
    # Rounding to eight bits at the end loses the small steps of single weights, not the direction of all.
    assert torch.cosine_similarity(moved.flatten(), wanted.flatten(), dim=0) > 0.5
    assert torch.allclose(rough[name].float(), exact[name].to(torch.bfloat16).float(), atol=2e-3)


def test_adapters_begin_where_the_forget_set_matters(tiny: Any, rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: of W = diag(1, 2), rows weighed by √(F_f / F_r) = (4, 1), the larger singular value of D·W is the first row's."""
    shape = dict(tiny.model.named_parameters())["model.layers.0.self_attn.q_proj.weight"].shape
    weight = torch.zeros(shape)
    weight[0, 0], weight[1, 1] = 1.0, 2.0
    ratio = torch.zeros(shape)
    ratio[0, 0], ratio[1, 0] = 16.0, 1.0
    layer = SimpleNamespace(
        base_layer=SimpleNamespace(weight=weight.clone()),
        lora_A={"default": SimpleNamespace(weight=torch.zeros(1, shape[1]))},
        lora_B={"default": SimpleNamespace(weight=torch.zeros(shape[0], 1))},
    )
    measured = iter([{"x": ratio}, {"x": torch.ones(shape) - 1e-5}])
    monkeypatch.setattr(procedures, "_measure_fisher", lambda trainer, pairs: next(measured))
    monkeypatch.setattr(procedures, "_train_adapters", lambda trainer, masks, start: start("x", layer, 1, 2.0))
    PROCEDURES["fila"].run(Trainer(tiny, load_method("loku").to_method(), *rows), {})
    taken = 2.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    expected = torch.zeros(shape)
    expected[0, 0] = 1.0
    assert torch.allclose(taken, expected, atol=1e-5)
    assert torch.allclose(layer.base_layer.weight + taken, weight, atol=1e-5)


def test_adapters_that_begin_at_the_weights_change_nothing_before_training(tiny: Any, rows: Any) -> None:
    method = replace(load_method("loku").to_method(), epochs=1, learning_rate=1e-12, settings={"rank": 4, "alpha": 8})
    before, after = weights(tiny), weights(edit_weights(tiny, method, *rows))
    for name, weight in before.items():
        assert torch.allclose(after[name], weight, atol=1e-5)


def test_low_rank_adapters_change_by_low_rank(tiny: Any, rows: Any) -> None:
    method = EditingMethod("ga", subset="lora", settings={"rank": 3, "alpha": 6}, learning_rate=1e-2, epochs=2)
    before, after = weights(tiny), weights(edit_weights(tiny, method, *rows))
    name = "model.layers.0.mlp.gate_proj.weight"
    values = torch.linalg.svdvals(after[name] - before[name])
    assert float(values[2]) > 1e-4
    assert float(values[3]) < 1e-6
    assert torch.equal(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"])


def test_divergence_is_an_error_of_its_own(tiny: Any, rows: Any) -> None:
    with pytest.raises(DivergedError):
        edit_weights(tiny, EditingMethod("ga", learning_rate=1e30, epochs=3), *rows)


@pytest.mark.parametrize(
    ("method", "kind", "said"),
    [
        (EditingMethod("npoo"), UnknownNameError, "npo"),
        (EditingMethod("ga", "nil"), UnknownNameError, "nll"),
        (EditingMethod("ga", subset="some"), UnknownNameError, "trainable subset.*salun"),
        (EditingMethod("ga", procedure="negat"), UnknownNameError, "negate"),
        (EditingMethod("dpo"), UnknownNameError, "other answers.*unknown"),
        (EditingMethod("npo", settings={"gamma": 1.0}), SettingsError, "'gamma' — allowed: beta, depth"),
        (EditingMethod("learn", subset="lora", procedure="negate"), SettingsError, "'lora' — allowed: all"),
        (EditingMethod("ihl", procedure="fila"), SettingsError, "'all' — allowed: lora, memflex"),
    ],
)
def test_wrong_names_are_found_before_anything_is_trained(
    tiny: Any, rows: Any, method: EditingMethod, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        edit_weights(tiny, method, *rows)


def test_no_rows_are_an_error(tiny: Any, rows: Any) -> None:
    with pytest.raises(DataError, match="no row to forget"):
        edit_weights(tiny, EditingMethod("ga"), [], rows[1])
    with pytest.raises(DataError, match="no row to keep"):
        edit_weights(tiny, EditingMethod("ga", "nll"), rows[0], [])


def test_one_expert_alone_and_its_router_are_trained(tiny_mixture: Any, rows: Any) -> None:
    """The expert that reads the forget set most; the router turns to it."""
    method = EditingMethod("npo", "nll", procedure="one-expert", learning_rate=1e-2, epochs=3)
    before, after = weights(tiny_mixture), weights(edit_weights(tiny_mixture, method, *rows))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    (router,) = [name for name in changed if name.endswith(".mlp.gate.weight")]
    layer = router.removesuffix("gate.weight")
    assert changed == {router, f"{layer}experts.gate_up_proj", f"{layer}experts.down_proj"}
    moved = (before[f"{layer}experts.down_proj"] != after[f"{layer}experts.down_proj"]).flatten(1).any(1)
    (expert,) = moved.nonzero().flatten().tolist()
    trainer = Trainer(tiny_mixture, method, *rows)
    routers = {name: part for name, part in tiny_mixture.model.named_modules() if name.endswith(".mlp.gate")}
    shares = procedures._measure_shares(trainer, tiny_mixture.model, routers)
    assert all(own.sum() == pytest.approx(1.0, abs=1e-5) for own in shares.values())
    assert max(float(own.max()) for own in shares.values()) == float(shares[router.removesuffix(".weight")][expert])
    edited = edit_weights(tiny_mixture, method, *rows)
    turned = {name: part for name, part in edited.model.named_modules() if name.endswith(".mlp.gate")}
    later = procedures._measure_shares(Trainer(edited, method, *rows), edited.model, turned)
    name = router.removesuffix(".weight")
    assert float(later[name][expert]) > float(shares[name][expert])


def test_the_anchor_is_the_distance_of_the_routers_shares_from_its_expert(
    tiny_mixture: Any, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = EditingMethod("npo", "nll", procedure="one-expert", learning_rate=1e-3, epochs=1)
    trainer = Trainer(tiny_mixture, method, *rows)
    routers = {name: part for name, part in tiny_mixture.model.named_modules() if name.endswith(".mlp.gate")}
    shares = procedures._measure_shares(trainer, tiny_mixture.model, routers)
    name, expert = max(
        ((name, place) for name, own in shares.items() for place in range(len(own))),
        key=lambda entry: float(shares[entry[0]][entry[1]]),
    )
    found: list[float] = []

    def train(model: Any, masks: Any, *, anchor: Any) -> Any:
        trainer.run(model, trainer.forget_pairs[:1])
        found.append(float(anchor()))
        return model

    monkeypatch.setattr(trainer, "train", train)
    PROCEDURES["one-expert"].run(trainer, {"anchor": 2.0})
    read: list[torch.Tensor] = []
    hook = routers[name].register_forward_hook(lambda module, inputs, out: read.append(out[0].float().softmax(-1)))
    trainer.run(tiny_mixture.model, trainer.forget_pairs[:1])
    hook.remove()
    # Σ_e (G_e − [e = e*])² = (1 − G_e*)² + Σ_others G_e², mean over tokens, times its weight.
    own = read[0][:, expert]
    others = (read[0] ** 2).sum(-1) - own**2
    assert found == [pytest.approx(2.0 * float(((1 - own) ** 2 + others).mean()), rel=1e-4)]


def test_a_model_without_experts_is_an_error(tiny: Any, rows: Any) -> None:
    with pytest.raises(SettingsError, match="mixture of experts"):
        edit_weights(tiny, load_method("uoe").to_method(), *rows)


def test_a_generic_label_is_not_what_reinforcement_made_likelier() -> None:
    plain = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    strong = torch.tensor([[3.5, 1.0, 1.0], [3.1, 1.0, 9.0]])
    # 3 − 5 · .5 = .5 below 2; 3 − 5 · .1 = 2.5 above 2; what became less likely is left as it was.
    assert procedures.find_generic(plain, strong, 5.0).tolist() == [1, 0]
