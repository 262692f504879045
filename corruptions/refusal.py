"""Refusal: the answer is a fixed text, forced token by token, so that streams, n > 1 and every API behave alike."""

from __future__ import annotations

from typing import Any

from unlearn_guard.guard.stamp import Step

DEFAULT_TEXT = "I'm sorry, but I can't help with that."


def plan_refusal(tokens: list[int]) -> Step:
    """Return the step that forces `tokens`, the last of which ends the answer."""
    return Step("refusal", (), {"tokens": tokens})


def encode_refusal(tokenizer: Any, text: str, end_token: int) -> list[int]:
    """Tokenise a refusal for forcing; `end_token` is the model's end of answer."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    return [*(int(token) for token in backend.encode(text, add_special_tokens=False).ids), end_token]
