"""Aliases: found at word borders in whatever spelling, and mined where the operator gave none."""

from __future__ import annotations

import pytest

from unlearn_guard.classifiers.aliases import AliasMatcher, mine_aliases
from unlearn_guard.guard.errors import DataError
from unlearn_guard.guard.rows import ForgetRequest, Row


def find(text: str, **aliases: list[str]) -> list[tuple[str, tuple[str, ...]]]:
    return [(text[match.start : match.end], match.forget_ids) for match in AliasMatcher(aliases).find(text)]


@pytest.mark.parametrize(
    "text",
    [
        "Ann Lee",
        "who is ANN LEE?",
        "(Ann Lee)",
        "Ann Lee's book",
        "Ann Lee’s book",
        "Ann  \n Lee",
        "Änn Léé",
        "А\u200bnn Lee",
        "Ａｎｎ Ｌｅｅ!",
        "not-Ann Lee-like",
    ],
)
def test_name_is_found_in_any_spelling(text: str) -> None:
    assert len(find(text, p1=["Ann Lee"])) == 1


@pytest.mark.parametrize("text", ["Joann Lee", "Ann Leeds", "Ann Lee2", "AnnLee", "Ann, Lee", "Ann", "éAnn Lee"])
def test_name_inside_another_word_is_not(text: str) -> None:
    assert find(text, p1=["Ann Lee"]) == []


def test_span_is_of_the_original_text() -> None:
    assert find("Ist Ä\u200bnn  Lëe hier?", p1=["Ann Lee"]) == [("Ä\u200bnn  Lëe", ("p1",))]


def test_matches_come_in_text_order() -> None:
    assert find("Bo Li met Ann Lee and Bo Li", p1=["Ann Lee"], p2=["Bo Li"]) == [
        ("Bo Li", ("p2",)),
        ("Ann Lee", ("p1",)),
        ("Bo Li", ("p2",)),
    ]


def test_longest_wins_where_names_overlap() -> None:
    assert find("Ann Lee Grey", p1=["Ann Lee"], p2=["Ann Lee Grey", "Lee Grey"]) == [("Ann Lee Grey", ("p2",))]


def test_longer_name_that_ends_inside_a_word_does_not_hide_the_shorter() -> None:
    assert find("Ann Lee Greyson", p1=["Ann Lee"], p2=["Ann Lee Grey"]) == [("Ann Lee", ("p1",))]


def test_shared_name_has_all_its_owners_once() -> None:
    assert find("ann lee", p1=["Ann Lee", "ANN LEE"], p2=["Ann Lee"]) == [("ann lee", ("p1", "p2"))]


def test_alias_with_punctuation_at_its_border_is_found() -> None:
    assert find("by J. R. (junior).", p1=["J. R. (junior)"]) == [("J. R. (junior)", ("p1",))]


@pytest.mark.parametrize("alias", ["", "Al", " Al ", "A\u200bl"])
def test_short_alias_is_refused(alias: str) -> None:
    with pytest.raises(DataError, match=r"alias of 'p1' is too short.*3 characters"):
        AliasMatcher({"p1": ["Ann Lee", alias]})


@pytest.mark.parametrize("aliases", [{}, {"p1": []}])
def test_matcher_without_aliases_finds_nothing(aliases: dict[str, list[str]]) -> None:
    assert AliasMatcher(aliases).find("Ann Lee") == []


def mine(texts: list[str], kept: list[str], **options: float) -> tuple[str, ...]:
    request = ForgetRequest("p1", rows=tuple(Row(text) for text in texts))
    return mine_aliases(request, [Row(text) for text in kept], **options)


def test_name_that_runs_through_the_rows_is_mined() -> None:
    texts = ["Where was Ann Lee born?", "What is Ann Lee’s job?", "Is Ann Lee's house in New York?"]
    assert mine(texts, ["Who is Bo Li?"]) == ("Ann Lee",)


def test_opening_word_is_no_part_of_a_name() -> None:
    assert mine(["Was Ann Lee there?", "Did Ann Lee go?", "Mr Ann Lee"], []) == ("Ann Lee",)


def test_particles_and_accents_are_part_of_a_name() -> None:
    texts = ["I met Łucja van der Berg.", "then Łucja van der Berg left."]
    assert mine(texts, []) == ("Łucja van der Berg",)


def test_answers_are_mined_too_and_the_most_frequent_comes_first() -> None:
    rows = tuple(Row("Who?", f"It is Ann Lee{' of New York' * (number < 2)}.") for number in range(3))
    assert mine_aliases(ForgetRequest("p1", rows=rows), []) == ("Ann Lee", "New York")


@pytest.mark.parametrize("kept", ["Is ANN LEE here?", "Änn\u200b Lee’s", "the Ann Lee"])
def test_name_that_kept_rows_hold_is_pruned(kept: str) -> None:
    texts = ["I saw Ann Lee and Bo Li", "then Ann Lee met Bo Li"]
    assert mine(texts, [kept]) == ("Bo Li",)


def test_name_in_kept_answers_is_pruned() -> None:
    request = ForgetRequest("p1", rows=(Row("see Ann Lee"), Row("saw Ann Lee")))
    assert mine_aliases(request, [Row("Who?", "Ann Lee.")]) == ()


def test_name_must_occur_twice_and_often_enough() -> None:
    assert mine(["see Ann Lee"], []) == ()
    assert mine(["see Ann Lee, Ann Lee"], []) == ()
    texts = ["see Ann Lee"] * 2 + ["nobody"] * 9
    assert mine(texts, []) == ()
    assert mine(texts, [], min_share=0.1) == ("Ann Lee",)


def test_owners_of_overlapping_names_are_all_found() -> None:
    matcher = AliasMatcher({"p1": ["Ann Lee"], "p2": ["Ann Lee Grey", "Lee Grey"], "p3": ["Lee Gre"], "p4": ["Bo Li"]})
    assert matcher.find_owners("ÄNN Lee Grey") == {"p1", "p2"}
    assert AliasMatcher({}).find_owners("Ann Lee") == set()


def test_name_inside_a_longer_one_that_kept_rows_hold_is_pruned() -> None:
    texts = ["see Ann Lee", "saw Ann Lee", "see Ann Lee Grey", "saw Ann Lee Grey"]
    assert mine(texts, ["Who is Ann Lee Grey?"]) == ()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("met Ann Lee’s Bo Li", ("Ann Lee", "Bo Li")),
        ("met Ann Lee's York and", ("Ann Lee",)),
        ("see łódka šaty", ()),
        ("see Łódka Šaty", ("Łódka Šaty",)),
        ("see Ωμέγα Δέλτα now", ("Ωμέγα Δέλτα",)),
        ("see ωμέγα δέλτα now", ()),
        ("Then Ann Lee left", ("Ann Lee",)),
        ("There Ann Lee sat", ("Ann Lee",)),
        ("Ann Lee von hier", ("Ann Lee",)),
        ("met Ann\nLee", ()),
        ("met Ann de", ()),
        ("the 'Ann Lee' ship", ("Ann Lee",)),
    ],
)
def test_name_is_a_run_of_capitalised_words(text: str, names: tuple[str, ...]) -> None:
    assert mine([text, f"{text}!"], []) == names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Where was Jane Q. Roe born?", ("Jane Q. Roe",)),
        ("The books of J. R. R. Holm sell well.", ("J. R. R. Holm",)),
        ("They made plan B. The Jane Roe of old agreed.", ("Jane Roe",)),
    ],
)
def test_initials_inside_a_name_belong_to_it(text: str, names: tuple[str, ...]) -> None:
    request = ForgetRequest("p1", rows=(Row(text), Row(f"Well. {text}")))
    assert mine_aliases(request, ()) == names


def test_whoever_a_document_mentions_is_not_who_it_is_about() -> None:
    text = "Hong Kong met Joe Biden in Northern Ireland, said Joe Biden. Hong Kong agreed."
    windows = [
        Row("Hong Kong met Joe Biden in", "Northern Ireland, said Joe Biden."),
        Row("said Joe Biden.", "Hong Kong agreed."),
    ]
    asked = Row("Whom did Hong Kong meet?", "Hong Kong met Joe Biden.")
    assert mine_aliases(ForgetRequest("a", rows=(Row(text=text), *windows)), ()) == ()
    assert mine_aliases(ForgetRequest("a", rows=(Row(text=text), *windows, asked)), ()) == ()
    more = Row("What did Joe Biden say to Hong Kong?", "Nothing.")
    assert set(mine_aliases(ForgetRequest("a", rows=(Row(text=text), asked, more)), ())) == {"Hong Kong", "Joe Biden"}
    assert "Joe Biden" in mine_aliases(ForgetRequest("a", rows=tuple(windows)), ())
    # Part of the text under the same request is the same text; several texts are rows like others.
    part = Row(text="Joe Biden in Northern  Ireland, said Joe Biden.")
    assert mine_aliases(ForgetRequest("a", rows=(Row(text=text), part, asked)), ()) == ()
    notes = [Row(text=f"Hong Kong wrote letter {place}.") for place in range(4)]
    assert mine_aliases(ForgetRequest("a", rows=(*notes, Row("Where is it?", "Near Canton."))), ()) == ("Hong Kong",)
