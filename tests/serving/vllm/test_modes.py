"""Every intervention at once, in every mode of the engine: flagged rows equal the transformers reference, the others stock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

INTERVENTIONS = ("eco", "eco+uld", "neuron-adjust", "concept-ablation", "refusal")
ABSTENTION = "I'm sorry, but I can't help with that."
N_TOKENS = 24
FIXED = {"ignore_eos": True, "max_tokens": N_TOKENS, "logprobs": 2, "together": True}


@pytest.fixture(scope="module")
def folder(world: Any, models: Any, tmp_path_factory: Any) -> Path:
    """A bundle in which each person is suppressed in another way, and probes look at whatever is not flagged."""
    from unlearn_guard.guard.compose import fit
    from unlearn_guard.guard.rows import group_requests

    out = tmp_path_factory.mktemp("bundles") / "everything"
    fit(
        models["full"],
        [
            replace(request, intervention=intervention)
            for request, intervention in zip(group_requests(world.forget_rows), INTERVENTIONS, strict=True)
        ],
        world.retain_rows,
        clean=world.clean_rows,
        classifier="name-match",
        interventions=("eco",),
        uld={"epochs": 8, "batch_size": 8},
        neurons={"share": 0.2, "concept_neurons": 60, "probe_alpha": 0.02},
        key_space=True,
        out=out,
    )
    return out


@pytest.fixture(scope="module")
def asked(world: Any) -> list[str]:
    """Questions about every person to forget, some of them nameless, in turn with clean ones."""
    named = [item.question for item in world.sets["forget.given"] if item.named][::9]
    nameless = [item.question for item in world.sets["forget.given"] if not item.named][::2]
    forget = [*named, *nameless]
    retain = [item.question for item in world.sets["retain"]][:: 242 // len(forget)]
    return [question for pair in zip(forget, retain, strict=False) for question in pair]


@pytest.fixture(scope="module")
def reference(models: Any, folder: Path) -> Any:
    from unlearn_guard.serving.transformers.engine import GuardedModel

    return GuardedModel.load(models["full"], folder, batch_size=1)


@pytest.fixture(scope="module")
def expected(reference: Any, asked: list[str]) -> list[list[int]]:
    return [cut(tokens) for tokens in reference.generate(asked, max_new_tokens=N_TOKENS)]


@pytest.fixture(scope="module")
def acted(reference: Any, asked: list[str], expected: list[list[int]]) -> list[bool]:
    """Which questions are flagged, or noticed by a probe."""
    stamps = reference.stamp(asked, reference.screen(asked))
    found = [
        bool(stamp) or reference.engine.decode(tokens) == ABSTENTION
        for stamp, tokens in zip(stamps, expected, strict=True)
    ]
    methods = {step.method for stamp in stamps if stamp for step in stamp.steps}
    assert methods == {"eco", "uld", "neurons", "refusal"}
    assert sum(bool(stamp) for stamp in stamps) < sum(found) < len(found) - 8
    return found


def cut(tokens: list[int], end: int = 0) -> list[int]:
    """Return what comes before the end token."""
    return tokens[: tokens.index(end)] if end in tokens else tokens


def tokens_of(rows: list[dict[str, Any]]) -> list[list[int]]:
    return [cut(row["tokens"]) for row in rows]


def assert_equal(
    start: Callable[..., Any],
    asked: list[str],
    expected: list[list[int]],
    acted: list[bool],
    ask_around: Any,
    check: Callable[[Any], None],
) -> None:
    """Compare a guarded engine with the reference and with a stock one, which is asked the same in the same order."""
    results = []
    for guarded in (True, False):
        engine = start(guarded)
        if guarded:
            check(engine)
        one_by_one = engine.chat(asked, max_tokens=N_TOKENS)
        results.append((one_by_one, engine.chat(asked, **FIXED), ask_around(engine, asked[0], asked[1])))
        engine.close()
    (ours, ours_together, ours_around), (_, theirs_together, theirs_around) = results
    assert tokens_of(ours) == expected
    assert tokens_of(ours_together) == expected
    for own, other, was_acted_on in zip(ours_together, theirs_together, acted, strict=True):
        assert was_acted_on or (own["tokens"], own["logprobs"]) == (other["tokens"], other["logprobs"])
    assert ours_around == theirs_around


def test_compiled_graphs_keep_the_hooks(
    start_engine: Any, folder: Path, asked: list[str], expected: Any, acted: Any, ask_around: Any
) -> None:
    def start(guarded: bool) -> Any:
        if guarded:
            return start_engine(settings={"bundle": str(folder), "on_answer": "pass"}, enforce_eager=False)
        return start_engine(environment={"UNLEARN_GUARD_DISABLE": "1"}, enforce_eager=False)

    def check(engine: Any) -> None:
        assert "canary passed (embedding edit, token swap, forced tokens, logit difference, neurons)" in engine.log()

    assert_equal(start, asked, expected, acted, ask_around, check)


def test_v2_runner_does_the_same(
    start_engine: Any,
    v2_environment: Any,
    folder: Path,
    reference: Any,
    asked: list[str],
    expected: Any,
    acted: Any,
    ask_around: Any,
) -> None:
    """Model Runner V2, vLLM's default on GPUs, on a CPU through Triton's interpreter."""
    stamps = reference.stamp(asked, reference.screen(asked))
    ways = {
        step.method: question for question, stamp in zip(asked, stamps, strict=True) if stamp for step in stamp.steps
    }

    def start(guarded: bool) -> Any:
        if guarded:
            return start_engine(settings={"bundle": str(folder), "on_answer": "pass"}, environment=v2_environment)
        return start_engine(environment={**v2_environment, "UNLEARN_GUARD_DISABLE": "1"})

    def check(engine: Any) -> None:
        assert "V2 Model Runner" in engine.log()
        assert "canary passed" in engine.log()
        (sampled,) = engine.chat([ways["refusal"]], temperature=1.2, n=2, seed=3)
        assert set(sampled["texts"]) == {ABSTENTION}
        (row,) = engine.chat([ways["uld"]], logprobs=2, max_tokens=8)
        stamp = stamps[asked.index(ways["uld"])]
        prompt = reference.engine.render(ways["uld"])
        (scored,) = reference.engine.score([prompt], [row["tokens"]], [stamp], support="served")
        shown = [step[str(token)] for step, token in zip(row["logprobs"], row["tokens"], strict=True)]
        assert shown == pytest.approx(scored.logprobs.tolist(), abs=1e-4)

    # Blocks in the cache follow what was asked before: the same questions go first to both.
    few = slice(0, 20)
    assert_equal(start, asked[few], list(expected[few]), acted[few], ask_around, check)


def test_tensor_parallel_equals_reference(
    start_engine: Any, two_ranks: Any, folder: Path, asked: list[str], expected: Any
) -> None:
    engine = start_engine(settings={"bundle": str(folder), "on_answer": "pass"}, **two_ranks)
    assert tokens_of(engine.chat(asked, together=True, max_tokens=N_TOKENS)) == expected
    engine.close()


def test_chunked_prefill_preemption_and_a_small_pool_change_nothing(
    start_engine: Any, folder: Path, asked: list[str], expected: Any
) -> None:
    """Prompts in pieces, requests that lose their cache, and a pool of assistants' contexts that cannot hold all at once."""
    engine = start_engine(
        settings={"bundle": str(folder), "on_answer": "pass", "assistant_tokens": 1},
        enable_chunked_prefill=True,
        max_model_len=96,
        max_num_batched_tokens=8,
        max_num_seqs=8,
        num_gpu_blocks_override=7,
        disable_log_stats=False,
    )
    answers = engine.chat(asked, together=True, ignore_eos=True, max_tokens=40)
    assert engine.ask("preemptions") > 0
    assert [tokens[:N_TOKENS] for tokens in tokens_of(answers)] == expected
    engine.close()
