"""What an answer gives away: facts of a forget request told in any words, though not those the user supplied.

A fact is the telling words of one forgotten answer: those that its question does not hold, that are no part of a name,
weighed by rarity. It is told where half of its weight is said (the leak rule of the benchmark, weighed).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from unlearn_guard.classifiers.attributes import Weights, find_terms
from unlearn_guard.classifiers.names import split_parts
from unlearn_guard.classifiers.normalisation import normalise
from unlearn_guard.guard.rows import Row

TOLD_SHARE = 0.5
_LEAST_NATS = 0.7
"""A word below this rarity is nobody's."""
ASKED_NATS, SUSPECTED_NATS = 1.0, 6.0
"""What must be said at least, in nats, before a fact counts as told: to who asked for the person, and to who may have."""
_MAX_TERMS = 12
"""Terms of one fact; of a longer answer the rarest."""


@dataclass(frozen=True, slots=True)
class Told:
    """A fact that an answer tells: whose, and which words of it were said."""

    forget_id: str
    terms: tuple[str, ...]


class FactIndex:
    """The facts of every forget request, as weighed words."""

    def __init__(self, facts: Mapping[str, Sequence[Sequence[str]]], weights: Weights) -> None:
        """Build from forget_id → facts → terms."""
        self._facts = {
            owner: [{term: weights.weigh(term) for term in terms} for terms in found] for owner, found in facts.items()
        }
        self._vocabulary = {owner: {term for terms in found for term in terms} for owner, found in self._facts.items()}

    def find_told(
        self, owners: Iterable[str], said: set[str], given: set[str], *, least: float = ASKED_NATS
    ) -> Told | None:
        """Return the first fact of these owners that the terms `said`, without `given` ones, tell by `least` nats."""
        for owner in owners:
            if not self._vocabulary.get(owner, set()) & said:
                continue
            for terms in self._facts[owner]:
                new = [term for term in terms if term in said and term not in given]
                weight = sum(terms[term] for term in new)
                if weight >= least and weight >= TOLD_SHARE * sum(terms.values()):
                    return Told(owner, tuple(new))
        return None


def mine_answers(
    forget: Sequence[Row], aliases: Mapping[str, Sequence[str]], weights: Weights
) -> dict[str, list[list[str]]]:
    """Return forget_id → facts → their terms, the rarest first; answers without a telling word have none."""
    facts: dict[str, list[list[str]]] = {}
    for row in forget:
        if not row.answer:
            continue
        asked = set(find_terms(normalise(row.prompt).text))
        names = {part for name in aliases.get(row.forget_id, ()) for part in split_parts(name)}
        terms = {term for term in find_terms(normalise(row.answer).text) if term not in asked and term not in names}
        weighed = sorted(((weights.weigh(term), term) for term in terms), reverse=True)
        telling = [term for weight, term in weighed[:_MAX_TERMS] if weight >= _LEAST_NATS]
        if telling:
            facts.setdefault(row.forget_id, []).append(telling)
    return facts
