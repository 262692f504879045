"""The lexical signals of a text: names, facts, attributes and verbatim passages, at no encoder cost."""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unlearn_guard.classifiers.aliases import AliasMatcher
from unlearn_guard.classifiers.attributes import (
    AttributeIndex,
    Overlap,
    Term,
    Weights,
    fill_bag,
    find_terms,
    locate_terms,
)
from unlearn_guard.classifiers.disguises import View, read_views, turn_word
from unlearn_guard.classifiers.lexicon import find_profile
from unlearn_guard.classifiers.masking import find_strangers, mask
from unlearn_guard.classifiers.names import WHOLE_NAME, Beside, NameFinder, split_parts
from unlearn_guard.classifiers.normalisation import normalise
from unlearn_guard.classifiers.passages import PassageIndex
from unlearn_guard.classifiers.questions import QuestionIndex
from unlearn_guard.guard.rows import Row

Floats = npt.NDArray[np.float32]
SIGNALS = ("name", "namesake", "part", "fact", "attribute", "share", "kept", "other", "passage", "forget", "retain")
"""The fused score's inputs, in order; the last two come from the encoder, all others from here."""
N_LEXICAL = SIGNALS.index("forget")
_PASSAGE_WORDS = 12
_COINCIDENCE_WORDS = 6
"""Titles and turns of phrase make runs of this length."""
_MAX_BAGS = 4096
_GROUP_ROWS = 20
_LONG_TERMS = 150
"""From this many words on, windows are bounded before they are judged."""
_REMEMBERED_WORDS = 200_000
_PLAIN_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|[0-9]+")
_SUSPECT = re.compile(
    r"[A-Za-z0-9+/=_-]{18,}|[A-Za-z][0-9]|[0-9][A-Za-z]|[A-Za-z][@$!|][A-Za-z]|[a-z][A-Z]|(?:\b[A-Za-z]\W){3}|\\[ux]|&#|%[0-9A-F]{2}|__"
)
_COMMON_RANK = 1750
"""Words of a higher frequency rank often begin a sentence; others that do may be names."""
_FACT_NATS = 12.0
"""A title of this much rarity identifies somebody."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One piece of lexical evidence in a view: half-open characters of the view's text, weight in (0, 1], and whose."""

    signal: str
    start: int
    end: int
    weight: float
    owners: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lexical:
    """What a piece of text says without the encoder: one value per lexical signal, and whose it is."""

    values: tuple[float, ...]
    forget_ids: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> float:
        return self.values[SIGNALS.index(name)]


FAINT = Lexical((0.0,) * N_LEXICAL)
"""What a window says that holds nothing worth judging."""


class Reading:
    """One view of a text with its evidence; windows of it are judged by `judge`."""

    def __init__(self, reader: LexicalReader, view: View, hits: list[Hit], original: str) -> None:
        self._reader, self.view, self.hits, self._original = reader, view, hits, original
        self.terms = locate_terms(view.text)
        self._starts = [start for start, _, _ in self.terms]
        self._sorted: list[Hit] | None = None
        self._longest_hit = 0
        self._sums: Floats | None = None
        if len(self.terms) > _LONG_TERMS:
            self._sums = reader.attributes.accumulate(self.terms)
            self._totals = reader.attributes.accumulate_total(self.terms, _LONG_TERMS)
            self._openings = reader.questions.count_openings([term for _, _, term in self.terms])

    @property
    def lines(self) -> list[int]:
        """Where lines of the original end in the view."""
        return self.view.find_lines(self._original)

    @cached_property
    def strangers(self) -> list[tuple[int, int]]:
        """Spans of names, found only where a window needs them."""
        return find_strangers(self.view, self._original, self._reader.is_word)

    def is_faint(self, start: int, end: int, *, weight: float, share: float, heavy: float) -> bool:
        """Return whether a window surely holds no hit and less attribute weight (nats / 10) than `weight`, or than `heavy`
        and a smaller share than `share`.

        Bounds by prefix sums: in long text most windows are settled by them.
        """
        if self._sums is None or self._find_hits(start, end):
            return False
        first, last = bisect_left(self._starts, start), bisect_left(self._starts, end)
        if self._openings[last] > self._openings[first]:  # It may ask a question whose words are in no bag.
            return False
        most = float((self._sums[last] - self._sums[first]).max(initial=0.0))
        if most < 10 * weight:
            return True
        if last - first > _LONG_TERMS or most >= 10 * heavy:
            return False
        return most < share * float(self._totals[last] - self._totals[first])

    def judge(
        self,
        start: int = 0,
        end: int | None = None,
        *,
        without: Mapping[str, frozenset[str]] | None = None,
        supplied: Collection[str] = (),
        asks: bool = True,
    ) -> Lexical:
        """Return the signals of characters [start, end).

        without: words to leave out of bags, by owner. supplied: terms a question of which alone is none. asks: whether questions are looked for.
        """
        end = len(self.view.text) if end is None else end
        best: dict[str, float] = {}
        owners: dict[str, tuple[str, ...]] = {}
        named: list[str] = []
        for hit in self._find_hits(start, end):
            if hit.weight > best.get(hit.signal, 0.0):
                best[hit.signal], owners[hit.signal] = hit.weight, hit.owners
            if hit.signal == "name":
                named.extend(hit.owners)
        first, last = bisect_left(self._starts, start), bisect_left(self._starts, end)
        terms = self.terms[first:last]
        if asks and best.get("passage", 0.0) < 1.0:
            asker = self._reader.questions.find([term for _, _, term in terms], supplied=supplied)
            if asker is not None:
                best["passage"], owners["passage"] = 1.0, (asker,)
        described = self._reader.attributes.find(terms, without=without)
        kept = self._reader.kept.find(terms, without=without) if described.weight else _NOTHING
        values = (
            best.get("name", 0.0),
            0.0 if "name" in best else best.get("namesake", 0.0),
            best.get("part", 0.0),
            best.get("fact", 0.0),
            described.weight / 10,
            described.share,
            kept.weight / 10,
            float(self._names_others(start, end, described.owner)),
            best.get("passage", 0.0),
        )
        ids = named or next((list(owners[name]) for name in ("passage", "fact", "part") if name in owners), [])
        return Lexical(values, tuple(dict.fromkeys(ids or ([described.owner] if described.owner else []))))

    def mask(self, start: int, end: int) -> str:
        """Return characters [start, end) as the encoder reads them, without names."""
        return mask(self.view.text, start, end, self.strangers)

    def _find_hits(self, start: int, end: int) -> list[Hit]:
        """Return the hits that reach into [start, end)."""
        if self._sorted is not self.hits:
            self.hits.sort(key=lambda hit: hit.start)
            self._sorted = self.hits
            self._longest_hit = max((hit.end - hit.start for hit in self.hits), default=0)
        first = bisect_left(self.hits, start - self._longest_hit, key=lambda hit: hit.start)
        last = bisect_left(self.hits, end, key=lambda hit: hit.start)
        return [hit for hit in self.hits[first:last] if hit.end > start]

    def _names_others(self, start: int, end: int, owner: str) -> bool:
        """Return whether a window names somebody, or something, that no forget request speaks of."""
        strangers = self.strangers  # In order, and apart from each other.
        place = bisect_left(strangers, start, key=lambda span: span[1])
        while place < len(strangers) and strangers[place][0] < end:
            low, high = max(start, strangers[place][0]), min(end, strangers[place][1])
            place += 1
            if low >= high or self._find_hits(low, high):
                continue
            terms = self.terms[bisect_left(self._starts, low) : bisect_left(self._starts, high)]
            if not any(self._reader.attributes.holds(owner, term) for _, _, term in terms):
                return True
        return False


_NOTHING = Overlap(0.0, 0.0)


class Readings(list[Reading]):
    """One reading per view of a text."""

    complete = True
    """False where the text holds more encoded segments than are looked into."""


@dataclass(slots=True)
class LexicalReader:
    """Everything that `fit` mined from the rows, ready to read texts."""

    names: NameFinder
    facts: AliasMatcher
    attributes: AttributeIndex
    kept: AttributeIndex
    passages: PassageIndex
    questions: QuestionIndex
    weights: Weights
    is_word: Callable[[str], bool]
    _word_weights: dict[str, float] = field(default_factory=dict)

    @classmethod
    def build(cls, record: Mapping[str, Any], passages: PassageIndex, ranks: Mapping[str, int]) -> LexicalReader:
        """Build from the record that `mine` returns; `ranks` orders the encoder's vocabulary by frequency."""
        is_word = make_judge(ranks)
        weights = Weights(record["counts"], record["n_bags"], record["bag_words"], ranks)
        return cls(
            names=NameFinder(
                record["aliases"],
                kept_words=record["counts"],
                n_kept=record["n_bags"],
                is_ordinary=is_word,
                is_common=make_common(ranks),
                profiles={owner: frozenset(words) for owner, words in record["profiles"].items()},
                beside={owner: frozenset(words) for owner, words in record.get("beside", {}).items()},
            ),
            facts=AliasMatcher(record["facts"]),
            attributes=AttributeIndex(record["bags"], weights),
            kept=AttributeIndex(record["kept_bags"], weights),
            passages=passages,
            questions=QuestionIndex(record.get("questions", {})),
            weights=weights,
            is_word=is_word,
        )

    def read(self, text: str) -> Readings:
        """Return one reading per view of a text, the plain one first; in a cipher, parts of names are words too."""
        views = read_views(text, self._is_telling)
        readings = Readings(self._read_view(view, text) for view in views)
        readings.complete = views.complete
        return readings

    def _is_telling(self, word: str) -> bool:
        return self.is_word(word) or self.names.spells(word)

    def weigh_words(self, text: str, before: str = "") -> float:
        """Return the weight in nats of a text's words that any forget request uses; a bound of every attribute signal.

        Infinite for a part of a name, a verbatim run, and for what might hide something: long or mixed words, other
        scripts, single letters in a row.
        """
        if not text.isascii() or _SUSPECT.search(before + text):  # Spelt letter by letter, it comes so.
            return math.inf
        folded = text.lower()
        total = sum(map(self._weigh_word, _PLAIN_WORD.findall(folded)))
        return math.inf if len(self.passages) and self.passages.find(before.lower() + folded) else total

    def describe(self, text: str, windows: Iterable[tuple[int, int]]) -> Iterator[Lexical] | None:
        """Yield what described attributes say in windows of plain ASCII text without names; None where it holds a title."""
        folded = text.lower()
        if self.facts.find_folded(folded):
            return None
        terms = locate_terms(folded)
        starts = [start for start, _, _ in terms]
        held = (terms[bisect_left(starts, start) : bisect_left(starts, end)] for start, end in windows)
        return map(self._describe, held)

    def _describe(self, terms: Sequence[Term]) -> Lexical:
        described = self.attributes.find(terms)
        asks = float(self.questions.find([term for _, _, term in terms]) is not None)
        return Lexical((0.0, 0.0, 0.0, 0.0, described.weight / 10, described.share, 0.0, 0.0, asks))

    def _weigh_word(self, word: str) -> float:
        known = self._word_weights.get(word)
        if known is None:
            terms = [term for term in find_terms(word) if self.attributes.posts(term) or self.questions.holds(term)]
            hides = not self.is_word(word) and any(map(self.names.knows, turn_word(word)))
            known = math.inf if hides or self.names.knows(word) else sum(map(self.weights.weigh, terms))
            if len(self._word_weights) < _REMEMBERED_WORDS:
                self._word_weights[word] = known
        return known

    def _read_view(self, view: View, text: str) -> Reading:
        hits = []
        for found in self.names.find(view, text):
            whole = found.weight >= WHOLE_NAME
            signal = "namesake" if found.is_namesake else "name" if whole else "part"
            hits.append(Hit(signal, found.start, found.end, found.weight, (found.forget_id,)))
        for start, end, owners in self.facts.find_folded(view.text):
            if not _is_cut(view.text, start, end):
                hits.append(Hit("fact", start, end, self._weigh_fact(view.text[start:end]), owners))
        for run in self.passages.find_runs(view.text):
            weight = (run.n_words - _COINCIDENCE_WORDS) / (_PASSAGE_WORDS - _COINCIDENCE_WORDS)
            if weight > 0:
                hits.append(Hit("passage", run.start, run.end, min(1.0, weight), (run.owner,)))
        return Reading(self, view, hits, text)

    def _weigh_fact(self, fact: str) -> float:
        """Return 1 for a date, for a title how far its words are rare."""
        if any(character.isdigit() for character in fact):
            return 1.0
        return min(1.0, sum(self.weights.weigh(term) for term in set(find_terms(fact))) / _FACT_NATS)


def _is_cut(text: str, start: int, end: int) -> bool:
    """Return whether a title is only part of a longer quoted one."""
    before, after = text[:start].rstrip(" .,!?")[-1:], text[end:].lstrip(" .,!?")[:1]
    quotes = "\"'"
    if text[end:].startswith(("'s ", "'s.", "'s,", "'s?")):
        after = ""
    return (before in quotes and before != "") != (after in quotes and after != "")


def mine(
    aliases: Mapping[str, Sequence[str]],
    facts: Mapping[str, Sequence[str]],
    forget: Sequence[Row],
    kept: Sequence[Row],
    ranks: Mapping[str, int],
) -> dict[str, Any]:
    """Return the record that a LexicalReader is built from."""
    groups: dict[str, Counter[str]] = {}
    for number, row in enumerate(kept):
        # Rows of nobody in particular are taken by the score, so that a bag is about as large as a person's.
        groups.setdefault(row.forget_id or f"\0{number // _GROUP_ROWS}", Counter()).update(_terms_of(row))
    counts = Counter(term for bag in groups.values() for term in bag)
    bag_words = sum(bag.total() for bag in groups.values()) / max(1, len(groups))
    weights = Weights(counts, len(groups), bag_words, ranks)
    owned: dict[str, list[Row]] = {}
    for row in forget:
        owned.setdefault(row.forget_id, []).append(row)
    mined = {owner: mine_request(rows, aliases.get(owner, ()), weights) for owner, rows in owned.items()}
    beside = Beside(map(content_of, kept), make_common(ranks))
    return {
        "aliases": {owner: list(names) for owner, names in aliases.items()},
        "facts": {owner: list(found) for owner, found in facts.items()},
        "bags": {owner: bag for owner, (bag, _) in mined.items()},
        "kept_bags": {
            owner: fill_bag(groups[owner], weights) for owner in list(groups)[:_MAX_BAGS] if not owner.startswith("\0")
        },
        "profiles": {owner: profile for owner, (_, profile) in mined.items()},
        "beside": {owner: beside.find(names) for owner, names in aliases.items()},
        "counts": {term: n for term, n in counts.items() if n > 1 or term in ranks},
        "n_bags": len(groups),
        "bag_words": bag_words,
    }


def mine_request(rows: Iterable[Row], aliases: Iterable[str], weights: Weights) -> tuple[list[str], list[str]]:
    """Return the bag of words and the profile of one request's rows."""
    bag: Counter[str] = Counter()
    profile: set[str] = set()
    for row in rows:
        bag.update(_terms_of(row))
        profile.update(find_profile(normalise(content_of(row)).text))
    parts = [part for name in aliases for part in split_parts(name)]
    return list(fill_bag(bag, weights, leave_out=parts)), sorted(profile)


def read_ranks(tokenizer_file: Path) -> dict[str, int]:
    """Return the whole words of a WordPiece vocabulary by rank; such vocabularies are ordered by frequency."""
    vocabulary = json.loads(tokenizer_file.read_text(encoding="utf-8"))["model"].get("vocab", {})
    known = vocabulary if isinstance(vocabulary, dict) else {}
    # Single signs of every script come first in such a vocabulary, and are no words.
    words = [word for word in known if word.isalpha() and (len(word) > 1 or word in "ai")]
    words.sort(key=lambda word: vocabulary[word])
    return {word: rank for rank, word in enumerate(words, start=1)}


def make_common(ranks: Mapping[str, int]) -> Callable[[str], bool]:
    """Return what says of a word whether sentences often begin with it, by the encoder's vocabulary."""
    return lambda word: ranks.get(word, _COMMON_RANK) < _COMMON_RANK


def make_judge(ranks: Mapping[str, int]) -> Callable[[str], bool]:
    """Return what tells plain language from names and nonsense, by the encoder's vocabulary."""

    @lru_cache(maxsize=65_536)
    def is_word(word: str) -> bool:
        """Whether a word is plain language, inflected forms included."""
        return word in ranks or any(
            word.endswith(ending) and (word[: -len(ending)] in ranks or word[: -len(ending)] + "e" in ranks)
            for ending in ("s", "es", "ed", "ing", "ly", "er", "ers")
            if len(word) - len(ending) >= 3
        )

    return is_word


def content_of(row: Row) -> str:
    """Return all that a row says."""
    return f"{row.query}\n{row.answer}"


def _terms_of(row: Row) -> list[str]:
    return find_terms(normalise(content_of(row)).text)


def own_terms(forget: Iterable[Row]) -> list[dict[str, frozenset[str]]]:
    """Return, per row, the terms that only this row brings to its owner's bag."""
    rows = list(forget)
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        counts.setdefault(row.forget_id, Counter()).update(set(_terms_of(row)))
    return [
        {row.forget_id: frozenset(term for term in _terms_of(row) if counts[row.forget_id][term] == 1)} for row in rows
    ]
