"""Mask names before text is encoded: names have signals of their own, and an encoder takes strangers for suspects.

A name is a word that is not plain language, with the capitalised words beside it. What a text says beside its names is
what the encoder compares.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from unlearn_guard.classifiers.disguises import View

PLACEHOLDER = "someone"
_WORD = re.compile(r"[^\W\d_]+")
_JOINTS = frozenset("de del da di la le van von der den al el bin ibn".split())
_MIN_LETTERS = 3


def find_strangers(view: View, original: str, is_word: Callable[[str], bool]) -> list[tuple[int, int]]:
    """Return half-open spans of the view that hold a name; capitals are read off `original` for the plain view."""
    words = [(match.start(), match.end(), match.group()) for match in _WORD.finditer(view.text)]
    strange = [len(word) >= _MIN_LETTERS and not is_word(word) for _, _, word in words]
    if not any(strange):
        return []
    capital = [view.how == "plain" and original[view.starts[start]].isupper() for start, _, _ in words]
    spans: list[tuple[int, int]] = []
    place = 0
    while place < len(words):
        if not strange[place]:
            place += 1
            continue
        first = last = place
        while first > 0 and _joins(view.text, words, first - 1, first) and _belongs(words, strange, capital, first - 1):
            first -= 1
        while (
            last + 1 < len(words)
            and _joins(view.text, words, last, last + 1)
            and _belongs(words, strange, capital, last + 1)
        ):
            last += 1
        start = max(words[first][0], spans[-1][1]) if spans else words[first][0]
        spans.append((start, words[last][1]))
        place = last + 1
    return spans


def mask(text: str, start: int, end: int, spans: Sequence[tuple[int, int]]) -> str:
    """Return characters [start, end) of a text with each span replaced by the placeholder."""
    pieces = []
    cursor = start
    for first, last in spans:
        if last <= start or first >= end:
            continue
        pieces.append(text[cursor : max(cursor, first)])
        pieces.append(PLACEHOLDER)
        cursor = min(last, end)
    pieces.append(text[cursor:end])
    return "".join(pieces)


def _joins(text: str, words: Sequence[tuple[int, int, str]], left: int, right: int) -> bool:
    between = text[words[left][1] : words[right][0]]
    return between in (" ", "-", "'") or (between == ". " and len(words[left][2]) <= 2)


def _belongs(
    words: Sequence[tuple[int, int, str]], strange: Sequence[bool], capital: Sequence[bool], place: int
) -> bool:
    """Whether the word beside a name is part of it: capitalised (but not the sentence's first word), or a particle."""
    opens = place == 0
    return strange[place] or (capital[place] and not opens) or words[place][2] in _JOINTS
