"""ULD inside vLLM equals the transformers reference, token for token, under every schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.vllm

INTERVENTIONS = ("uld", "eco+uld", "uld", "eco", "refusal")
ASSISTED = {"uld", "eco+uld"}


@pytest.fixture(scope="module")
def make_bundle(world: Any, models: Any, tmp_path_factory: Any) -> Any:
    """Fit a bundle in which each person is suppressed in another way; assistants are trained just enough to matter."""
    from dataclasses import replace

    from unlearn_guard.guard.compose import fit
    from unlearn_guard.guard.rows import group_requests

    def make(name: str, **options: Any) -> Path:
        out = tmp_path_factory.mktemp("bundles") / name
        requests = [
            replace(request, intervention=intervention)
            for request, intervention in zip(group_requests(world.forget_rows), INTERVENTIONS, strict=True)
        ]
        fit(
            models["full"],
            requests,
            world.retain_rows,
            classifier="name-match",
            interventions=("eco",),
            uld={"epochs": 8, "batch_size": 8, **options},
            out=out,
        )
        return out

    return make


@pytest.fixture(scope="module")
def each(make_bundle: Any) -> Path:
    """One assistant per forget request, of whole layers."""
    return make_bundle("each")


@pytest.fixture(scope="module")
def asked(world: Any) -> list[str]:
    """Questions about every person to forget, in turn with clean ones."""
    forget = [item.question for item in world.sets["forget.given"] if item.named][::9]
    retain = [item.question for item in world.sets["retain"]][:: 242 // len(forget)]
    return [question for pair in zip(forget, retain, strict=False) for question in pair]


@pytest.fixture(scope="module")
def make_reference(models: Any) -> Any:
    """Open the reference engine with a bundle's guard and its assistants."""
    from unlearn_guard.serving.transformers.engine import GuardedModel

    return lambda folder: GuardedModel.load(models["full"], folder, batch_size=1)


@pytest.fixture(scope="module")
def reference(make_reference: Any, each: Path) -> Any:
    return make_reference(each)


def answer(guarded: Any, questions: list[str], *, max_new_tokens: int = 24) -> list[list[int]]:
    return guarded.generate(questions, max_new_tokens=max_new_tokens)


def without_end(rows: list[dict[str, Any]], end: int = 0) -> list[list[int]]:
    return [[token for token in row["tokens"] if token != end] for row in rows]


@pytest.fixture(scope="module")
def eager(start_engine: Any, each: Path) -> Any:
    return start_engine(settings={"bundle": str(each), "on_answer": "pass"})


def test_assistants_change_answers(reference: Any, asked: list[str]) -> None:
    """The tests below would say little if what is subtracted changed nothing."""
    stamps = reference.stamp(asked, reference.screen(asked))
    methods = [tuple(step.method for step in stamp.steps) for stamp in stamps if stamp]
    assert {("uld",), ("eco", "uld"), ("eco",), ("refusal",)} == set(methods)
    plain = reference.engine.generate(
        [reference.engine.render(text) for text in asked], [None] * len(asked), max_new_tokens=24
    )
    found = answer(reference, asked)
    changed = [before != after for before, after, stamp in zip(plain, found, stamps, strict=True) if stamp]
    assert sum(changed) > 0.8 * len(changed)


def test_uld_equals_reference(eager: Any, reference: Any, asked: list[str]) -> None:
    assert without_end(eager.chat(asked)) == answer(reference, asked)


def test_uld_equals_reference_in_one_batch(eager: Any, reference: Any, asked: list[str]) -> None:
    """Several assistants, ECO beside one of them, refusals and clean rows, in one batch."""
    assert without_end(eager.chat(asked, together=True)) == answer(reference, asked)


def test_log_names_assistants_and_canary(eager: Any) -> None:
    assert "3 assistants" in eager.log()
    assert "logit difference" in eager.log()


def test_log_probabilities_are_of_the_suppressed_distribution(eager: Any, reference: Any, asked: list[str]) -> None:
    import math

    question = next(text for text in asked if methods_of(reference, text) == ("uld",))
    (row,) = eager.chat([question], n=3, seed=5, temperature=1.0, logprobs=3)
    (stamp,) = reference.stamp([question], reference.screen([question]))
    prompt = reference.engine.render(question)
    assert len({tuple(tokens) for tokens in row["all_tokens"]}) > 1
    (scored,) = reference.engine.score([prompt], [row["tokens"]], [stamp], support="served")
    shown = [step[str(token)] for step, token in zip(row["logprobs"], row["tokens"], strict=True)]
    assert shown == pytest.approx(scored.logprobs.tolist(), abs=1e-4)
    for tokens, cumulative in zip(row["all_tokens"], row["cumulative"], strict=True):
        (scored,) = reference.engine.score([prompt], [tokens], [stamp], support="served")
        assert cumulative == pytest.approx(float(scored.logprobs.sum()), abs=1e-3)
    (plain,) = reference.engine.score([prompt], [row["tokens"]], [None])
    assert not math.isclose(float(plain.logprobs.sum()), sum(shown), abs_tol=0.1)


def methods_of(reference: Any, question: str) -> tuple[str, ...]:
    (stamp,) = reference.stamp([question], reference.screen([question]))
    return tuple(step.method for step in stamp.steps) if stamp else ()


def test_beam_search_follows_the_suppressed_distribution(eager: Any, reference: Any, asked: list[str]) -> None:
    question = next(text for text in asked if methods_of(reference, text) == ("uld",))
    item = {"messages": [{"role": "user", "content": question}]}
    (beams,) = eager.ask("beam", items=[item], width=3, max_tokens=8)
    (stamp,) = reference.stamp([question], reference.screen([question]))
    prompt = reference.engine.render(question)
    for beam in beams:
        generated = beam["tokens"][len(prompt) :]
        ended = len(generated) >= 8 or generated[-1] == reference.engine.end_token
        complete = generated if ended else [*generated, reference.engine.end_token]
        (scored,) = reference.engine.score([prompt], [complete], [stamp], support="served")
        assert beam["logprob"] == pytest.approx(float(scored.logprobs.sum()), abs=1e-3)


def test_prompt_log_probabilities_are_refused_to_assistants_alone(eager: Any, reference: Any, asked: list[str]) -> None:
    """The target's opinion of an answer inside the prompt is its own: an assistant does not change it."""
    question = next(text for text in asked if methods_of(reference, text) == ("uld",))
    (row,) = eager.chat([question], prompt_logprobs=1)
    assert row["text"].startswith("I'm sorry")


def test_allowed_tokens_outside_the_filter_are_still_tokens(eager: Any, reference: Any, asked: list[str]) -> None:
    """Who allows only tokens that the filter would drop gets one of those, not whatever is left of nothing."""
    question = next(text for text in asked if methods_of(reference, text) == ("uld",))
    allowed = list(range(300, 310))
    (row,) = eager.chat([question], allowed_token_ids=allowed, max_tokens=3, logprobs=1, ignore_eos=True)
    assert set(row["tokens"]) <= set(allowed)
    assert all(value > -1e4 for step in row["logprobs"] for value in step.values())


def test_unflagged_rows_are_stock_beside_flagged_ones(start_engine: Any, eager: Any, asked: list[str]) -> None:
    """Token ids and log-probabilities, in the same batch of fixed length."""
    params = {"ignore_eos": True, "max_tokens": 16, "logprobs": 2, "together": True}
    stock = start_engine(environment={"UNLEARN_GUARD_DISABLE": "1"})
    expected, found = stock.chat(asked, **params), eager.chat(asked, **params)
    stock.close()
    for theirs, ours in list(zip(expected, found, strict=True))[1::2]:
        assert ours["tokens"] == theirs["tokens"]
        assert ours["logprobs"] == theirs["logprobs"]
    assert any(theirs["tokens"] != ours["tokens"] for theirs, ours in list(zip(expected, found, strict=True))[::2])


@pytest.mark.slow
def test_lora_equals_reference(start_engine: Any, make_bundle: Any, make_reference: Any, asked: list[str]) -> None:
    """Factors beside the shared trunk, and the paper's penalty."""
    folder = make_bundle("lora", trainable="lora", rank=8, penalty="raw")
    engine = start_engine(settings={"bundle": str(folder), "on_answer": "pass"})
    found = without_end(engine.chat(asked, together=True))
    engine.close()
    assert found == answer(make_reference(folder), asked)


@pytest.mark.slow
def test_an_offset_pair_equals_reference(
    start_engine: Any, make_bundle: Any, make_reference: Any, models: Any, asked: list[str]
) -> None:
    """The pair here is the two models of the world: what the one knows and the other never saw is subtracted."""
    folder = make_bundle("offset", offset_base=str(models["full"]), offset_edited=str(models["retain-only"]))
    assert not list((folder / "interventions" / "uld").rglob("assistant.safetensors"))
    engine = start_engine(settings={"bundle": str(folder), "on_answer": "pass"})
    found = without_end(engine.chat(asked, together=True))
    engine.close()
    reference = make_reference(folder)
    assert found == answer(reference, asked)
    # Subtracting all that the target knows beyond retain-only leaves retain-only, where the whole vocabulary is scored.
    from unlearn_guard.serving.transformers.engine import ReferenceEngine

    question = next(text for text in asked if methods_of(reference, text) == ("uld",))
    (stamp,) = reference.stamp([question], reference.screen([question]))
    prompt, tokens = reference.engine.render(question), found[asked.index(question)]
    retain_only = ReferenceEngine.load(models["retain-only"], batch_size=1)
    (expected,) = retain_only.score([prompt], [tokens], [None])
    (scored,) = reference.engine.score([prompt], [tokens], [stamp])
    assert scored.logprobs.tolist() == pytest.approx(expected.logprobs.tolist(), abs=1e-3)


def test_assistants_that_do_not_fit_stop_the_start(start_engine: Any, each: Path) -> None:
    from unlearn_guard.serving.vllm.session import SessionError

    with pytest.raises(SessionError, match=r"assistants need [\d.]+ MiB .* and may take 1\.0"):
        start_engine(settings={"bundle": str(each), "assistant_memory_mib": 1})
