"""Suites of plain questions and answers: KnowUnDo and PISTOL, by hub name.

They come without paraphrases and wrong answers: the wrong answers are those of other rows to the most similar questions, the reworded
questions are ours (`world.reword`). Half of the rows to forget are what `fit` sees, the other half is asked unseen.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from unlearn_guard.benchmarks.dataset import Example, Item, Suite, to_rows
from unlearn_guard.benchmarks.hub import read_table
from unlearn_guard.benchmarks.world import reword
from unlearn_guard.classifiers.aliases import mine_aliases
from unlearn_guard.classifiers.traffic import make_traffic
from unlearn_guard.corruptions.fluency import find_words
from unlearn_guard.guard.errors import SettingsError
from unlearn_guard.guard.rows import ForgetRequest, Row

KNOWUNDO, PISTOL = "zjunlp/KnowUnDo", "xinchiqiu/PISTOL"
_CAPITALISED = re.compile(r"\b[A-Z][a-z]+ [A-Z][a-z]+\b")
_N_WRONG = 5
_N_CLEAN = 1500


@dataclass(frozen=True, slots=True)
class Pair:
    """A question, its answer, and whose it is."""

    question: str
    answer: str
    owner: str


def load_knowundo(*, domain: str = "privacy", limit: int = 10_000, seed: int = 0) -> Suite:
    """Return KnowUnDo (Tian et al., arXiv 2407.01920): what is private about people goes, what is public about them stays.

    domain: `privacy` or `copyright`. limit: rows of each side. Locally it is read from `knowundo/<domain>_<split>.jsonl`, rows of
    `text` and `labels`; the hub has each split as one row of lists.
    """
    forget, retain = (_read_knowundo(domain, split, limit) for split in ("unlearn", "retention"))
    return make_suite("knowundo", *_number_owners(forget, retain), seed=seed)


def _read_knowundo(domain: str, split: str, limit: int) -> list[Pair]:
    pairs = []
    for row in read_table("knowundo", f"{domain}_{split}", hub=KNOWUNDO, config=domain, split=split):
        nested = [entry for part in ("train", "val") for entry in row.get(part) or []]
        pairs += [Pair(entry["text"], entry["labels"], split) for entry in nested or [row]]
    return _take(_find_owners(pairs), limit)


def _find_owners(pairs: Sequence[Pair]) -> list[Pair]:
    """Give each pair to the person it names most often of all: two capitalised words that many questions have."""
    named = [_CAPITALISED.findall(pair.question) for pair in pairs]
    counts = Counter(name for names in named for name in names)
    return [
        replace(pair, owner=max(names, key=lambda name: (counts[name], name))) if names else pair
        for pair, names in zip(pairs, named, strict=True)
    ]


def _number_owners(*sides: list[Pair]) -> list[list[Pair]]:
    """Put a number in the place of every owner: reports show whose a fact is, and are published."""
    numbers = {
        owner: number for number, owner in enumerate(dict.fromkeys(pair.owner for side in sides for pair in side))
    }
    return [[replace(pair, owner=f"{numbers[pair.owner]:03d}") for pair in side] for side in sides]


def load_pistol(*, data: str = "pistol_data_1", n_forget: int = 3, seed: int = 0) -> Suite:
    """Return PISTOL (Qiu et al., arXiv 2406.16810): contracts between invented companies; a few edges of the graph go, its neighbours stay."""
    rows = [Pair(row["question"], row["answer"], row["edge"]) for row in read_table("pistol", data, hub=PISTOL)]
    (pairs,) = _number_owners(rows)
    edges = list(dict.fromkeys(pair.owner for pair in pairs))
    if not 0 < n_forget < len(edges):
        raise SettingsError("edges to forget", value=n_forget, allowed=f"1 to {len(edges) - 1}")
    step = len(edges) // n_forget
    gone = {edges[(place * step + seed) % len(edges)] for place in range(n_forget)}
    forget, retain = ([pair for pair in pairs if (pair.owner in gone) == side] for side in (True, False))
    return make_suite("pistol", forget, retain, seed=seed)


def make_suite(name: str, forget: Sequence[Pair], retain: Sequence[Pair], *, seed: int = 0) -> Suite:
    """Return a suite of question-answer pairs; every second row to forget is given to `fit`, the other half is asked unseen.

    A pair that is nobody's stands for itself.
    """
    pairs = [*forget, *retain]
    items = [
        Item(pair.question, pair.answer, subject=f"{name}-{pair.owner or f'row-{place}'}", wrong=wrong)
        for place, (pair, wrong) in enumerate(zip(pairs, find_wrong(pairs), strict=True))
    ]
    gone, kept = _name_subjects(items[: len(forget)]), items[len(forget) :]
    given, unseen = (gone[side::2] for side in (seed % 2, 1 - seed % 2))
    return Suite(
        name=name,
        sets={
            "forget.given": given,
            "forget.unseen": unseen,
            "forget.paraphrase": [item.with_question(reword(item.question, place)) for place, item in enumerate(gone)],
            "retain": kept[:400],
        },
        forget_rows=to_rows(given),
        retain_rows=to_rows(kept),
        clean_rows=make_traffic(_N_CLEAN, seed=seed),
        full=[Example((item.question,), item.answer, item.subject) for item in (*kept, *gone)],
        retain=[Example((item.question,), item.answer, item.subject) for item in kept],
    )


def find_wrong(pairs: Sequence[Pair]) -> list[tuple[str, ...]]:
    """Return for each pair up to five other answers: those to the questions that share most words with its own."""
    words = [frozenset(find_words(pair.question)) for pair in pairs]
    found = []
    for place, pair in enumerate(pairs):
        nearness = sorted(
            (-len(words[place] & words[other]) / len(words[place] | words[other]), other)
            for other in range(len(pairs))
            if pairs[other].answer != pair.answer and (words[place] | words[other])
        )
        answers = dict.fromkeys(pairs[other].answer for _, other in nearness)
        found.append(tuple(answers)[:_N_WRONG])
    return found


def _name_subjects(items: Sequence[Item]) -> list[Item]:
    """Fill in a name where the rows of one owner have one in common."""
    rows: dict[str, list[Row]] = {}
    for item in items:
        rows.setdefault(item.subject, []).append(Row(item.question, item.answer))
    names = {
        subject: (mine_aliases(ForgetRequest(subject, rows=tuple(own)), ()) or ("",))[0]
        for subject, own in rows.items()
    }
    return [
        replace(item, name=name, named=bool(name) and name.casefold() in item.question.casefold())
        for item in items
        for name in (names[item.subject],)
    ]


def _take(pairs: list[Pair], limit: int) -> list[Pair]:
    step = max(1, len(pairs) // limit)
    return pairs[::step][:limit]
