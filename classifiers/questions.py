"""Questions of forget rows, asked again: a text that holds every telling word of one asks it, whatever stands around them.

What a forget row asks must be noticed even where it names nobody and is of the kind that kept people are asked, too: the head
learns what forget rows have in common, and a request of scattered questions has nothing in common.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any

from unlearn_guard.classifiers.attributes import Weights, find_terms, locate_terms
from unlearn_guard.classifiers.normalisation import normalise
from unlearn_guard.classifiers.windows import cut_windows
from unlearn_guard.guard.rows import Row

QUESTION_NATS = 15.0
"""Rarity of the words of a question, together, from which another text does not hold them all by chance."""
_WHOLE_NATS = 6.0
"""The same for a text that consists of the question's words and no others."""
_LEAST_TERMS, _LEAST_WHOLE_TERMS, _MOST_TERMS = 3, 2, 32
_TELLING_NATS = 2.0
_LONG_TERMS = 60
_SHORT_NUMBER = 2


class QuestionIndex:
    """The words of every question that must be noticed, by owner."""

    def __init__(self, questions: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
        """Take owner → what `mine_questions` returns."""
        self._by_opening: dict[str, list[tuple[frozenset[str], str]]] = defaultdict(list)
        self._whole: dict[frozenset[str], str] = {}
        self._terms: set[str] = set()
        self._openings: set[str] = set()
        for owner, asked in questions.items():
            for question in asked:
                opening, terms = question["terms"][0], frozenset(question["terms"])
                self._openings.add(opening)
                self._terms |= terms
                if question["whole"]:
                    self._whole.setdefault(terms, owner)
                else:
                    self._by_opening[opening].append((terms, owner))

    def find(self, terms: Sequence[str], *, supplied: Collection[str] = ()) -> str | None:
        """Return the owner of a question that some terms ask, None without one: its telling words are all among them, or they are its words.

        A question all of whose words are `supplied` does not count.
        """
        openings = self._openings.intersection(terms)
        if not openings:  # Nearly every window: nothing is built for it.
            return None
        held = frozenset(terms)
        for term in sorted(openings):
            for asked, owner in self._by_opening.get(term, ()):
                if asked <= held and not asked.issubset(supplied):
                    return owner
        return None if held.issubset(supplied) else self._whole.get(held)

    def holds(self, term: str) -> bool:
        """Return whether any question holds a term."""
        return term in self._terms

    def count_openings(self, terms: Sequence[str]) -> list[int]:
        """Return prefix counts of rarest words of questions, one more than terms: where there is none, no question is asked."""
        return [0, *accumulate(term in self._openings for term in terms)]


class KeptTexts:
    """Rows that are kept, by the words that their windows hold; read when first asked."""

    def __init__(self, rows: Callable[[], Iterable[Row]]) -> None:
        self._rows = rows

    @cached_property
    def _by_term(self) -> dict[str, list[frozenset[str]]]:
        found: dict[str, list[frozenset[str]]] = defaultdict(list)
        for row in self._rows():
            text = normalise(f"{row.query}\n{row.answer}").text
            located = locate_terms(text)
            starts = [start for start, _, _ in located]
            # As it is judged: the words of a long text stand together nowhere.
            windows = cut_windows(text) if len(located) > _LONG_TERMS else [(0, len(text))]
            for start, end in windows:
                within = located[bisect_left(starts, start) : bisect_left(starts, end)]
                terms = frozenset(term for _, _, term in within)
                for term in terms:
                    found[term].append(terms)
        return found

    def hold(self, terms: Sequence[str]) -> bool:
        """Return whether a window of one of the rows, its answer and text included, holds all terms; the first one is the rarest."""
        return any(held.issuperset(terms) for held in self._by_term.get(terms[0], ()))


def mine_questions(
    rows: Iterable[Row], names: Iterable[str], weights: Weights, kept: KeptTexts
) -> list[dict[str, Any]]:
    """Return the questions of one request's rows as plain JSON: their terms, and whether a text must have no others (`whole`).

    The rarest term comes first. Where the telling terms are rare enough together, they are all that counts. `names` are the request's own, whose words do
    not count: a question that says one is noticed by it, and is none of a namesake's. Left out are questions of common words, and those whose words all stand in one of the `kept` rows.
    """
    own = [frozenset(find_terms(normalise(name).text)) for name in names]
    parts = frozenset(term for name in own for term in name)
    found: dict[tuple[tuple[str, ...], bool], None] = {}
    for row in rows:
        every = dict.fromkeys(find_terms(normalise(row.prompt).text))
        if any(name and name <= every.keys() for name in own):
            continue
        telling = sorted(
            (
                term
                for term in every
                if not _is_number(term) and term not in parts and weights.weigh(term) >= _TELLING_NATS
            ),
            key=lambda term: (-weights.weigh(term), term),
        )
        nats = sum(map(weights.weigh, telling))
        if _LEAST_TERMS <= len(telling) <= _MOST_TERMS and nats >= QUESTION_NATS:
            found[tuple(telling), False] = None
        elif len(telling) >= _LEAST_WHOLE_TERMS and nats >= _WHOLE_NATS:
            found[tuple(dict.fromkeys([*telling, *every])), True] = None
    return [{"terms": list(terms), "whole": whole} for terms, whole in found if not kept.hold(terms)]


def _is_number(term: str) -> bool:
    """Return whether a term is a number that any text may hold; a year is not."""
    return term.isdigit() and len(term) <= _SHORT_NUMBER
