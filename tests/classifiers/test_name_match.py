"""The baseline: an alias, or nothing."""

from __future__ import annotations

import pytest

from unlearn_guard.classifiers.name_match import NameMatch
from unlearn_guard.guard.protocols import PromptClassifier
from unlearn_guard.guard.verdict import TextScore

NAMES = NameMatch({"p1": ["Ann Lee"], "p2": ["Bo Li", "Ann Lee"]}, 0.01)


def test_keeps_the_protocol() -> None:
    assert isinstance(NAMES, PromptClassifier)
    assert NAMES.alpha == 0.01


def test_any_alpha_can_be_held() -> None:
    assert NAMES.smallest_p == NAMES.p_value(1.0) == 0.0


@pytest.mark.parametrize("operation", [NAMES.score, NAMES.match])
def test_name_is_flagged_with_owners_and_spans(operation) -> None:  # type: ignore[no-untyped-def]
    found, clean, twice = operation(["who is ANN LEE?", "who is Ann?", "Bo Li, Bo Li, Ann Lee"])
    assert found == TextScore(1.0, "alias", ("p1", "p2"), ((7, 14),))
    assert clean == TextScore(0.0, "alias")
    assert twice == TextScore(1.0, "alias", ("p2", "p1"), ((0, 5), (7, 12), (14, 21)))


@pytest.mark.parametrize(("score", "p_value"), [(1.0, 0.0), (0.0, 1.0), (0.99, 1.0)])
def test_p_value_is_all_or_nothing(score: float, p_value: float) -> None:
    assert NAMES.p_value(score) == p_value


def test_text_of_any_length_is_read_whatever_the_cap() -> None:
    (found,) = NAMES.score(["x " * 10_000 + "Bo Li"], max_windows=1)
    assert found.spans == ((20_000, 20_005),)


def test_answer_with_an_alias_is_flagged_where_nobody_gave_it() -> None:
    found = NAMES.score_answer(["who wrote it?"], "It was Bo Li.")
    assert found == TextScore(1.0, "answer", ("p2",), ((7, 12),))
    assert NAMES.answer_p_value(found.score) == 0.0


def test_answer_without_an_alias_is_clean() -> None:
    assert NAMES.answer_p_value(NAMES.score_answer(["who is Bo Li?"], "A singer.").score) == 1.0


@pytest.mark.parametrize(("allow", "score"), [(True, 0.0), (False, 1.0)])
def test_answer_may_repeat_what_was_given_where_the_policy_allows(allow: bool, score: float) -> None:
    assert NAMES.score_answer(["hello", "who is BO LI?"], "Bo Li sings.", allow=allow).score == score


def test_answer_may_not_name_whom_nobody_gave() -> None:
    names = NameMatch({"p1": ["Ann Lee"], "p2": ["Bo Li"]}, 0.01)
    found = names.score_answer(["who is Bo Li?"], "Bo Li met Ann Lee.")
    assert (found.forget_ids, found.spans) == (("p1",), ((10, 17),))


def test_threshold_is_a_match_and_nothing_is_near() -> None:
    assert NAMES.p_value(NAMES.find_threshold(0.01)) <= 0.01
    assert NAMES.find_neighbours("Ann Lee", 3) == []


@pytest.mark.parametrize(
    ("text", "glance"),
    [("who is ANN LEE?", 1.0), ("who is Ann?", 1.0), ("who is it, é?", 1.0), ("who is Anna?", 0.0), ("", 0.0)],
)
def test_glance_tells_a_text_without_a_word_of_an_alias(text: str, glance: float) -> None:
    assert NAMES.glance(text) == glance


def test_longest_name_is_counted_in_characters() -> None:
    assert NAMES.longest_name == len("Ann Lee")
