"""Cutting long text into windows that the encoder reads whole."""

from __future__ import annotations

from collections.abc import Sequence


def cut_windows(
    offsets: Sequence[tuple[int, int]], length: int, *, max_tokens: int, overlap: int
) -> list[tuple[int, int]]:
    """Return half-open character windows of at most `max_tokens` tokens that overlap by `overlap` tokens.

    `offsets` are the character offsets of the text's tokens; the windows cover all of `length` characters.
    """
    if len(offsets) <= max_tokens:
        return [(0, length)]
    stride = max_tokens - overlap
    windows = []
    for first in range(0, len(offsets) - overlap, stride):
        last = min(first + max_tokens, len(offsets))
        start = 0 if first == 0 else offsets[first][0]
        end = length if last == len(offsets) else offsets[last - 1][1]
        windows.append((start, end))
    return windows
