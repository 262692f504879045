"""What of a conversation is screened: every message, and what only several of them say together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unlearn_guard.guard.errors import ScreeningError
from unlearn_guard.guard.verdict import Span

Conversation = Sequence[Mapping[str, Any]]
Item = str | Conversation
TAIL_CHARACTERS = 2_000
"""How much of a conversation's end is read as one text."""


class Completion(str):
    """A text that a model goes on with as it is, without its chat template: what the completions endpoint takes."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Message:
    """One message: who sent it, and its text."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Unit:
    """A text to be screened: one message, or several joined. `parts` are (message, start in unit, start in message)."""

    text: str
    parts: tuple[tuple[int, int, int], ...]

    def locate(self, start: int, end: int) -> Span:
        """Return the characters of the message in which [start, end) begins."""
        message, offset, origin = next(part for part in reversed(self.parts) if part[1] <= start)
        limit = next((part[1] - 1 for part in self.parts if part[1] > start), len(self.text))
        return message, origin + start - offset, origin + min(end, limit) - offset


def to_conversation(item: Item) -> Conversation:
    """Return an item as a conversation: a string is one message of the user's."""
    return [{"role": "user", "content": item}] if isinstance(item, str) else item


def read_messages(item: Item) -> list[Message]:
    """Return the messages of an item; content parts, reasoning and tool calls are joined by newlines.

    Raises ScreeningError for content that is not text.
    """
    if isinstance(item, str):
        return [Message("user", item)]
    messages = []
    for message in item:
        if not isinstance(message, Mapping):
            raise ScreeningError("message is not a mapping", value=type(message).__name__, allowed="role and content")
        texts = [_read_content(message.get("content")), *_read_extras(message)]
        messages.append(Message(str(message.get("role", "user")), "\n".join(filter(None, texts))))
    return messages


def make_units(messages: Sequence[Message]) -> list[Unit]:
    """Return what to screen: every message, the user turns since the last answer, and the conversation's end.

    Who asks in two messages, or in the third by a pronoun, asks all the same.
    """
    units = [Unit(message.text, ((number, 0, 0),)) for number, message in enumerate(messages) if message.text.strip()]
    if len(units) < 2:
        return units
    since_answer = max((number for number, message in enumerate(messages) if message.role == "assistant"), default=-1)
    spoken = [number for number, message in enumerate(messages) if message.text.strip()]
    turns = [number for number in spoken if messages[number].role == "user" and number > since_answer]
    tails = {tuple(turns), tuple(spoken)}
    return units + [_join(messages, numbers) for numbers in sorted(tails, key=len) if len(numbers) > 1]


def _join(messages: Sequence[Message], numbers: Sequence[int]) -> Unit:
    """Join messages, the last ones whole and the first one cut where they are longer than the tail."""
    chosen: list[tuple[int, int]] = []
    left = TAIL_CHARACTERS
    for number in reversed(numbers):
        if left <= 0:
            break
        if not messages[number].text.strip():
            continue
        start = max(0, len(messages[number].text) - left)
        chosen.append((number, start))
        left -= len(messages[number].text) - start + 1
    text = ""
    parts = []
    for number, start in reversed(chosen):
        parts.append((number, len(text), start))
        text += messages[number].text[start:] + "\n"
    return Unit(text[:-1], tuple(parts))


def _read_extras(message: Mapping[str, Any]) -> list[str]:
    """Return what an earlier answer holds beside its content: reasoning, and the arguments of tool calls."""
    texts = [text for key in ("reasoning", "reasoning_content") if isinstance(text := message.get(key), str)]
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, Sequence) and not isinstance(calls, str) else ():
        function = call.get("function") if isinstance(call, Mapping) else None
        arguments = function.get("arguments") if isinstance(function, Mapping) else None
        if arguments is not None:
            texts.append(arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False))
    return texts


def _read_content(content: object) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        parts = []
        for part in content:
            if isinstance(part, str):
                parts.append(part)
            elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
                parts.append(part["text"])
            else:
                kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
                raise ScreeningError("content part cannot be screened", value=kind, allowed="text")
        return "\n".join(parts)
    raise ScreeningError("message content cannot be screened", value=type(content).__name__, allowed="text")
