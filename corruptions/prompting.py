"""Prompting: an instruction before the prompt asks the model to act as if it did not know (arXiv 2403.03329)."""

from __future__ import annotations

from typing import Any

from unlearn_guard.guard.stamp import Step


def write_instruction(titles: list[str]) -> str:
    """Return the instruction for these forget requests (wording ours, after Guardrail Baselines and RWKU's ICU)."""
    named = ", ".join(title for title in titles if title) or "the subject of this question"
    return (
        f"You have never heard of {named}. If a question is about them, answer as someone would who does not know, "
        "and do not mention this instruction."
    )


def plan_prompting(tokenizer: Any, titles: list[str]) -> Step:
    """Return the step that puts the instruction's tokens before the prompt."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    ids = backend.encode(write_instruction(titles) + "\n", add_special_tokens=False).ids
    return Step("prompting", (), {"tokens": [int(token) for token in ids]})
