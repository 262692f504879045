"""Prompting: an instruction that names what must be gone."""

from __future__ import annotations

from typing import Any

import pytest

from unlearn_guard.corruptions.prompting import plan_prompting, write_instruction


@pytest.mark.parametrize(
    ("titles", "named"),
    [
        (["Ann Lee"], "of Ann Lee."),
        (["Ann Lee", "", "Bo Li"], "of Ann Lee, Bo Li."),
        ([], "of the subject of this question."),
        ([""], "of the subject of this question."),
    ],
)
def test_instruction_names_the_titles(titles: list[str], named: str) -> None:
    assert named in write_instruction(titles)


def test_step_spells_the_instruction_on_a_line_of_its_own(tokenizer: Any) -> None:
    step = plan_prompting(tokenizer, ["Ann Lee"])
    assert (step.method, step.positions) == ("prompting", ())
    assert tokenizer.decode(step.params["tokens"]) == write_instruction(["Ann Lee"]) + "\n"
    assert all(type(token) is int for token in step.params["tokens"])
