"""ECO: which rows are edited, by how much, and always the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from unlearn_guard.corruptions.eco import (
    EcoSettings,
    NoiseTable,
    RowEdits,
    RowPlan,
    find_exclusive_ids,
    measure_rms,
    plan_eco,
)
from unlearn_guard.corruptions.prompt import Prompt, read_prompt
from unlearn_guard.corruptions.refusal import plan_refusal
from unlearn_guard.guard.errors import SettingsError
from unlearn_guard.guard.stamp import Stamp, Step
from unlearn_guard.guard.verdict import Verdict

Chat = Callable[..., Prompt]
Name = Callable[..., Verdict]
HIDDEN = 6
SYSTEM, USER = ("system", "You are a helpful assistant."), ("user", "Where was Ann Lee born?")
COMMON = frozenset({"where", "was"})
NAMELESS = Verdict(True, ("p1",), 9.0, 0.001, "head")


def positions(step: Step) -> set[int]:
    return {place for start, end in step.positions for place in range(start, end)}


def read(tokenizer: Any, prompt: Prompt, step: Step) -> str:
    return tokenizer.decode([prompt.ids[place] for place in sorted(positions(step))])


def plan(*steps: Step, length: int = 10, seed: int = 0, forget_ids: tuple[str, ...] = ("p1",)) -> RowPlan:
    return RowPlan(Stamp("rev", forget_ids, length, seed, steps), HIDDEN, NoiseTable(HIDDEN))


def eco(
    *ranges: tuple[int, int], kind: str = "noise", mask: str = "span", amplitude: float = 0.5, dims: int = 0
) -> Step:
    return Step("eco", ranges, {"kind": kind, "mask": mask, "amplitude": amplitude, "dims": dims})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kind": "blur"}, "eco kind: 'blur' — allowed: noise, zero, flip"),
        ({"mask": "some"}, "eco mask: 'some' — allowed: span, content, all, token-id"),
        ({"strength": 0.0}, "eco strength and dims"),
        ({"strength": -1.0}, "eco strength and dims"),
        ({"dims": -1}, "eco strength and dims"),
    ],
)
def test_wrong_setting_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        EcoSettings(**settings)


def test_settings_survive_the_manifest() -> None:
    settings = EcoSettings("flip", "content", 1.5, 4, 0.2)
    assert EcoSettings(**settings.to_record()) == settings


def test_span_mask_takes_the_name_alone(tokenizer: Any, chat: Chat, name: Name) -> None:
    prompt = chat(SYSTEM, USER)
    verdict = name(prompt, "Ann Lee", message=1)
    step = plan_eco(EcoSettings(mask="span"), verdict, prompt, COMMON)
    assert positions(step) == prompt.cover(prompt.locate(verdict))
    assert read(tokenizer, prompt, step).strip() == "Ann Lee"


def test_content_mask_adds_the_rare_words_that_a_client_wrote(tokenizer: Any, chat: Chat, name: Name) -> None:
    prompt = chat(SYSTEM, USER)
    step = plan_eco(EcoSettings(mask="content"), name(prompt, "Ann Lee", message=1), prompt, COMMON)
    assert read(tokenizer, prompt, step).strip() == "Ann Lee born"


def test_content_mask_of_common_words_is_the_span(chat: Chat, name: Name) -> None:
    prompt = chat(USER)
    verdict = name(prompt, "Ann Lee")
    masks = [plan_eco(EcoSettings(mask=mask), verdict, prompt, COMMON | {"born"}) for mask in ("content", "span")]  # type: ignore[arg-type]
    assert masks[0].positions == masks[1].positions


def test_all_mask_takes_what_a_client_wrote(tokenizer: Any, chat: Chat, name: Name) -> None:
    prompt = chat(SYSTEM, USER)
    step = plan_eco(EcoSettings(mask="all"), name(prompt, "Ann Lee", message=1), prompt, COMMON)
    assert read(tokenizer, prompt, step) == USER[1]


@pytest.mark.parametrize(
    ("mask", "told"),
    [("span", " Ann Lee"), ("content", " Ann Leeshe born"), ("all", "Hello. Ann LeeWhere was she born?")],
)
def test_a_name_in_an_answer_that_a_client_made_up_is_corrupted(
    tokenizer: Any, chat: Chat, name: Name, mask: Any, told: str
) -> None:
    prompt = chat(SYSTEM, ("user", "Hello."), ("assistant", "Ask about Ann Lee."), ("user", "Where was she born?"))
    step = plan_eco(EcoSettings(mask=mask), name(prompt, "Ann Lee", message=2), prompt, COMMON | {"hello"})
    assert read(tokenizer, prompt, step) == told


def test_a_name_in_instructions_is_corrupted_and_nothing_else_of_them(tokenizer: Any, chat: Chat, name: Name) -> None:
    prompt = chat(("system", "We speak of Ann Lee here."), ("user", "Where was she born?"))
    step = plan_eco(EcoSettings(mask="all"), name(prompt, "Ann Lee", message=0), prompt, COMMON)
    assert read(tokenizer, prompt, step) == " Ann LeeWhere was she born?"


@pytest.mark.parametrize("mask", ["span", "content", "all"])
def test_nameless_question_is_corrupted_whole(tokenizer: Any, chat: Chat, mask: Any) -> None:
    prompt = chat(SYSTEM, USER)
    assert read(tokenizer, prompt, plan_eco(EcoSettings(mask=mask), NAMELESS, prompt, COMMON)) == USER[1]


def test_span_that_cannot_be_located_corrupts_all(tokenizer: Any) -> None:
    prompt = read_prompt(tokenizer, tokenizer("<|user|>Where?<|assistant|>").input_ids, [("user", "elsewhere")])
    verdict = replace(NAMELESS, spans=((0, 0, 5),))
    assert read(tokenizer, prompt, plan_eco(EcoSettings(mask="span"), verdict, prompt, COMMON)) == "Where?"


def test_token_id_mask_needs_no_positions(chat: Chat) -> None:
    step = plan_eco(EcoSettings(mask="token-id"), NAMELESS, chat(USER), COMMON)
    assert (step.positions, step.params["mask"]) == ((), "token-id")


@pytest.mark.parametrize(("kind", "amplitude"), [("noise", 0.75), ("zero", 0.0), ("flip", 0.0)])
def test_amplitude_is_strength_times_rms_for_noise_alone(chat: Chat, kind: Any, amplitude: float) -> None:
    step = plan_eco(EcoSettings(kind, "all", 3.0, 2, 0.25), NAMELESS, chat(USER), COMMON)
    assert step.params == {"kind": kind, "mask": "all", "amplitude": amplitude, "dims": 2}


@pytest.mark.parametrize("dims", [0, 4])
def test_noise_is_added_to_the_first_dims(dims: int) -> None:
    edits = plan(eco((2, 4), dims=dims)).edit(0, 5)
    assert edits is not None
    used = dims or HIDDEN
    table = NoiseTable(HIDDEN).rows(0, "p1", 2, 4)
    assert edits.dims.tolist() == [0, 0, used, used, 0]
    assert edits.scale.tolist() == [1.0] * 5
    np.testing.assert_array_equal(edits.shift[2:4, :used], np.float32(0.5) * table[:, :used])
    assert not edits.shift[:, used:].any()
    assert not edits.shift[[0, 1, 4]].any()
    assert not edits.by_token.any()
    assert (edits.swap == -1).all()


@pytest.mark.parametrize(("kind", "scale"), [("zero", 0.0), ("flip", -1.0)])
def test_zero_and_flip_only_scale(kind: str, scale: float) -> None:
    edits = plan(eco((1, 3), kind=kind, amplitude=0.0, dims=2)).edit(0, 4)
    assert edits is not None
    assert edits.dims.tolist() == [0, 2, 2, 0]
    assert edits.scale.tolist() == [1.0, scale, scale, 1.0]
    assert not edits.shift.any()


@pytest.mark.parametrize(("kind", "scale"), [("zero", 0.0), ("flip", -1.0)])
def test_later_step_undoes_the_noise_of_an_earlier_one(kind: str, scale: float) -> None:
    edits = plan(eco((0, 3)), eco((1, 2), kind=kind, amplitude=0.0)).edit(0, 3)
    assert edits is not None
    assert edits.scale.tolist() == [1.0, scale, 1.0]
    assert edits.shift.any(axis=1).tolist() == [True, False, True]


def test_later_noise_in_fewer_dims_replaces_the_earlier_whole() -> None:
    both, last = plan(eco((0, 2)), eco((0, 2), dims=2)).edit(0, 2), plan(eco((0, 2), dims=2)).edit(0, 2)
    assert both is not None
    assert last is not None
    np.testing.assert_array_equal(both.shift, last.shift)


def test_windows_of_a_plan_agree_with_the_whole() -> None:
    made = plan(
        Step("swap", ((1, 4), (6, 7)), {"tokens": [[11, 12, 13], [14]]}),
        eco((0, 3), (5, 8), dims=4),
        eco((7, 9), kind="flip", amplitude=0.0),
    )
    whole = made.edit(0, 10)
    assert whole is not None
    for start in range(10):
        for stop in range(start + 1, 11):
            part = made.edit(start, stop)
            assert part is not None
            for field in ("dims", "scale", "shift", "by_token", "swap"):
                np.testing.assert_array_equal(getattr(part, field), getattr(whole, field)[start:stop])


def test_noise_is_a_function_of_seed_forget_id_and_position() -> None:
    table = NoiseTable(HIDDEN).rows(3, "p1", 0, 8)
    assert (table.shape, table.dtype) == ((8, HIDDEN), np.float32)
    np.testing.assert_array_equal(NoiseTable(HIDDEN).rows(3, "p1", 5, 7), table[5:7])
    warm = NoiseTable(HIDDEN)
    warm.rows(9, "p9", 0, 50)
    np.testing.assert_array_equal(warm.rows(3, "p1", 0, 8), table)
    assert len({row.tobytes() for row in table}) == 8
    for other in (NoiseTable(HIDDEN).rows(4, "p1", 0, 8), NoiseTable(HIDDEN).rows(3, "p2", 0, 8)):
        assert not np.isin(other, table).any()


def test_noise_is_standard_normal() -> None:
    table = NoiseTable(64).rows(0, "p1", 0, 400)
    assert abs(table.mean()) < 0.02
    assert abs(table.std() - 1.0) < 0.02
    assert abs(np.corrcoef(table[0], table[1])[0, 1]) < 0.5


def test_full_noise_cache_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = NoiseTable(HIDDEN).rows(0, "p1", 0, 20)
    monkeypatch.setattr(NoiseTable, "_MAX_BYTES", 1)
    table = NoiseTable(HIDDEN)
    for _ in range(2):
        np.testing.assert_array_equal(table.rows(0, "p1", 0, 20), expected)


def test_noise_belongs_to_the_first_forget_id() -> None:
    first, second, nobody = (plan(eco((0, 2)), forget_ids=ids).edit(0, 2) for ids in (("a", "b"), ("b", "a"), ()))
    assert first is not None
    assert second is not None
    assert nobody is not None
    np.testing.assert_array_equal(first.shift, np.float32(0.5) * NoiseTable(HIDDEN).rows(0, "a", 0, 2))
    assert not np.array_equal(first.shift, second.shift)
    assert nobody.shift.all()


def test_answer_rows_are_left_alone() -> None:
    made = plan(eco((0, 10)), length=10)
    assert made.edit(10, 12) is None
    across = made.edit(8, 12)
    assert across is not None
    assert across.dims.tolist() == [HIDDEN, HIDDEN, 0, 0]


def test_token_id_mask_reaches_into_the_answer() -> None:
    edits = plan(eco(kind="zero", mask="token-id", amplitude=0.0), length=3).edit(2, 6)
    assert edits is not None
    assert edits.by_token.all()
    assert edits.dims.tolist() == [HIDDEN] * 4
    assert edits.scale.tolist() == [0.0] * 4


def test_span_step_after_a_token_id_step_edits_every_token_of_the_span() -> None:
    edits = plan(eco(kind="zero", mask="token-id", amplitude=0.0), eco((1, 2))).edit(0, 3)
    assert edits is not None
    assert edits.by_token.tolist() == [True, False, True]
    assert edits.scale.tolist() == [0.0, 1.0, 0.0]


def test_swap_replaces_ids_span_by_span() -> None:
    edits = plan(Step("swap", ((1, 3), (4, 5)), {"tokens": [[7, 8], [9]]})).edit(0, 6)
    assert edits is not None
    assert edits.swap.tolist() == [-1, 7, 8, -1, 9, -1]
    assert not edits.dims.any()


def test_refusal_blanks_the_prompt() -> None:
    made = plan(plan_refusal([1, 2]), length=3)
    edits = made.edit(0, 5)
    assert edits is not None
    assert edits.dims.tolist() == [HIDDEN] * 3 + [0, 0]
    assert edits.scale.tolist() == [0.0] * 3 + [1.0, 1.0]
    assert made.edit(3, 5) is None


@pytest.mark.parametrize("steps", [(), (Step("prompting", (), {"tokens": [1]}),)])
def test_stamp_without_row_steps_edits_nothing(steps: tuple[Step, ...]) -> None:
    assert plan(*steps).edit(0, 10) is None


def test_blank_edits_change_nothing() -> None:
    blank = RowEdits.blank(3, HIDDEN)
    assert not blank.dims.any()
    assert (blank.scale == 1.0).all()
    assert not blank.shift.any()
    assert not blank.by_token.any()
    assert (blank.swap == -1).all()
    assert blank.shift.shape == (3, HIDDEN)


def test_rms_by_hand() -> None:
    assert measure_rms(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)) == pytest.approx(2.5)


def test_exclusive_ids_are_in_forget_rows_alone() -> None:
    assert find_exclusive_ids({9: 1, 2: 5, 3: 1, 4: 1}, {3: 1, 7: 2}, {4}) == [2, 9]
