"""A prompt as the model sees it: token ids, text, and which characters each token stands for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from unlearn_guard.corruptions.fluency import WORD
from unlearn_guard.guard.stamp import Ranges
from unlearn_guard.guard.verdict import Verdict

_RENDERED = -1
_OPEN_ROLES = frozenset({"user", "tool", "function", "document"})
_EXTRA_ROLES = frozenset({"tools", "document"})
"""Of what stands behind a conversation in a list of messages, wherever a template puts it."""


@dataclass(frozen=True, slots=True)
class Message:
    """Where a message lies in the rendered text: half-open characters, None where it was not found."""

    role: str
    place: tuple[int, int] | None
    lead: int = 0
    """How many characters the template trimmed off the front."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids with their text.

    `offsets[i]` are the half-open characters of token i; None when the tokenizer cannot tell, and then every
    mask means all tokens. `special[i]` marks template and control tokens. Without `messages` the whole text is
    what the user wrote.
    """

    ids: tuple[int, ...]
    text: str
    offsets: tuple[tuple[int, int], ...] | None
    special: tuple[bool, ...]
    messages: tuple[Message, ...] = ()

    def cover(self, places: Iterable[tuple[int, int]]) -> set[int]:
        """Return the tokens, special ones left out, that touch any of these character ranges."""
        if self.offsets is None:
            return self.open_tokens()
        # A name that is repeated through a whole context has thousands of places.
        ranges = _merge(places)
        ends = [end for _, end in ranges]
        touched: set[int] = set()
        for position, (left, right) in enumerate(self.offsets):
            nearest = bisect_right(ends, left)
            if nearest < len(ranges) and ranges[nearest][0] < right and not self.special[position]:
                touched.add(position)
        return touched

    def open_tokens(self) -> set[int]:
        """Return the tokens that a user or a tool wrote, and the beginning of an answer: all that are not special where it is not known who wrote them.

        Where a conversation ends in an assistant's messages the answer goes on from them, and who asks has written them.
        """
        everything = {position for position, special in enumerate(self.special) if not special}
        if self.offsets is None or not self.messages or any(message.place is None for message in self.messages):
            return everything
        asked = self._cover_messages(message for message in self.messages if message.role in _OPEN_ROLES)
        return asked | self._cover_messages(self._list_begun()) if asked else everything

    def _list_begun(self) -> list[Message]:
        spoken = [message for message in self.messages if message.role not in _EXTRA_ROLES]
        return list(takewhile(lambda message: message.role == "assistant", reversed(spoken)))

    def _cover_messages(self, messages: Iterable[Message]) -> set[int]:
        return self.cover([message.place for message in messages if message.place])

    def rest(self) -> str:
        """Return the text that no located message accounts for, control tokens left out: what a template added."""
        if self.offsets is None or not self.messages:
            return ""
        taken = [message.place for message in self.messages if message.place is not None]
        kept = [
            self.text[start:end]
            for position, (start, end) in enumerate(self.offsets)
            if not self.special[position] and not any(left < end and right > start for left, right in taken)
        ]
        return " ".join("".join(kept).split())

    def locate(self, verdict: Verdict) -> list[tuple[int, int]]:
        """Return a verdict's spans as characters of the rendered text."""
        places = []
        for number, start, end in verdict.spans:
            if number == _RENDERED or not self.messages:
                places.append((start, end))
            elif number < len(self.messages) and (place := self.messages[number].place):
                shift = place[0] - self.messages[number].lead
                places.append((max(place[0], start + shift), min(place[1], end + shift)))
        return [(start, end) for start, end in places if start < end]

    def words(self) -> list[tuple[int, int, str]]:
        """Return (start, end, folded word) of every word of the text."""
        return [(match.start(), match.end(), match.group().casefold()) for match in WORD.finditer(self.text)]


def read_prompt(tokenizer: Any, ids: Sequence[int], messages: Sequence[tuple[str, str]] = ()) -> Prompt:
    """Decode token ids and align them with their text.

    `tokenizer` is a `tokenizers.Tokenizer` or a Hugging Face tokenizer; `messages` are (role, text) in the order
    in which they were rendered.
    """
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    ids = tuple(int(token) for token in ids)
    if not hasattr(backend, "get_added_tokens_decoder"):
        text = tokenizer.decode(list(ids))
        return Prompt(ids, text, None, (False,) * len(ids), _place(text, messages))
    text = backend.decode(list(ids), skip_special_tokens=False)
    marks = {token for token, added in backend.get_added_tokens_decoder().items() if added.special}
    special = tuple(token in marks for token in ids)
    return Prompt(ids, text, _align(backend, ids, text), special, _place(text, messages))


def _align(backend: Any, ids: tuple[int, ...], text: str) -> tuple[tuple[int, int], ...] | None:
    encoding = backend.encode(text, add_special_tokens=False)
    if tuple(encoding.ids) == ids:
        return tuple((int(start), int(end)) for start, end in encoding.offsets)
    # The client's ids need not be what the tokenizer would make of their text: decode them one by one instead.
    pieces = [backend.decode([token], skip_special_tokens=False) for token in ids]
    if "".join(pieces) != text:
        return None
    offsets, start = [], 0
    for piece in pieces:
        offsets.append((start, start + len(piece)))
        start += len(piece)
    return tuple(offsets)


def _place(text: str, messages: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
    placed, cursor = [], 0
    for number, (role, content) in enumerate(messages, start=1):
        if not content.strip():
            placed.append(Message(role, (cursor, cursor)))
            continue
        start = -1
        for candidate in (content, content.strip()):
            # An answer that goes on from "an" is not the "an" of its header.
            last = len(text) - len(candidate) if number == len(messages) and text.endswith(candidate) else -1
            if (start := last if last >= cursor else text.find(candidate, cursor)) >= 0:
                break
        if start < 0:
            placed.append(Message(role, None))
            continue
        cursor = start + len(candidate)
        lead = 0 if candidate == content else len(content) - len(content.lstrip())
        placed.append(Message(role, (start, cursor), lead))
    return tuple(placed)


def _merge(places: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(place for place in places if place[0] < place[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def to_ranges(positions: Iterable[int]) -> Ranges:
    """Merge positions into sorted half-open ranges."""
    return tuple(_merge((position, position + 1) for position in positions))
