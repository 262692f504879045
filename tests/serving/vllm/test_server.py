"""The real server: every endpoint is guarded, unflagged answers are stock's, and it stops cleanly."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unlearn_guard.benchmarks.live import LiveServer, ask_chat, ask_completion, ask_stream, find_port

pytestmark = pytest.mark.vllm

ARGUMENTS = ("--max-model-len", "256", "--block-size", "32", "--dtype", "float32", "--enforce-eager")
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1"}


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit") / "audit.jsonl"


@pytest.fixture(scope="module")
def servers(models: Any, bundle: Path, audit: Path) -> Iterator[dict[str, LiveServer]]:
    shared: dict[str, Any] = {"arguments": ARGUMENTS, "environment": ENVIRONMENT}
    stock = LiveServer(models["full"], bundle=None, port=find_port(), **shared)
    guarded = LiveServer(
        models["full"], bundle=bundle, port=find_port(), guard_arguments=("--audit", str(audit)), **shared
    )
    try:
        stock.wait()
        guarded.wait()
        yield {"stock": stock, "guarded": guarded}
    finally:
        codes = [stock.stop(), guarded.stop()]
        assert codes == [0, 0]


def post(server: LiveServer, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    request = urllib.request.Request(
        server.url + path, json.dumps({"model": server.model, **body}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"{}")


def test_every_endpoint_is_guarded(servers: dict[str, LiveServer], world: Any) -> None:
    guarded, stock = servers["guarded"], servers["stock"]
    item = next(item for item in world.sets["forget.given"] if item.key == item.answer.split()[-1].strip("."))
    question = {"role": "user", "content": item.question}
    prompt = f"<|user|>{item.question}<|assistant|>"
    common = {"temperature": 0, "max_tokens": 24}
    asked: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", {"messages": [question], **common}),
        ("/v1/chat/completions", {"messages": [question], "n": 3, "seed": 1, "temperature": 0.2, "max_tokens": 24}),
        ("/v1/completions", {"prompt": prompt, **common}),
        ("/v1/completions", {"prompt": prompt, "max_tokens": 24, "temperature": 0, "use_beam_search": True, "n": 2}),
        ("/v1/completions", {"prompt": prompt, "echo": True, "logprobs": 1, **common}),
        ("/v1/responses", {"input": item.question, "temperature": 0, "max_output_tokens": 24}),
        ("/v1/messages", {"messages": [question], **common}),
        ("/v1/chat/completions", {"messages": [question], "vllm_xargs": {"unlearn_guard": "clean"}, **common}),
    ]
    for path, body in asked:
        code, known = post(stock, path, body)
        assert code == 200, (path, known)
        assert item.key in json.dumps(known), path
        code, hidden = post(guarded, path, body)
        assert code == 200, (path, hidden)
        assert item.key not in json.dumps(hidden), path
    answer, _ = ask_stream(guarded, item.question, max_tokens=24)
    assert item.key not in answer


def test_unflagged_answers_equal_stock(servers: dict[str, LiveServer], world: Any) -> None:
    questions = [item.question for item in world.sets["retain"][:10] + world.sets["world_facts"][:5]]
    answers = {name: ask_chat(server, questions, max_tokens=24, at_once=1) for name, server in servers.items()}
    assert answers["stock"] == answers["guarded"]
    body = {"prompt": f"<|user|>{questions[0]}<|assistant|>", "temperature": 0, "max_tokens": 8, "logprobs": 2}
    replies = [post(server, "/v1/completions", body)[1]["choices"][0] for server in servers.values()]
    assert replies[0] == replies[1]


def test_clean_answers_around_a_flagged_one_equal_stock(servers: dict[str, LiveServer], world: Any) -> None:
    """Flagged and clean requests share more than 128 tokens; clean ones get stock's text and log-probabilities."""
    system = " ".join(f"Rule {number}: answer briefly and stay polite at all times." for number in range(7))
    flagged, clean = world.sets["forget.given"][4].question, world.sets["retain"][4].question

    def ask(server: LiveServer, question: str) -> Any:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        body = {"messages": messages, "temperature": 0, "max_tokens": 12, "logprobs": True, "top_logprobs": 2}
        code, reply = post(server, "/v1/chat/completions", body)
        assert code == 200
        assert reply["usage"]["prompt_tokens"] > 140
        return reply["choices"]

    answers = {
        name: [ask(server, question) for question in (clean, flagged, clean)] for name, server in servers.items()
    }
    assert [answers["stock"][place] for place in (0, 2)] == [answers["guarded"][place] for place in (0, 2)]
    assert answers["stock"][1] != answers["guarded"][1]


def test_usage_counts_the_clients_prompt(servers: dict[str, LiveServer], world: Any) -> None:
    body = {"messages": [{"role": "user", "content": world.sets["forget.given"][0].question}], "max_tokens": 4}
    usages = [post(server, "/v1/chat/completions", body)[1]["usage"]["prompt_tokens"] for server in servers.values()]
    assert usages[0] == usages[1]


def test_reserved_salt_is_a_client_error(servers: dict[str, LiveServer]) -> None:
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "cache_salt": "unl:" + "0" * 64}
    code, reply = post(servers["guarded"], "/v1/chat/completions", body)
    assert code == 400
    assert "reserved prefix" in json.dumps(reply)


def test_metrics_and_audit_follow_what_ran(servers: dict[str, LiveServer], audit: Path, world: Any) -> None:
    guarded = servers["guarded"]
    before = len(audit.read_text().splitlines())
    ask_chat(
        guarded, [world.sets["forget.given"][3].question, world.sets["retain"][3].question], max_tokens=4, at_once=1
    )
    rows = [json.loads(line) for line in audit.read_text().splitlines()][before:]
    assert [row["action"] for row in rows] == ["eco", "none"]
    assert rows[0]["forget_ids"] == [world.sets["forget.given"][3].subject]
    assert world.sets["forget.given"][3].name not in audit.read_text()
    with urllib.request.urlopen(f"{guarded.url}/metrics", timeout=10) as reply:
        page = reply.read().decode()
    assert 'guard_requests_total{action="eco",mode="enforce"}' in page
    assert "guard_decision_seconds_bucket" in page


def test_completion_with_plain_text_prompt_is_screened(servers: dict[str, LiveServer], world: Any) -> None:
    item = world.sets["forget.given"][2]
    prompt = f"<|user|>{item.question}<|assistant|>"
    assert item.key not in ask_completion(servers["guarded"], prompt, max_tokens=24)
