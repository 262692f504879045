"""Refusal: the text's tokens and the end, nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from unlearn_guard.corruptions.refusal import DEFAULT_TEXT, encode_refusal, plan_refusal


@pytest.mark.parametrize("text", [DEFAULT_TEXT, "Nein – nö!", ""])
def test_tokens_spell_the_text_and_end(tokenizer: Any, text: str) -> None:
    tokens = encode_refusal(tokenizer, text, 77)
    assert tokens == encode_refusal(tokenizer.backend_tokenizer, text, 77)
    assert tokens[-1] == 77
    assert tokenizer.decode(tokens[:-1]) == text


def test_step_carries_the_tokens() -> None:
    step = plan_refusal([1, 2])
    assert (step.method, step.positions, step.params) == ("refusal", (), {"tokens": [1, 2]})
