"""Conversations: every message, what only several say together, and the way back to where it was said."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearn_guard.guard.conversation import TAIL_CHARACTERS, Message, Unit, make_units, read_messages
from unlearn_guard.guard.errors import ScreeningError

ROLES = st.sampled_from(["system", "user", "assistant", "tool"])
TEXTS = st.one_of(st.text(max_size=12), st.sampled_from(["", " \n", "x" * 700, "word " * 300, "y" * 2500, "end"]))
MESSAGES = st.lists(st.builds(Message, ROLES, TEXTS), max_size=12)


def talk(*turns: tuple[str, str]) -> list[Message]:
    return [Message({"u": "user", "a": "assistant", "s": "system", "t": "tool"}[role], text) for role, text in turns]


def texts(messages: list[Message]) -> list[str]:
    return [unit.text for unit in make_units(messages)]


@given(MESSAGES)
def test_every_message_with_text_is_a_unit(messages: list[Message]) -> None:
    found = texts(messages)
    assert all(message.text in found for message in messages if message.text.strip())


@given(MESSAGES)
def test_joined_units_are_short_and_few(messages: list[Message]) -> None:
    n_with_text = sum(bool(message.text.strip()) for message in messages)
    joined = make_units(messages)[n_with_text:]
    assert len(joined) <= 2
    assert all(len(unit.text) <= TAIL_CHARACTERS for unit in joined)


@pytest.mark.parametrize(
    "turns", [(("s", "a"), ("u", ""), ("u", "b")), (("s", "a"), ("t", "b"), ("u", ""), ("u", " "))]
)
def test_joined_unit_is_no_copy_of_a_message_and_not_empty(turns: tuple[tuple[str, str], ...]) -> None:
    messages = talk(*turns)
    n_with_text = sum(bool(message.text.strip()) for message in messages)
    assert all(len(unit.parts) > 1 for unit in make_units(messages)[n_with_text:])


@settings(deadline=None)
@given(MESSAGES, st.data())
def test_location_never_leaves_the_message(messages: list[Message], data: st.DataObject) -> None:
    units = [unit for unit in make_units(messages) if unit.text]
    if units:
        unit = data.draw(st.sampled_from(units))
        start = data.draw(st.integers(0, len(unit.text) - 1))
        number, left, right = unit.locate(start, data.draw(st.integers(start + 1, len(unit.text))))
        assert 0 <= number < len(messages)
        assert 0 <= left <= right <= len(messages[number].text)


@settings(deadline=None)
@given(MESSAGES, st.data())
def test_span_inside_one_message_leads_back_to_its_characters(messages: list[Message], data: st.DataObject) -> None:
    units = [unit for unit in make_units(messages) if unit.text]
    if units:
        unit = data.draw(st.sampled_from(units))
        number, offset, origin = data.draw(st.sampled_from(unit.parts))
        length = len(messages[number].text) - origin
        if length:
            start = data.draw(st.integers(0, length - 1))
            end = data.draw(st.integers(start + 1, length))
            assert unit.locate(offset + start, offset + end) == (number, origin + start, origin + end)
            assert unit.text[offset + start : offset + end] == messages[number].text[origin + start : origin + end]


def test_single_message_is_read_once() -> None:
    assert make_units(talk(("u", "who?"))) == [Unit("who?", ((0, 0, 0),))]
    assert texts(talk(("s", " "), ("u", "who?"), ("a", ""))) == ["who?"]


@pytest.mark.parametrize("messages", [[], talk(("u", "")), talk(("u", " \n"), ("a", "\t"))])
def test_nothing_said_is_nothing_to_screen(messages: list[Message]) -> None:
    assert make_units(messages) == []


def test_user_turns_since_the_last_answer_are_read_together() -> None:
    found = texts(
        talk(("s", "be kind"), ("u", "hello"), ("a", "yes?"), ("u", "I mean Ann"), ("t", "tea"), ("u", "Lee"))
    )
    assert "I mean Ann\nLee" in found
    assert found[-1] == "be kind\nhello\nyes?\nI mean Ann\ntea\nLee"
    assert len(found) == 8


def test_whole_conversation_of_user_turns_is_joined_once() -> None:
    assert texts(talk(("u", "Ann"), ("u", "Lee"))) == ["Ann", "Lee", "Ann\nLee"]


def test_answer_that_is_begun_for_the_model_belongs_to_the_end() -> None:
    assert texts(talk(("u", "Who?"), ("a", "It was Ann"))) == ["Who?", "It was Ann", "Who?\nIt was Ann"]


def test_end_of_a_long_conversation_is_read_back_to_the_limit() -> None:
    messages = talk(("u", "a" * 3000), ("a", "b" * 1500), ("u", "c" * 300))
    tail = make_units(messages)[-1]
    assert tail.text == "a" * (TAIL_CHARACTERS - 1802) + "\n" + "b" * 1500 + "\n" + "c" * 300
    assert tail.locate(0, 5) == (0, 3000 - (TAIL_CHARACTERS - 1802), 3005 - (TAIL_CHARACTERS - 1802))


def test_last_message_longer_than_the_limit_is_cut_at_its_begin() -> None:
    (*_, tail) = make_units(talk(("u", "hello"), ("u", "x" * 5000 + "end")))
    assert (len(tail.text), tail.text[-3:]) == (TAIL_CHARACTERS, "end")
    assert tail.locate(TAIL_CHARACTERS - 3, TAIL_CHARACTERS) == (1, 5000, 5003)


def test_span_across_messages_stays_in_the_one_where_it_begins() -> None:
    (*_, joined) = make_units(talk(("u", "I mean Ann"), ("u", "Lee of Bern")))
    assert joined.locate(7, 14) == (0, 7, 10)
    assert joined.locate(11, 14) == (1, 0, 3)


@pytest.mark.parametrize("n_turns", [10_000])
def test_many_turns_have_one_unit_each_and_short_ends(n_turns: int) -> None:
    messages = [Message("user" if number % 2 else "assistant", f"turn {number}") for number in range(n_turns)]
    units = make_units(messages)
    assert len(units) == n_turns + 1
    assert units[-1].text.endswith(f"turn {n_turns - 2}\nturn {n_turns - 1}")
    assert [unit.locate(0, 4)[0] for unit in units[:-1]] == list(range(n_turns))


def test_many_empty_turns_do_not_hide_the_ones_before() -> None:
    messages = talk(("u", "Ann"), *([("u", "")] * 100), ("u", "Lee"))
    assert make_units(messages)[-1].text.split() == ["Ann", "Lee"]


def test_blank_padding_does_not_hide_what_was_said_before() -> None:
    messages = talk(("u", "I mean Ann"), ("u", " " * TAIL_CHARACTERS), ("u", "Lee"))
    assert make_units(messages)[-1].text.split() == ["I", "mean", "Ann", "Lee"]


def test_string_is_a_user_message() -> None:
    assert read_messages("who?") == [Message("user", "who?")]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("who?", "who?"),
        (None, ""),
        ([], ""),
        (["who", "is"], "who\nis"),
        ([{"type": "text", "text": "who"}, "is", {"type": "input_text", "text": "it"}], "who\nis\nit"),
        (({"text": "who"},), "who"),
    ],
)
def test_content_is_read_as_text(content: Any, text: str) -> None:
    assert read_messages([{"role": "tool", "content": content}]) == [Message("tool", text)]


def test_role_may_be_missing() -> None:
    assert read_messages([{"content": "a"}, {}]) == [Message("user", "a"), Message("user", "")]


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ([{"content": [{"type": "image_url", "image_url": "x"}]}], "content part cannot be screened: 'image_url'"),
        ([{"content": [3]}], "content part cannot be screened: 'int'"),
        ([{"content": [None]}], "content part cannot be screened: 'NoneType'"),
        ([{"content": [{"type": "text", "text": None}]}], "content part cannot be screened: 'text'"),
        ([{"content": 3}], "message content cannot be screened: 'int'"),
        ([{"content": {"text": "a"}}], "message content cannot be screened: 'dict'"),
        (["who?"], "message is not a mapping: 'str'"),
    ],
)
def test_content_that_is_no_text_is_refused(item: Any, says: str) -> None:
    with pytest.raises(ScreeningError, match=says):
        read_messages(item)


@pytest.mark.parametrize("content", [b"who?", [b"who?"]])
def test_bytes_are_no_text(content: Any) -> None:
    with pytest.raises(ScreeningError, match="cannot be screened"):
        read_messages([{"content": content}])


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ({"tool_calls": [{"function": {"name": "find", "arguments": '{"who": "Bo"}'}}]}, '{"who": "Bo"}'),
        ({"tool_calls": [{"function": {"arguments": {"who": "Łu"}}}, {"id": "x"}, None]}, '{"who": "Łu"}'),
        ({"reasoning_content": "They ask for Bo."}, "They ask for Bo."),
        ({"content": "Yes.", "reasoning": "Bo it is."}, "Yes.\nBo it is."),
        ({"tool_calls": "nonsense", "reasoning": 3}, ""),
    ],
)
def test_reasoning_and_tool_calls_of_earlier_answers_are_read(extra: dict[str, Any], text: str) -> None:
    assert read_messages([{"role": "assistant", **extra}]) == [Message("assistant", text)]
