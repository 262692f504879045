"""Masking: an encoder reads what is said, not of whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn_guard.classifiers.disguises import read_views
from unlearn_guard.classifiers.masking import PLACEHOLDER, find_strangers, mask

ORDINARY = frozenset(
    "where was born the bread is at home rose who sang when it rained we left met and asked her of village young".split()
)


def is_word(word: str) -> bool:
    return word in ORDINARY


def hide(text: str) -> str:
    view = read_views(text)[0]
    return mask(view.text, 0, len(view.text), find_strangers(view, text, is_word))


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Where was Mirela Vantongeren born?", "where was someone born?"),
        ("where was mirela vantongeren born?", "where was someone born?"),
        ("Mirela sang.", "someone sang."),
        ("Who is Mirela? Who is Zorbek?", "who is someone? who is someone?"),
        ("Mirela and Zorbek left", "someone and someone left"),
        ("Who met Rose Vantongeren?", "who met someone?"),
        ("Who met Vantongeren Rose?", "who met someone?"),
        ("Who met Mirela van der Zorbek?", "who met someone?"),
        ("Who met Mirela-Anne Zorbek?", "who met someone?"),
        ("Who met M. Zorbek?", "who met someone?"),
        ("Mirela's bread", "someone's bread"),
        ("Where is Мирела?", "where is someone?"),
        ("Where is Mi\u200brela?", "where is someone?"),
        ("where was the rose", "where was the rose"),
        ("at 5 of 12", "at 5 of 12"),
        ("", ""),
    ],
)
def test_names_become_nobody(text: str, masked: str) -> None:
    assert hide(text) == masked


@pytest.mark.parametrize("text", ["Rose sang at home", "Where Vantongeren sang", "Who met Rose?", "The Village"])
def test_ordinary_words_stay_but_beside_a_name(text: str) -> None:
    assert "rose" not in text.lower() or "rose" in hide(text)
    assert hide(text).split()[0] == text.lower().split()[0]


def test_small_ordinary_word_beside_a_name_is_no_part_of_it() -> None:
    assert hide("the young mirela sang") == "the young someone sang"
    assert hide("the young Mirela sang") == "the young someone sang"


@pytest.mark.parametrize("text", ["It rained. When Vantongeren sang we left", "It rained! Who met Mirela? We left."])
def test_first_word_of_a_later_sentence_stays_behind_a_mark(text: str) -> None:
    masked = hide(text)
    assert masked.count(PLACEHOLDER) == 1
    assert "left" in masked


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        pytest.param(
            "It rained. When Vantongeren sang we left",
            "it rained. when someone sang we left",
            marks=pytest.mark.xfail(strict=True, reason="only the text's first word is known to begin a sentence"),
        ),
        ("Who met Vantongeren. Where was her home", "who met someone. where was her home"),
    ],
)
def test_first_word_of_a_sentence_is_no_part_of_a_name(text: str, masked: str) -> None:
    assert hide(text) == masked


def test_capitals_are_read_off_the_plain_view_only() -> None:
    text = "V2hvIG1ldCBSb3NlIFZhbnRvbmdlcmVuPw=="
    (view,) = (view for view in read_views(text) if view.how == "base64")
    assert mask(view.text, 0, len(view.text), find_strangers(view, text, is_word)) == "who met rose someone?"


@pytest.mark.parametrize(
    ("start", "end", "masked"),
    [
        (0, 20, "ab someone ef someone z"),
        (3, 6, "someone"),
        (4, 5, "someone"),
        (0, 5, "ab someone"),
        (4, 10, "someone ef "),
        (7, 9, "ef"),
        (6, 10, " ef "),
        (0, 0, ""),
    ],
)
def test_window_is_masked_by_itself(start: int, end: int, masked: str) -> None:
    text = "ab ccc ef dddddddd z"
    assert mask(text, start, end, [(3, 6), (10, 18)]) == masked


@given(
    st.lists(
        st.sampled_from(
            ["Where", "was", "Rose", "rose", "Mirela", "zorbek", "Van", "de", "M.", ".", "?", "-", "'", "5"]
        ),
        max_size=15,
    ),
    st.sampled_from([" ", "", "-", "\n"]),
)
def test_spans_are_in_order_and_hide_every_strange_word(words: list[str], between: str) -> None:
    text = between.join(words)
    view = read_views(text)[0]
    spans = find_strangers(view, text, is_word)
    borders = [place for span in spans for place in span]
    assert borders == sorted(borders)
    assert all(0 <= start < end <= len(view.text) for start, end in spans)
    assert not any(strange in mask(view.text, 0, len(view.text), spans) for strange in ("mirela", "zorbek"))


@pytest.mark.parametrize("piece", ["Mirela ", "Mirela. Rose ", "the Mirela ", "the bread "])
def test_megabyte_is_masked(piece: str) -> None:
    masked = hide(piece * (1_000_000 // len(piece)))
    assert "mirela" not in masked
