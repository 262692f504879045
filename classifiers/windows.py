"""Cutting text into the pieces that are judged one by one: sentences, and 64-token windows across them."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WINDOW_WORDS = 48
"""About 64 word pieces of English; text without spaces is cut by characters."""
_WINDOW_CHARACTERS = 400
_BLOCK_WORDS = 180
_BLOCK_CHARACTERS = 1200
_MIN_SENTENCE_WORDS = 3
_SENTENCE_END = re.compile(r"(?<=[.!?;。！？])[\"'”’)\]]*\s+|\n+|(?<=[.!?])\s*\|\s*|[。！？]|\s+(?=\d{1,2}[).]\s)")
_WORD = re.compile(r"\S+")


def cut_blocks(text: str, lines: Sequence[int] = ()) -> list[tuple[int, int]]:
    """Return windows of about 240 tokens that overlap: a topic is told by a whole text, not by its sentences or `lines`."""
    words = _find_words(text)
    return _slide(words, _BLOCK_WORDS, _BLOCK_CHARACTERS) if words else []


def cut_windows(text: str, lines: Sequence[int] = ()) -> list[tuple[int, int]]:
    """Return half-open character windows: every sentence, and windows of about 64 tokens that overlap by a third.

    `lines` are places where a line ended before the text was folded: a sentence ends there too. Together they cover the
    text; one short sentence is one window.
    """
    words = _find_words(text)
    if not words:
        return []
    span = (words[0][0], words[-1][1])
    fits = len(words) <= _WINDOW_WORDS and span[1] - span[0] <= _WINDOW_CHARACTERS
    windows = [span] if fits else _slide(words)
    windows += _cut_sentences(text, words, lines)
    return list(dict.fromkeys(windows))


def _find_words(text: str) -> list[tuple[int, int]]:
    """Return the spans of words; a run without spaces longer than a window is cut."""
    words = []
    for match in _WORD.finditer(text):
        for start in range(match.start(), match.end(), _WINDOW_CHARACTERS):
            words.append((start, min(match.end(), start + _WINDOW_CHARACTERS)))
    return words


def _slide(
    words: list[tuple[int, int]], most_words: int = _WINDOW_WORDS, most_characters: int = _WINDOW_CHARACTERS
) -> list[tuple[int, int]]:
    """Cut where a window is full, by words or by characters, and step back by the overlap."""
    windows = []
    first = 0
    while True:
        last = first
        limit = min(len(words), first + most_words)
        while last + 1 < limit and words[last + 1][1] - words[first][0] <= most_characters:
            last += 1
        windows.append((words[first][0], words[last][1]))
        if last + 1 >= len(words):
            return windows
        first = max(first + 1, last + 1 - most_words // 3)


def _cut_sentences(text: str, words: list[tuple[int, int]], lines: Sequence[int]) -> list[tuple[int, int]]:
    """Return sentences of three words and more that fit a window; shorter ones stay with the one before."""
    borders = [*(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]
    if lines:
        borders = sorted({*borders, *lines})
    sentences: list[tuple[int, int]] = []
    number = 0
    open_start = -1
    count = 0
    for border in borders:
        end = -1
        while number < len(words) and words[number][0] < border:
            if open_start < 0:
                open_start = words[number][0]
            end = words[number][1]
            count += 1
            number += 1
        if end >= 0 and count >= _MIN_SENTENCE_WORDS:
            if count <= _WINDOW_WORDS and end - open_start <= _WINDOW_CHARACTERS:
                sentences.append((open_start, end))
            open_start, count = -1, 0
    return sentences
