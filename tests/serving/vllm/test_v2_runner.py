"""Model Runner V2, vLLM's default on GPUs, on a CPU through Triton's interpreter."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def test_v2_runner_equals_v1_and_stock(
    start_engine: Any, v2_environment: Any, bundle: Any, world: Any, ask_around: Any
) -> None:
    flagged = [item.question for item in world.sets["forget.given"][::29]]
    clean = [item.question for item in world.sets["retain"][:2]]
    mixed = [question for pair in zip(flagged, clean * 2, strict=False) for question in pair]
    settings = {"bundle": str(bundle)}
    v2 = start_engine(settings=settings, environment=v2_environment)
    assert "canary passed" in v2.log()
    assert "V2 Model Runner" in v2.log()
    one_by_one = v2.chat(mixed, max_tokens=12)
    together = v2.chat(mixed, max_tokens=12, together=True)
    found = v2.chat(clean, max_tokens=12, logprobs=1)
    around = ask_around(v2, flagged[0], clean[0])
    v2.close()
    v1 = start_engine(settings=settings)
    assert [row["tokens"] for row in one_by_one] == [row["tokens"] for row in v1.chat(mixed, max_tokens=12)]
    assert [row["tokens"] for row in together] == [row["tokens"] for row in one_by_one]
    v1.close()
    stock = start_engine(environment={**v2_environment, "UNLEARN_GUARD_DISABLE": "1"})
    stock.chat(mixed, max_tokens=12)  # The same history, so that both find the same blocks in their caches.
    stock.chat(mixed, max_tokens=12, together=True)
    expected = stock.chat(clean, max_tokens=12, logprobs=1)
    assert around == ask_around(stock, flagged[0], clean[0])
    stock.close()
    assert [row["tokens"] for row in found] == [row["tokens"] for row in expected]
    assert [row["logprobs"] for row in found] == [row["logprobs"] for row in expected]


def test_v2_runner_forces_refusals(start_engine: Any, v2_environment: Any, bundle: Any, world: Any) -> None:
    engine = start_engine(settings={"bundle": str(bundle), "intervention": "refusal"}, environment=v2_environment)
    flagged, clean = world.sets["forget.given"][0].question, world.sets["retain"][0]
    answers = engine.chat([flagged, clean.question], together=True, temperature=0.0)
    assert answers[0]["text"] == "I'm sorry, but I can't help with that."
    assert clean.key in answers[1]["text"]
    (sampled,) = engine.chat([flagged], temperature=1.2, n=2, seed=3)
    assert set(sampled["texts"]) == {"I'm sorry, but I can't help with that."}
