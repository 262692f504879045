"""Every method of the catalogue edits a copy; what surrounds the training does what its paper says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from unlearn_guard.benchmarks.editing import procedures
from unlearn_guard.benchmarks.editing.catalogue import list_methods, load_method
from unlearn_guard.benchmarks.editing.procedures import PROCEDURES, edit_weights
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


def test_task_vector_by_hand(tiny: Any, rows: Any) -> None:
    method = EditingMethod("learn", learning_rate=1e-3, epochs=1)
    before, learned = weights(tiny), weights(edit_weights(tiny, method, *rows))
    edited = weights(edit_weights(tiny, replace(method, procedure="negate", settings={"scale": 2.0}), *rows))
    for name, weight in before.items():
        assert torch.allclose(edited[name], weight - 2.0 * (learned[name] - weight), atol=1e-6)


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


def test_a_model_without_experts_is_an_error(tiny: Any, rows: Any) -> None:
    with pytest.raises(SettingsError, match="mixture of experts"):
        edit_weights(tiny, load_method("uoe").to_method(), *rows)
