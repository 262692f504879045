"""Errors: one line that says what, value, allowed and how to mend it."""

from __future__ import annotations

import pickle

import pytest

from unlearn_guard.guard import errors
from unlearn_guard.guard.errors import InputError, RowError, UnknownNameError, UnlearnGuardError

CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, UnlearnGuardError)]
PLAIN = [value for value in CLASSES if value not in (RowError, UnknownNameError)]


@pytest.mark.parametrize("kind", PLAIN)
def test_message_is_one_line_with_all_four_parts(kind: type[UnlearnGuardError]) -> None:
    message = str(kind("the\nwhat", value="the\nvalue", allowed="the\nallowed", mend="the\nmend"))
    assert "\n" not in message
    assert message.index("the what") < message.index("the\\nvalue") < message.index("allowed: the allowed")
    assert message.endswith("the mend")


@pytest.mark.parametrize("separator", ["\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
def test_message_is_one_line_whatever_separates_lines(separator: str) -> None:
    message = str(RowError(f"a{separator}file", 1, f"it{separator}broke", mend=f"mend{separator}it"))
    assert message == "a file, line 1: it broke — mend it"


def test_message_leaves_out_what_is_not_given() -> None:
    assert str(UnlearnGuardError("it broke")) == "it broke"


@pytest.mark.parametrize("value", [0, "", False, ()])
def test_message_shows_a_false_value(value: object) -> None:
    assert str(UnlearnGuardError("alpha", value=value)) == f"alpha: {value!r}"


def test_parts_stay_readable_as_attributes() -> None:
    error = UnlearnGuardError("alpha", value=2, allowed="0 to 1", mend="lower it")
    assert (error.what, error.value, error.allowed, error.mend) == ("alpha", 2, "0 to 1", "lower it")


@pytest.mark.parametrize("kind", CLASSES)
def test_wrong_input_exits_with_2_and_the_rest_with_1(kind: type[UnlearnGuardError]) -> None:
    assert kind.exit_code == (2 if issubclass(kind, InputError) else 1)


@pytest.mark.parametrize("name", ["ScreeningError", "AdmissionError"])
def test_failures_while_serving_are_not_wrong_input(name: str) -> None:
    assert not issubclass(getattr(errors, name), InputError)


def test_every_error_is_exported() -> None:
    assert {kind.__name__ for kind in CLASSES} == set(errors.__all__)


def test_row_error_names_file_and_line() -> None:
    error = RowError("rows.jsonl", 7, "not JSON", allowed="a JSON object")
    assert (error.path, error.line) == ("rows.jsonl", 7)
    assert str(error) == "rows.jsonl, line 7: not JSON — allowed: a JSON object"


def test_unknown_name_lists_known_and_nearest() -> None:
    message = str(UnknownNameError("intervention", "refusel", ["swap", "refusal", "eco"]))
    assert "'refusel'" in message
    assert "eco, refusal, swap" in message
    assert "did you mean 'refusal'?" in message


def test_unknown_name_offers_nothing_that_is_far_off() -> None:
    assert "did you mean" not in str(UnknownNameError("intervention", "zzzz", ["eco", "swap"]))


@pytest.mark.parametrize(
    "error",
    [
        UnlearnGuardError("alpha", value=2, allowed="0 to 1", mend="lower it"),
        RowError("rows.jsonl", 3, "no prompt"),
        UnknownNameError("method", "ga2", ["ga", "npo"]),
    ],
)
def test_errors_cross_processes(error: UnlearnGuardError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
