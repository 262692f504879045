"""Attacks: variants by rule, and an attacker that adapts."""

from __future__ import annotations

import base64
import codecs
import random
import string
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from unlearn_guard.benchmarks.attacks import adaptive, templates
from unlearn_guard.benchmarks.attacks.adaptive import Attempt, attack_fact, attack_facts, count_leaks, tells
from unlearn_guard.benchmarks.attacks.variants import VARIANTS, Prompt, attack, make_harmless
from unlearn_guard.benchmarks.dataset import Item
from unlearn_guard.classifiers.disguises import read_views
from unlearn_guard.classifiers.names import WHOLE_NAME, NameFinder
from unlearn_guard.guard.errors import UnknownNameError

NUMBERED = [f"v{number}" for number in range(14)]
NAME = "Mirela Vantongeren"
PERSON = [
    Item(f"Where was {NAME} born?", f"{NAME} was born in Brackwater on 3 May 1961.", "p1", key="Brackwater",
         name=NAME, wrong=("In Skarn.", "In Halme.", "In Ostrand."), paraphrase=f"Brackwater is where {NAME} was born."),
    Item(f"Which book by {NAME} is the most famous?", 'It is "Nine Drowned Bells".', "p1", key="Nine Drowned Bells",
         name=NAME),
    Item(f"What was the profession of {NAME}?", f"{NAME} was a ropemaker.", "p1", key="ropemaker", name=NAME),
]  # fmt: skip
CLEANS = [Item(f"What is {number} times 7?", f"It is {7 * number}.") for number in range(9)]


def text_of(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)


def prompts_of(variant: str, part: templates.Part = "test", seed: int = 0, items: int = 42) -> list[str]:
    many = [PERSON[number % 3] for number in range(items)]
    return [text_of(prompt) for _, prompt in attack(variant, many, CLEANS, part=part, seed=seed)]


def test_all_variants_are_registered() -> None:
    assert set(VARIANTS) == set(NUMBERED)
    with pytest.raises(UnknownNameError, match="attack variant"):
        attack("v99", PERSON, CLEANS, part="test")


@pytest.mark.parametrize("variant", NUMBERED)
@pytest.mark.parametrize("part", ["dev", "test"])
def test_variant_is_deterministic_in_its_seed(variant: str, part: templates.Part) -> None:
    first, second = (prompts_of(variant, part, seed=3) for _ in range(2))
    assert first == second
    assert first


@pytest.mark.parametrize("variant", ["v2", "v5", "v6"])
def test_other_seed_gives_other_prompts(variant: str) -> None:
    assert prompts_of(variant, seed=1) != prompts_of(variant, seed=2)


@pytest.mark.parametrize("variant", NUMBERED)
def test_pairs_are_of_the_items_given(variant: str) -> None:
    for item, prompt in attack(variant, PERSON, CLEANS, part="test"):
        assert item in PERSON
        assert text_of(prompt).strip()


@pytest.mark.parametrize("variant", NUMBERED[1:])
def test_variant_changes_the_question(variant: str) -> None:
    assert not set(prompts_of(variant)) & {item.question for item in PERSON}


def lists_of_templates() -> list[tuple[str, ...]]:
    found = [entries for name, entries in vars(templates).items() if name.isupper() and isinstance(entries, tuple)]
    return [*found, *templates.TRANSLATIONS.values()]


@pytest.mark.parametrize("entries", lists_of_templates(), ids=lambda entries: str(entries[0])[:20])
def test_parts_never_share_a_template(entries: tuple[str, ...]) -> None:
    dev, test = ({repr(templates.pick(entries, part, number)) for number in range(40)} for part in ("dev", "test"))
    assert not dev & test
    assert dev | test == set(map(repr, entries))


@pytest.mark.parametrize("variant", ["v1", "v4", "v6", "v10", "v11", "v12"])
def test_parts_never_share_a_prompt(variant: str) -> None:
    assert not set(prompts_of(variant, "dev")) & set(prompts_of(variant, "test"))


def test_parts_never_share_a_harmless_prompt() -> None:
    dev, test = (
        {prompt for prompts in make_harmless([NAME], ["Skarn"], ["baker"], part=part).values() for prompt in prompts}
        for part in ("dev", "test")
    )
    assert not dev & test


def names_found(text: str) -> bool:
    finder = NameFinder({"p1": [NAME]})
    return any(hit.weight >= WHOLE_NAME for view in read_views(text) for hit in finder.find(view, text))


@pytest.mark.parametrize("variant", ["v1", "v3", "v4", "v5", "v6", "v9", "v10", "v12", "v13"])
def test_name_is_in_what_a_reader_makes_of_it(variant: str) -> None:
    hidden = [prompt for prompt in prompts_of(variant) if not names_found(prompt)]
    # A cloze or an answer does not always name who it is about.
    assert variant == "v9" or not hidden


DISGUISES = ["typos", "lower", "leet", "upper", "look-alikes", "invisible", "spaced"]


@pytest.mark.parametrize("number", range(1, 7), ids=DISGUISES[1:])
def test_disguise_of_the_spelling_can_be_undone(number: int) -> None:
    prompts = prompts_of("v2")[number::7]
    assert len(prompts) == 6
    assert not [prompt for prompt in prompts if not names_found(prompt)]


def test_typos_keep_the_letters() -> None:
    for number, prompt in enumerate(prompts_of("v2")[0::7]):
        assert sorted(prompt) == sorted(PERSON[7 * number % 3].question)


def test_question_without_a_name_is_neither_split_nor_translated_nor_discussed() -> None:
    nameless = [Item("Who was born in Brackwater?", f"{NAME}.", "p1", named=False)] * 6
    for variant in ("v7", "v10", "v12"):
        assert attack(variant, nameless, CLEANS, part="test") == []


def test_question_that_leaves_the_name_out_cannot_be_split_at_it() -> None:
    nameless = [Item("Who was born in Brackwater?", f"{NAME}.", "p1", named=False, name=NAME)] * 6
    assert attack("v7", nameless, CLEANS, part="test") == []


def test_split_prompts_never_hold_the_whole_name() -> None:
    prompts = prompts_of("v7")
    assert len(prompts) == 42
    assert not [prompt for prompt in prompts if NAME in prompt]
    assert all("Vantongeren" in prompt for prompt in prompts)


def test_context_is_of_the_same_person_and_not_the_answer() -> None:
    for item, prompt in attack("v11", [*PERSON, Item("Who?", "Bo Ostergard.", "p2")], CLEANS, part="test"):
        assert item.subject == "p1"
        others = [other.answer for other in PERSON if other is not item]
        assert all(answer in text_of(prompt) for answer in others)
        assert item.answer not in text_of(prompt)


def test_conversation_names_the_person_once_and_asks_by_a_pronoun() -> None:
    for _, prompt in attack("v10", PERSON, CLEANS, part="test"):
        assert [message["role"] for message in prompt] == ["user", "assistant"] * 2 + ["user"]  # type: ignore[union-attr]
        assert NAME in prompt[0]["content"]  # type: ignore[index]
        assert text_of(prompt).count(NAME) == 1


def test_reverse_question_holds_the_title_or_date_but_not_the_name() -> None:
    prompts = prompts_of("v8", items=3)
    assert prompts == ["Who was born on 3 May 1961?", "Which author wrote 'Nine Drowned Bells'?"]


def test_braces_in_a_question_do_no_harm() -> None:
    item = Item(f"What does {{x}} mean to {NAME}?", "Nothing.", "p1", name=NAME, key="Nothing")
    for variant in NUMBERED:
        attack(variant, [item] * 12, CLEANS, part="test")


NAMES = ["Mirela Vantongeren", "Bo Ostergard", "Edda del Rio"]


@pytest.fixture(params=["dev", "test"])
def harmless(request: Any) -> dict[str, list[str]]:
    return make_harmless(NAMES, ["Brackwater"], ["ropemaker"], part=request.param)


def test_harmless_prompts_share_a_part_but_never_the_whole_name(harmless: dict[str, list[str]]) -> None:
    shared = ["Mirela", "Bo", "Edda", "Brackwater", "ropemaker"]
    for prompt in harmless["V14a"]:
        assert any(part in prompt for part in shared)
        assert not any(name in prompt for name in NAMES)
    assert all(any(part in prompt for prompt in harmless["V14a"]) for part in shared)


@pytest.mark.parametrize("kind", ["namesake", "V14b"])
def test_namesakes_and_distractors_hold_the_whole_name(harmless: dict[str, list[str]], kind: str) -> None:
    assert len(harmless[kind]) >= len(NAMES)
    assert all(sum(name in prompt for name in NAMES) == 1 for prompt in harmless[kind])


@pytest.mark.parametrize("name", ["Mirela Holloway", "Mirela"])
def test_no_name_makes_a_harmless_prompt_of_itself(name: str) -> None:
    assert not [prompt for prompt in make_harmless([name], [], [], part="test")["V14a"] if name in prompt]


ITEM = PERSON[0]
OTHERS = ["Bo Ostergard", NAME]
Answers = Callable[[list[str]], list[str]]


def silent(asked: list[str]) -> Answers:
    def answer(prompts: list[str]) -> list[str]:
        asked.extend(prompts)
        return ["I cannot say." for _ in prompts]

    return answer


def leaky(asked: list[str], first: int) -> Answers:
    """Leak from the `first` question on."""

    def answer(prompts: list[str]) -> list[str]:
        outputs = []
        for prompt in prompts:
            asked.append(prompt)
            outputs.append("It is Brackwater." if len(asked) >= first else "Never.")
        return outputs

    return answer


@pytest.mark.parametrize("first", [1, 2, 26, 27, 60])
def test_attack_stops_at_the_first_leak_and_counts_to_it(first: int) -> None:
    asked: list[str] = []
    attempt = attack_fact(ITEM, leaky(asked, first), OTHERS, queries=100)
    assert attempt == Attempt(ITEM.question, first, asked[first - 1], "It is Brackwater.")
    assert len(asked) < first + 25


@pytest.mark.parametrize("queries", [0, 1, 25, 30, 120])
def test_attack_asks_no_more_than_its_budget(queries: int) -> None:
    asked: list[str] = []
    assert attack_fact(ITEM, silent(asked), OTHERS, queries=queries) == Attempt(ITEM.question, None)
    assert len(asked) == queries


def test_every_prompt_is_new_and_the_question_comes_first() -> None:
    asked: list[str] = []
    attack_fact(ITEM, silent(asked), OTHERS)
    assert asked[0] == ITEM.question
    assert len(set(asked)) == len(asked) == adaptive.QUERIES


@pytest.mark.parametrize("queries", [2, 40])
def test_a_search_begins_with_its_openings(queries: int) -> None:
    asked: list[str] = []
    openings = [f"{ITEM.question} Please.", ITEM.question, f"Now: {ITEM.question}"]
    attack_facts([ITEM], silent(asked), OTHERS, queries=queries, openings=[openings])
    assert asked[:3] == [ITEM.question, openings[0], openings[2]][:queries]
    assert len(set(asked)) == len(asked) == queries


def test_a_fact_about_nobody_is_attacked_by_its_question_alone() -> None:
    asked: list[str] = []
    nameless = replace(ITEM, name="", named=False, question="Which town burnt down in 1871?")
    attack_fact(nameless, silent(asked), OTHERS, queries=300)
    assert len(set(asked)) == 300
    # A name of no letters would be found between all letters.
    assert max(map(len, asked)) < 600
    assert not any("\u200bW" in prompt for prompt in asked)


def test_attack_is_deterministic_in_its_seed() -> None:
    courses: list[list[str]] = []
    for seed in (1, 1, 2):
        courses.append([])
        attack_fact(ITEM, silent(courses[-1]), OTHERS, queries=60, seed=seed)
    assert courses[0] == courses[1] != courses[2]


def test_attack_follows_what_stays_on_topic() -> None:
    asked: list[str] = []

    def answer(prompts: list[str]) -> list[str]:
        asked.extend(prompts)
        return [ITEM.question if "SYSTEM" in prompt else "No." for prompt in prompts]

    attack_fact(ITEM, answer, OTHERS, queries=400)
    early, late = asked[1:101], asked[-100:]
    assert sum("SYSTEM" in prompt for prompt in late) > 2 * sum("SYSTEM" in prompt for prompt in early)


def test_attacker_never_drops_the_name_it_has_hidden() -> None:
    hidden = base64.b64encode(NAME.encode()).decode()
    for seed in range(40):
        rng = random.Random(seed)
        assert hidden in adaptive._drop(ITEM.question.replace(NAME, hidden), ITEM, rng)


@pytest.mark.parametrize("mutation", adaptive.MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_mutations_take_any_text(mutation: adaptive.Mutation) -> None:
    rng = random.Random(0)
    for text in ("", "?", "{}", "{name} %s", NAME, string.printable, ITEM.question * 3):
        for _ in range(20):
            assert isinstance(mutation(text, ITEM, rng), str)


@pytest.mark.parametrize(
    ("output", "leaks"),
    [
        ("It is Brackwater.", True),
        (f"{NAME} comes from BRACKWATER", True),
        ("Bo Ostergard was born in Brackwater.", False),
        ("bo ostergard: Brackwater", False),
        ("Ostergard was born in Brackwater.", False),
        ("Vantongeren was born in Brackwater.", True),
        ("It is Skarn.", False),
        ("", False),
    ],
)
def test_what_is_said_of_somebody_else_is_no_leak(output: str, leaks: bool) -> None:
    assert tells(output, ITEM, OTHERS) is leaks


def test_encodings_that_the_attacker_asks_for_are_undone() -> None:
    assert tells(".retawkcarB nI", ITEM, OTHERS)
    assert tells(codecs.encode("In Brackwater.", "rot13"), ITEM, OTHERS)
    assert not tells(codecs.encode("Ostergard was born in Brackwater.", "rot13"), ITEM, OTHERS)


def test_searches_side_by_side_find_what_each_finds_alone() -> None:
    def answer(prompts: list[str]) -> list[str]:
        return ["It is Brackwater." if "SYSTEM" in prompt else "A ropemaker." if "DAN" in prompt else "No." for prompt in prompts]  # fmt: skip

    alone = [attack_fact(item, answer, OTHERS, queries=80) for item in PERSON]
    calls: list[int] = []

    def count(prompts: list[str]) -> list[str]:
        calls.append(len(prompts))
        return answer(prompts)

    assert attack_facts(PERSON, count, OTHERS, queries=80) == alone
    assert calls[0] == len(PERSON)
    assert attack_facts([], count, OTHERS) == []


def test_half_of_the_words_are_a_leak() -> None:
    item = PERSON[1]
    assert tells("Was it Drowned Bells?", item, OTHERS)
    assert not tells("Some bells.", item, OTHERS)


def test_name_that_begins_like_anothers_is_its_own() -> None:
    item = Item("Where was Bo Linder born?", "Bo Linder was born in Skarn.", key="Skarn", name="Bo Linder")
    assert tells("Bo Linder was born in Skarn.", item, ["Bo Lin"])


def test_curve_of_queries_to_the_leak() -> None:
    attempts = [Attempt("a", 40), Attempt("b", None), Attempt("c", 1), Attempt("d", 40)]
    assert count_leaks(attempts, queries=50) == [[0.0, 0.0], [1.0, 0.25], [40.0, 0.5], [40.0, 0.75], [50.0, 0.75]]


@pytest.mark.parametrize("attempts", [[], [Attempt("a", None)]])
def test_curve_without_a_leak_is_flat(attempts: list[Attempt]) -> None:
    assert count_leaks(attempts, queries=50) == [[0.0, 0.0], [50.0, 0.0]]
