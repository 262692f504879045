"""Questions of forget rows, asked again: a text that holds every telling word of one asks it, whatever stands around them.

What a forget row asks must be noticed even where it names nobody and is of the kind that kept people are asked, too: the head
learns what forget rows have in common, and a request of scattered questions has nothing in common.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from unlearn_guard.classifiers.attributes import Weights, find_terms
from unlearn_guard.classifiers.normalisation import normalise
from unlearn_guard.guard.rows import Row

QUESTION_NATS = 15.0
"""Rarity of the words of a question, together, from which another text does not hold them all by chance."""
_WHOLE_NATS = 3.0
"""The same for a text that consists of the question's words and no others."""
_LEAST_TERMS, _MOST_TERMS = 3, 32
_TELLING_NATS = 3.0


class QuestionIndex:
    """The words of every question that must be noticed, by owner."""

    def __init__(self, questions: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
        """Take owner → what `mine_questions` returns."""
        self._by_first: dict[str, list[tuple[frozenset[str], str]]] = defaultdict(list)
        self._whole: dict[frozenset[str], str] = {}
        for owner, asked in questions.items():
            for question in asked:
                terms = frozenset(question["terms"])
                if question["whole"]:
                    self._whole.setdefault(terms, owner)
                else:
                    self._by_first[question["terms"][0]].append((terms, owner))

    def find(self, terms: Sequence[str]) -> str | None:
        """Return the owner of a question that some terms ask, None without one: its telling words are all among them, or they are its words."""
        if not self._by_first and not self._whole:
            return None
        held = frozenset(terms)
        for term in terms:
            for asked, owner in self._by_first.get(term, ()):
                if asked <= held:
                    return owner
        return self._whole.get(held)


def mine_questions(
    rows: Iterable[Row], names: Iterable[str], weights: Weights, kept: Iterable[frozenset[str]]
) -> list[dict[str, Any]]:
    """Return the questions of one request's rows as plain JSON: their terms, and whether a text must have no others (`whole`).

    Where the telling terms are rare enough together, they are all that counts, the rarest first. `names` are parts of the request's name, which do
    not count. Left out are questions of common words, and those whose words all stand in one of the `kept` texts.
    """
    parts = set(names)
    known = list(kept)
    found: dict[tuple[tuple[str, ...], bool], None] = {}
    for row in rows:
        every = dict.fromkeys(find_terms(normalise(row.prompt).text))
        telling = sorted(
            (term for term in every if term not in parts and weights.weigh(term) >= _TELLING_NATS),
            key=lambda term: (-weights.weigh(term), term),
        )
        nats = sum(map(weights.weigh, telling))
        if _LEAST_TERMS <= len(telling) <= _MOST_TERMS and nats >= QUESTION_NATS:
            found[tuple(telling), False] = None
        elif nats >= _WHOLE_NATS:
            found[tuple(sorted(every)), True] = None
    return [
        {"terms": list(terms), "whole": whole}
        for terms, whole in found
        if not any(text.issuperset(terms) for text in known)
    ]


def read_terms(rows: Iterable[Row]) -> list[frozenset[str]]:
    """Return the terms of each row, its answer and text included."""
    return [frozenset(find_terms(normalise(f"{row.query}\n{row.answer}").text)) for row in rows]
