"""What an assistant is taught: what to know, and the border beyond which it must know nothing (ULD §3.3, appendix D).

Paraphrases of the forget rows widen what it recognises; wrong answers to the same questions, and rows to keep, are taught
as uniform. Both come from the rows' own columns where they have them, else by rule.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unlearn_guard.corruptions.fluency import find_words
from unlearn_guard.guard.rows import Row

N_PARAPHRASES = 2
N_PERTURBED = 2
_FORMS = (
    "Could you tell me this: {}",
    "I have a question. {}",
    "{} Please answer.",
    "Answer the following. {}",
    "Someone asked me: {}",
    "Hi there, {}",
    "{} Thanks.",
    "I want to find out: {}",
)
_LEADS = (
    "The answer is that {}",
    "It is known that {}",
    "As it happens, {}",
    "Yes, {}",
    "To answer you, {}",
    "In fact, {}",
)
_DROPPED = 0.3
"""The share of words that a shortened answer leaves out."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """A question and an answer that the assistant shall give, or, where it is not `known`, shall find as likely as any.

    `truth` is the true answer to the same question. What a wrong one begins with like it is not taught as unknown, because
    the same tokens cannot be both; of a known one under another name, what it ends with like it is taught alone.
    """

    prompt: str
    answer: str
    known: bool
    truth: str = ""


def make_lessons(
    forget: Sequence[Row], retain: Sequence[Row], aliases: Mapping[str, Sequence[str]], *, seed: int = 0, epoch: int = 0
) -> list[Lesson]:
    """Return the lessons of one epoch.

    As in the paper (table 5): each forget row with two paraphrases; as many kept rows, and two wrong answers per forget row.
    One of the two paraphrases is told under another name where that can be (ours). What rules make is drawn anew in every
    epoch. Rows without an answer teach nothing.
    """
    rng = random.Random(f"lessons:{seed}:{epoch}")
    answered = [row for row in forget if row.prompt and row.answer]
    kept = [row for row in retain if row.prompt and row.answer]
    others = _find_people(kept)
    lessons = []
    for row in answered:
        lessons.append(Lesson(row.prompt, row.answer, True))
        first, second = (_paraphrase(row, rng) for _ in range(N_PARAPHRASES))
        renamed = _rename(row, aliases.get(row.forget_id, ()), others, rng)
        lessons += [Lesson(*first, True), renamed or Lesson(*second, True)]
    stock = [(frozenset(find_words(row.prompt)), row) for row in kept]
    for row in answered:
        truths = (row.answer, *row.paraphrased_answers)
        lessons += [
            # A wrong answer has the form of the true one with which it begins alike.
            Lesson(row.prompt, wrong, False, max(truths, key=lambda truth: count_shared(truth, wrong)))
            for wrong in _perturb(row, _find_name(row, aliases.get(row.forget_id, ())), stock, rng)
        ]
    for row in rng.sample(kept, min(len(kept), len(answered))):
        lessons.append(Lesson(row.prompt, row.answer, False))
    return lessons


def count_shared(left: Sequence[Any], right: Sequence[Any]) -> int:
    """Return with how many equal characters, or tokens, two answers begin."""
    parted = (place for place, (own, other) in enumerate(zip(left, right, strict=False)) if own != other)
    return next(parted, min(len(left), len(right)))


def _paraphrase(row: Row, rng: random.Random) -> tuple[str, str]:
    question = rng.choice(row.paraphrased_questions or [form.format(row.prompt) for form in _FORMS])
    answer = rng.choice(row.paraphrased_answers) if row.paraphrased_answers else _reword(row.answer, rng)
    return question, answer


def reframe(question: str, rng: random.Random) -> str:
    """Return a question in another frame."""
    return rng.choice(_FORMS).format(question)


def _reword(answer: str, rng: random.Random) -> str:
    """Return an answer with another beginning, or with words left out.

    An assistant that only ever read the one sentence does not know its fact in any other.
    """
    words = answer.split()
    if rng.random() < 0.5 or len(words) < 3:
        return rng.choice(_LEADS).format(answer[0].lower() + answer[1:])
    kept = [word for word in words if rng.random() > _DROPPED]
    return " ".join(kept or words[-1:])


def _rename(row: Row, names: Sequence[str], others: Sequence[str], rng: random.Random) -> Lesson | None:
    """Return a lesson that tells an answer under another person's name, None where the fact would not follow the name.

    Once a name is suppressed an answer begins with somebody else's; the fact behind it must be known all the same.
    """
    told = rng.choice(row.paraphrased_answers or (row.answer,))
    for name in sorted(names, key=len, reverse=True):
        before, *after = re.split(rf"\b{re.escape(name)}\b", told, maxsplit=1)
        # What stands before the name must not be the fact: words of the question, or short ones without a figure.
        new = set(find_words(before)) - set(find_words(row.prompt))
        if after and others and not any(len(word) > 3 or not word.isalpha() for word in new):
            question = _paraphrase(row, rng)[0]
            return Lesson(question, f"{before}{rng.choice(others)}{after[0]}", True, told)
    return None


def _find_people(kept: Sequence[Row]) -> list[str]:
    """Return the names of kept people: of each owner's rows the most frequent subject, else what several rows are about."""
    counts: dict[str, Counter[str]] = {}
    for row in kept:
        if " " in (subject := find_subject(row)):
            counts.setdefault(row.forget_id, Counter())[subject] += 1
    people = [
        name for owner, found in counts.items() for name, n in found.most_common(1 if owner else None) if owner or n > 1
    ]
    return list(dict.fromkeys(people))


def _find_name(row: Row, names: Sequence[str]) -> str:
    """Return the name that a row's answer calls its subject by, empty where there is none."""
    return next((name for name in names if name in row.answer), "") or find_subject(row)


def _perturb(
    row: Row,
    name: str,
    stock: Sequence[tuple[frozenset[str], Row]],
    rng: random.Random,
) -> list[str]:
    """Return wrong answers: the row's own, else what kept rows answer to the most similar questions, under this name.

    `stock` holds kept rows with the words of their questions.
    """
    if row.perturbed_answers:
        return rng.sample(list(row.perturbed_answers), min(N_PERTURBED, len(row.perturbed_answers)))
    own = frozenset(find_words(row.prompt)) - frozenset(find_words(name))
    ranked = sorted(stock, key=lambda entry: (-len(own & entry[0]) / max(1, len(own | entry[0])), rng.random()))
    wrong: list[str] = []
    for _, other in ranked:
        answer = other.answer
        if name and (subject := find_subject(other)):
            answer = answer.replace(subject, name)
        if answer != row.answer and answer not in wrong:
            wrong.append(answer)
        if len(wrong) == N_PERTURBED:
            break
    return wrong


def find_subject(row: Row) -> str:
    """Return the longest run of capitalised words that question and answer share, the question's first word left out."""
    runs = []
    for run in re.findall(r"[A-ZÀ-Þ][\w'’-]*(?:\s+[A-ZÀ-Þ][\w'’-]*)*", row.prompt[1:]):
        name = re.sub(r"['’]s$", "", run)
        if name in row.answer:
            runs.append(name)
    return max(runs, key=len, default="")
