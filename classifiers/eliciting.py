"""Expansion from a name: ask the served model itself what it knows, and keep what it repeats.

The RWKU setting: the operator names a person and has neither a forget nor a retain corpus. What a model says in most of
several samples it has learnt; what it says once it has made up (self-consistency, Manakul et al. 2303.08896).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

from unlearn_guard.classifiers.attributes import find_terms
from unlearn_guard.classifiers.names import split_parts
from unlearn_guard.classifiers.normalisation import normalise
from unlearn_guard.guard.rows import ForgetRequest, Row

Ask = Callable[[Sequence[str]], Sequence[Sequence[str]]]
"""Questions to samples: several answers to each question, drawn at a temperature above 0."""

QUESTIONS = (
    "Who is {name}?",
    "Tell me about {name}.",
    "Where was {name} born?",
    "When was {name} born?",
    "What is {name} best known for?",
    "What is the profession of {name}?",
    "Which works are by {name}?",
    "Where did {name} study?",
    "Who are the parents of {name}?",
    "Which awards has {name} won?",
    "Where does {name} live?",
    "Who is {name} married to?",
)
REPEATED_SHARE = 0.5
"""Share of the samples that must hold a word for it to count as known."""
_MIN_REPEATED = 2
_REFUSAL = re.compile(
    r"\b(?:sorry|apologi[sz]e|as an ai|(?:can(?:no|')t|unable to|do(?:es)? not|don't) (?:have|find|know|provide|assist|help|recall))",
    re.IGNORECASE,
)
"""A refusal is repeated too, and is no knowledge."""


def elicit_rows(request: ForgetRequest, ask: Ask) -> list[Row]:
    """Return questions about a forget request with the answer that its samples agree on, where they agree at all.

    Words are the answers' own, without those of the question and the name.
    """
    name = request.aliases[0] if request.aliases else request.title
    questions = [question.format(name=name) for question in QUESTIONS]
    rows = []
    for question, samples in zip(questions, ask(questions), strict=True):
        answer = find_consensus(question, samples, split_parts(name))
        if answer:
            rows.append(Row(prompt=question, answer=answer, forget_id=request.forget_id))
    return rows


def find_consensus(question: str, samples: Sequence[str], leave_out: Sequence[str] = ()) -> str:
    """Return the sample that holds most of the words which at least half of the samples repeat; "" without any.

    A word that only one sample holds was made up, or is the model's way of speaking.
    """
    samples = [sample for sample in samples if not _REFUSAL.search(sample)]
    known = {*find_terms(normalise(question).text), *leave_out}
    bags = [set(find_terms(normalise(sample).text)) - known for sample in samples]
    counts = Counter(term for bag in bags for term in bag)
    least = max(_MIN_REPEATED, REPEATED_SHARE * len(samples))
    repeated = {term for term, count in counts.items() if count >= least and len(term) > 2}
    if not repeated:
        return ""
    best = max(range(len(samples)), key=lambda number: (len(bags[number] & repeated), -len(samples[number])))
    return samples[best].strip()
