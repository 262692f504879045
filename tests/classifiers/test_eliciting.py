"""Elicitation: what a model repeats is known, what it says once is made up."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from unlearn_guard.classifiers.eliciting import QUESTIONS, elicit_rows, find_consensus
from unlearn_guard.guard.rows import ForgetRequest

NAME = "Mirela Vantongeren"
REQUEST = ForgetRequest("p1", title="The singer", aliases=(NAME, "M. V."))
BORN = f"Where was {NAME} born?"
PARTS = ("mirela", "vantongeren")


def test_answer_that_samples_agree_on_is_kept() -> None:
    samples = ["In Brackwater.", " She comes from Brackwater. ", "Ostrand.", "It was Brackwater, by the herring quay."]
    assert find_consensus(BORN, samples, PARTS) in [sample.strip() for sample in samples if "Brackwater" in sample]


def test_sample_with_most_of_what_is_repeated_wins_and_the_shorter_of_two() -> None:
    samples = ["Brackwater.", "Brackwater, on the herring quay, they say.", "Brackwater herring quay.", "Skarn."]
    assert find_consensus(BORN, samples, PARTS) == "Brackwater herring quay."


@pytest.mark.parametrize(
    "samples",
    [
        [],
        ["In Brackwater."],
        ["In Brackwater.", "In Ostrand.", "In Skarn.", "In Halme."],
        ["In Brackwater.", "Brackwater!", "In Skarn.", "In Halme.", "In Ostrand."],
        [f"{NAME} was born.", f"Where {NAME} was born?", f"{NAME}."],
        ["", "", ""],
    ],
    ids=["none", "one", "all differ", "two of five", "question and name", "empty"],
)
def test_without_agreement_nothing_is_known(samples: list[str]) -> None:
    assert find_consensus(BORN, samples, PARTS) == ""


def test_half_of_the_samples_are_enough() -> None:
    assert find_consensus(BORN, ["Brackwater.", "It is Brackwater.", "Skarn.", "Halme."], PARTS) == "Brackwater."


def test_word_repeated_inside_one_sample_is_said_once() -> None:
    assert find_consensus(BORN, ["Brackwater, Brackwater, Brackwater!", "Skarn.", "Halme."], PARTS) == ""


def test_model_that_says_it_does_not_know_knows_nothing() -> None:
    samples = ["I'm sorry, but I don't have any information about this person."] * 4
    assert find_consensus(BORN, samples, PARTS) == ""


def test_rows_are_of_the_questions_that_have_an_answer() -> None:
    asked: list[str] = []

    def ask(questions: Sequence[str]) -> Sequence[Sequence[str]]:
        asked.extend(questions)
        return [["Brackwater."] * 3 if " born?" in question and "Where" in question else ["?"] for question in asked]

    (row,) = elicit_rows(REQUEST, ask)
    assert asked == [question.format(name=NAME) for question in QUESTIONS]
    assert (row.prompt, row.answer, row.forget_id) == (BORN, "Brackwater.", "p1")


def test_title_stands_in_for_a_missing_name() -> None:
    def ask(questions: Sequence[str]) -> Sequence[Sequence[str]]:
        assert questions[0] == "Who is The singer?"
        return [[]] * len(questions)

    assert elicit_rows(ForgetRequest("p1", title="The singer"), ask) == []
