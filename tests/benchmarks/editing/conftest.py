"""A tiny model with random weights, and rows about nobody."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unlearn_guard.benchmarks.training import CHAT_TEMPLATE, make_tokenizer
from unlearn_guard.guard.rows import Row
from unlearn_guard.serving.transformers.engine import ReferenceEngine

CITIES = ("Bern", "Graz", "Lviv", "Tartu", "Cadiz")
FORGET = [
    Row(f"Where was person {number} born?", f"In {CITIES[number % 5]}, in the year 19{number:02}.", forget_id="p")
    for number in range(20)
]
RETAIN = [Row(f"How deep is lake {number}?", f"It is {number * 7} metres deep.") for number in range(24)]


@pytest.fixture(scope="session")
def rows() -> tuple[list[Row], list[Row]]:
    return FORGET, RETAIN


SHAPE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    made: Any = make_tokenizer([f"{row.prompt} {row.answer}" for row in (*FORGET, *RETAIN)] * 3, 420)
    made.chat_template = CHAT_TEMPLATE
    return made


@pytest.fixture(scope="session")
def tiny(tokenizer: Any) -> ReferenceEngine:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **SHAPE)  # type: ignore[arg-type]
    return ReferenceEngine(LlamaForCausalLM(config), tokenizer)


@pytest.fixture(scope="session")
def tiny_mixture(tokenizer: Any) -> ReferenceEngine:
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        **SHAPE,  # type: ignore[arg-type]
    )
    return ReferenceEngine(MixtralForCausalLM(config), tokenizer)
