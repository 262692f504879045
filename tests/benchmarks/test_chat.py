"""What stands before questions of other people's checkpoints: a template with a date of its own gets a fixed one."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from unlearn_guard.benchmarks.chat import DATE, Frame

# As Llama 3's does, in short: today where no date is given, and a system message of its own.
TEMPLATE = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{% if messages[0]['role'] == 'system' %}{% set said = messages[0]['content'] %}{% set messages = messages[1:] %}"
    "{% else %}{% set said = '' %}{% endif %}[{{ date_string }}|{{ said }}]"
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def tokenizer(models: Any) -> Any:
    own = PreTrainedTokenizerFast.from_pretrained(models["full"])
    own.chat_template = TEMPLATE
    return own


def render(tokenizer: Any, *messages: tuple[str, str]) -> str:
    asked = [{"role": role, "content": content} for role, content in messages]
    return str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))


def test_the_date_is_fixed(tokenizer: Any) -> None:
    assert not render(tokenizer, ("user", "Hi")).startswith(f"[{DATE}|")
    assert render(Frame().put_around(tokenizer), ("user", "Hi")) == f"[{DATE}|]<user>Hi<assistant>"


def test_a_system_message_comes_first_unless_there_is_one(tokenizer: Any) -> None:
    framed = Frame('You\'re "kind", über\nalles.', "10 Apr 2025").put_around(tokenizer)
    assert render(framed, ("user", "Hi")) == '[10 Apr 2025|You\'re "kind", über\nalles.]<user>Hi<assistant>'
    assert render(framed, ("system", "Own."), ("user", "Hi")) == "[10 Apr 2025|Own.]<user>Hi<assistant>"


def test_a_tokenizer_without_a_template_stays(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    assert Frame("Be kind.").put_around(tokenizer).chat_template is None
