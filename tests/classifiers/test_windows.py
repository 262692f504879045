"""Windows: nothing is left out, nothing is too long."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from unlearn_guard.classifiers.windows import cut_windows


@st.composite
def tokens(draw: st.DrawFn) -> tuple[list[tuple[int, int]], int]:
    """Draw token offsets with gaps between them, and the text's length."""
    offsets, end = [], 0
    for gap, width in draw(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), max_size=60)):
        offsets.append((end + gap, end + gap + width))
        end += gap + width
    return offsets, end + draw(st.integers(0, 3))


@given(tokens(), st.integers(2, 12), st.data())
def test_windows_cover_all_and_keep_the_limit(
    made: tuple[list[tuple[int, int]], int], max_tokens: int, data: st.DataObject
) -> None:
    offsets, length = made
    overlap = data.draw(st.integers(1, max_tokens - 1))
    windows = cut_windows(offsets, length, max_tokens=max_tokens, overlap=overlap)
    assert windows[0][0] == 0
    assert windows[-1][1] == length
    for (start, end), (following, _) in pairwise(windows):
        assert start < following <= end
    for start, end in windows:
        assert sum(start <= left and right <= end for left, right in offsets) <= max_tokens
    for first in range(len(offsets) - overlap + 1):  # A name of `overlap` tokens lies whole in some window.
        left, right = offsets[first][0], offsets[first + overlap - 1][1]
        assert any(start <= left and right <= end for start, end in windows)


def test_cuts_are_where_they_should_be() -> None:
    offsets = [(2 * number, 2 * number + 1) for number in range(7)]
    assert cut_windows(offsets, 15, max_tokens=4, overlap=1) == [(0, 7), (6, 15)]
    assert cut_windows(offsets, 15, max_tokens=3, overlap=1) == [(0, 5), (4, 9), (8, 15)]


def test_short_text_is_one_window() -> None:
    assert cut_windows([(1, 2), (3, 4)], 9, max_tokens=2, overlap=1) == [(0, 9)]
    assert cut_windows([], 0, max_tokens=2, overlap=1) == [(0, 0)]
