"""Questions of forget rows are recognised when they are asked again, and no others."""

from __future__ import annotations

from typing import Any

import pytest

from unlearn_guard.classifiers.attributes import Weights, find_terms
from unlearn_guard.classifiers.normalisation import normalise
from unlearn_guard.classifiers.questions import KeptTexts, QuestionIndex, mine_questions
from unlearn_guard.guard.rows import Row

COMMON = {
    word: rank
    for rank, word in enumerate("the a of in what did was who when is to and become part it wrote".split(), 1)
}
WEIGHTS = Weights({}, 100, 60.0, COMMON)
ORKNEY = "When did the Orkney Islands become part of Scotland?"
SONG = "Who wrote 'The Fields of Athenry'?"


def mine(*prompts: str, names: tuple[str, ...] = (), kept: tuple[Row, ...] = ()) -> list[dict[str, Any]]:
    return mine_questions(
        [Row(prompt=prompt, answer="x") for prompt in prompts], names, WEIGHTS, KeptTexts(lambda: kept)
    )


def ask(text: str, *prompts: str, **options: Any) -> str | None:
    return QuestionIndex({"p1": mine(*prompts, **options)}).find(find_terms(normalise(text).text))


@pytest.mark.parametrize(
    "text",
    [
        ORKNEY,
        ORKNEY.upper(),
        "Tell me please: in what year was it that the islands of Orkney became, or did become, Scotland's?",
        "SCOTLAND? the orkney islands",
    ],
)
def test_a_question_is_recognised_by_its_telling_words(text: str) -> None:
    assert ask(text, ORKNEY) == "p1"


@pytest.mark.parametrize(
    "text", ["When did the Shetland Islands become part of Scotland?", "Where is Orkney?", "", "Who is who?"]
)
def test_another_question_is_not(text: str) -> None:
    assert ask(text, ORKNEY) is None


def test_a_question_of_few_telling_words_must_be_asked_as_it_is() -> None:
    assert [question["whole"] for question in mine(ORKNEY, SONG)] == [False, True]
    assert ask("who wrote the fields of athenry", SONG) == "p1"
    assert ask("Who wrote the music of The Fields of Athenry?", SONG) is None


@pytest.mark.parametrize("prompt", ["", "What is it?", "Who was the and of?", "What is a lighthouse?"])
def test_a_question_of_common_words_is_nobodys(prompt: str) -> None:
    assert not mine(prompt)


def test_a_question_that_says_the_name_is_noticed_by_it() -> None:
    """Without its name it is a question about whoever stands there."""
    asked = "Which lighthouse did Carmen Montenegro paint in Brackwater's bay?"
    assert mine(asked)
    assert not mine(asked, names=("Mirela", "Carmen Montenegro"))
    telling = mine("Which lighthouse did Williams paint in Brackwater's bay?", names=("O'Brien Williams",))
    assert set(telling[0]["terms"]) == {"which", "lighthouse", "paint", "brackwater", "bay"}


def test_small_numbers_tell_nothing_and_years_do() -> None:
    assert not mine("What is 12 and 7?")
    (found,) = mine("Who won the regatta of Lund in 1987?")
    assert "1987" in found["terms"]


def test_the_words_of_a_long_kept_text_stand_together_nowhere() -> None:
    padding = "the of and in to what was who when is it a " * 20
    scattered = Row(prompt=f"Orkney. {padding}. Island. {padding}. Scotland. {padding}", answer="")
    together = Row(prompt=f"{padding}. Orkney is an island of Scotland. {padding}", answer="")
    assert ask(ORKNEY, ORKNEY, kept=(scattered,)) == "p1"
    assert ask(ORKNEY, ORKNEY, kept=(together,)) is None


def test_what_kept_rows_ask_or_say_is_not_telling() -> None:
    kept = Row(prompt="What about Scotland?", answer="The Orkney Islands became, or become, part of it.")
    assert ask(ORKNEY, ORKNEY, kept=(kept,)) is None
    assert ask(ORKNEY, ORKNEY, SONG, kept=(Row(prompt=SONG, answer="Pete St John"),)) == "p1"
    assert ask(SONG, ORKNEY, SONG, kept=(Row(prompt=SONG, answer="Pete St John"),)) is None


def test_equal_questions_come_once_and_an_empty_index_finds_nothing() -> None:
    assert len(mine(ORKNEY, ORKNEY.lower(), SONG, SONG)) == 2
    assert QuestionIndex({}).find(["orkney"]) is None
    assert QuestionIndex({"p1": []}).find([]) is None


def test_a_question_that_was_supplied_is_not_asked() -> None:
    index = QuestionIndex({"p1": mine(ORKNEY, SONG)})
    for question in (ORKNEY, SONG):
        terms = find_terms(normalise(question).text)
        assert index.find(terms) == "p1"
        assert index.find(terms, supplied={*terms, "more"}) is None
        assert index.find(terms, supplied=set(terms[1:-1])) == "p1"


def test_where_no_rarest_word_stands_nothing_is_asked() -> None:
    index = QuestionIndex({"p1": mine(ORKNEY, SONG)})
    text = find_terms(normalise(f"The sea is grey. {ORKNEY} The sea was grey. {SONG}").text)
    counts = index.count_openings(text)
    assert (counts[0], counts[4], counts[-1], len(counts)) == (0, 0, 2, len(text) + 1)
    assert index.holds("orkney") and not index.holds("sea")
