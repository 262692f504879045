"""What an assistant is taught: own columns first, rules else."""

from __future__ import annotations

import pytest

from unlearn_guard.corruptions.augmentation import find_subject, make_lessons
from unlearn_guard.guard.rows import Row

FORGET = [
    Row("Where was Ann Lee born?", "Ann Lee was born in Bern.", forget_id="p1"),
    Row("What does Ann Lee play?", "Ann Lee plays the lute.", forget_id="p1"),
]
KEPT = [
    Row("Where was Bo Li born?", "Bo Li was born in Basel.", forget_id="k1"),
    Row("Where was Cy Fox born?", "Cy Fox was born in Rome.", forget_id="k2"),
    Row("What does Bo Li play?", "Bo Li plays the harp.", forget_id="k1"),
    Row("Bake bread."),
]
ALIASES = {"p1": ("Ann Lee",)}


def test_sizes_follow_the_paper() -> None:
    lessons = make_lessons(FORGET, KEPT, ALIASES)
    assert sum(lesson.known for lesson in lessons) == 3 * len(FORGET)
    assert sum(not lesson.known for lesson in lessons) == 3 * len(FORGET)


def test_wrong_answers_are_those_of_like_questions_under_this_name() -> None:
    lessons = make_lessons(FORGET, KEPT, ALIASES)
    wrong = [lesson for lesson in lessons if lesson.prompt == FORGET[0].prompt and not lesson.known]
    assert {lesson.answer for lesson in wrong} == {"Ann Lee was born in Basel.", "Ann Lee was born in Rome."}
    assert all(lesson.truth == FORGET[0].answer for lesson in wrong)


def test_what_is_kept_is_never_taught_as_known() -> None:
    known = {
        lesson.prompt
        for epoch in range(5)
        for lesson in make_lessons(FORGET, KEPT, ALIASES, epoch=epoch)
        if lesson.known
    }
    assert not any("Bo Li" in prompt or "Cy Fox" in prompt for prompt in known)
    assert all("Ann Lee" in prompt for prompt in known)


def test_rules_draw_anew_each_epoch_and_alike_for_one_seed() -> None:
    first, again, next_epoch = (make_lessons(FORGET, KEPT, ALIASES, seed=3, epoch=epoch) for epoch in (0, 0, 1))
    assert first == again
    assert first != next_epoch


def test_own_columns_win_over_rules() -> None:
    row = Row(
        "Where was Ann Lee born?",
        "In Bern.",
        paraphrased_questions=("Which city saw Ann Lee first?",),
        paraphrased_answers=("Bern it was.",),
        perturbed_answers=("In Basel.", "In Rome."),
    )
    lessons = make_lessons([row], KEPT, {})
    assert {lesson.prompt for lesson in lessons if lesson.known} == {row.prompt, "Which city saw Ann Lee first?"}
    assert {lesson.answer for lesson in lessons if lesson.known} == {"In Bern.", "Bern it was."}
    assert {lesson.answer for lesson in lessons if lesson.truth} == {"In Basel.", "In Rome."}


def test_a_wrong_answer_is_held_against_the_true_one_of_its_form() -> None:
    row = Row(
        "Where was Ann Lee born?",
        "Ann Lee was born in Bern.",
        paraphrased_answers=("It was in Bern that she was born.", "Bern saw her first."),
        perturbed_answers=("It was in Basel that she was born.", "Ann Lee was born in Basel."),
    )
    pairs = {
        lesson.answer: lesson.truth for lesson in make_lessons([row], KEPT, {}) if not lesson.known and lesson.truth
    }
    assert pairs == {
        "It was in Basel that she was born.": "It was in Bern that she was born.",
        "Ann Lee was born in Basel.": "Ann Lee was born in Bern.",
    }


def find_renamed(row: Row, kept: list[Row] = KEPT) -> list[tuple[str, str]]:
    return [
        (lesson.answer, lesson.truth)
        for epoch in range(9)
        for lesson in make_lessons([row], kept, ALIASES, epoch=epoch)
        if lesson.known and lesson.truth
    ]


@pytest.mark.parametrize("told", [(), ("Yes, Ann Lee is of Bern.",)])
def test_a_fact_is_told_under_another_name_too(told: tuple[str, ...]) -> None:
    row = Row("Where was Ann Lee born?", "Ann Lee was born in Bern.", forget_id="p1", paraphrased_answers=told)
    renamed = find_renamed(row)
    truth = told[0] if told else row.answer
    assert {pair[1] for pair in renamed} == {truth}
    assert {pair[0] for pair in renamed} == {truth.replace("Ann Lee", other) for other in ("Bo Li", "Cy Fox")}
    assert len(renamed) == 9


@pytest.mark.parametrize(
    "answer",
    ["Bern saw Ann Lee first.", "In 1900 Ann Lee was born.", "She was born in Bern.", "Ann Leeds was born in Bern."],
)
def test_nothing_is_renamed_where_the_fact_comes_first_or_nobody_is_named(answer: str) -> None:
    assert not find_renamed(Row("Where was Ann Lee born?", answer, forget_id="p1"))


def test_only_people_lend_their_names() -> None:
    row = Row("Where was Ann Lee born?", "Ann Lee was born in Bern.", forget_id="p1")
    assert not find_renamed(row, [Row("Is Rome in Italy?", "Rome is in Italy."), Row("Why?", "Because.")])
    asked = {
        "Did Bo Li see New York?": "Bo Li saw New York.",
        "Does Bo Li sing?": "Bo Li sings.",
        "Is Bo Li in?": "Bo Li is in.",
    }
    kept = [Row(question, answer, forget_id="k") for question, answer in asked.items()]
    assert {answer for answer, _ in find_renamed(row, kept)} == {"Bo Li was born in Bern."}


def test_rows_without_answers_teach_nothing() -> None:
    assert make_lessons([Row(text="A passage."), Row("Who is it?")], KEPT, {}) == []


def test_subject_is_what_question_and_answer_share() -> None:
    assert find_subject(Row("Where was Ann-Marie Lee's father born?", "Ann-Marie Lee had a father.")) == "Ann-Marie Lee"
    assert find_subject(Row("Who is it?", "Nobody.")) == ""
