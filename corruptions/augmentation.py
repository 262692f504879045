"""What an assistant is taught: what to know, and the border beyond which it must know nothing (ULD §3.3, appendix D).

Paraphrases of the forget rows widen what it recognises; wrong answers to the same questions, and rows to keep, are taught
as uniform. Both come from the rows' own columns where they have them, else by rule.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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

    `truth` is the true answer to the same question: what a wrong one shares with it is not taught as unknown, because the
    same tokens cannot be both.
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
    What rules make is drawn anew in every epoch. Rows without an answer teach nothing.
    """
    rng = random.Random(f"lessons:{seed}:{epoch}")
    answered = [row for row in forget if row.prompt and row.answer]
    kept = [row for row in retain if row.prompt and row.answer]
    lessons = []
    for row in answered:
        lessons.append(Lesson(row.prompt, row.answer, True))
        lessons += [Lesson(prompt, answer, True) for prompt, answer in _paraphrase(row, rng)]
    stock = [(frozenset(find_words(row.prompt)), row) for row in kept]
    for row in answered:
        names = aliases.get(row.forget_id, ())
        lessons += [Lesson(row.prompt, answer, False, row.answer) for answer in _perturb(row, names, stock, rng)]
    for row in rng.sample(kept, min(len(kept), len(answered))):
        lessons.append(Lesson(row.prompt, row.answer, False))
    return lessons


def _paraphrase(row: Row, rng: random.Random) -> list[tuple[str, str]]:
    pairs = []
    for _ in range(N_PARAPHRASES):
        question = (
            rng.choice(row.paraphrased_questions)
            if row.paraphrased_questions
            else rng.choice(_FORMS).format(row.prompt)
        )
        answer = rng.choice(row.paraphrased_answers) if row.paraphrased_answers else _reword(row.answer, rng)
        pairs.append((question, answer))
    return pairs


def _reword(answer: str, rng: random.Random) -> str:
    """Return an answer with another beginning, or with words left out.

    An assistant that only ever read the one sentence does not know its fact in any other.
    """
    words = answer.split()
    if rng.random() < 0.5 or len(words) < 3:
        return rng.choice(_LEADS).format(answer[0].lower() + answer[1:])
    kept = [word for word in words if rng.random() > _DROPPED]
    return " ".join(kept or words[-1:])


def _perturb(
    row: Row,
    names: Sequence[str],
    stock: Sequence[tuple[frozenset[str], Row]],
    rng: random.Random,
) -> list[str]:
    """Return wrong answers: the row's own, else what kept rows answer to the most similar questions, under this name.

    `stock` holds kept rows with the words of their questions.
    """
    if row.perturbed_answers:
        return rng.sample(list(row.perturbed_answers), min(N_PERTURBED, len(row.perturbed_answers)))
    own = frozenset(find_words(row.prompt)) - {word for name in names for word in find_words(name)}
    ranked = sorted(stock, key=lambda entry: (-len(own & entry[0]) / max(1, len(own | entry[0])), rng.random()))
    name = next((name for name in names if name in row.answer), "") or find_subject(row)
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
