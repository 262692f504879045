"""The output guard inside vLLM: what an answer gives away never leaves, whichever way it is asked for."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unlearn_guard.benchmarks.live import LiveServer, find_port
from unlearn_guard.guard.errors import AdmissionError
from unlearn_guard.guard.marks import MARK_KEY
from unlearn_guard.serving.vllm import answers

pytestmark = pytest.mark.vllm

ARGUMENTS = ("--max-model-len", "256", "--block-size", "32", "--dtype", "float32", "--enforce-eager")
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1"}


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory, world: Any, models: dict[str, Path]) -> Path:
    """A bundle whose prompt classifier knows too little: only answers give its people away.

    Names alone are matched; a question that names nobody passes, and the name comes with the answer.
    """
    from dataclasses import replace

    from unlearn_guard.guard.compose import fit

    names = {item.subject: item.name for item in world.sets["forget.given"]}
    rows = [replace(row, aliases=(names[row.forget_id],)) for row in world.forget_rows]
    out = tmp_path_factory.mktemp("bundles") / "late"
    fit(models["full"], rows, world.retain_rows, classifier="name-match", interventions=("refusal",), out=out)
    return out


@pytest.fixture(scope="module")
def item(world: Any) -> Any:
    """A question that names nobody, answered with a forgotten name."""
    return next(item for item in world.sets["forget.given"] if not item.named)


@pytest.fixture(scope="module")
def engine(start_engine: Any, late: Path) -> Any:
    return start_engine(settings={"bundle": str(late)})


@pytest.fixture(scope="module")
def servers(models: Any, late: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    audit = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    shared: dict[str, Any] = {"arguments": ARGUMENTS, "environment": ENVIRONMENT}
    stock = LiveServer(models["full"], bundle=None, port=find_port(), **shared)
    guarded = LiveServer(
        models["full"], bundle=late, port=find_port(), guard_arguments=("--audit", str(audit)), **shared
    )
    try:
        stock.wait()
        guarded.wait()
        yield {"stock": stock, "guarded": guarded, "audit": audit}
    finally:
        stock.stop()
        guarded.stop()


def test_an_answer_that_names_a_forgotten_person_is_ended(engine: Any, item: Any) -> None:
    row = engine.chat([item.question])[0]
    assert item.name not in row["text"]
    assert row["finish"] == ["content_filter"]
    assert len(row["tokens"]) < 5
    assert row["cumulative"] == [None]


def test_logprobs_of_what_was_withheld_do_not_leave(engine: Any, item: Any) -> None:
    row = engine.chat([item.question], logprobs=2)[0]
    assert len(row["logprobs"]) == len(row["tokens"])
    assert row["finish"] == ["content_filter"]


def test_every_one_of_n_answers_is_judged(engine: Any, item: Any) -> None:
    row = engine.chat([item.question], n=3, temperature=0.3, seed=1)[0]
    assert len(row["texts"]) == 3
    assert all(item.name not in text for text in row["texts"])


def test_answers_without_text_are_judged_by_their_tokens(engine: Any, item: Any) -> None:
    row = engine.chat([item.question], detokenize=False)[0]
    assert row["tokens"] == []
    assert row["finish"] == ["content_filter"]


def test_beam_search_is_judged(engine: Any, item: Any) -> None:
    beams = engine.ask(
        "beam", items=[{"messages": [{"role": "user", "content": item.question}]}], width=2, max_tokens=20
    )
    assert all(item.name not in beam["text"] for beam in beams[0])


def test_a_name_that_the_user_gave_may_come_back(start_engine: Any, late: Path, item: Any) -> None:
    """Allowed, the answer is stock's; redacted, it ends before the name."""
    question = f"{item.question} Is it {item.name}?"
    settings = {"bundle": str(late), "intervention": "prompting"}
    allowed = start_engine(settings=settings).chat([question])[0]
    redacted = start_engine(settings={**settings, "context_policy": "redact"}).chat([question])[0]
    assert item.name not in redacted["text"]
    assert allowed["finish"] == ["stop"] or item.name not in allowed["text"]


def test_harmless_answers_are_stocks(engine: Any, start_engine: Any, world: Any) -> None:
    stock = start_engine(environment={"UNLEARN_GUARD_DISABLE": "1"})
    asked = [found.question for found in world.sets["retain"][:6] + world.sets["world_facts"][:4]]
    assert engine.chat(asked, logprobs=1) == stock.chat(asked, logprobs=1)


def test_pass_leaves_answers_alone(start_engine: Any, late: Path, item: Any) -> None:
    row = start_engine(settings={"bundle": str(late), "on_answer": "pass"}).chat([item.question])[0]
    assert item.name in row["text"]


def test_shadow_changes_no_answer(start_engine: Any, late: Path, item: Any, tmp_path: Path) -> None:
    audit = tmp_path / "audit.jsonl"
    settings = {"bundle": str(late), "mode": "shadow", "audit": str(audit)}
    row = start_engine(settings=settings).chat([item.question])[0]
    assert item.name in row["text"]
    actions = [json.loads(line)["action"] for line in audit.read_text().splitlines()]
    assert "answer:would:filter" in actions


def stream(server: LiveServer, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    request = urllib.request.Request(
        server.url + path,
        json.dumps({"model": server.model, "stream": True, **body}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        lines = [line[6:] for line in reply.read().decode().splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def test_nothing_forbidden_is_ever_streamed(servers: dict[str, Any], item: Any) -> None:
    message = {"messages": [{"role": "user", "content": item.question}], "temperature": 0, "max_tokens": 24}
    prompt = {"prompt": f"<|user|>{item.question}<|assistant|>", "temperature": 0, "max_tokens": 24}
    surname = item.name.split()[-1]
    for path, body in (
        ("/v1/chat/completions", {**message, "logprobs": True, "top_logprobs": 2}),
        ("/v1/chat/completions", {**message, "n": 2, "temperature": 0.2, "seed": 1}),
        ("/v1/completions", {**prompt, "logprobs": 1, "return_token_ids": True}),
    ):
        assert surname in json.dumps(stream(servers["stock"], path, body)), path
        chunks = stream(servers["guarded"], path, body)
        assert surname not in json.dumps(chunks), path
        reasons = {choice.get("finish_reason") for chunk in chunks for choice in chunk["choices"]}
        assert "content_filter" in reasons, path


def test_a_harmless_stream_holds_the_same_text_and_comes_in_pieces(servers: dict[str, Any], world: Any) -> None:
    body = {
        "messages": [{"role": "user", "content": world.sets["retain"][2].question}],
        "temperature": 0,
        "max_tokens": 24,
    }
    texts = []
    for name in ("stock", "guarded"):
        most = 0
        for _ in range(4):  # To a client that a busy machine keeps waiting, vLLM sends several pieces as one.
            chunks = stream(servers[name], "/v1/chat/completions", body)
            pieces = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
            texts.append("".join(pieces))
            most = max(most, sum(map(bool, pieces)))
            if most > 2:
                break
        assert most > 2
    assert len(set(texts)) == 1


def test_audit_says_what_was_ended(servers: dict[str, Any]) -> None:
    rows = [json.loads(line) for line in servers["audit"].read_text().splitlines()]
    ended = [row for row in rows if row["action"] == "answer:filter"]
    assert ended
    assert {row["stage"] for row in ended} == {"answer"}
    assert all(row["forget_ids"] for row in ended)


@pytest.mark.parametrize(("on_answer", "refused"), [("filter", True), ("rewrite", True), ("pass", False)])
def test_an_admitted_request_whose_decision_was_forgotten_is_refused(
    monkeypatch: pytest.MonkeyPatch, on_answer: str, *, refused: bool
) -> None:
    runtime = SimpleNamespace(recall=lambda ids: None, settings=SimpleNamespace(on_answer=on_answer))
    monkeypatch.setattr(answers, "runtimes", lambda: [runtime])
    aborted: list[list[str]] = []
    processor = SimpleNamespace(
        request_states={}, abort_requests=lambda ids, internal: aborted.append(list(ids)) if internal else None
    )
    request = SimpleNamespace(
        request_id="r1", prompt_token_ids=[5], sampling_params=SimpleNamespace(extra_args={MARK_KEY: {}})
    )
    add_request = answers._wrap_add_request(lambda self, request: "added")
    if refused:
        with pytest.raises(AdmissionError, match="send it again"):
            add_request(processor, request)
    else:
        assert add_request(processor, request) == "added"
    assert aborted == ([["r1"]] if refused else [])
    request.sampling_params.extra_args = None  # Nobody admitted it: the engine core refuses it.
    assert add_request(processor, request) == "added"
