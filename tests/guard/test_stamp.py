"""The stamp: plain data that survives the way to the worker, and one byte string for it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from unlearn_guard.guard.stamp import Stamp, Step, canonical_json

STAMP = Stamp(
    revision="rév",
    forget_ids=("p1", "p2"),
    prompt_length=9,
    seed=7,
    steps=(
        Step("swap", ((2, 4), (6, 7)), {"tokens": [[1, 2], [3]]}),
        Step("eco", ((0, 9),), {"kind": "noise", "amplitude": 0.25, "dims": 0, "on": True}),
        Step("refusal"),
    ),
)


def assert_plain(value: Any) -> None:
    assert type(value) in (dict, list, str, int, float, bool)
    if isinstance(value, dict):
        assert all(type(key) is str for key in value)
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            assert_plain(item)


def test_record_is_plain_data() -> None:
    assert_plain(STAMP.to_record())


def test_round_trip_through_another_process() -> None:
    assert Stamp.from_record(json.loads(json.dumps(STAMP.to_record()))) == STAMP


def test_canonical_survives_the_round_trip() -> None:
    assert Stamp.from_record(STAMP.to_record()).canonical() == STAMP.canonical()


def test_canonical_ignores_key_order_and_kind_of_sequence() -> None:
    eco = STAMP.steps[1]
    shuffled = replace(eco, params=dict(reversed(eco.params.items())))
    swap = replace(STAMP.steps[0], params={"tokens": ((1, 2), (3,))})
    assert replace(STAMP, steps=(swap, shuffled, STAMP.steps[2])).canonical() == STAMP.canonical()


def test_canonical_is_this_very_string() -> None:
    stamp = Stamp("r", ("é",), 2, 0, (Step("eco", ((0, 1),), {"b": 1.5, "a": "x"}),))
    assert stamp.canonical() == (
        b'{"forget_ids":["\\u00e9"],"prompt_length":2,"revision":"r","seed":0,'
        b'"steps":[{"method":"eco","params":{"a":"x","b":1.5},"positions":[[0,1]]}]}'
    )


def test_canonical_tells_stamps_apart() -> None:
    others = [
        replace(STAMP, revision="x"),
        replace(STAMP, forget_ids=("p2", "p1")),
        replace(STAMP, prompt_length=8),
        replace(STAMP, seed=8),
        replace(STAMP, steps=STAMP.steps[::-1]),
    ]
    assert len({stamp.canonical() for stamp in [STAMP, *others]}) == 6


@pytest.mark.parametrize("name", ["revision", "forget_ids", "prompt_length", "seed", "steps"])
def test_incomplete_record_is_refused(name: str) -> None:
    record = STAMP.to_record()
    del record[name]
    with pytest.raises(KeyError, match=name):
        Stamp.from_record(record)


def test_first_step_of_a_method_is_found() -> None:
    first, second = Step("eco", ((0, 1),)), Step("eco", ((1, 2),))
    stamp = Stamp("", (), 2, 0, (Step("swap"), first, second))
    assert stamp.step("eco") is first
    assert stamp.step("refusal") is None


def test_canonical_json_sorts_at_every_depth() -> None:
    assert canonical_json({"b": [{"d": 1, "c": 2}], "a": None}) == b'{"a":null,"b":[{"c":2,"d":1}]}'
