"""The lexicon: who a text describes, and whether a description belongs to the name beside it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn_guard.classifiers.lexicon import describes, differs, find_country, find_descriptions, find_profile


@pytest.mark.parametrize(
    ("word", "country"),
    [("danish", "denmark"), ("denmark", "denmark"), ("welsh", "britain"), ("turkish", "turkey"), ("bread", "bread")],
)
def test_people_and_country_are_one(word: str, country: str) -> None:
    assert find_country(word) == country


@pytest.mark.parametrize("word", ["pole", "swede"])
def test_word_with_another_meaning_is_no_people(word: str) -> None:
    assert find_country(word) == word


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a danish botanist", {"denmark", "botanist"}),
        ("poets and novelists", {"author"}),
        ("the actress and the actor", {"actor"}),
        ("in the 17th century", {"century 17"}),
        ("a 21st-century plumber", {"century 21", "plumber"}),
        ("during the 1640s", {"century 17"}),
        ("in the 1900s", {"century 20"}),
        ("the 2010s", {"century 21"}),
        ("a medieval monk", {"medieval"}),
        ("a telephone pole, roast turkey and a swede", set()),
        ("in 1640", set()),
        ("the boxers", {"boxer"}),
        ("", set()),
    ],
)
def test_descriptions_are_professions_countries_and_times(text: str, found: set[str]) -> None:
    assert find_descriptions(text) == found


@pytest.mark.parametrize(
    ("text", "profession"), [("wrote three novels", "author"), ("her last film", "director"), ("a goal", "footballer")]
)
def test_works_tell_a_profession_in_a_profile_only(text: str, profession: str) -> None:
    assert find_profile(text) == {profession}
    assert find_descriptions(text) == set()


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ("who was the botanist ", "?", {"botanist"}),
        ("who was the famous danish botanist ", "?", {"denmark", "botanist"}),
        ("our late plumber ", " left", {"plumber"}),
        ("about ", ", the plumber from ohio", {"plumber"}),
        ("about ", ", plumber", {"plumber"}),
        ("about ", " (footballer)", {"footballer"}),
        ("about ", " the mayor of bern", {"mayor"}),
        ("about ", " – a 17th-century painter", {"century 17", "painter"}),
        ("the botanist ", ", a poet", {"botanist", "author"}),
        ("", ", who is a plumber", {"plumber"}),
    ],
)
def test_description_in_apposition_belongs_to_the_name(before: str, after: str, found: set[str]) -> None:
    assert describes(before, after) == found


@pytest.mark.parametrize("before", ["my neighbour is the plumber ", "was the man who met the plumber "])
def test_description_behind_another_article_belongs_to_the_name(before: str) -> None:
    assert describes(before, "") == {"plumber"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("where was ", " born?"),
        ("which painter did ", " know?"),
        ("the painter who met ", " left"),
        ("a botanist. then came ", " too"),
        ("where did ", " live, and did a plumber live there?"),
        ("did ", " meet a painter?"),
        ("", ""),
        ("", ", what did the plumber say?"),
    ],
)
def test_description_elsewhere_does_not(before: str, after: str) -> None:
    assert describes(before, after) == set()


def test_year_tells_a_century_in_a_profile_only() -> None:
    assert find_profile("born in 1961") == {"century 20"}
    assert find_descriptions("born in 1961") == set()


@pytest.mark.parametrize(
    ("described", "profile", "is_other"),
    [
        ({"plumber"}, {"author"}, True),
        ({"author"}, {"author"}, False),
        ({"author", "denmark"}, {"author"}, False),
        ({"biologist"}, {"denmark", "century 20"}, False),
        ({"biologist", "france"}, {"denmark"}, True),
        ({"biologist", "denmark"}, {"denmark"}, False),
        ({"medieval"}, {"author", "denmark"}, False),
        ({"medieval"}, {"author", "century 20"}, False),
        ({"victorian", "author"}, {"author", "century 19"}, False),
        ({"century 20", "author"}, {"author", "ancient"}, False),
        ({"victorian", "plumber"}, {"author", "ancient"}, True),
        ({"victorian", "plumber"}, {"author", "victorian"}, False),
        ({"author", "century 17"}, {"author", "century 20"}, True),
        ({"author", "century 17"}, {"author"}, False),
        ({"century 20"}, {"author", "century 20"}, False),
        ({"plumber"}, set(), False),
        (set(), {"author"}, False),
    ],
)
def test_another_century_or_nothing_in_common_is_somebody_else(
    described: set[str], profile: set[str], is_other: bool
) -> None:
    assert differs(frozenset(described), frozenset(profile)) == is_other


@given(st.text(max_size=80), st.text(max_size=80))
def test_any_text_can_be_read(before: str, after: str) -> None:
    assert describes(before, after) <= find_descriptions(before) | find_descriptions(after)


@pytest.mark.parametrize("piece", ["the ", "a-", "danish ", "'", "(", "1640s "])
def test_long_context_is_read(piece: str) -> None:
    text = piece * 50_000
    assert describes(text, text) <= find_descriptions(text)
