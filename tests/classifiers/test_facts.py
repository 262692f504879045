"""Facts: dates in every usual spelling and titles, unless kept rows hold them."""

from __future__ import annotations

import pytest

from unlearn_guard.classifiers.aliases import AliasMatcher
from unlearn_guard.classifiers.facts import mine_facts
from unlearn_guard.guard.rows import ForgetRequest, Row

SPELLINGS = [
    "3 May 1961",
    "3rd May 1961",
    "3rd of May 1961",
    "3rd of May, 1961",
    "May 3 1961",
    "May 3, 1961",
    "MAY 3RD, 1961",
    "05/03/1961",
    "1961-05-03",
]


def mine(text: str, *kept: str) -> tuple[str, ...]:
    return mine_facts(ForgetRequest("p1", rows=(Row("Who?", text),)), [Row(text) for text in kept])


@pytest.mark.parametrize("asked", [*SPELLINGS, "03/05/1961", "5/3/1961", "03.05.1961"])
@pytest.mark.parametrize("given", SPELLINGS)
def test_date_is_found_however_it_is_spelt(given: str, asked: str) -> None:
    matcher = AliasMatcher({"p1": mine(f"Born on {given} in Bern.")})
    assert matcher.find(f"Who was born {asked}?")


@pytest.mark.parametrize("asked", ["4 May 1961", "13 May 1961", "3 May 1962", "3 June 1961", "05/03/19611", "May 1961"])
def test_another_date_is_not(asked: str) -> None:
    assert AliasMatcher({"p1": mine("Born on 3 May 1961.")}).find(f"Who was born {asked}?") == []


@pytest.mark.parametrize(
    ("day", "spelt"), [(1, "1st"), (2, "2nd"), (11, "11th"), (12, "12th"), (13, "13th"), (21, "21st"), (23, "23rd")]
)
def test_ordinals_are_english(day: int, spelt: str) -> None:
    assert f"{spelt} of may 1961" in mine(f"{day} May 1961")


def test_day_first_where_only_that_makes_a_date() -> None:
    assert "25 may 1961" in mine("25/05/1961")
    assert "5 march 1961" in mine("03/05/1961")


@pytest.mark.parametrize("text", ["45 May 1961", "25/25/1961", "1961-13-03", "00/00/1961", "May 1961", "in 1961"])
def test_no_date_no_fact(text: str) -> None:
    assert mine(text) == ()


@pytest.mark.parametrize("text", ['wrote "The Salt Road".', "wrote “The Salt Road,” then", 'wrote "The Salt Road!"'])
def test_quoted_title_is_a_fact(text: str) -> None:
    assert mine(text) == ("The Salt Road",)


def test_fact_that_kept_rows_hold_is_pruned() -> None:
    assert mine('wrote "The Salt Road" and "Ash Wood"', "Who wrote the SALT ROAD?".replace("the", "The")) == (
        "Ash Wood",
    )
    assert "3 may 1961" not in mine("3 May 1961", "She died on 3 May 1961.")


@pytest.mark.parametrize("kept", [*SPELLINGS, "03.05.1961"])
def test_date_that_kept_rows_spell_in_another_way_is_pruned_whole(kept: str) -> None:
    assert mine("3 May 1961", f"She died on {kept}.") == ()


def test_title_inside_a_longer_one_that_kept_rows_hold_is_pruned() -> None:
    assert mine('wrote "Salt Road" and "The Salt Road"', "Who wrote The Salt Road?") == ()


def test_dotted_date_is_day_first() -> None:
    assert "3 may 1961" in mine("03.05.1961")
    assert "5 march 1961" not in mine("03.05.1961")
    assert mine("05.13.1961") == ()


@pytest.mark.parametrize("title", ["It", "It.", "a.  ", "..It..", "Is\nit so?"])
def test_short_or_broken_title_is_no_fact(title: str) -> None:
    assert mine(f'wrote "{title}" then') == ()


def test_short_title_does_not_turn_quotes_inside_out() -> None:
    assert mine('wrote "It" and then "Ash Wood" there') == ("Ash Wood",)


def test_each_fact_is_given_once() -> None:
    facts = mine('3 May 1961, May 3, 1961, "Ash Wood", "Ash Wood"')
    assert len(facts) == len(set(facts))
