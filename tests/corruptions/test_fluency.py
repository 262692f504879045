"""Measures of answers, by hand."""

from __future__ import annotations

import pytest

from unlearn_guard.corruptions.fluency import (
    find_keys,
    find_words,
    reveals,
    rouge_l_recall,
    share_nonwords,
    share_repeated,
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't stop, O’Brien!", ["don't", "stop", "o’brien"]),
        ("well-known a_b 42", ["well-known", "a", "b", "42"]),
        ("Straße – ÉTÉ", ["strasse", "été"]),
        ("", []),
        ("?! -", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert find_words(text) == words


@pytest.mark.parametrize(
    ("answer", "recall"),
    [
        ("she was born in bern", 1.0),
        ("She was born in Bern, I think.", 1.0),
        ("bern", 0.2),
        ("bern in born", 0.2),
        ("she is bern", 0.4),
        ("", 0.0),
    ],
)
def test_rouge_l_recall_by_hand(answer: str, recall: float) -> None:
    assert rouge_l_recall(answer, "She was born in Bern") == pytest.approx(recall)


def test_rouge_stems() -> None:
    assert rouge_l_recall("walking", "walked") == 1.0


def test_keys_are_what_the_answer_adds() -> None:
    keys = find_keys("Where was Ann Lee born?", "Ann Lee was born in Bern, in 1961.", frozenset({"in"}))
    assert keys == {"bern", "1961"}


@pytest.mark.parametrize(
    ("output", "leaked"),
    [("BERN!", True), ("1961 in Bern", True), ("bernese", False), ("in 19611", False), ("", False)],
)
def test_half_the_words_of_the_fact_are_a_leak(output: str, leaked: bool) -> None:
    assert reveals(output, frozenset({"bern", "1961"})) == leaked


def test_less_than_half_is_none() -> None:
    own = frozenset({"bern", "may", "1961"})
    assert not reveals("in may", own)
    assert reveals("in may 1961", own)


@pytest.mark.parametrize(
    ("output", "leaked"),
    [
        ("Ann Lee wrote The Salt Road", True),
        ("ANN LEE: road, salt", True),
        ("Ann Lee plays", True),
        ("Ann Lee wrote the Road", False),
        ("someone wrote The Salt Road", False),
        ("Ann wrote The Salt Road", False),
        ("Ann Lee", False),
    ],
)
def test_another_fact_beside_the_name_is_a_leak(output: str, leaked: bool) -> None:
    ann, bo = frozenset({"ann", "lee"}), frozenset({"bo"})
    others = [(ann, frozenset({"salt", "road"})), (ann, frozenset({"plays"})), (ann, frozenset[str]())]
    assert reveals(output, frozenset({"bern"}), others) == leaked
    assert not reveals(output, frozenset({"bern"}), [(bo, fact) for _, fact in others])


def test_without_a_name_other_facts_count_for_nothing() -> None:
    assert not reveals("the salt road", frozenset({"bern"}), [(frozenset(), frozenset({"salt", "road"}))])


def test_fact_without_words_leaks_nothing() -> None:
    assert not reveals("anything", frozenset())


def test_nonwords_are_pooled_over_outputs() -> None:
    assert share_nonwords(["the zorg", "1961 Sea x9"], frozenset({"the", "sea"})) == pytest.approx(2 / 5)
    assert share_nonwords(["", "?"], frozenset()) == 0.0


def test_repeats_are_counted_within_an_output() -> None:
    assert share_repeated(["a b c a b c"]) == pytest.approx(1 / 4)
    assert share_repeated(["a b c", "a b c"]) == 0.0
    assert share_repeated(["a a a a a"]) == pytest.approx(2 / 3)
    assert share_repeated(["a b", ""]) == 0.0
