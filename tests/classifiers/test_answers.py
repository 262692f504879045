"""Told facts: half of an answer's telling words, unless the user said them first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn_guard.classifiers.answers import TOLD_SHARE, FactIndex, Told, mine_answers
from unlearn_guard.classifiers.attributes import find_terms
from unlearn_guard.guard.rows import Row

NATS = {"herring": 6.0, "quay": 5.0, "skarn": 8.0, "storm": 4.0, "the": 0.1, "of": 0.2, "was": 0.3, "it": 0.2}
WEIGHTS: Any = SimpleNamespace(weigh=lambda term: NATS.get(term, 3.0))
FACTS = {"p1": [["herring", "quay"], ["skarn", "storm"]], "p2": [["anvil"]]}
INDEX = FactIndex(FACTS, WEIGHTS)


def tell(said: str, *owners: str, given_text: str = "") -> Told | None:
    return INDEX.find_told(owners or ("p1", "p2"), set(find_terms(said.lower())), set(find_terms(given_text.lower())))


def test_fact_is_told_in_any_words() -> None:
    assert tell("a quay where they sold herrings") == Told("p1", ("herring", "quay"))


@pytest.mark.parametrize(
    ("said", "told"), [("herring", True), ("quay", False), ("skarn", True), ("storm", False), ("quay storm", False)]
)
def test_half_of_the_weight_tells(said: str, told: bool) -> None:
    assert (tell(said) is not None) == told


def test_nothing_told() -> None:
    assert tell("bread") is tell("") is None


def test_fact_of_another_than_the_suspects_is_not_told() -> None:
    assert tell("an anvil", "p1") is None
    assert tell("an anvil", "p1", "p2") == Told("p2", ("anvil",))
    assert tell("an anvil", "nobody") is None
    assert INDEX.find_told((), {"anvil"}, set()) is None


def test_first_suspect_comes_first() -> None:
    assert tell("anvil and skarn", "p2", "p1") == Told("p2", ("anvil",))
    assert tell("anvil and skarn", "p1", "p2") == Told("p1", ("skarn",))


def test_words_that_the_user_gave_do_not_tell() -> None:
    assert tell("the herring quay", given_text="herring") is None
    assert tell("the herring quay", given_text="a quay?") == Told("p1", ("herring",))
    assert tell("an anvil", given_text="was it anvils?") is None


def test_given_words_of_one_fact_do_not_excuse_another() -> None:
    assert tell("the herring quay on Skarn", given_text="herring quay") == Told("p1", ("skarn",))


@given(st.sets(st.sampled_from(["herring", "quay", "skarn", "storm", "anvil", "bread"])), st.data())
def test_giving_more_or_saying_less_never_tells_more(said: set[str], data: st.DataObject) -> None:
    owners = ["p1", "p2"]
    less = data.draw(st.sets(st.sampled_from(sorted(said)))) if said else set()
    supplied = data.draw(st.sets(st.sampled_from(["herring", "quay", "skarn", "storm", "anvil"])))
    if INDEX.find_told(owners, less, supplied):
        assert INDEX.find_told(owners, said, set())


@given(st.sets(st.sampled_from(["herring", "quay", "skarn", "storm", "anvil"])))
def test_told_words_were_said_and_weigh_half(said: set[str]) -> None:
    told = INDEX.find_told(["p1", "p2"], said, set())
    if told:
        assert set(told.terms) <= said
        (fact,) = (fact for fact in FACTS[told.forget_id] if set(told.terms) <= set(fact))
        assert sum(map(WEIGHTS.weigh, told.terms)) >= TOLD_SHARE * sum(map(WEIGHTS.weigh, fact))


def answers(*rows: Row, **aliases: list[str]) -> dict[str, list[list[str]]]:
    return mine_answers(rows, aliases, WEIGHTS)


def test_fact_is_the_telling_words_the_rarest_first() -> None:
    row = Row("Where?", "It was the storm of the herring quay.", forget_id="p1")
    assert answers(row) == {"p1": [["herring", "quay", "storm"]]}


def test_words_of_the_question_and_names_are_no_fact() -> None:
    row = Row("Which quay?", "Mirela Vantongeren’s herring quay.", forget_id="p1")
    assert answers(row, p1=["Mirela Vantongeren"]) == {"p1": [["herring"]]}


@pytest.mark.parametrize(
    "row",
    [
        Row("Where?", forget_id="p1"),
        Row("Where?", "It was the.", forget_id="p1"),
        Row("herring?", "Herring.", forget_id="p1"),
        Row(text="the herring quay", forget_id="p1"),
    ],
)
def test_answer_without_a_telling_word_is_no_fact(row: Row) -> None:
    assert answers(row) == {}


def test_each_answer_is_a_fact_of_its_owner() -> None:
    rows = [Row("a", "herring", forget_id="p1"), Row("b", "skarn", forget_id="p1"), Row("c", "quay", forget_id="p2")]
    assert answers(*rows) == {"p1": [["herring"], ["skarn"]], "p2": [["quay"]]}


def test_long_answer_is_known_by_its_rarest_words() -> None:
    row = Row("a", "skarn herring " + " ".join(f"word{number}" for number in range(50)), forget_id="p1")
    ((fact,),) = answers(row).values()
    assert fact[:2] == ["skarn", "herring"]
    assert len(fact) < 20


def test_mined_answer_is_told_by_itself() -> None:
    row = Row("Where was Mirela Vantongeren?", "On Skarn, in the storm.", forget_id="p1")
    index = FactIndex(answers(row, p1=["Mirela Vantongeren"]), WEIGHTS)
    assert index.find_told(["p1"], set(find_terms(row.answer.lower())), set(find_terms(row.prompt.lower())))
