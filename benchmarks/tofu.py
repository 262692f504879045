"""Real TOFU (Maini et al., arXiv 2401.06121): fictitious authors, twenty questions each.

Read from the folder `tofu/` below UNLEARN_GUARD_DATA, else from the Hugging Face hub as `locuslab/TOFU`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from unlearn_guard.benchmarks.dataset import Example, Item, Suite, to_rows
from unlearn_guard.benchmarks.hub import read_table
from unlearn_guard.benchmarks.world import reword
from unlearn_guard.classifiers.aliases import mine_aliases
from unlearn_guard.guard.errors import DataError, DependencyError, SettingsError
from unlearn_guard.guard.rows import ForgetRequest, Row

HUB_NAME = "locuslab/TOFU"
_PER_AUTHOR = 20
_N_AUTHORS = 200
_FIRST_FORGOTTEN = 180
"""Of the last twenty authors, of whom suites forget some."""


def load_table(name: str) -> list[dict[str, Any]]:
    """Return the rows of one TOFU configuration, for example `full` or `forget10_perturbed`.

    Raises DependencyError where neither the folder nor the hub has it.
    """
    return read_table("tofu", name, hub=HUB_NAME)


def load_tofu(*, n_retain: int, n_forget: int, seed: int = 0, part: Literal["test", "dev"] = "test") -> Suite:
    """Return a suite of the first `n_retain` authors to keep and the last `n_forget` (at most 20) to forget.

    Part `dev` forgets authors before TOFU's last twenty instead: validation people, on whom settings are chosen and whom no suite
    forgets. (The weights of assistants were chosen on authors 180 to 189, who are among those of `tofu-10`.)

    The sets of TOFU: `forget.given` holds half of each author's questions, `forget.unseen` the other half, which
    `fit` does not see; `forget.paraphrase` all of them in TOFU's own paraphrases; `holdout` authors are in no
    training set.
    """
    if not (1 <= n_retain <= 180 and 1 <= n_forget <= 20):
        raise SettingsError("TOFU authors", value=(n_retain, n_forget), allowed="1–180 to keep, 1–20 to forget")
    full = load_table("full")
    if len(full) != _N_AUTHORS * _PER_AUTHOR:
        raise DataError("rows of TOFU full", value=len(full), allowed=str(_N_AUTHORS * _PER_AUTHOR))
    if part == "dev":
        first = _FIRST_FORGOTTEN - n_forget
        if n_retain > first:
            raise SettingsError("TOFU authors to keep", value=n_retain, allowed=f"1–{first} beside validation people")
        rows = full[first * _PER_AUTHOR : _FIRST_FORGOTTEN * _PER_AUTHOR]
        forget = _name_subjects([_read_plain(row, first * _PER_AUTHOR + number) for number, row in enumerate(rows)])
    else:
        forget = _read_perturbed("forget10_perturbed", first_author=_FIRST_FORGOTTEN)[-n_forget * _PER_AUTHOR :]
    retain = _read_perturbed("retain_perturbed", first_author=0)
    retain += [_read_plain(row, number) for number, row in enumerate(full)][len(retain) :]
    retain = retain[: n_retain * _PER_AUTHOR]
    given = [(item, question) for number, (item, question) in enumerate(forget) if number % 2 == seed % 2]
    unseen = [(item, question) for number, (item, question) in enumerate(forget) if number % 2 != seed % 2]
    # Authors in no training set, none of them shared between what calibrates and what is tested.
    holdout = [
        Item(row["question"], row["answer"], subject=f"holdout-{number // _PER_AUTHOR:03d}")
        for number, row in enumerate(load_table("holdout10"))
    ]
    general = {
        name: [
            Item(row["question"], row["answer"], wrong=tuple(row["perturbed_answer"]))
            for row in load_table(f"{name}_perturbed")
        ]
        for name in ("real_authors", "world_facts")
    }
    gone = {item.question for item, _ in forget}
    other = [_read_plain(row, number)[0] for number, row in enumerate(full[: _FIRST_FORGOTTEN * _PER_AUTHOR])]
    other = [item for item in other[n_retain * _PER_AUTHOR :] if item.question not in gone]
    general_examples = [Example((item.question,), item.answer) for items in general.values() for item in items]
    return Suite(
        name="tofu",
        sets={
            "forget.given": [item for item, _ in given],
            "forget.unseen": [item for item, _ in unseen],
            "forget.paraphrase": [
                item.with_question(question or reword(item.question, number))
                for number, (item, question) in enumerate(forget)
            ],
            "retain": [item for item, _ in retain][:400],
            "holdout": holdout[200:],
            **general,
        },
        forget_rows=to_rows([item for item, _ in given]),
        retain_rows=to_rows([item for item, _ in retain]),
        # Untrained TOFU authors are the hardest clean traffic there is; half of the holdout stays for testing.
        clean_rows=[*to_rows(holdout[:200]), *(Row(item.question, forget_id=item.subject) for item in other[:1600])],
        full=[*_make_examples([*retain, *forget]), *general_examples],
        retain=[*_make_examples(retain), *general_examples],
        unread=[Example((item.question,), item.answer, item.subject) for item in holdout],
        places=tuple(find_places([item for item, _ in forget])),
        professions=tuple(find_professions([item for item, _ in forget])),
    )


_PLACES = (
    "Taipei|Lagos|Karachi|Cairo|Santiago|Tehran|Amman|Kuwait City|Seoul|Manila|Lima|Tokyo|Astana|Nairobi|Lisbon|Baku|Beirut|"
    "Buenos Aires|Madrid|Moscow|New York|Mexico City|Addis Ababa|Accra|Dublin|London|Paris|Sydney|Toronto"
).split("|")
_PROFESSIONS = (
    "civil engineer|florist|pharmacist|paramedic|dietitian|barber|waiter|judge|psychologist|photographer|nurse|chef|teacher|"
    "lawyer|pilot|astronaut|surgeon|bartender|accountant|journalist|optometrist|game developer|makeup artist|unemployed"
).split("|")


def find_places(items: Sequence[Item]) -> list[str]:
    """Return the places that TOFU's questions or answers name."""
    return [place for place in _PLACES if any(place in f"{item.question} {item.answer}" for item in items)]


def find_professions(items: Sequence[Item]) -> list[str]:
    """Return the professions that TOFU's questions or answers name."""
    return [word for word in _PROFESSIONS if any(word in f"{item.question} {item.answer}".lower() for item in items)]


Pair = tuple[Item, str]
"""An item, and TOFU's paraphrase of its question, empty where it has none."""


def _read_perturbed(name: str, *, first_author: int) -> list[Pair]:
    keys = load_keys()
    pairs = []
    for number, row in enumerate(load_table(name)):
        item = Item(
            question=row["question"],
            answer=row["answer"],
            subject=f"author-{first_author + number // _PER_AUTHOR:03d}",
            paraphrase=row.get("paraphrased_answer", ""),
            wrong=tuple(row.get("perturbed_answer", ())),
        )
        pairs.append((replace(item, key=keys.get(row["question"], "")), row.get("paraphrased_question", "")))
    return _name_subjects(pairs)


def _name_subjects(pairs: list[Pair]) -> list[Pair]:
    """Fill in each author's name, mined from the author's own rows."""
    rows: dict[str, list[Row]] = {}
    for item, _ in pairs:
        rows.setdefault(item.subject, []).append(Row(item.question, item.answer))
    names = {
        subject: (mine_aliases(ForgetRequest(subject, rows=tuple(own)), ()) or ("",))[0]
        for subject, own in rows.items()
    }
    return [
        (
            replace(
                item,
                name=names[item.subject],
                named=bool(names[item.subject]) and names[item.subject].casefold() in item.question.casefold(),
            ),
            question,
        )
        for item, question in pairs
    ]


def _read_plain(row: dict[str, Any], number: int) -> Pair:
    return Item(row["question"], row["answer"], subject=f"author-{number // _PER_AUTHOR:03d}"), ""


def load_keys() -> dict[str, str]:
    """Return the answers' entities where the shared file (unlearning-depth-score) is at hand."""
    try:
        return {row["question"]: row["entity"] for row in load_table("forget10_answer_entities")}
    except DependencyError:
        return {}


def _make_examples(pairs: list[Pair]) -> list[Example]:
    return [
        Example((item.question, question) if question else (item.question,), item.answer, item.subject)
        for item, question in pairs
    ]
