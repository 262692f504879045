"""Other answers: made by rule, never the true one."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from unlearn_guard.benchmarks.editing.answers import ANSWERS, Source
from unlearn_guard.guard.rows import Row


@pytest.mark.parametrize("name", list(ANSWERS))
def test_no_rule_gives_the_true_answer(rows: Any, name: str) -> None:
    source = Source(*rows)
    found = [ANSWERS[name](row, source, random.Random(number)) for number, row in enumerate(rows[0])]
    assert all(answer and answer != row.answer for answer, row in zip(found, rows[0], strict=True))
    assert len(set(found)) > 3
    assert "{" not in "".join(found)


def test_alternatives_are_answers_to_questions_alike() -> None:
    rows = [
        Row("Where was Ann Lee born?", "In Bern."),
        Row("Where was Bo Li born?", "In Graz."),
        Row("Which instrument does Ann Lee play?", "The harp."),
    ]
    source = Source(rows, [])
    assert source.find_alike(rows[0], n=1) == ["In Graz."]
    assert (
        ANSWERS["alternative"](replace(rows[0], perturbed_answers=("In Cadiz.",)), source, random.Random(0))
        == "In Cadiz."
    )


def test_alone_a_row_has_no_alternative_and_is_not_known() -> None:
    row = Row("Where was Ann Lee born?", "In Bern.")
    source = Source([row], [])
    assert ANSWERS["alternative"](row, source, random.Random(0)) in {
        ANSWERS["unknown"](row, source, random.Random(number)) for number in range(200)
    }
