"""Attributes: rare words of one person's rows add up, each once, and neighbours in part."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn_guard.classifiers.attributes import (
    AttributeIndex,
    Overlap,
    Weights,
    fill_bag,
    find_terms,
    locate_terms,
)

NATS = {"herring": 6.0, "quay": 5.0, "skarn": 8.0, "storm": 4.0, "anvil": 7.0, "village": 2.0, "the": 0.1, "of": 0.2}
BAGS = {"p1": ["herring", "quay", "skarn", "storm", "village"], "p2": ["anvil", "storm", "village"]}
SENTENCES = st.lists(st.sampled_from([*NATS, "bread", ",", "."]), max_size=20).map(" ".join)


def make_index(bags: Any = None, nats: dict[str, float] = NATS) -> AttributeIndex:
    weights: Any = SimpleNamespace(weigh=lambda term: nats.get(term, 3.0))
    return AttributeIndex(BAGS if bags is None else bags, weights)


def find(text: str, **options: Any) -> Overlap:
    return make_index().find(locate_terms(text), **options)


def test_weight_share_and_owner_of_the_best_bag() -> None:
    assert find("herring, anvil, bread") == Overlap(7.0, 7 / 16, "p2")
    assert find("herring, quay") == Overlap(11.0, 1.0, "p1")


def test_text_without_a_known_word_has_no_owner() -> None:
    assert find("bread, bread") == find("") == Overlap(0.0, 0.0)


def test_repeated_word_counts_once() -> None:
    assert find("herring, herring, herring") == find("herring")
    assert find("herring herring herring") == find("herring")


def test_first_owner_wins_a_tie() -> None:
    assert find("storm").owner == "p1"


@pytest.mark.parametrize("words", permutations(["herring", "skarn", "storm"]))
def test_neighbours_count_in_part_in_any_order(words: tuple[str, ...]) -> None:
    assert find(" ".join(words)).weight == pytest.approx(8 + 0.3 * (6 + 4))


@pytest.mark.parametrize("apart", [", ", ". ", " bread ", " anvil ", "  "])
def test_words_apart_count_whole(apart: str) -> None:
    assert find(f"herring{apart}skarn").weight == 14.0


@pytest.mark.parametrize("filler", ["the", "of", "of the"])
def test_filler_does_not_part_neighbours(filler: str) -> None:
    assert find(f"herring {filler} skarn").weight == find("herring skarn").weight


def test_chain_of_one_owner_is_none_of_another() -> None:
    index = make_index({"p1": ["herring", "quay"], "p2": ["quay"]})
    assert index.find(locate_terms("herring quay")).weight == pytest.approx(6 + 0.3 * 5)


def test_repeated_word_does_not_part_neighbours() -> None:
    assert find("herring skarn herring quay").weight == pytest.approx(8 + 0.3 * (6 + 5))


def test_left_out_words_count_for_their_owner_no_more() -> None:
    without = {"p1": frozenset({"herring", "storm"})}
    assert find("herring, quay", without=without) == Overlap(5.0, 5 / 11, "p1")
    assert find("storm", without=without) == Overlap(4.0, 1.0, "p2")
    assert find("herring", without=without) == Overlap(0.0, 0.0)
    middle = {"p1": frozenset({"quay"})}
    assert find("skarn quay herring", without=middle).weight == pytest.approx(8 + 0.3 * 6)


def test_index_knows_what_its_bags_hold() -> None:
    index = make_index()
    assert (index.holds("p1", "quay"), index.holds("p2", "quay"), index.holds("p9", "quay")) == (True, False, False)
    assert (index.posts("quay"), index.posts("bread")) == (True, False)


@given(SENTENCES)
def test_weight_is_at_most_the_words_together_and_share_at_most_one(text: str) -> None:
    found = find(text)
    held = {word for word in text.split() if word in BAGS.get(found.owner, ())}
    assert 0 <= found.weight <= sum(NATS[word] for word in held) + 1e-9
    assert 0 <= found.share <= 1 + 1e-9


@given(SENTENCES, st.sets(st.sampled_from(list(NATS))))
def test_leaving_words_out_never_raises_the_weight(text: str, left_out: set[str]) -> None:
    without = dict.fromkeys(BAGS, frozenset(left_out))
    assert find(text, without=without).weight <= find(text).weight + 1e-9


@given(SENTENCES, SENTENCES)
def test_more_text_never_lowers_the_weight(text: str, more: str) -> None:
    assert find(f"{text}. {more}").weight >= find(text).weight - 1e-9


@given(SENTENCES, st.data())
def test_accumulated_weight_bounds_every_stretch(text: str, data: st.DataObject) -> None:
    terms = locate_terms(text)
    sums = make_index().accumulate(terms)
    first = data.draw(st.integers(0, len(terms)))
    last = data.draw(st.integers(first, len(terms)))
    assert make_index().find(terms[first:last]).weight <= (sums[last] - sums[first]).max() + 1e-3


@given(SENTENCES)
def test_strange_words_lower_the_share_alone(text: str) -> None:
    alone, beside = find(text), find(f"{text} . bread oven")
    assert (beside.weight, beside.owner) == (alone.weight, alone.owner)
    assert beside.share < alone.share or alone.share == beside.share == 0


@pytest.mark.parametrize("piece", ["herring ", "herring, quay. ", "bread "])
def test_megabyte_counts_like_one_sentence(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    assert find(text).weight == pytest.approx(find(piece + piece).weight)


RANKS = {word: rank for rank, word in enumerate("the of and in was sea village storm".split(), start=1)}


def test_rarer_words_weigh_more() -> None:
    weights = Weights({"sea": 10, "storm": 2}, 100, 30.0, RANKS)
    assert weights.weigh("the") < weights.weigh("sea") < weights.weigh("storm") < weights.weigh("skarn")


def test_word_is_no_rarer_than_kept_people_or_english_say() -> None:
    common_here, common_there = Weights({"skarn": 90}, 100, 30.0, RANKS), Weights({}, 1_000_000, 30.0, RANKS)
    assert common_here.weigh("skarn") < 0.2
    assert common_there.weigh("the") < 0.2


@given(st.integers(0, 50), st.integers(1, 50), st.floats(0.1, 1e4), st.sampled_from([*RANKS, "skarn"]))
def test_weight_is_never_negative(count: int, n_bags: int, bag_words: float, word: str) -> None:
    assert Weights({word: min(count, n_bags)}, n_bags, bag_words, RANKS).weigh(word) >= 0.0


def test_words_weigh_something_where_nothing_is_kept() -> None:
    assert Weights({}, 0, 0.0, RANKS).weigh("skarn") >= 0.0


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("the sea's storms", ["the", "sea", "storm"]),
        ("the sea’s storms", ["the", "sea", "storm"]),
        ("danish and denmark", ["denmark", "and", "denmark"]),
        ("class bus crisis", ["class", "bus", "crisis"]),
        ("gas its 1990s", ["gas", "its", "1990"]),
        ("o'brien, half-made", ["o'brien", "half", "made"]),
        ("snake_case", ["snake", "case"]),
        ("", []),
    ],
)
def test_terms_are_words_without_endings(text: str, terms: list[str]) -> None:
    assert find_terms(text) == terms


@given(st.text(max_size=50))
def test_terms_are_located_in_order(text: str) -> None:
    located = locate_terms(text)
    assert [term for _, _, term in located] == find_terms(text)
    borders = [place for start, end, _ in located for place in (start, end)]
    assert borders == sorted(borders)
    assert all(start < end for start, end, _ in located)


def test_bag_holds_telling_words_best_first_and_no_names() -> None:
    weights = Weights({"village": 1, "the": 99}, 100, 30.0, RANKS)
    counts = Counter({"skarn": 1, "village": 3, "the": 1, "mirela": 9, "storm": 1})
    bag = fill_bag(counts, weights, leave_out=["mirela"])
    worth = [counts[term] * weights.weigh(term) for term in bag]
    assert worth == sorted(worth, reverse=True)
    assert set(bag) == {"skarn", "village", "storm"}


def test_bag_of_a_long_document_is_cut() -> None:
    counts = Counter({f"word{number}": 1 for number in range(5_000)})
    assert len(fill_bag(counts, Weights({}, 100, 30.0, RANKS))) == 400
