"""The output guard inside vLLM: what an answer gives away never leaves, whichever way it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.vllm

ARGUMENTS = ("--max-model-len", "256", "--block-size", "32", "--dtype", "float32", "--enforce-eager")


@pytest.fixture(scope="module")
def unnoticed(bundle: Path, world: Any) -> list[Any]:
    """Questions that name nobody and whose prompt passes, though their answer names a forgotten person."""
    from unlearn_guard.guard.screening import Guard

    guard = Guard.load(bundle)
    nameless = [item for name in ("forget.given", "forget.unseen") for item in world.sets[name] if not item.named]
    asked = [item.with_question("Who is this? " + item.question.split(" born")[0] + "?") for item in nameless]
    passing = [item for item in asked if not guard.screen([item.question])[0].flagged]
    return passing


@pytest.fixture(scope="module")
def engine(start_engine: Any, bundle: Path) -> Any:
    return start_engine(settings={"bundle": str(bundle), "alpha": 1e-9, "intervention": "refusal"})


def prompt_of(item: Any, prefix: str) -> str:
    return f"<|user|>{item.question}<|assistant|>{prefix}"


def test_an_answer_that_names_a_forgotten_person_is_ended(engine: Any, world: Any) -> None:
    item = next(item for item in world.sets["forget.given"] if not item.named)
    rows = engine.ask("run", items=[{"prompt": prompt_of(item, "The")}], params={"max_tokens": 24}, together=False)
    assert item.name not in rows[0]["text"]
