"""Neuron interventions and key-space probes inside vLLM equal the transformers reference, token for token."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.vllm

INTERVENTIONS = ("neuron-adjust", "concept-ablation", "eco+neuron-adjust", "eco", "refusal")
ABSTENTION = "I'm sorry, but I can't help with that."


@pytest.fixture(scope="module")
def make_bundle(world: Any, models: Any, tmp_path_factory: Any) -> Any:
    """Fit a bundle in which each person is suppressed in another way."""
    from unlearn_guard.guard.compose import fit
    from unlearn_guard.guard.rows import group_requests

    def make(name: str, *, key_space: bool = False, **options: Any) -> Path:
        out = tmp_path_factory.mktemp("bundles") / name
        requests = [
            replace(request, intervention=intervention)
            for request, intervention in zip(group_requests(world.forget_rows), INTERVENTIONS, strict=True)
        ]
        fit(
            models["full"],
            requests,
            world.retain_rows,
            clean=world.clean_rows,
            classifier="name-match",
            interventions=("eco",),
            neurons={"share": 0.2, "concept_neurons": 60, "probe_alpha": 0.02, **options},
            key_space=key_space,
            out=out,
        )
        return out

    return make


@pytest.fixture(scope="module")
def folder(make_bundle: Any) -> Path:
    return make_bundle("neurons", key_space=True)


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


def answer(guarded: Any, questions: list[str], *, max_new_tokens: int = 24) -> list[list[int]]:
    return [cut(tokens) for tokens in guarded.generate(questions, max_new_tokens=max_new_tokens)]


def cut(tokens: list[int], end: int = 0) -> list[int]:
    """Return what comes before the end token."""
    return tokens[: tokens.index(end)] if end in tokens else tokens


def tokens_of(rows: list[dict[str, Any]]) -> list[list[int]]:
    return [cut(row["tokens"]) for row in rows]


@pytest.fixture(scope="module")
def audit(tmp_path_factory: Any) -> Path:
    return tmp_path_factory.mktemp("audit") / "audit.jsonl"


@pytest.fixture(scope="module")
def eager(start_engine: Any, folder: Path, audit: Path) -> Any:
    return start_engine(settings={"bundle": str(folder), "on_answer": "pass", "audit": str(audit)})


def test_edits_and_probes_change_answers(reference: Any, asked: list[str]) -> None:
    """The tests below would say little if nothing was changed, or nothing noticed."""
    stamps = reference.stamp(asked, reference.screen(asked))
    prompts = [reference.engine.render(text) for text in asked]
    hooks, reference.engine.neurons = reference.engine.neurons, None
    plain = [cut(tokens) for tokens in reference.engine.generate(prompts, [None] * len(asked), max_new_tokens=24)]
    reference.engine.neurons = hooks
    found = answer(reference, asked)
    for method in ("neurons", "eco", "refusal"):
        changed = [a != b for a, b, stamp in zip(plain, found, stamps, strict=True) if stamp and stamp.step(method)]
        assert sum(changed) > 0.5 * len(changed), method
    noticed = [a != b for a, b, stamp in zip(plain, found, stamps, strict=True) if not stamp]
    assert 0 < sum(noticed) < len(noticed)


def test_vllm_equals_reference(eager: Any, reference: Any, asked: list[str]) -> None:
    assert "neurons" in eager.log()
    assert tokens_of(eager.chat(asked)) == answer(reference, asked)


def test_vllm_equals_reference_in_one_batch(eager: Any, reference: Any, asked: list[str]) -> None:
    """Two tables, ECO beside one of them, refusals, abstentions and clean rows, each with its own decision."""
    assert tokens_of(eager.chat(asked, together=True)) == answer(reference, asked)


def find_noticed(reference: Any, asked: list[str]) -> str:
    stamps = reference.stamp(asked, reference.screen(asked))
    found = answer(reference, asked)
    texts = zip(asked, found, stamps, strict=True)
    return next(text for text, tokens, stamp in texts if not stamp and reference.engine.decode(tokens) == ABSTENTION)


def test_abstention_is_in_the_audit(eager: Any, reference: Any, asked: list[str], audit: Path) -> None:
    question = find_noticed(reference, asked)
    before = len(audit.read_text().splitlines()) if audit.exists() else 0
    eager.chat([question])
    rows = [json.loads(line) for line in audit.read_text().splitlines()[before:]]
    assert [row["action"] for row in rows] == ["none", "answer:abstained"]
    assert rows[0]["request_id"] == rows[1]["request_id"]


def test_abstention_holds_for_n_sampling_and_log_probabilities(eager: Any, reference: Any, asked: list[str]) -> None:
    question = find_noticed(reference, asked)
    (row,) = eager.chat([question], n=3, temperature=1.3, seed=4, logprobs=2, max_tokens=40)
    assert set(row["texts"]) == {ABSTENTION}
    assert all(step[str(token)] == 0.0 for step, token in zip(row["logprobs"], row["tokens"], strict=True))


def test_prompt_log_probabilities_and_beams_are_refused(eager: Any, world: Any) -> None:
    """A probe decides when the prompt was read: too late for these."""
    from unlearn_guard.serving.vllm.session import SessionError

    clean = world.sets["retain"][0].question
    with pytest.raises(SessionError, match="key-space probe"):
        eager.chat([clean], prompt_logprobs=1)
    item = {"messages": [{"role": "user", "content": clean}]}
    with pytest.raises(SessionError, match="key-space probe"):
        eager.ask("beam", items=[item], width=2, max_tokens=4)


def test_unflagged_rows_are_stock_beside_flagged_ones(
    start_engine: Any, eager: Any, reference: Any, asked: list[str]
) -> None:
    """Token ids and log-probabilities, in the same batch of fixed length."""
    params = {"ignore_eos": True, "max_tokens": 16, "logprobs": 2, "together": True}
    stock = start_engine(environment={"UNLEARN_GUARD_DISABLE": "1"})
    expected, found = stock.chat(asked, **params), eager.chat(asked, **params)
    stock.close()
    acted = act(reference, asked)
    assert 8 < sum(acted) < len(acted)
    assert_stock(expected, found, acted)


def assert_stock(expected: list[dict[str, Any]], found: list[dict[str, Any]], acted: list[bool]) -> None:
    """Check that what was not acted on is stock's, to the last bit."""
    for theirs, ours, was_acted_on in zip(expected, found, acted, strict=True):
        assert was_acted_on or (ours["tokens"], ours["logprobs"]) == (theirs["tokens"], theirs["logprobs"])


def act(reference: Any, asked: list[str]) -> list[bool]:
    """Return which questions are flagged or noticed."""
    stamps, found = reference.stamp(asked, reference.screen(asked)), answer(reference, asked)
    return [
        bool(stamp) or reference.engine.decode(tokens) == ABSTENTION
        for stamp, tokens in zip(stamps, found, strict=True)
    ]


def test_shadow_mode_installs_no_probe_and_no_edit(
    start_engine: Any, folder: Path, reference: Any, asked: list[str]
) -> None:
    """Answers are stock's, and what a probe in force would refuse is served."""
    params = {"logprobs": 2, "prompt_logprobs": 1, "max_tokens": 16}
    shadow = start_engine(settings={"bundle": str(folder), "mode": "shadow"})
    found = shadow.chat(asked, **params)
    assert "canary" not in shadow.log()
    shadow.close()
    stock = start_engine(environment={"UNLEARN_GUARD_DISABLE": "1"})
    expected = stock.chat(asked, **params)
    stock.close()
    assert [(row["tokens"], row["logprobs"]) for row in found] == [(row["tokens"], row["logprobs"]) for row in expected]
    assert sum(act(reference, asked)) > 8


def test_always_on_edits_every_request(
    start_engine: Any, make_bundle: Any, models: Any, reference: Any, asked: list[str]
) -> None:
    from unlearn_guard.serving.transformers.engine import GuardedModel

    folder = make_bundle("always", applies="always")
    guarded = GuardedModel.load(models["full"], folder, batch_size=1)
    expected = answer(guarded, asked)
    engine = start_engine(settings={"bundle": str(folder), "on_answer": "pass"})
    assert tokens_of(engine.chat(asked)) == expected
    assert tokens_of(engine.chat(asked, together=True)) == expected
    engine.close()
    stamps = guarded.stamp(asked, guarded.screen(asked))
    prompts = [guarded.engine.render(text) for text in asked]
    guarded.engine.neurons = None
    plain = [cut(tokens) for tokens in guarded.engine.generate(prompts, [None] * len(asked), max_new_tokens=24)]
    clean = [place for place, stamp in enumerate(stamps) if stamp is None]
    assert any(expected[place] != plain[place] for place in clean)


def test_streams_abstain_before_the_first_token(models: Any, folder: Path, reference: Any, asked: list[str]) -> None:
    from unlearn_guard.benchmarks.live import LiveServer, ask_stream, find_port

    arguments = ("--max-model-len", "256", "--block-size", "32", "--dtype", "float32", "--enforce-eager")
    server = LiveServer(
        models["full"],
        bundle=folder,
        port=find_port(),
        arguments=arguments,
        environment={"VLLM_CPU_KVCACHE_SPACE": "1"},
    )
    try:
        server.wait()
        text, n_pieces = ask_stream(server, find_noticed(reference, asked), max_tokens=40)
    finally:
        assert server.stop() == 0
    assert text == ABSTENTION
    assert n_pieces > 1


def test_a_score_that_is_not_a_number_is_noticed() -> None:
    import numpy as np
    import torch

    from unlearn_guard.corruptions.key_space import Probe
    from unlearn_guard.serving.vllm.neurons import NeuronGuard

    guard = NeuronGuard.__new__(NeuronGuard)
    guard.probes = {"a": Probe({0: np.ones(2, np.float32)}, 1.0)}
    guard._weights, guard._thresholds = {0: torch.ones(1, 2)}, torch.tensor([1.0], dtype=torch.float64)
    guard.edit = SimpleNamespace(keys={0: torch.tensor([[float("nan"), 0.0], [0.2, 0.3], [0.6, 0.6]])}, n_reads=3)  # type: ignore[assignment]
    guard._reads, guard._noticed, guard._group = ["broken", "below", "above"], set(), None
    guard.judge()
    assert guard._noticed == {"broken", "above"}
