"""Interventions inside vLLM equal the transformers reference, under every schedule."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def reference(models: Any, bundle: Any) -> Any:
    """Answer questions with the reference engine under one of the bundle's interventions."""
    from unlearn_guard.corruptions.planning import Fitted
    from unlearn_guard.guard.bundle import Bundle
    from unlearn_guard.guard.compose import load_planner
    from unlearn_guard.guard.screening import Guard
    from unlearn_guard.serving.transformers.engine import GuardedModel, ReferenceEngine

    opened = Bundle.load(bundle)
    guard = Guard.load(bundle)
    engine = ReferenceEngine.load(models["full"], batch_size=1, exclusive_ids=Fitted.load(opened).exclusive_ids)

    def answer(questions: list[Any], intervention: str | None = None) -> list[list[int]]:
        planner = load_planner(opened, engine.tokenizer, engine.end_token, intervention=intervention)
        guarded = GuardedModel(engine, guard, planner)
        stamps = guarded.stamp(questions, guarded.screen(questions))
        prompts = [engine.render(question) for question in questions]
        return engine.generate(prompts, stamps, max_new_tokens=24)

    return answer


@pytest.fixture(scope="module")
def asked(world: Any) -> list[str]:
    """Flagged and clean questions, named and nameless, in turn."""
    forget, retain = world.sets["forget.given"], world.sets["retain"]
    return [item.question for pair in zip(forget[::11], retain[::24], strict=False) for item in pair] + [
        item.question for item in forget if not item.named
    ][:4]


def without_end(rows: list[dict[str, Any]], end: int = 0) -> list[list[int]]:
    return [[token for token in row["tokens"] if token != end] for row in rows]


@pytest.fixture(scope="module")
def eager(start_engine: Any, bundle: Any) -> Any:
    return start_engine(settings={"bundle": str(bundle), "on_answer": "pass"})


def test_eco_equals_reference(eager: Any, reference: Any, asked: list[str]) -> None:
    assert without_end(eager.chat(asked)) == reference(asked)


def test_eco_equals_reference_in_one_batch(eager: Any, reference: Any, asked: list[str]) -> None:
    assert without_end(eager.chat(asked, together=True)) == reference(asked)


def test_a_begun_answer_is_corrupted_as_in_the_reference(eager: Any, reference: Any, world: Any) -> None:
    """A client that writes the beginning of the answer writes the name once more."""
    from unlearn_guard.benchmarks.metrics import find_leaks

    items = [item for item in world.sets["forget.given"] if item.name and item.name in item.answer][:20]
    begun = [
        [
            {"role": "user", "content": item.question},
            {"role": "assistant", "content": item.answer[: item.answer.index(item.name) + len(item.name)]},
        ]
        for item in items
    ]
    served = eager.ask("run", items=[{"messages": turns} for turns in begun], params={}, together=True)
    assert without_end(served) == reference(begun)
    assert sum(find_leaks(items, [row["text"] for row in served])) <= 2


INTERVENTIONS = ("eco", "eco-span", "swap", "refusal", "prompting")


@pytest.fixture(scope="module")
def mixed_bundle(world: Any, models: Any, tmp_path_factory: Any) -> Any:
    """A bundle in which each of the five people is suppressed in another way."""
    from dataclasses import replace

    from unlearn_guard.guard.compose import fit
    from unlearn_guard.guard.rows import group_requests

    requests = [
        replace(request, intervention=name)
        for request, name in zip(group_requests(world.forget_rows), INTERVENTIONS, strict=True)
    ]
    out = tmp_path_factory.mktemp("bundles") / "mixed"
    fit(models["full"], requests, world.retain_rows, clean=world.clean_rows, out=out)
    return out


@pytest.fixture(scope="module")
def mixed(start_engine: Any, mixed_bundle: Any) -> Any:
    return start_engine(settings={"bundle": str(mixed_bundle), "on_answer": "pass"})


@pytest.fixture(scope="module")
def by_intervention(world: Any) -> dict[str, list[str]]:
    subjects = list(dict.fromkeys(item.subject for item in world.sets["forget.given"]))
    return {
        name: [item.question for item in world.sets["forget.unseen"] if item.subject == subject and item.named][::4]
        for name, subject in zip(INTERVENTIONS, subjects, strict=True)
    }


def test_every_intervention_equals_reference_in_one_batch(
    mixed: Any, models: Any, mixed_bundle: Any, by_intervention: Any
) -> None:
    """Five interventions side by side in one batch, each what the reference says."""
    from unlearn_guard.guard.bundle import Bundle
    from unlearn_guard.guard.compose import load_planner
    from unlearn_guard.guard.screening import Guard
    from unlearn_guard.serving.transformers.engine import GuardedModel, ReferenceEngine

    engine = ReferenceEngine.load(models["full"], batch_size=1)
    planner = load_planner(Bundle.load(mixed_bundle), engine.tokenizer, engine.end_token)
    guarded = GuardedModel(engine, Guard.load(mixed_bundle), planner)
    questions = [question for asked in by_intervention.values() for question in asked]
    stamps = guarded.stamp(questions, guarded.screen(questions))
    methods = [stamp.steps[0].method for stamp in stamps if stamp is not None]
    assert set(methods) == {"eco", "swap", "refusal", "prompting"}
    expected = engine.generate([engine.render(question) for question in questions], stamps, max_new_tokens=24)
    assert without_end(mixed.chat(questions, together=True)) == expected


def test_token_id_mask_edits_prompt_and_decode_steps(
    start_engine: Any, models: Any, world: Any, tmp_path: Any, asked: list[str]
) -> None:
    """Ids that only forget rows use are flipped wherever they stand, in generated tokens too, as in the reference."""
    from unlearn_guard.corruptions.planning import Fitted
    from unlearn_guard.guard.compose import fit, load_planner
    from unlearn_guard.guard.screening import Guard
    from unlearn_guard.serving.transformers.engine import GuardedModel, ReferenceEngine

    fixed = {"mask": "token-id", "kind": "flip"}
    bundle = fit(
        models["full"], world.forget_rows, world.retain_rows, clean=world.clean_rows, eco=fixed, out=tmp_path / "ids"
    )
    exclusive = Fitted.load(bundle).exclusive_ids
    engine = ReferenceEngine.load(models["full"], batch_size=1, exclusive_ids=exclusive)
    planner = load_planner(bundle, engine.tokenizer, engine.end_token)
    guarded = GuardedModel(engine, Guard.load(bundle.path), planner)
    stamps = guarded.stamp(asked, guarded.screen(asked))
    expected = engine.generate([engine.render(question) for question in asked], stamps, max_new_tokens=24)
    assert set(exclusive) & {token for answer in expected for token in answer}  # Decode steps meet the table.
    served = start_engine(settings={"bundle": str(bundle.path), "on_answer": "pass"})
    assert without_end(served.chat(asked, together=True)) == expected
    served.close()


def test_prompting_counts_the_clients_own_prompt(mixed: Any, by_intervention: Any, world: Any) -> None:
    (flagged,) = mixed.chat(by_intervention["prompting"][:1])
    (clean,) = mixed.chat([world.sets["retain"][0].question])
    assert abs(len(flagged["prompt_ids"]) - len(clean["prompt_ids"])) < 16


def test_refusal_bends_to_nothing(mixed: Any, by_intervention: Any) -> None:
    check_refusal_under_pressure(mixed, by_intervention["refusal"][0])


def check_refusal_under_pressure(engine: Any, question: str) -> None:
    """Sampling, n > 1, penalties, bias, beams and log-probabilities cannot bend a refusal."""
    (answer,) = engine.chat([question], temperature=1.5, n=3, seed=1, presence_penalty=2.0, min_tokens=20)
    assert set(answer["texts"]) == {"I'm sorry, but I can't help with that."}
    (answer,) = engine.chat([question], logit_bias={"40": 100.0}, allowed_token_ids=[40, 41])
    assert answer["text"] == "I'm sorry, but I can't help with that."
    item = {"messages": [{"role": "user", "content": question}]}
    (beams,) = engine.ask("beam", items=[item], width=2, max_tokens=24)
    assert all("can't help" in beam["text"] for beam in beams)


def test_sampled_hypotheses_score_as_the_reference_scores_them(
    eager: Any, models: Any, bundle: Any, asked: list[str]
) -> None:
    """For n=3 with a fixed seed the prompt is corrupted alike for all, and alike in the reference."""
    from unlearn_guard.guard.bundle import Bundle
    from unlearn_guard.guard.compose import load_planner
    from unlearn_guard.guard.screening import Guard
    from unlearn_guard.serving.transformers.engine import GuardedModel, ReferenceEngine

    item = {"messages": [{"role": "user", "content": asked[0]}]}
    params = {"n": 3, "seed": 7, "temperature": 0.9, "max_tokens": 12, "logprobs": 0}
    (first,) = eager.ask("run", items=[item], params=params, together=False)
    (second,) = eager.ask("run", items=[item], params=params, together=False)
    assert first["all_tokens"] == second["all_tokens"]
    engine = ReferenceEngine.load(models["full"], batch_size=1)
    planner = load_planner(Bundle.load(bundle), engine.tokenizer, engine.end_token)
    guarded = GuardedModel(engine, Guard.load(bundle), planner)
    (stamp,) = guarded.stamp([asked[0]], guarded.screen([asked[0]]))
    for tokens, logprob in zip(first["all_tokens"], first["cumulative"], strict=True):
        (scored,) = engine.score([engine.render(asked[0])], [tokens], [stamp])
        assert logprob == pytest.approx(float(scored.logprobs.sum()), abs=1e-4)


def test_captured_rows_equal_the_reference_rows(eager: Any, models: Any, bundle: Any, asked: list[str]) -> None:
    import numpy as np
    import torch

    from unlearn_guard.guard.bundle import Bundle
    from unlearn_guard.guard.compose import load_planner
    from unlearn_guard.guard.screening import Guard
    from unlearn_guard.serving.transformers.engine import GuardedModel, ReferenceEngine

    engine = ReferenceEngine.load(models["full"])
    planner = load_planner(Bundle.load(bundle), engine.tokenizer, engine.end_token)
    guarded = GuardedModel(engine, Guard.load(bundle), planner)
    (stamp,) = guarded.stamp([asked[2]], guarded.screen([asked[2]]))
    with torch.inference_mode():
        _, embeds, _, _ = engine._prefill([engine.render(asked[2])], [stamp])
    item = {"messages": [{"role": "user", "content": asked[2]}]}
    passes = eager.ask("capture", items=[item], params={"n": 3, "seed": 1, "temperature": 1.0})
    prompt_passes = [rows for rows in passes if len(rows) >= embeds.shape[1]]
    assert prompt_passes
    np.testing.assert_allclose(np.array(prompt_passes[0])[: embeds.shape[1]], embeds[0].numpy(), atol=1e-6)


def test_beam_search_corrupts_the_prompt_alone(eager: Any, models: Any, bundle: Any, asked: list[str]) -> None:
    """Every beam step sees the same corrupted prompt rows, and hypotheses score as the reference scores them."""
    from unlearn_guard.guard.bundle import Bundle
    from unlearn_guard.guard.compose import load_planner
    from unlearn_guard.guard.screening import Guard
    from unlearn_guard.serving.transformers.engine import GuardedModel, ReferenceEngine

    item = {"messages": [{"role": "user", "content": asked[0]}]}
    (beams,) = eager.ask("beam", items=[item], width=3, max_tokens=10)
    engine = ReferenceEngine.load(models["full"], batch_size=1)
    planner = load_planner(Bundle.load(bundle), engine.tokenizer, engine.end_token)
    guarded = GuardedModel(engine, Guard.load(bundle), planner)
    (stamp,) = guarded.stamp([asked[0]], guarded.screen([asked[0]]))
    assert stamp is not None
    prompt = engine.render(asked[0])
    for beam in beams:
        generated = beam["tokens"][len(prompt) :]
        ended = len(generated) >= 10 or generated[-1] == engine.end_token
        complete = generated if ended else [*generated, engine.end_token]
        (scored,) = engine.score([prompt], [complete], [stamp])
        assert beam["logprob"] == pytest.approx(float(scored.logprobs.sum()), abs=1e-4)


def test_shadow_mode_changes_no_answer(start_engine: Any, bundle: Any, asked: list[str], tmp_path: Any) -> None:
    import json

    audit = tmp_path / "audit.jsonl"
    shadow = start_engine(settings={"bundle": str(bundle), "mode": "shadow", "audit": str(audit)})
    stock = start_engine(environment={"UNLEARN_GUARD_DISABLE": "1"})
    assert [row["tokens"] for row in shadow.chat(asked)] == [row["tokens"] for row in stock.chat(asked)]
    rows = [json.loads(line) for line in audit.read_text().splitlines()]
    answers = [row for row in rows if row["action"].startswith("answer:")]
    assert {row["action"] for row in answers} == {"answer:would:filter"}  # It answers as the model knows.
    rows = [row for row in rows if row not in answers]
    assert len(rows) == len(asked)
    assert {row["action"] for row in rows} == {"none", "would:eco"}
    assert not any(question in audit.read_text() for question in asked)
    shadow.close()
    stock.close()
