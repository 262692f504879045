"""A tiny byte-level tokenizer, prompts made with it, and verdicts about them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from unlearn_guard.benchmarks.training import make_tokenizer
from unlearn_guard.corruptions.prompt import Prompt, read_prompt
from unlearn_guard.guard.verdict import Verdict

TEXTS = [
    "Where was Ann Lee born? She was born in Bern.",
    "What did Ann Lee write about the sea? The Salt Road.",
    "Who taught Bo Li to play the lute in Basel?",
    "You are a helpful assistant.",
]


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return make_tokenizer(TEXTS * 4, 420)


@pytest.fixture(scope="session")
def chat(tokenizer: Any) -> Callable[..., Prompt]:
    """Make the prompt of a conversation, given as (role, text) pairs."""

    def make(*messages: tuple[str, str]) -> Prompt:
        rendered = tokenizer.apply_chat_template(
            [{"role": role, "content": text} for role, text in messages], tokenize=False, add_generation_prompt=True
        )
        return read_prompt(tokenizer, tokenizer(rendered, add_special_tokens=False).input_ids, messages)

    return make


@pytest.fixture(scope="session")
def name() -> Callable[..., Verdict]:
    """Make the verdict that names a word of a message."""

    def make(prompt: Prompt | str, *words: str, message: int = 0, forget_ids: tuple[str, ...] = ("p1",)) -> Verdict:
        if isinstance(prompt, str):
            text = prompt
        else:
            place = prompt.messages[message].place if prompt.messages else (0, len(prompt.text))
            assert place is not None
            text = prompt.text[slice(*place)]
        spans = tuple((message, text.index(word), text.index(word) + len(word)) for word in words)
        return Verdict(True, forget_ids, 9.0, 0.001, "alias", spans)

    return make
