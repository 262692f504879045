"""Passages: the longest run of forgotten words in order, whose it is, and nothing that kept texts hold."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn_guard.classifiers.normalisation import normalise
from unlearn_guard.classifiers.passages import NGRAM_WORDS, PassageIndex, Run, hash_ngrams

TEXT = "Under the seventh bridge an amber clockmaker counted drowned bells until the tide forgot his name again."
OTHER = "Nobody in the salt market would trade one candle for what the blind ferryman carried home that night."
N_WORDS = len(TEXT.split())


def find(text: str, *kept: str, **texts: str) -> Run | None:
    index = PassageIndex.build({owner: [text] for owner, text in (texts or {"d1": TEXT}).items()}, kept)
    return index.find(normalise(text).text)


def test_whole_text_is_one_run() -> None:
    assert find(TEXT) == Run(0, len(TEXT) - 1, N_WORDS, "d1")


@pytest.mark.parametrize("n_words", [4, 5, 9])
def test_run_is_as_long_as_what_was_copied(n_words: int) -> None:
    copied = " ".join(TEXT.split()[3 : 3 + n_words])
    text = f"he wrote: {copied} and so on"
    run = find(text)
    assert run is not None
    assert (text[run.start : run.end], run.n_words) == (copied, n_words)


@pytest.mark.parametrize(
    "text", ["", "under", "under the seventh", "the under bridge seventh amber an", "quite another thing"]
)
def test_fewer_words_or_another_order_are_no_run(text: str) -> None:
    assert find(text) is None


@pytest.mark.parametrize(
    "text",
    [
        TEXT.upper(),
        TEXT.replace(" ", "\n"),
        TEXT.replace(" ", ", "),
        TEXT.replace("an", "án"),
        TEXT.replace(" ", "\u200b  "),
    ],
)
def test_spelling_and_punctuation_do_not_matter(text: str) -> None:
    run = find(text)
    assert run is not None
    assert run.n_words == N_WORDS


def test_changed_word_parts_a_run() -> None:
    run = find(TEXT.replace("clockmaker", "watchmaker"))
    assert run is not None
    assert run.n_words == N_WORDS - 7


def test_longest_run_is_taken() -> None:
    short, long = " ".join(TEXT.split()[:5]), " ".join(OTHER.split()[2:11])
    run = find(f"{short}. {long}.", a=TEXT, b=OTHER)
    assert run is not None
    assert (run.n_words, run.owner) == (9, "b")


def test_run_belongs_to_whom_all_of_it_is() -> None:
    opening = "once upon a time"
    run = find(f"{opening} {OTHER}", a=f"{opening} {TEXT}", b=f"{opening} {OTHER}")
    assert run is not None
    assert run.owner == "b"


@pytest.mark.parametrize("kept", [TEXT, TEXT.upper(), f"he said {TEXT} and left"])
def test_what_kept_texts_hold_is_pruned(kept: str) -> None:
    assert find(TEXT, kept) is None
    assert len(PassageIndex.build({"d1": [TEXT]}, [kept])) == 0


def test_phrase_that_kept_texts_hold_parts_a_run() -> None:
    run = find(TEXT, "Then the amber clockmaker counted drowned ducks.")
    assert run is not None
    assert run.n_words == 11
    assert normalise(TEXT).text[run.start : run.end].startswith("clockmaker counted drowned bells")


@pytest.mark.parametrize("texts", [{}, {"d1": []}, {"d1": ["too short"]}, {"d1": [""]}])
def test_nothing_is_found_without_passages(texts: dict[str, list[str]]) -> None:
    index = PassageIndex.build(texts, [TEXT])
    assert (len(index), index.find(TEXT.lower())) == (0, None)


def test_stored_arrays_make_the_same_index() -> None:
    built = PassageIndex.build({"a": [TEXT], "b": [OTHER]})
    stored = PassageIndex(built.hashes.copy(), built.owners.copy(), built.names)
    assert (built.hashes.dtype, built.owners.dtype) == (np.uint64, np.int32)
    assert stored.find(OTHER.lower()) == built.find(OTHER.lower())


def test_no_word_is_stored() -> None:
    index = PassageIndex.build({"d1": [TEXT]})
    assert len(index) == N_WORDS - NGRAM_WORDS + 1
    assert vars(index).keys() == {"hashes", "owners", "names"}


@given(st.lists(st.text(alphabet="abcdé", min_size=1, max_size=4), max_size=12))
def test_hashes_are_one_for_each_place(words: list[str]) -> None:
    assert len(hash_ngrams(" ".join(words))) == max(0, len(words) - NGRAM_WORDS + 1)


@given(st.integers(0, N_WORDS), st.integers(0, N_WORDS))
def test_every_piece_of_four_words_and_more_is_found(first: int, last: int) -> None:
    piece = " ".join(TEXT.rstrip(".").split()[first:last])
    run = find(piece)
    if last - first < NGRAM_WORDS:
        assert run is None
    else:
        assert run == Run(0, len(piece), last - first, "d1")


@given(st.text(max_size=80))
def test_any_text_can_be_looked_up(text: str) -> None:
    run = find(text, d1=TEXT, d2=text)
    if run is not None:
        assert 0 <= run.start < run.end <= len(normalise(text).text)


def test_run_in_a_megabyte_is_found() -> None:
    rng = random.Random(0)
    noise = " ".join(str(rng.random())[2:8] for _ in range(140_000))
    index = PassageIndex.build({"d1": [noise], "d2": [TEXT]}, [OTHER] * 50)
    assert index.find(f"{OTHER} {TEXT} {OTHER}".lower()) == Run(len(OTHER) + 1, len(OTHER) + len(TEXT), N_WORDS, "d2")
    run = index.find(f"{TEXT.lower()} {noise}")
    assert run is not None
    assert (run.n_words, run.owner) == (140_000, "d1")


def test_what_two_texts_share_stays_with_the_one_that_is_left() -> None:
    text = "The herons of the lower marsh leave before the first frost."
    both = PassageIndex.build({"a": [text], "b": [text]})
    assert len(both) == 2 * len(both.without({"a"}))
    for index in (
        both.without({"a"}),
        PassageIndex.build({"a": [text]}).join(PassageIndex.build({"b": [text]})).without({"a"}),
    ):
        run = index.find(text.lower())
        assert run is not None
        assert (run.owner, run.n_words) == ("b", 11)
