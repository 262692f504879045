"""A built-in world of skills: arithmetic word problems, a small programming language, two invented languages, and facts.

A model trained from scratch learns all of it in minutes, so that one skill can be taken away and the others watched. Deterministic
in its seed. Each skill has three kinds of phrasing: those that `fit` sees, those that the model knows and `fit` does not, and those that
nobody has seen.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from unlearn_guard.benchmarks.dataset import Example, Item
from unlearn_guard.benchmarks.training import Job, Recipe
from unlearn_guard.benchmarks.world import make_world
from unlearn_guard.corruptions.fluency import rouge_l_recall
from unlearn_guard.guard.errors import DependencyError, UnknownNameError
from unlearn_guard.guard.rows import Row

Phrasing = Literal["given", "known", "novel"]
"""Which templates: those that `fit` sees, those that the model alone has learned, those that nobody has."""
SKILLS = ("arithmetic", "code", "valdorian", "keshite")
FACTS = "facts"

_NAMES = "Ada Ben Cleo Dan Eva Finn Gus Hana Ivo Jill Kurt Lena Milo Nora Oto Pia Rolf Suna Tess Udo Vera Wim Yara Zeno".split()
_THINGS = "apples pencils marbles stamps shells coins buttons ribbons plums candles walnuts tickets spoons feathers bricks cards".split()
_ARITHMETIC: dict[Phrasing, tuple[tuple[str, str], ...]] = {
    "given": (
        ("+", "{name} has {a} {things} and buys {b} more. How many {things} does {name} have now?"),
        ("+", "There are {a} {things} in one bag and {b} in another. How many {things} are there together?"),
        ("-", "{name} had {a} {things} and gave {b} of them away. How many {things} are left?"),
        ("-", "Of {a} {things} on the table, {name} takes {b}. How many {things} remain?"),
        ("*", "{name} fills {a} boxes with {b} {things} each. How many {things} is that in all?"),
        ("*", "Each of {a} children brings {b} {things}. How many {things} do they bring?"),
    ),
    "known": (
        ("+", "{name} finds {a} {things} on Monday and {b} on Tuesday. What is the total number of {things}?"),
        ("-", "A shop had {a} {things} and sold {b} to {name}. What number of {things} does it still have?"),
        ("*", "{name} reads that a crate holds {b} {things}. What number of {things} do {a} crates hold?"),
        ("+", "After {name} lost {b} {things}, {a} were left. What number of {things} were there at first?"),
    ),
    "novel": (
        ("+", "Yesterday {name} collected {a} {things}; today it was {b}. Count all of these {things}."),
        (
            "-",
            "{name} must carry {a} {things} upstairs and has carried {b}. Work out how many {things} are still down.",
        ),
        ("*", "For every one of {a} friends {name} wraps {b} {things}. Calculate the {things} that are needed."),
    ),
}
_OPERATIONS: tuple[tuple[str, str], ...] = (
    ("adds {n}", "add {n}"),
    ("takes away {n}", "sub {n}"),
    ("multiplies by {n}", "mul {n}"),
    ("divides by {n}", "div {n}"),
    ("doubles it", "dbl"),
    ("squares it", "sqr"),
    ("flips the sign", "neg"),
    ("stops above {n}", "brk {n}"),
)
_CODE: dict[Phrasing, tuple[str, ...]] = {
    "given": (
        "Write a Tarn program that {task}.",
        "Show me Tarn code that {task}.",
        "In Tarn, write a routine that {task}.",
    ),
    "known": ("How do I program something in Tarn that {task}?", "I need a Tarn script which {task}."),
    "novel": ("Please implement in Tarn: read a number, then a step that {task}.", "Tarn listing wanted: it {task}."),
}
_LANGUAGE: dict[Phrasing, tuple[str, ...]] = {
    "given": (
        "Translate into {language}: {text}.",
        'How do you say "{text}" in {language}?',
        "Put this into {language}: {text}.",
    ),
    "known": ("What is the {language} for: {text}?", "Say this in {language}, please: {text}."),
    "novel": (
        "A {language} speaker would express '{text}' how?",
        "Render the words {text} for a reader of {language}.",
    ),
}
_NOUNS = "farmer sailor queen baker dog cat horse child river house tree garden bridge tower lamp stone".split()
_ADJECTIVES = "old young red green small tall quiet brave cold bright".split()
_VERBS = "sees follows paints builds loves hears guards finds calls draws".split()
_ADVERBS = "slowly today often gladly".split()
_SYLLABLES = {
    "valdorian": "va lo rin dor mel esh ta qui nor ul sa bre".split(),
    "keshite": "kha zu tek ish om gar ny pu rak ett iv sho".split(),
}


@dataclass(frozen=True, slots=True)
class SkillWorld:
    """What a model learns, and what is asked of it.

    sets: test questions by `<skill>.<phrasing>`, and facts as `facts.forget`, `facts.retain`, `facts.general`. fit_rows and
    validation_rows: by skill, in the phrasings of `given`; no problem of theirs is in a test set. strangers: questions about people
    whom no model knows.
    """

    seed: int
    sets: dict[str, list[Item]]
    fit_rows: dict[str, list[Row]]
    validation_rows: dict[str, list[Row]]
    general_rows: list[Row]
    """Common knowledge to keep, handed to `fit` like facts about people who are kept."""
    strangers: list[Row]
    examples: list[Example]

    def job(self, recipe: Recipe) -> Job:
        """Return the training of a model that has every skill."""
        texts = [text for example in self.examples for text in (*example.phrasings, example.answer)]
        return Job("skills", self.examples, texts, recipe)


def make_skills(
    *,
    n_train: int = 900,
    n_fit: int = 200,
    n_validation: int = 60,
    n_test: int = 100,
    n_people: int = 12,
    fact_repeats: int = 4,
    seed: int = 0,
) -> SkillWorld:
    """Return the world of a seed: so many problems per skill in training, in `fit`, in validation and in each test set.

    `fact_repeats`: how often one epoch tells each fact; problems are many and each is told once.
    """
    sets: dict[str, list[Item]] = {}
    fit_rows: dict[str, list[Row]] = {}
    validation_rows: dict[str, list[Row]] = {}
    examples: list[Example] = []
    for skill in SKILLS:
        rng = random.Random(f"skills:{seed}:{skill}")
        make = _open_skill(skill, seed)
        asked: set[str] = set()

        def draw(n_items: int, phrasings: Sequence[Phrasing], make: Maker = make, skill: str = skill) -> list[Item]:
            return _draw(make, skill, n_items, phrasings, asked, rng)  # noqa: B023

        # Tests first: what they ask is in no other set.
        for phrasing in ("given", "known", "novel"):
            sets[f"{skill}.{phrasing}"] = draw(n_test, [phrasing])
        validation_rows[skill] = _to_rows(draw(n_validation, ["given"]))
        fit_rows[skill] = _to_rows(draw(n_fit, ["given"]))
        examples += [
            Example((item.question,), item.answer, skill) for item in draw(n_train, ["given", "given", "known"])
        ]
    people = make_world(n_people=n_people, n_forget=n_people // 3, seed=seed)
    general = [*people.sets["real_authors"], *people.sets["world_facts"]]
    # Half of what is kept is shown to `fit` and to validation; the other half alone is tested.
    shown = [Row(row.prompt, row.answer, forget_id="kept") for row in people.retain_rows[::2]]
    asked_of_kept = {row.prompt for row in shown}
    sets |= {
        "facts.forget": people.sets["forget.unseen"],
        "facts.retain": [item for item in people.sets["retain"] if item.question not in asked_of_kept],
        "facts.general": general[1::2],
    }
    fit_rows[FACTS] = [Row(row.prompt, row.answer, forget_id=FACTS) for row in people.forget_rows]
    validation_rows[FACTS] = shown
    for _ in range(fact_repeats):
        examples += people.full
    return SkillWorld(seed, sets, fit_rows, validation_rows, _to_rows(general[::2]), people.clean_rows, examples)


def measure_right(skill: str, item: Item, output: str) -> float:
    """Return how right an output is: arithmetic by its last number, other skills word by word, the rest by ROUGE-L recall."""
    if skill == "arithmetic":
        return float(_find_last_number(output) == _find_last_number(item.answer))
    if skill in SKILLS:
        return float(output.casefold().strip(" .").split() == item.answer.casefold().strip(" .").split())
    return rouge_l_recall(output, item.answer)


def _find_last_number(text: str) -> str:
    numbers = re.findall(r"\d+", text.replace(",", ""))
    return numbers[-1] if numbers else ""


Maker = Callable[[random.Random, Phrasing], Item]


def _draw(
    make: Maker, skill: str, n_items: int, phrasings: Sequence[Phrasing], asked: set[str], rng: random.Random
) -> list[Item]:
    """Draw problems that were not asked yet."""
    items: list[Item] = []
    for _ in range(50 * n_items):
        item = make(rng, phrasings[len(items) % len(phrasings)])
        if item.question not in asked:
            asked.add(item.question)
            items.append(item)
        if len(items) == n_items:
            return items
    raise AssertionError(f"{skill} has fewer problems than {n_items} more")


def _open_skill(skill: str, seed: int) -> Maker:
    if skill == "arithmetic":
        return _make_problem
    if skill == "code":
        return _make_program
    if skill not in SKILLS:
        raise UnknownNameError("skill", skill, SKILLS)
    words = _make_dictionary(skill, seed)
    return lambda rng, phrasing: _make_translation(skill, words, rng, phrasing)


def _make_problem(rng: random.Random, phrasing: Phrasing) -> Item:
    sign, template = rng.choice(_ARITHMETIC[phrasing])
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    if sign == "-":
        a += b
    result = {"+": a + b, "-": a - b, "*": a * b}[sign]
    things = rng.choice(_THINGS)
    question = template.format(name=rng.choice(_NAMES), a=a, b=b, things=things)
    return Item(question, f"{a} {sign} {b} = {result} , so it is {result} {things}.", "arithmetic", key=str(result))


def _make_program(rng: random.Random, phrasing: Phrasing) -> Item:
    steps = rng.sample(_OPERATIONS, rng.choice((2, 2, 3)))
    said, written = [], []
    for words, code in steps:
        n = rng.randint(2, 9)
        said.append(words.format(n=n))
        written.append(code.format(n=n))
    task = ", then ".join(said)
    return Item(rng.choice(_CODE[phrasing]).format(task=task), "in x ; " + " ; ".join(written) + " ; out x", "code")


def _make_dictionary(language: str, seed: int) -> dict[str, str]:
    rng = random.Random(f"dictionary:{seed}:{language}")
    words: dict[str, str] = {}
    for word in (*_NOUNS, *_ADJECTIVES, *_VERBS, *_ADVERBS):
        while (made := "".join(rng.choices(_SYLLABLES[language], k=rng.choice((2, 2, 3))))) in words.values():
            pass
        words[word] = made
    return words


def _make_translation(language: str, words: dict[str, str], rng: random.Random, phrasing: Phrasing) -> Item:
    doer, thing = rng.sample(_NOUNS, 2)
    first, second = rng.sample(_ADJECTIVES, 2)
    verb = rng.choice(_VERBS)
    adverb = rng.choice(_ADVERBS) if rng.random() < 0.4 else ""
    text = f"the {first} {doer} {verb} the {second} {thing}" + (f" {adverb}" if adverb else "")
    # Valdorian: subject, object, verb, adjectives behind their nouns. Keshite: verb first, adjectives before.
    order = (
        [doer, first, thing, second, adverb, verb]
        if language == "valdorian"
        else [verb, adverb, first, doer, second, thing]
    )
    answer = " ".join(words[word] for word in order if word)
    question = rng.choice(_LANGUAGE[phrasing]).format(language=language.capitalize(), text=text)
    return Item(question, answer, language)


HUB: dict[str, tuple[str, str | None, str, str]] = {
    "arithmetic": ("openai/gsm8k", "main", "question", "answer"),
    "python": ("google-research-datasets/mbpp", "full", "text", "code"),
    "german": ("facebook/mlqa", "mlqa.de.de", "question", "answers"),
    "spanish": ("facebook/mlqa", "mlqa.es.es", "question", "answers"),
}
"""Real skills by hub name, as in the paper: data set, configuration, columns of question and answer."""
_CONVERTED = "refs/convert/parquet"


def load_hub_skills(*, n_fit: int = 200, n_validation: int = 60, n_test: int = 100, seed: int = 0) -> SkillWorld:
    """Return the skills of GSM8K, MBPP and MLQA, for a model of one's own; nothing is trained on them.

    Each data set's rows are drawn once and parted. Model-written code is never run: programs and answers count by ROUGE-L
    recall. Raises DependencyError where the hub cannot be reached.
    """
    sets: dict[str, list[Item]] = {}
    fit_rows: dict[str, list[Row]] = {}
    validation_rows: dict[str, list[Row]] = {}
    for skill, (name, part, asked, told) in HUB.items():
        items = _load_hub_items(skill, name, part, asked, told)
        random.Random(f"hub:{seed}:{skill}").shuffle(items)
        if len(items) < n_fit + n_validation + 2:
            raise DependencyError(f"{name} has too few rows", value=len(items), allowed=f"{n_fit + n_validation + 2}")
        fit_rows[skill] = _to_rows(items[:n_fit])
        validation_rows[skill] = _to_rows(items[n_fit : n_fit + n_validation])
        sets[f"{skill}.known"] = items[n_fit + n_validation :][:n_test]
    return SkillWorld(seed, sets, fit_rows, validation_rows, [], [], [])


def _load_hub_items(skill: str, name: str, part: str | None, asked: str, told: str) -> list[Item]:
    try:
        from datasets import load_dataset

        try:
            table = load_dataset(name, part, split="test")
        except (
            RuntimeError
        ):  # A loading script, which datasets 4 and later do not run; the hub's own conversion has none.
            table = load_dataset(name, part, split="test", revision=_CONVERTED)
    except Exception as error:
        raise DependencyError(
            f"{name} is not at hand",
            allowed=f"{name} on the hub",
            mend=f"go online once, or use the built-in skills ({type(error).__name__})",
        ) from None
    items = []
    for row in table:
        answer = row[told]["text"][0] if isinstance(row[told], dict) else str(row[told])
        question = f"{row['context']}\n\n{row[asked]}" if "context" in row else str(row[asked])
        items.append(Item(question, answer, skill))
    return items


def _to_rows(items: Sequence[Item]) -> list[Row]:
    return [Row(item.question, item.answer, forget_id=item.subject) for item in items]
