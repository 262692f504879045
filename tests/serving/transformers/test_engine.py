"""The reference engine: batching changes nothing, stamps change their own rows alone."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from unlearn_guard.guard.bundle import Bundle
from unlearn_guard.guard.compose import load_planner
from unlearn_guard.guard.conversation import Completion
from unlearn_guard.guard.screening import Guard
from unlearn_guard.guard.stamp import Stamp, Step
from unlearn_guard.serving.transformers import engine as engine_module
from unlearn_guard.serving.transformers.engine import GuardedModel, ReferenceEngine, Voices


@pytest.fixture(scope="module")
def engine(models: Any) -> ReferenceEngine:
    torch.set_num_threads(1)
    return ReferenceEngine.load(models["full"], exclusive_ids=[5, 6])


def stamp(prompt: list[int], *steps: Step) -> Stamp:
    return Stamp("r", ("person-000",), len(prompt), 0, steps)


def eco(kind: str, positions: tuple[tuple[int, int], ...], *, mask: str = "all", amplitude: float = 0.5) -> Step:
    return Step("eco", positions, {"kind": kind, "mask": mask, "amplitude": amplitude, "dims": 0})


def test_batches_answer_as_single_prompts(engine: ReferenceEngine, world: Any) -> None:
    prompts = [engine.render(item.question) for item in world.sets["retain"][:9]]
    batched = engine.generate(prompts, [None] * 9, max_new_tokens=20)
    single = [engine.generate([prompt], [None], max_new_tokens=20)[0] for prompt in prompts]
    assert batched == single


def test_stamped_rows_leave_their_batch_mates_alone(engine: ReferenceEngine, world: Any) -> None:
    prompts = [engine.render(item.question) for item in world.sets["retain"][:4]]
    plain = engine.generate(prompts, [None] * 4, max_new_tokens=20)
    stamps = [None, stamp(prompts[1], eco("zero", ((0, len(prompts[1])),))), None, None]
    mixed = engine.generate(prompts, stamps, max_new_tokens=20)
    assert [mixed[row] for row in (0, 2, 3)] == [plain[row] for row in (0, 2, 3)]
    assert mixed[1] != plain[1]


@pytest.mark.parametrize(
    "step", [None, Step("uld", (), {"weight": 0.5, "assistants": ["other"]})], ids=["plain", "assistant"]
)
def test_answers_that_end_leave_their_batch_and_the_rest_go_on_as_alone(
    engine: ReferenceEngine, models: Any, world: Any, monkeypatch: pytest.MonkeyPatch, step: Step | None
) -> None:
    other = ReferenceEngine.load(models["retain-only"])
    # Every second token is exclusive, so that answers are corrupted, too.
    own = {"exclusive_ids": range(0, len(engine.tokenizer), 2), "assistants": {"other": other.model}}
    spoken = ReferenceEngine(engine.model, engine.tokenizer, **own)
    prompts = [engine.render(item.question) for item in world.sets["retain"][:12]]
    noise = eco("noise", (), mask="token-id", amplitude=0.2)
    stamps = [
        stamp(prompt, noise, *([step] if step else [])) if row % 3 == 0 else None for row, prompt in enumerate(prompts)
    ]
    widths: list[int] = []
    forward = engine.model.forward
    monkeypatch.setattr(
        engine.model, "forward", lambda **inputs: widths.append(len(inputs["attention_mask"])) or forward(**inputs)
    )
    together = spoken.generate(prompts, stamps, max_new_tokens=40)
    assert widths[0] == 12
    assert widths[-1] < 12
    assert widths == sorted(widths, reverse=True)
    alone = [
        spoken.generate([prompt], [own], max_new_tokens=40)[0] for prompt, own in zip(prompts, stamps, strict=True)
    ]
    assert together == alone
    assert len({len(answer) for answer in together}) > 1


def test_an_assistant_goes_with_the_rows_that_it_speaks_to(engine: ReferenceEngine, models: Any) -> None:
    other = ReferenceEngine.load(models["retain-only"]).model
    spoken = ReferenceEngine(engine.model, engine.tokenizer, assistants={"a": other, "b": other})
    steps = [Step("uld", (), {"weight": 0.5, "assistants": [name]}) for name in ("a", "b")]
    ids = torch.arange(3, 23).view(4, 5)
    voices = Voices(spoken, [stamp([1], steps[0]), stamp([1], steps[1]), None, stamp([1], steps[0])])
    mask = torch.ones_like(ids)
    voices.read(ids, mask, mask.cumsum(-1) - 1)
    assert voices.select([2, 3])
    assert voices.rows == {"a": [1]}
    assert list(voices.plans) == [1]
    said = voices.read(torch.tensor([[7], [9]]), torch.ones(2, 6), torch.tensor([[5], [5]]))
    expected = other(torch.tensor([[*ids[3].tolist(), 9]])).logits[0, -1:]
    assert said[0] == {}
    assert torch.allclose(said[1]["a"], expected, atol=1e-4)


def test_a_cache_of_another_kind_is_left_whole(
    engine: ReferenceEngine, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [engine.render(item.question) for item in world.sets["retain"][:6]]
    expected = engine.generate(prompts, [None] * 6, max_new_tokens=30)
    monkeypatch.setattr(engine_module, "_holds_keys_alone", lambda cache: False)
    assert engine.generate(prompts, [None] * 6, max_new_tokens=30) == expected
    voices = Voices(engine, [None, None])
    voices._caches["a"] = object()
    assert not voices.select([1])
    assert voices.n_rows == 2


def test_whoever_abstains_does_so_in_a_batch_that_shrinks(engine: ReferenceEngine, world: Any) -> None:
    """A probe that notices the last of six prompts, whose abstention is longer than any answer."""
    prompts = [engine.render(item.question) for item in world.sets["retain"][:6]]
    plain = engine.generate(prompts, [None] * 6, max_new_tokens=40)
    longest = max(range(6), key=lambda row: len(prompts[row]))
    said = [*range(10, 45), engine.end_token]
    noticing = ReferenceEngine(engine.model, engine.tokenizer, abstention=said)
    place = sorted(range(6), key=lambda row: len(prompts[row])).index(longest)
    noticing.neurons = SimpleNamespace(  # type: ignore[assignment]
        probes={"x": None},
        notice=lambda n_rows, width: None,
        judge=lambda n_rows: [("x",) if row == place else () for row in range(n_rows)],
        acting=lambda stamps, spans, width: nullcontext(),
    )
    found = noticing.generate(prompts, [None] * 6, max_new_tokens=40)
    assert found[longest] == said[:-1]
    assert [found[row] for row in range(6) if row != longest] == [plain[row] for row in range(6) if row != longest]


def test_rows_of_like_settings_are_corrected_together_as_each_alone(engine: ReferenceEngine) -> None:
    settings = [{"weight": 0.5, "assistants": ["a"]}, {"weight": 2.0, "assistants": ["a", "b"], "combine": "max"}]
    uld = [Step("uld", (), {**params}) for params in settings]
    stamps = [stamp([1, 2], uld[0]), None, stamp([1, 2], uld[1]), stamp([1, 2], uld[0])]
    voices = Voices(engine, stamps)
    logits = torch.randn(4, 100, generator=torch.Generator().manual_seed(1))
    heard = [{name: torch.randn(3, 100) for name in ("a", "b")} for _ in stamps]
    expected = [
        voices.subtract(row, logits[row : row + 1], {name: said[-1:] for name, said in heard[row].items()}, served=True)
        for row in range(4)
    ]
    together = logits.clone()
    voices.correct(together, heard)
    assert torch.equal(together, torch.cat(expected))
    assert torch.equal(together[1], logits[1])
    assert not torch.equal(together[0], logits[0])


def test_a_refusal_needs_no_model(engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    said = stamp([1, 2], Step("refusal", (), {"tokens": [7, 8, 9, engine.end_token]}))
    monkeypatch.setattr(engine, "_prefill", None)
    assert engine.generate([[1, 2], [1, 2]], [said, said], max_new_tokens=8) == [[7, 8, 9]] * 2
    assert engine.generate([[1, 2]], [said], max_new_tokens=2) == [[7, 8]]


def test_prefill_rows_follow_the_formula(engine: ReferenceEngine, world: Any) -> None:
    prompt = engine.render(world.sets["retain"][0].question)
    _, plain, _, _ = engine._prefill([prompt], [None])
    for kind, expected in (("zero", torch.zeros_like(plain)), ("flip", -plain)):
        _, changed, _, _ = engine._prefill([prompt], [stamp(prompt, eco(kind, ((2, 5),), amplitude=0.0))])
        assert torch.equal(changed[0, 2:5], expected[0, 2:5])
        assert torch.equal(changed[0, :2], plain[0, :2])
        assert torch.equal(changed[0, 5:], plain[0, 5:])
    _, noisy, _, _ = engine._prefill([prompt], [stamp(prompt, eco("noise", ((2, 5),)))])
    shift = 0.5 * engine.noise.rows(0, "person-000", 2, 5)
    np.testing.assert_allclose((noisy - plain)[0, 2:5].detach().numpy(), shift, atol=1e-6)


def test_token_id_mask_edits_listed_ids_alone(engine: ReferenceEngine) -> None:
    prompt = [1, 5, 9, 6, 2]
    _, plain, _, _ = engine._prefill([prompt], [None])
    _, changed, _, _ = engine._prefill([prompt], [stamp(prompt, eco("zero", (), mask="token-id", amplitude=0.0))])
    assert [bool((changed[0, row] == 0).all()) for row in range(5)] == [False, True, False, True, False]
    assert torch.equal(changed[0, [0, 2, 4]], plain[0, [0, 2, 4]])


def test_swap_takes_the_stand_ins_embedding(engine: ReferenceEngine) -> None:
    prompt = [1, 40, 41, 42, 2]
    _, swapped, _, _ = engine._prefill([prompt], [stamp(prompt, Step("swap", ((1, 3),), {"tokens": [[50, 51]]}))])
    _, other, _, _ = engine._prefill([[1, 50, 51, 42, 2]], [None])
    assert torch.equal(swapped, other)


def test_scores_are_those_of_the_likelihood(engine: ReferenceEngine, world: Any) -> None:
    item = world.sets["retain"][0]
    prompt = engine.render(item.question)
    answer = [*engine.tokenizer(item.answer, add_special_tokens=False).input_ids, engine.end_token]
    (scored,) = engine.score([prompt], [answer], [None])
    with torch.inference_mode():
        logits = engine.model(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
    expected = [float(logits[len(prompt) - 1 + place, token]) for place, token in enumerate(answer)]
    np.testing.assert_allclose(scored.logprobs, expected, atol=1e-4)
    assert scored.argmax.all()


def test_guarded_model_refuses_and_prompts(engine: ReferenceEngine, bundle: Any, world: Any) -> None:
    opened, guard = Bundle.load(bundle), Guard.load(bundle)
    asked = [world.sets["forget.unseen"][0].question, world.sets["retain"][0].question]
    planner = load_planner(opened, engine.tokenizer, engine.end_token, intervention="refusal")
    refused, kept = GuardedModel(engine, guard, planner).answer(asked, max_new_tokens=24)
    assert refused == "I'm sorry, but I can't help with that."
    assert kept == world.sets["retain"][0].answer
    planner = load_planner(opened, engine.tokenizer, engine.end_token, intervention="prompting")
    (step,) = GuardedModel(engine, guard, planner).stamp(asked[:1], guard.screen(asked[:1]))[0].steps  # type: ignore[union-attr]
    assert world.sets["forget.unseen"][0].name in engine.decode(step.params["tokens"])


@pytest.mark.parametrize("intervention", ["refusal", "eco"])
def test_a_completion_goes_past_the_template_and_not_past_the_guard(
    engine: ReferenceEngine, bundle: Any, world: Any, intervention: str
) -> None:
    asked, kept = (Completion(f"{world.sets[name][0].question}\nAnswer:") for name in ("forget.unseen", "retain"))
    assert engine.render(asked) == engine.tokenizer(str(asked)).input_ids
    assert len(engine.render(asked)) < len(engine.render(str(asked)))
    planner = load_planner(Bundle.load(bundle), engine.tokenizer, engine.end_token, intervention=intervention)
    guarded = GuardedModel(engine, Guard.load(bundle), planner)
    stamped, plain = guarded.stamp([asked, kept], guarded.screen([asked, kept]))
    assert plain is None
    assert stamped is not None
    assert stamped.prompt_length == len(engine.render(asked))
    assert stamped.step(intervention) is not None


def test_a_batch_that_a_card_has_no_room_for_is_halved(
    engine: ReferenceEngine, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [engine.render(item.question) for item in world.sets["retain"][:7]]
    whole = engine.generate(prompts, [None] * 7, max_new_tokens=8)
    small = ReferenceEngine(engine.model, engine.tokenizer, batch_size=6)
    prefill, seen = small._prefill, []

    def fill(sequences: Any, stamps: Any, room: int = 2) -> Any:
        seen.append(len(sequences))
        if len(sequences) > room:
            raise torch.OutOfMemoryError
        return prefill(sequences, stamps)

    monkeypatch.setattr(small, "_prefill", fill)
    assert small.generate(prompts, [None] * 7, max_new_tokens=8) == whole
    assert seen == [6, 3, 1, 1, 1, 1, 1, 1, 1]
    scored = small.score(prompts, [[3, 4]] * 7, [None] * 7)
    assert np.allclose(scored[0].logprobs, engine.score(prompts[:1], [[3, 4]], [None])[0].logprobs, atol=1e-5)
    monkeypatch.setattr(small, "_prefill", lambda *arguments: fill(*arguments, room=0))
    with pytest.raises(torch.OutOfMemoryError):
        small.generate(prompts[:1], [None], max_new_tokens=1)


def test_answers_that_share_a_prompt_are_scored_as_each_alone(engine: ReferenceEngine, world: Any) -> None:
    items = world.sets["retain"][:5]
    pairs = [(engine.render(item.question), answer) for item in items for answer in ([3, 4, 5], [7], [9, 9, 2, 11, 3])]
    pairs.insert(4, (engine.render("Hi"), [5, 6]))  # Alone with its prompt.
    prompts, answers = [prompt for prompt, _ in pairs], [answer for _, answer in pairs]
    together = ReferenceEngine(engine.model, engine.tokenizer, batch_size=3).score(
        prompts, answers, [None] * len(pairs)
    )
    for (prompt, answer), found in zip(pairs, together, strict=True):
        (alone,) = engine.score([prompt], [answer], [None])
        assert found.logprobs.shape == (len(answer),)
        assert np.allclose(found.logprobs, alone.logprobs, atol=1e-4)
        assert np.allclose(found.means, alone.means, atol=1e-4)
        assert np.allclose(found.variances, alone.variances, atol=1e-3)
        assert (found.argmax == alone.argmax).all()


def test_a_stamped_row_beside_others_of_its_prompt_is_scored_as_stamped(engine: ReferenceEngine, world: Any) -> None:
    prompt = engine.render(world.sets["retain"][0].question)
    own = stamp(prompt, eco("noise", ((1, len(prompt) - 1),)))
    answers = [[3, 4], [5, 6], [3, 4]]
    plain, other, corrupted = engine.score([prompt] * 3, answers, [None, None, own])
    (alone,) = engine.score([prompt], [[3, 4]], [own])
    assert np.allclose(corrupted.logprobs, alone.logprobs, atol=1e-5)
    assert not np.allclose(corrupted.logprobs, plain.logprobs, atol=1e-3)
    assert other.logprobs.shape == (2,)


@pytest.mark.parametrize(
    "steps",
    [
        [eco("noise", ((1, 6),))],
        [eco("noise", (), mask="token-id", amplitude=0.2)],
        [Step("swap", ((1, 3),), {"tokens": [[50, 51]]})],
        [Step("prompting", (), {"tokens": [9, 8, 7]})],
        [Step("uld", (), {"weight": 0.5, "assistants": ["other"]})],
        [eco("noise", (), mask="token-id", amplitude=0.2), Step("uld", (), {"weight": 2.0, "assistants": ["other"]})],
    ],
    ids=["eco", "eco in answers", "swap", "prompting", "assistant", "both"],
)
@pytest.mark.parametrize("support", ["vocabulary", "served"])
def test_answers_that_share_a_stamped_prompt_are_scored_as_each_alone(
    engine: ReferenceEngine, models: Any, world: Any, steps: list[Step], support: Any
) -> None:
    other = ReferenceEngine.load(models["retain-only"]).model
    exclusive = range(0, len(engine.tokenizer), 2)
    spoken = ReferenceEngine(
        engine.model, engine.tokenizer, exclusive_ids=exclusive, assistants={"other": other}, batch_size=2
    )
    heads = [engine.render(item.question) for item in world.sets["retain"][:4]]
    own = [stamp(head, *steps) if at % 2 else None for at, head in enumerate(heads)]
    answers = [[3, 4, 5], [8], [10, 12, 2, 11, 3]]
    rows = [(head, mark, answer) for head, mark in zip(heads, own, strict=True) for answer in answers]
    prompts, stamps, told = (list(part) for part in zip(*rows, strict=True))
    with torch.inference_mode():
        assert spoken._score_shared(prompts, told, stamps, [None] * len(rows), served=False) == []
    together = spoken.score(prompts, told, stamps, support=support)
    for (head, mark, answer), each in zip(rows, together, strict=True):
        (alone,) = spoken.score([head], [answer], [mark], support=support)
        assert np.allclose(each.logprobs, alone.logprobs, atol=1e-4)
        assert np.allclose(each.means, alone.means, atol=1e-4)
        assert (each.argmax == alone.argmax).all()
    plain = engine.score(prompts, told, [None] * len(rows))
    assert not np.allclose(together[3].logprobs, plain[3].logprobs, atol=1e-3)
    assert np.allclose(together[0].logprobs, plain[0].logprobs, atol=1e-4)


def test_answers_of_one_prompt_that_a_card_has_no_room_for_together_are_scored_alone(
    engine: ReferenceEngine, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = engine.render(world.sets["retain"][0].question)
    answers = [[3, 4], [5], [6, 7, 8]]
    small = ReferenceEngine(engine.model, engine.tokenizer, batch_size=2)
    expected = engine.score([prompt] * 3, answers, [None] * 3)
    monkeypatch.setattr(engine_module, "_holds_keys_alone", lambda cache: False)
    for found, wanted in zip(small.score([prompt] * 3, answers, [None] * 3), expected, strict=True):
        assert np.allclose(found.logprobs, wanted.logprobs, atol=1e-4)
    monkeypatch.undo()

    def fail(cache: Any) -> bool:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(engine_module, "_holds_keys_alone", fail)
    for found, wanted in zip(small.score([prompt] * 3, answers, [None] * 3), expected, strict=True):
        assert np.allclose(found.logprobs, wanted.logprobs, atol=1e-4)
