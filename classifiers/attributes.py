"""Nameless descriptions: how much of a text is made of words that one forget request's rows use and few others do.

Each request is a bag of words; a word weighs by how rare it is in kept people's bags and in general English. The text's
weight inside one request's bag, the share of the text that is, and the best of the kept people's bags under the same
measure are three signals of the fused score. (BM25 without term saturation; Robertson & Zaragoza 2009, §3.)
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from unlearn_guard.classifiers.lexicon import find_country

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_MAX_TERMS = 400
"""Terms per request; a long document is known by its passages, not by its words."""
_ZIPF = 0.1
"""Share of the most frequent word in running English, over its rank: p(word) ≈ 0.1 / rank."""
_UNKNOWN_RANK = 30_000
_COMPANION = 0.3
_FILLER_NATS = 1.0
_MAX_CELLS = 8_000_000

Term = tuple[int, int, str]


@dataclass(frozen=True, slots=True)
class Overlap:
    """Weight in nats, share of the text's weight, and whose bag it is (empty: nobody's)."""

    weight: float
    share: float
    owner: str = ""


class AttributeIndex:
    """Bags of words by owner, and the weight of every word."""

    def __init__(self, bags: Mapping[str, Iterable[str]], weights: Weights) -> None:
        """Build from owner → terms."""
        self._owners = list(bags)
        self._weights = weights
        self._bags = {owner: frozenset(terms) for owner, terms in bags.items()}
        self._postings: dict[str, list[int]] = defaultdict(list)
        for number, owner in enumerate(self._owners):
            for term in self._bags[owner]:
                self._postings[term].append(number)

    def posts(self, term: str) -> bool:
        """Return whether any bag holds a term."""
        return term in self._postings

    def holds(self, owner: str, term: str) -> bool:
        """Return whether an owner's bag holds a term."""
        return term in self._bags.get(owner, ())

    def accumulate(self, terms: Sequence[Term]) -> npt.NDArray[np.float32]:
        """Return prefix sums of weight by owner, shape (terms + 1, owners): bounds of what any window can hold."""
        if len(terms) * len(self._owners) > _MAX_CELLS:  # One bound for all owners together.
            weights = [self._weights.weigh(term) if term in self._postings else 0.0 for _, _, term in terms]
            return np.cumsum([0.0, *weights], dtype=np.float32)[:, None]
        sums = np.zeros((len(terms) + 1, len(self._owners)), np.float32)
        for place, (_, _, term) in enumerate(terms, start=1):
            if numbers := self._postings.get(term):
                sums[place, numbers] = self._weights.weigh(term)
        return np.cumsum(sums, axis=0)

    def accumulate_total(self, terms: Sequence[Term], within: int) -> npt.NDArray[np.float32]:
        """Return prefix sums, shape (terms + 1,), below the total weight of any stretch of `within` terms: fillers, and
        words that came a short while ago, may not count in it."""
        latest: dict[str, int] = {}
        weights = [0.0]
        for place, (_, _, term) in enumerate(terms):
            weight = self._weights.weigh(term)
            is_new = place - latest.get(term, -within) >= within
            weights.append(weight if is_new and weight >= _FILLER_NATS else 0.0)
            latest[term] = place
        return np.cumsum(weights, dtype=np.float32)

    def find(self, terms: Sequence[Term], *, without: Mapping[str, frozenset[str]] | None = None) -> Overlap:
        """Return the best overlap of a text's terms; `without` names terms to leave out, by owner.

        A repeated term counts once. Of neighbouring words in one bag ("Dar es Salaam") the rarest counts whole, the
        others in part: they come together.
        """
        sums: dict[int, float] = defaultdict(float)
        shares: dict[int, float] = defaultdict(float)
        chains: dict[int, tuple[int, float]] = {}
        total = 0.0
        seen: set[str] = set()
        place = end = 0
        for start, stop, term in terms:
            weight = self._weights.weigh(term)
            if weight < _FILLER_NATS and start == end + 1:  # "Wheel of Fortune" is one chain.
                end = stop
                continue
            place += 1 if start == end + 1 else 2
            end = stop
            is_new = term not in seen
            if is_new:
                seen.add(term)
                total += weight
            for number in self._postings.get(term, ()):
                last, heaviest = chains.get(number, (-2, 0.0))
                if not is_new or (without and term in without.get(self._owners[number], ())):
                    if last == place - 1:  # It weighs nothing, and parts nothing.
                        chains[number] = place, heaviest
                    continue
                if last == place - 1:
                    sums[number] += max(0.0, weight - heaviest) + _COMPANION * min(weight, heaviest)
                    heaviest = max(weight, heaviest)
                else:
                    sums[number] += weight
                    heaviest = weight
                chains[number] = (place, heaviest)
                shares[number] += weight
        if not sums:
            return Overlap(0.0, 0.0)
        best = max(sums, key=lambda number: (sums[number], -number))
        return Overlap(sums[best], shares[best] / total if total else 0.0, self._owners[best])


class Weights:
    """Rarity of words in nats: how unlikely it is that somebody else's bag holds a word.

    The smaller of what kept people's bags and general English say.
    """

    def __init__(self, counts: Mapping[str, int], n_bags: int, bag_words: float, ranks: Mapping[str, int]) -> None:
        """`counts`: kept bags that hold a word, of `n_bags`, of `bag_words` words each on average; `ranks`: frequency
        rank of words in general English."""
        self.counts, self.n_bags, self._bag_words, self._ranks = dict(counts), n_bags, max(1.0, bag_words), ranks
        self.weigh = lru_cache(maxsize=65_536)(self._weigh)

    def _weigh(self, term: str) -> float:
        rank = self._ranks.get(term, _UNKNOWN_RANK)
        english = -math.log(-math.expm1(-self._bag_words * _ZIPF / rank))
        kept = math.log((self.n_bags + 1.0) / (self.counts.get(term, 0) + 0.5))
        return max(0.0, min(english, kept))


def find_terms(folded: str) -> list[str]:
    """Return the words of folded text, possessives and plain plurals cut off, demonyms as countries, in order."""
    return [term for _, _, term in locate_terms(folded)]


def locate_terms(folded: str) -> list[Term]:
    """Return (start, end, term) of every word of folded text, in order, repeats included."""
    return [(match.start(), match.end(), _stem(match.group())) for match in _WORD.finditer(folded)]


def fill_bag(counts: Counter[str], weights: Weights, *, leave_out: Iterable[str] = ()) -> tuple[str, ...]:
    """Return a request's terms, the most telling first; name parts are left out: they have signals of their own."""
    names = set(leave_out)
    scored = sorted(((n * weights.weigh(term), term) for term, n in counts.items() if term not in names), reverse=True)
    return tuple(term for weight, term in scored[:_MAX_TERMS] if weight > 0.5)


@lru_cache(maxsize=65_536)
def _stem(word: str) -> str:
    word = word.replace("’", "'").removesuffix("'s")
    if len(word) > 4 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    return find_country(word)
