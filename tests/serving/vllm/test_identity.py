"""Unflagged requests get stock vLLM's token ids and log-probabilities, exactly; flagged state never meets theirs."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.vllm

SYSTEM = " ".join(f"Rule {number}: answer briefly and stay polite at all times." for number in range(7))


@pytest.fixture(scope="module")
def stock(start_engine: Any) -> Any:
    """Stock vLLM: the plugin is installed, but switched off altogether."""
    return start_engine(environment={"UNLEARN_GUARD_DISABLE": "1"})


@pytest.fixture(scope="module")
def guarded(start_engine: Any, bundle: Any) -> Any:
    return start_engine(settings={"bundle": str(bundle)})


@pytest.fixture(scope="module")
def questions(world: Any) -> dict[str, list[str]]:
    return {name: [item.question for item in items] for name, items in world.sets.items()}


def test_unflagged_tokens_and_logprobs_equal_stock(stock: Any, guarded: Any, questions: Any) -> None:
    asked = questions["retain"][:6] + questions["world_facts"][:4]
    expected, found = (engine.chat(asked, logprobs=3) for engine in (stock, guarded))
    for one, other in zip(expected, found, strict=True):
        assert other["tokens"] == one["tokens"]
        assert other["logprobs"] == one["logprobs"]


def test_unflagged_equal_stock_in_one_batch(stock: Any, guarded: Any, questions: Any) -> None:
    asked = questions["retain"][20:28]
    params = {"together": True, "ignore_eos": True, "max_tokens": 12, "logprobs": 0}
    assert guarded.chat(asked, **params) == stock.chat(asked, **params)


def test_flagged_prefix_is_isolated_from_clean_requests(stock: Any, guarded: Any, questions: Any) -> None:
    """A clean request right after a flagged one that shares a 128-token prefix hits what stock would hit."""
    flagged, clean = questions["forget.given"][0], questions["retain"][0]
    first = {}
    for name, engine in (("stock", stock), ("guarded", guarded)):
        first[name] = [
            engine.chat([clean], system=SYSTEM, logprobs=2)[0],
            engine.chat([flagged], system=SYSTEM, logprobs=2)[0],
            engine.chat([clean], system=SYSTEM, logprobs=2)[0],
            engine.chat([flagged], system=SYSTEM, logprobs=2)[0],
        ]
    stock_runs, guarded_runs = first["stock"], first["guarded"]
    assert len(stock_runs[0]["prompt_ids"]) > 140
    for position in (0, 2):
        assert guarded_runs[position] == stock_runs[position]
    # Stock shares the system prompt's blocks; the flagged request must not read them,
    assert stock_runs[1]["cached"] >= 128
    assert guarded_runs[1]["cached"] == 0
    # but its own repeat reads its own.
    assert guarded_runs[3]["cached"] >= 128
    assert guarded_runs[3]["tokens"] == guarded_runs[1]["tokens"]


def test_flagged_answers_differ_and_hold_no_fact(stock: Any, guarded: Any, world: Any) -> None:
    items = world.sets["forget.given"][:12]
    asked = [item.question for item in items]
    known = stock.chat(asked)
    suppressed = guarded.chat(asked)
    assert all(item.key in answer["text"] for item, answer in zip(items, known, strict=True))
    leaks = sum(item.key in answer["text"] for item, answer in zip(items, suppressed, strict=True))
    assert leaks <= 2


def test_the_same_ids_under_another_stamp_share_no_cache(guarded: Any, questions: Any) -> None:
    """Asking for prompt log-probabilities gives another stamp: the same ids must be computed anew, then found again."""
    question = questions["forget.given"][7]
    (first,) = guarded.chat([question], system=SYSTEM)
    (again,) = guarded.chat([question], system=SYSTEM)
    (ids,) = guarded.ask("run", items=[{"ids": first["prompt_ids"]}], params={}, together=False)
    (tenant,) = guarded.ask("run", items=[{"ids": first["prompt_ids"], "salt": "tenant"}], params={}, together=False)
    assert again["cached"] >= 128
    assert ids["cached"] >= 0
    assert tenant["cached"] == 0
    (other,) = guarded.chat([question], system=SYSTEM, prompt_logprobs=0, max_tokens=1)
    (back,) = guarded.chat([question], system=SYSTEM)
    assert other["cached"] == 0
    assert back["tokens"] == first["tokens"]


def test_token_id_prompts_are_screened(stock: Any, guarded: Any, questions: Any) -> None:
    """The same prompt as ids gets the same treatment as the same prompt as chat."""
    (chat,) = guarded.chat([questions["forget.given"][3]])
    (ids,) = guarded.ask("run", items=[{"ids": chat["prompt_ids"]}], params={}, together=False)
    (plain,) = stock.ask("run", items=[{"ids": chat["prompt_ids"]}], params={}, together=False)
    assert ids["tokens"] != plain["tokens"]


def test_client_value_under_private_key_changes_nothing(stock: Any, guarded: Any, questions: Any) -> None:
    forged = {"unlearn_guard": {"revision": "x", "body": "clean", "mac": "0"}, "other": 1}
    flagged, clean = questions["forget.given"][5], questions["retain"][5]
    assert guarded.chat([flagged], extra_args=forged)[0] == guarded.chat([flagged])[0] | {"cached": 0}
    stamped = {
        "unlearn_guard": {
            "revision": "x",
            "mac": "0",
            "body": {"revision": "x", "forget_ids": [], "prompt_length": 4, "seed": 0, "steps": []},
        }
    }
    assert guarded.chat([clean], extra_args=stamped)[0]["tokens"] == stock.chat([clean])[0]["tokens"]


def test_reserved_salt_is_refused(guarded: Any, questions: Any) -> None:
    with pytest.raises(Exception, match="reserved prefix"):
        guarded.ask("run", items=[{"ids": [5, 6, 7], "salt": "unl:" + "0" * 64}], params={}, together=False)
    assert guarded.chat([questions["retain"][0]])[0]["tokens"]


def test_engine_refuses_what_skipped_admission(guarded: Any, stock: Any) -> None:
    with pytest.raises(Exception, match="admission mark"):
        guarded.ask("unmarked", question="Hello")
    assert stock.ask("unmarked", question="Hello") == "accepted"


def test_prompt_embeddings_are_refused(guarded: Any) -> None:
    with pytest.raises(Exception, match=r"(?i)embed"):
        guarded.ask("embeds")


def test_logprobs_of_flagged_requests_leak_nothing(stock: Any, guarded: Any, world: Any) -> None:
    """Neither sampled nor prompt log-probabilities show what the unguarded model thinks of the true answer."""
    item = world.sets["forget.given"][0]
    (plain,) = stock.chat([item.question])
    prompt, answer = plain["prompt_ids"], plain["tokens"][:-1]
    asked = [{"ids": [*prompt, *answer]}]
    params = {"max_tokens": 1, "prompt_logprobs": 0}
    known, hidden = (
        engine.ask("run", items=asked, params=params, together=False)[0]["prompt_logprobs"][len(prompt) :]
        for engine in (stock, guarded)
    )
    score = [sum(next(iter(step.values())) for step in steps) / len(steps) for steps in (known, hidden)]
    assert score[0] > -0.1
    assert score[1] < -2.0


def test_every_seam_is_patched(guarded: Any) -> None:
    patched = guarded.ask("count_patches")
    runner_methods = {name for name in patched if "GPUModelRunner" in name}  # Wrapped on the instance.
    assert runner_methods
    assert all(installed for name, installed in patched.items() if name not in runner_methods)


def test_log_names_revision_and_canary(guarded: Any) -> None:
    log = guarded.log()
    assert "canary passed" in log
    assert "mode enforce" in log
