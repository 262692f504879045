"""Built-in traffic: many distinct questions about nobody, the same every time."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from unlearn_guard.classifiers import traffic
from unlearn_guard.classifiers.traffic import make_traffic
from unlearn_guard.guard.errors import UnknownNameError


@pytest.mark.parametrize("n_rows", [0, 1, 7, 3000])
def test_as_many_distinct_rows_as_asked_for(n_rows: int) -> None:
    rows = make_traffic(n_rows)
    assert len(rows) == len({row.prompt for row in rows}) == n_rows


def test_seed_decides() -> None:
    assert make_traffic(200, seed=1) == make_traffic(200, seed=1)
    assert make_traffic(200, seed=1) != make_traffic(200, seed=2)


def test_fewer_rows_are_the_first_of_more() -> None:
    assert make_traffic(50) == make_traffic(400)[:50]


def test_every_gap_is_filled() -> None:
    for row in make_traffic(3000):
        assert not re.search(r"[{}]|  |^$", row.prompt + row.answer), row
        assert row.prompt.strip() == row.prompt


def test_rows_of_an_invented_person_belong_together() -> None:
    counts = Counter(row.forget_id for row in make_traffic(3000) if row.forget_id)
    assert len(counts) > 100
    assert max(counts.values()) <= 4


def test_people_of_several_seeds_are_different() -> None:
    first, second = ({row.prompt for row in make_traffic(1000, seed) if row.forget_id} for seed in (0, 1))
    assert len(first & second) < 0.05 * len(first)


def test_most_rows_are_about_people_and_works() -> None:
    rows = make_traffic(3000)
    n_about = sum(bool(row.forget_id) or any(known in row.prompt for known in traffic._KNOWN) for row in rows)
    assert 0.5 <= n_about / len(rows) <= 0.9


def test_traffic_names_no_kind_of_request_twice_as_often_as_promised() -> None:
    openings = Counter(row.prompt.split()[0] for row in make_traffic(3000))
    assert max(openings.values()) < 1500


def test_kinds_can_be_left_out() -> None:
    """What is left is the same as before; what goes asks for a number that follows from others."""
    every, left = make_traffic(3000), make_traffic(3000, without=["arithmetic"])
    kept = set(left)
    assert [row for row in every if row in kept] == left
    gone = [row.query for row in every if row not in kept]
    assert 200 < len(gone) < 500
    assert all(re.search(r"how (many|much|old|fast)|times \d", text, re.IGNORECASE) for text in gone)
    assert any("times" in text for text in gone)
    assert any(text.startswith("Write a short story") for text in (row.query for row in left))
    with pytest.raises(UnknownNameError, match=r"sums.*arithmetic, chores"):
        make_traffic(5, without=["sums"])
