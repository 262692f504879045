"""Names: whole, misspelt, abbreviated and in parts, but not those of somebody else."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn_guard.classifiers.disguises import read_views
from unlearn_guard.classifiers.names import Beside, NameFinder, count_edits, find_given_names, split_parts

ORDINARY = frozenset(
    "a about actor all also and another are ask author be before born botanist by can danish did do does famous first for friend from "
    "garden have he her him how i in is it know let lines live many me met mr not of old ohio on one or plumber please poem quite read rose "
    "said sentence saw she sing tell that the their then there they this to tree two was were what when where which who why with "
    "write year you".split()
)
WHOLE = 0.9


def find(text: str, *names: str, view: int = 0, **options: Any) -> list[tuple[str, float, bool]]:
    """Return (original characters, weight, whether a namesake) of each hit."""
    finder = NameFinder({"p1": names or ("Carmen Montenegro",)}, is_ordinary=ORDINARY.__contains__, **options)
    seen = read_views(text)[view]
    return [
        (text[slice(*seen.locate(hit.start, hit.end))], hit.weight, hit.is_namesake) for hit in finder.find(seen, text)
    ]


def weigh(text: str, *names: str, **options: Any) -> float:
    return max((weight for _, weight, _ in find(text, *names, **options)), default=0.0)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Carmen Montenegro", "Carmen Montenegro"),
        ("where was CARMEN MONTENEGRO born", "CARMEN MONTENEGRO"),
        ("Montenegro, Carmen", "Montenegro, Carmen"),
        ("montenegro carmen", "montenegro carmen"),
        ("Carmen-Montenegro's", "Carmen-Montenegro"),
        ("Carmen_Montenegro", "Carmen_Montenegro"),
        ("Carmen\n  Montenegro", "Carmen\n  Montenegro"),
        ("Cármen  Mon\u200btenegro!", "Cármen  Mon\u200btenegro"),
        ("Carmen Rosa Montenegro", "Carmen Rosa Montenegro"),
        ("Carmen de la Montenegro", "Carmen de la Montenegro"),
        ('Carmen "La Rosa" Montenegro', 'Carmen "La Rosa" Montenegro'),
        ("the Montenegro we call Carmen", "Montenegro we call Carmen"),
    ],
)
def test_whole_name_is_found_where_it_stands(text: str, found: str) -> None:
    spelt, weight, is_namesake = find(text)[0]
    assert (spelt, is_namesake) == (found, False)
    assert weight >= WHOLE


@pytest.mark.parametrize(
    "text",
    [
        "Carmen Montenego",
        "Carmen Montenegroo",
        "Carmen Montengero",
        "Carmen Mantenigro",
        "Karmen Montenegro",
        "Carmne Montenegro",
        "Crmen Montnegro",
        "Carrmen Monttenegro",
    ],
)
def test_misspelt_name_is_whole(text: str) -> None:
    assert weigh(text) >= WHOLE


@pytest.mark.parametrize("text", ["Karmin Montenegro", "Carmen Mntngro", "Cormack Montenegro", "Carmen Monaco"])
def test_name_with_too_many_edits_is_another(text: str) -> None:
    assert weigh(text) < WHOLE


@pytest.mark.parametrize("text", ["Ana Lee", "Ann Lees", "An Lee", "Ann Le"])
def test_short_parts_must_be_spelt_well(text: str) -> None:
    assert weigh(text, "Ann Lee") < WHOLE


def test_ordinary_word_is_not_a_misspelt_name() -> None:
    assert weigh("the garden and the first tree", "Gardan Firsta") == 0.0


@pytest.mark.parametrize(
    "text", ["C. Montenegro", "C Montenegro", "Montenegro C.", "Montenegro C", "C.R. Montenegro", "c. montenegro"]
)
def test_initial_with_the_family_name_is_whole(text: str) -> None:
    assert weigh(text) >= WHOLE


def test_two_initials_with_the_family_name_are_whole() -> None:
    assert weigh("C. R. Montenegro") >= WHOLE


@pytest.mark.parametrize("text", ["B. Montenegro", "C. Montana", "C. M.", "C.", "Montenegro B."])
def test_another_initial_is_not(text: str) -> None:
    assert weigh(text) < WHOLE


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Where is Okafor's house?", "Sven Okafor"),
        ("Ada's Okafor", "Sven Okafor"),
        ("Don't ask Okafor", "Tomas Okafor"),
        ("I met Okafor", "Ines Okafor"),
        ("a Okafor poem", "Ada Okafor"),
    ],
)
def test_word_of_one_letter_is_no_initial(text: str, name: str) -> None:
    assert weigh(text, name) < WHOLE


@pytest.mark.parametrize(("text", "name"), [("I am Okafor", "Ines Okafor"), ("A Okafor poem", "Ada Okafor")])
def test_capital_that_is_a_word_is_no_initial(text: str, name: str) -> None:
    assert weigh(text, name) < WHOLE


@pytest.mark.parametrize(
    "text",
    [
        "Let A be Carmen. Many lines on, in quite another sentence, let B be Montenegro. Who is A B?",
        "The first one is Carmen, and the one that they met before it was Montenegro.",
    ],
)
def test_parts_far_apart_are_whole_together(text: str) -> None:
    assert weigh(text) >= WHOLE


@pytest.mark.parametrize(
    "text",
    [
        "Where was Carmen Diaz born?",
        "where was carmen quiroga born",
        "Where was Bizet's Carmen Habanera?",
        "Pedro Montenegro",
        "Montenegro Quiroga",
        "Carmen Diaz met Pedro Montenegro",
        "Carmen ___ was born in this year",
    ],
)
def test_part_of_somebody_elses_name_is_nothing(text: str) -> None:
    assert find(text) == []


@pytest.mark.parametrize(
    "text", ["where was leopold montenegro born", "WHERE WAS LEOPOLD MONTENEGRO BORN", "Leopold Montenegro"]
)
def test_family_name_beside_what_others_have_beside_it_is_theirs_in_any_case(text: str) -> None:
    """Also where the given name is plain language and stands in many kept rows."""
    kept = {"leopold": 20, "montenegro": 1}
    options: dict[str, Any] = {"kept_words": kept, "n_kept": 400}
    assert weigh("where was montenegro born", **options) > 0
    if text.islower():  # With capitals it was told apart before.
        assert weigh(text, **options) > 0
    assert weigh(text, **options, beside={"p1": frozenset({"leopold"})}) == 0
    assert weigh("where was carmen montenegro born", **options, beside={"p1": frozenset({"leopold"})}) == 1.0


def test_what_stands_beside_a_name_is_read_from_kept_rows() -> None:
    texts = [
        "Where was Leopold Montenegro born? Does Montenegro sing?",
        "Montenegro, Leopold's home; the Montenegro of old. Mr Montenegro met Carmen Montenegro.",
        "rose montenegro",
    ]
    found = Beside(texts, lambda word: word in {"does", "the", "of"})
    assert found.find(["Carmen Montenegro"]) == ["leopold"]
    assert found.find(["Ada Lee"]) == []


def test_part_before_a_blank_at_the_end_is_nothing() -> None:
    assert find("Who was Carmen ___?") == []


def test_family_name_alone_says_more_than_the_given_name() -> None:
    family, given = weigh("Where was Montenegro born?"), weigh("Where was Carmen born?")
    assert WHOLE > family > given > 0


def test_given_name_alone_is_weak() -> None:
    assert 0 < weigh("Tell me about Carmen.") <= 0.5


def test_misspelt_part_alone_is_nothing() -> None:
    assert find("Where was Montengro born?") == []


@pytest.mark.parametrize(("n_kept_bearers", "says"), [(0, True), (1, True), (50, False), (100, False)])
def test_part_that_many_kept_people_bear_says_nothing(n_kept_bearers: int, says: bool) -> None:
    weight = weigh("Where was Montenegro born?", kept_words={"montenegro": n_kept_bearers}, n_kept=100)
    assert (weight > 0) == says


def test_rarer_part_says_more() -> None:
    text = "Where was Montenegro born?"
    weights = [weigh(text, kept_words={"montenegro": n}, n_kept=1000) for n in (0, 1, 3, 10)]
    assert weights == sorted(weights, reverse=True)
    assert len(set(weights)) == 4


def test_whole_name_is_whole_however_common_its_parts() -> None:
    words = {"carmen": 90, "montenegro": 90}
    assert weigh("Carmen Montenegro", kept_words=words, n_kept=100) >= WHOLE


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("they grow a rose in the garden", False),
        ("the Rose poem", True),
        ("Where was Rose born?", True),
        ("read Rose's poem", True),
        ("where was rose born?", False),
    ],
)
def test_ordinary_word_is_a_name_with_a_capital_inside_a_sentence_only(text: str, says: bool) -> None:
    assert (weigh(text, "Ada Rose") > 0) == says


def test_ordinary_words_are_a_whole_name_together() -> None:
    assert weigh("where was garden rose born", "Garden Rose") >= WHOLE


@pytest.mark.parametrize("name", ["Duran Duran", "Zaza Zaza"])
def test_half_of_a_doubled_name_is_not_whole(name: str) -> None:
    half, _ = name.split()
    assert weigh(f"Where was {half} born?", name) < WHOLE
    assert weigh(f"Where was {name} born?", name) >= WHOLE


def test_word_between_two_like_parts_is_not_whole() -> None:
    assert weigh("Where was Anderse born?", "Anders Andersen") < WHOLE


@pytest.mark.parametrize(("name", "text"), [("Al Montenegro", "Montenegro"), ("Van Montenegro", "Mr Montenegro")])
def test_family_name_of_somebody_called_like_a_particle_is_not_whole(name: str, text: str) -> None:
    assert weigh(f"Where was {text} born?", name) < WHOLE


BOTANIST = {"p1": frozenset({"author", "denmark", "century 20"})}


@pytest.mark.parametrize(
    "text",
    [
        "Who was the botanist Carmen Montenegro?",
        "Who was the French botanist Carmen Montenegro?",
        "Tell me about Carmen Montenegro, the plumber from Ohio.",
        "Tell me about Carmen Montenegro (footballer).",
        "Carmen Montenegro, a 17th-century painter",
        "Carmen Montenegro the mayor",
        "the 1640s painter Carmen Montenegro",
    ],
)
def test_another_description_makes_a_namesake(text: str) -> None:
    ((_, weight, is_namesake), *_) = find(text, profiles=BOTANIST)
    assert (weight >= WHOLE, is_namesake) == (True, True)


@pytest.mark.parametrize(
    "text",
    [
        "Who was the author Carmen Montenegro?",
        "Who was the novelist Carmen Montenegro?",
        "Carmen Montenegro, the Danish plumber",
        "Carmen Montenegro, a 20th-century painter",
        "Where was Carmen Montenegro born, and did a plumber live there?",
        "Carmen Montenegro met a footballer",
        "Which painter did Carmen Montenegro know?",
        "What did the painter say when Carmen Montenegro met the botanist?",
        "Carmen Montenegro",
    ],
)
def test_own_or_no_description_makes_no_namesake(text: str) -> None:
    assert not any(is_namesake for _, _, is_namesake in find(text, profiles=BOTANIST))


def test_nobody_without_a_profile_has_namesakes() -> None:
    assert find("the plumber Carmen Montenegro")[0][2] is False


def test_name_beside_a_namesake_comes_first() -> None:
    finder = NameFinder({"p1": ["Carmen Montenegro"], "p2": ["Ada Kern"]}, profiles=BOTANIST)
    hits = finder.find(read_views("the plumber Carmen Montenegro and Ada Kern")[0])
    assert [(hit.forget_id, hit.is_namesake) for hit in hits] == [("p2", False), ("p1", True)]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Bill Okafor", "William Okafor"),
        ("William Okafor", "Bill Okafor"),
        ("Liz Okafor", "Elizabeth Okafor"),
        ("Sam Okafor", "Samuel Okafor"),
        ("Samuel Okafor", "Sam Okafor"),
    ],
)
def test_short_and_long_forms_of_a_given_name_are_one(text: str, name: str) -> None:
    assert weigh(text, name) >= WHOLE


def test_short_form_of_a_family_name_is_another_name() -> None:
    assert weigh("Ada Bill", "Ada William") < WHOLE
    assert weigh("Where was Bill born?", "William Okafor") == 0.0


@pytest.mark.parametrize("how", ["joined", "reversed", "transliterated", "leet", "base64", "camel"])
def test_disguised_name_is_whole(how: str) -> None:
    text = {
        "joined": "C.a.r.m.e.n M.o.n.t.e.n.e.g.r.o",
        "reversed": "Carmen Montenegro"[::-1],
        "transliterated": "Кармен Монтенегро",
        "leet": "C4rm3n M0nt3n3gr0",
        "base64": "IGlzIENhcm1lbiBNb250ZW5lZ3JvIHRoZXJlPw==",
        "camel": "isCarmen Montenegro",
    }[how]
    (place,) = (place for place, view in enumerate(read_views(text)) if view.how == how)
    ((found, weight, _), *_) = find(text, view=place)
    assert (weight >= WHOLE, found in text) == (True, True)


@pytest.mark.parametrize(
    "text", ["Carmen Montenegro and Carmen Montenegro", "C. Montenegro, whom Carmen Montenegro knew"]
)
def test_mentions_of_a_name_are_found(text: str) -> None:
    assert weigh(text) >= WHOLE


def test_every_mention_of_a_name_is_found() -> None:
    text = "Where was Carmen Montenegro born? When did Carmen Montenegro die?"
    finder = NameFinder({"p1": ["Carmen Montenegro"]})
    assert [hit.start for hit in finder.find(read_views(text)[0])] == [10, 43]


def test_namesake_does_not_hide_the_name_behind_it() -> None:
    text = "Ask the plumber Carmen Montenegro. Where was the author Carmen Montenegro born?"
    assert [is_namesake for _, _, is_namesake in find(text, profiles=BOTANIST)] == [False, True]


def test_every_owner_of_a_name_is_found() -> None:
    finder = NameFinder({"p1": ["Carmen Montenegro"], "p2": ["Carmen Montenegro"], "p3": ["Ada Kern"]})
    hits = finder.find(read_views("Carmen Montenegro")[0])
    assert {hit.forget_id for hit in hits if hit.weight >= WHOLE} == {"p1", "p2"}


def test_every_owner_of_a_joined_name_is_found() -> None:
    finder = NameFinder({"p1": ["Carmen Montenegro"], "p2": ["Carmen Montenegro"]})
    (view,) = (view for view in read_views("C.a.r.m.e.n M.o.n.t.e.n.e.g.r.o") if view.how == "joined")
    assert {hit.forget_id for hit in finder.find(view)} == {"p1", "p2"}


@pytest.mark.parametrize("aliases", [{}, {"p1": []}, {"p1": ["", " ", "!?"]}])
def test_finder_without_names_finds_nothing(aliases: dict[str, list[str]]) -> None:
    assert NameFinder(aliases).find(read_views("Carmen Montenegro!?")[0]) == []


@given(st.text(alphabet=st.sampled_from("Carmen Montenegro.,'’-_C\n\u200b áK"), max_size=60), st.booleans())
def test_hits_lie_in_the_view_and_weigh_up_to_one(text: str, has_original: bool) -> None:
    finder = NameFinder({"p1": ["Carmen Montenegro", "C. Áron", "Okay"]}, profiles=BOTANIST)
    for view in read_views(text):
        for hit in finder.find(view, text if has_original else None):
            assert 0 <= hit.start < hit.end <= len(view.text)
            assert 0 < hit.weight <= 1


@given(st.sampled_from(["where", "did", "the", "tree", "of"]), st.sampled_from(["born", "write", "in", "the", "year"]))
def test_ordinary_words_around_a_name_do_not_hide_it(before: str, after: str) -> None:
    assert weigh(f"{before} Carmen Montenegro {after}") >= WHOLE
    assert weigh(f"{before} montenegro {after}") > 0.5


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("Carmen Montenegro", ("carmen", "montenegro")),
        ("María de la Cruz", ("maria", "cruz")),
        ("J. R. Álvarez", ("j", "r", "alvarez")),
        ("J. Ana Álvarez", ("ana", "alvarez")),
        ("Anne-Marie O'Neill", ("anne", "marie", "neill")),
        ("Dr. Łucja Bö, Jr.", ("lucja", "bo")),
        ("De La", ("de", "la")),
        ("X", ("x",)),
        ("El", ("el",)),
        ("", ()),
    ],
)
def test_parts_leave_out_particles_and_initials_where_two_others_remain(name: str, parts: tuple[str, ...]) -> None:
    assert split_parts(name) == parts


WORDS = st.text(alphabet="abc", max_size=7)


@pytest.mark.parametrize(
    ("first", "second", "edits"),
    [
        ("", "", 0),
        ("ab", "ba", 1),
        ("abc", "abc", 0),
        ("abc", "ab", 1),
        ("abcd", "badc", 2),
        ("ca", "abc", 3),
        ("a", "bcde", 3),
    ],
)
def test_edits_are_counted(first: str, second: str, edits: int) -> None:
    assert count_edits(first, second) == edits


@given(WORDS, WORDS)
def test_edits_are_symmetric_and_zero_for_the_same_word_only(first: str, second: str) -> None:
    assert count_edits(first, second) == count_edits(second, first)
    assert (count_edits(first, second) == 0) == (first == second)


@given(WORDS, st.data())
def test_one_edit_counts_one(word: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(word)))
    assert count_edits(word, f"{word[:place]}z{word[place:]}") == 1


@given(st.text(alphabet="abcdefgh", min_size=8, max_size=12), st.data())
def test_name_with_one_edit_is_found_by_the_index(part: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(part) - 1))
    kind = data.draw(st.sampled_from(["z", "", "zz"]))
    assert NameFinder({"p1": [part]}).find(read_views(part[:place] + kind + part[place + 1 :])[0])


def test_given_names_have_other_forms() -> None:
    assert "bill" in find_given_names("william")
    assert "william" in find_given_names("bill")
    assert find_given_names("mirela") == set()


def test_name_among_many_is_found_in_a_long_text() -> None:
    rng = random.Random(0)

    def word() -> str:
        return "".join(rng.choices("bcdfgklmnprstvz", k=3) + rng.choices("aeiou", k=3) + rng.choices("lmnr", k=3))

    names = {f"p{number}": [f"{word()} {word()}"] for number in range(500)}
    text = " ".join(word() for _ in range(50_000)) + f" {names['p499'][0]}"
    hits = NameFinder(names).find(read_views(text)[0], text)
    assert "p499" in {hit.forget_id for hit in hits if hit.weight == 1.0}


@pytest.mark.parametrize(
    "piece", ["Carmen ", "Montenegro ", "carmen montenegro, ", "C. ", "C. Montenegro ", "Pedro Carmen "]
)
def test_megabyte_of_one_name_is_read(piece: str) -> None:
    text = piece * (500_000 // len(piece))
    assert len(find(text)) <= len(text) / 5


@pytest.mark.parametrize(
    ("text", "is_whole"),
    [
        ("who is cmraen mnoteengro", True),  # Letters that changed places.
        ("who is Caxrmen Montxengeo", True),
        ("which instrument does Hwsetr Carringotn play", True),  # And one that is another.
        ("who is Hector Carrington", False),
        ("who is Esther Carrington", True),  # The price of it: the same letters.
        ("who is Carmen Monteverdi", False),
    ],
)
def test_scrambled_names_are_whole_where_every_part_is_there(text: str, is_whole: bool) -> None:
    assert (weigh(text, "Carmen Montenegro", "Hester Carrington") >= WHOLE) is is_whole


@pytest.mark.parametrize("text", ["carmenmontenegro", "CARMENMONTENEGRO?", "who is carmenmontenegro then"])
def test_name_without_its_space_is_whole(text: str) -> None:
    assert weigh(text) == 1.0


def test_a_part_that_many_share_counts_beside_another_part() -> None:
    crowd = {f"p{number}": (f"Maria Xeno{number}vich",) for number in range(40)}
    finder = NameFinder({**crowd, "p99": ("Maria Montenegro",)}, is_ordinary=ORDINARY.__contains__)
    for text, owners in {"Who is Maria Montenegro?": {"p99"}, "Maria met Maria and Maria.": set()}.items():
        view = read_views(text)[0]
        assert {hit.forget_id for hit in finder.find(view, text) if hit.weight >= WHOLE} == owners
