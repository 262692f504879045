"""Finding people by name: whole names, misspelt ones, initials, and parts that belong to nobody else.

A *whole* name is every part of an alias close together, in any order, each part within one edit (two for long parts).
A *part* is one rare part of it, not beside a name part that belongs to somebody else: "Carmen Diaz" is not part of
"Carmen Montenegro". A *namesake* is a whole name with a description that the forget request never uses: another
profession, country or century.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from unlearn_guard.classifiers.disguises import View
from unlearn_guard.classifiers.lexicon import describes, differs
from unlearn_guard.classifiers.normalisation import normalise

_WORD = re.compile(r"[^\W_]+")
_PARTICLES = frozenset("de del da di la le van von der den al el bin ibn the of mr mrs ms dr sir st jr".split())
_LONG_PART = 8
_SPELT_NAME = 6
"""Letters of a whole name that is spelt out letter by letter."""
_FUZZY_PART = 5
_SCRAMBLED_PART = 6
_SHARED_PART, _NEAR_WORDS = 20, 40
_GAP_WORDS = 2
WHOLE_NAME = 0.9
"""From this weight on a hit is a whole name, not a part of one."""
"""Words that may stand between the parts of a whole name."""
_CONTEXT_CHARACTERS = 60
_APART_CHARACTERS = 240
_TITLE_CHARACTERS = 60
_QUOTED = re.compile(r"(?<![^\W_])[\"'‘“][^\"‘“”\n]{2,60}?[\"'’”](?![^\W_])")
_FAMILY_NAME, _GIVEN_NAME, _ORDINARY_NAME = 0.8, 0.25, 0.5


@dataclass(frozen=True, slots=True)
class NameHit:
    """Evidence of one forget request's name: characters of the view, and how sure it is (1 for a whole name)."""

    start: int
    end: int
    forget_id: str
    weight: float
    is_namesake: bool = False


@dataclass(frozen=True, slots=True)
class _Alias:
    forget_id: str
    parts: tuple[str, ...]


class NameFinder:
    """Find names of forget requests in views of a text."""

    def __init__(
        self,
        aliases: Mapping[str, Sequence[str]],
        *,
        kept_words: Mapping[str, int] | None = None,
        n_kept: int = 0,
        is_ordinary: Callable[[str], bool] | None = None,
        is_common: Callable[[str], bool] | None = None,
        profiles: Mapping[str, frozenset[str]] | None = None,
        beside: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        """Build from forget_id → aliases.

        `kept_words` counts in how many of `n_kept` kept rows a word occurs; `is_ordinary` says whether a word is plain
        language, `is_common` whether sentences often begin with it; `profiles` holds the descriptive words that each request's own rows use,
        `beside` the names that others have beside a part of its own (`Beside`).
        """
        self._kept_words, self._n_kept = dict(kept_words or {}), n_kept
        self._is_ordinary = is_ordinary or (lambda word: False)
        self._is_common = is_common or self._is_ordinary
        self._profiles, self._beside = dict(profiles or {}), dict(beside or {})
        self._aliases: list[_Alias] = []
        self._by_part: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._given: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._squeezed: dict[str, list[str]] = defaultdict(list)
        for forget_id, names in aliases.items():
            for name in dict.fromkeys(names):
                parts = split_parts(name)
                if not parts:
                    continue
                number = len(self._aliases)
                self._aliases.append(_Alias(forget_id, parts))
                for place, part in enumerate(parts):
                    self._by_part[part].append((number, place))
                    if place < len(parts) - 1:
                        for other in find_given_names(part):
                            self._given[other].append((number, place))
                # Spelt out letter by letter, a name keeps its particles.
                for squeezed in {"".join(parts), "".join(_WORD.findall(normalise(name).text))}:
                    if len(squeezed) >= _SPELT_NAME:
                        self._squeezed[squeezed].append(forget_id)
        self._by_deletion: dict[str, list[str]] = defaultdict(list)
        self._by_letters: dict[str, list[str]] = defaultdict(list)
        for part in self._by_part:
            if len(part) >= _FUZZY_PART - 1:
                for letters in _mix(part):
                    self._by_letters[letters].append(part)
            if len(part) >= _FUZZY_PART:
                for deleted in _delete(part, 2 if len(part) >= _LONG_PART else 1):
                    self._by_deletion[deleted].append(part)
        self._longest = max(map(len, self._by_part), default=0)
        self.longest_name = max((len(name) for names in aliases.values() for name in names), default=0)
        self._initials = self._index_initials()
        self._resolve = lru_cache(maxsize=65_536)(self._resolve_word)

    def knows(self, word: str) -> bool:
        """Return whether a folded word may be part of a name."""
        return bool(self._resolve(word))

    def spells(self, word: str) -> bool:
        """Return whether a folded word is part of a name as it is spelt."""
        return word in self._by_part or word in self._given

    def find(self, view: View, original: str | None = None) -> list[NameHit]:
        """Return hits in one view, whole names first.

        `original` is the text as it was sent, for the capitals of names beside a part; without it only words that are
        not ordinary count as names.
        """
        if not self._aliases:
            return []
        squeezed: list[NameHit] = []
        if view.how in ("joined", "reversed"):
            squeezed = self._find_squeezed(view.text, _SPELT_NAME if view.how == "joined" else _LONG_PART)
            if squeezed:
                return squeezed
        vocabulary = set(_WORD.findall(view.text))
        for name in vocabulary & self._squeezed.keys():
            squeezed += self._find_squeezed(view.text, len(name), (name,))
        if not any(map(self._resolve, vocabulary)):
            return squeezed
        words = [(match.group(), match.start(), match.end()) for match in _WORD.finditer(view.text)]
        places = self._place_parts(words, vocabulary)
        hits = [hit for alias, found in places.items() for hit in self._judge(alias, found, words, view, original)]
        hits += [*squeezed, *self._find_initials(words, view, original)]
        hits.sort(key=lambda hit: (hit.is_namesake, -hit.weight, hit.start))
        return hits

    def _place_parts(
        self, words: Sequence[tuple[str, int, int]], vocabulary: Iterable[str]
    ) -> dict[int, list[tuple[int, int]]]:
        """Return alias → (word, part) in order. What many aliases share counts only near another part of the same one."""
        pairs = {word: found for word in vocabulary if (found := self._resolve(word))}
        shared = {word for word, found in pairs.items() if len(found) > _SHARED_PART}
        places: dict[int, list[tuple[int, int]]] = defaultdict(list)
        common: list[int] = []
        for number, (word, _, _) in enumerate(words):
            if word in shared:
                common.append(number)
            else:
                for alias, part in pairs.get(word, ()):
                    places[alias].append((number, part))
        if not shared:
            return places
        parts = {word: dict(found) for word, found in pairs.items() if word in shared}
        for alias, own in places.items():
            near: set[int] = set()
            for number, _ in own:
                near.update(
                    common[bisect_left(common, number - _NEAR_WORDS) : bisect_left(common, number + _NEAR_WORDS)]
                )
            of_alias = [(number, parts[words[number][0]].get(alias, -1)) for number in near]
            own.extend(pair for pair in of_alias if pair[1] >= 0)
            own.sort()
        return places

    def weigh(self, alias: _Alias, place: int, *, is_capital: bool) -> float:
        """Return how much one part says by itself.

        1 for a rare family name that nobody else has; a given name says a third of that; an ordinary word says something
        only with a capital letter inside a sentence; what many kept people are called says nothing.
        """
        part = alias.parts[place]
        if len(part) < 3:
            return 0.0
        weight = _FAMILY_NAME if place == len(alias.parts) - 1 else _GIVEN_NAME
        if self._is_ordinary(part):
            weight *= _ORDINARY_NAME if is_capital else 0.0
        elif len(part) < 4:
            return 0.0
        if self._n_kept:
            weight *= max(0.0, 1.0 - 2 * math.log1p(self._kept_words.get(part, 0)) / math.log1p(self._n_kept))
        return weight

    def _resolve_word(self, word: str) -> tuple[tuple[int, int], ...]:
        """Return (alias, part) pairs that a word may stand for."""
        if word in self._by_part or word in self._given:
            return (*self._by_part.get(word, ()), *self._given.get(word, ()))
        if not _FUZZY_PART - 1 <= len(word) <= self._longest + 2 or self._is_ordinary(word):
            return ()
        reach = 2 if len(word) >= _LONG_PART - 1 else 1
        candidates = {part for deleted in _delete(word, reach) for part in self._by_deletion.get(deleted, ())}
        near = {part for part in candidates if count_edits(word, part) <= (2 if len(part) >= _LONG_PART else 1)}
        near.update(part for letters in _mix(word) for part in self._by_letters.get(letters, ()) if part[0] == word[0])
        near.update(self._by_letters.get("".join(sorted(word)), ()))
        return tuple(pair for part in sorted(near) for pair in self._by_part[part])

    def _judge(
        self,
        number: int,
        found: Sequence[tuple[int, int]],
        words: Sequence[tuple[str, int, int]],
        view: View,
        original: str | None,
    ) -> list[NameHit]:
        """Return every whole mention of one alias, else its parts apart, else its most telling part."""
        alias = self._aliases[number]
        n_parts = len(alias.parts)
        reach = n_parts + _GAP_WORDS
        latest: dict[int, int] = {}
        whole: list[NameHit] = []
        for place, part in found:
            if place in latest.values():  # One word is one part, also of a name that repeats itself.
                continue
            latest[part] = place
            members = {where for where in latest.values() if place - where < reach}
            if len(members) == n_parts:
                start, end = words[min(members)][1], words[max(members)][2]
                whole.append(NameHit(start, end, alias.forget_id, 1.0, self._is_namesake(alias, view.text, start, end)))
                latest.clear()
        if whole:
            return whole
        own = {
            (place, part)
            for place, part in found
            if words[place][0] == alias.parts[part] and not self._is_foreign(number, place, words, view, original)
        }
        if n_parts > 1 and (span := self._find_apart(alias, own, words, view, original)):
            return [NameHit(*span, alias.forget_id, WHOLE_NAME)]
        best: NameHit | None = None
        for place, part in sorted(own):  # A near miss of one part alone is another name.
            weight = self.weigh(alias, part, is_capital=self._is_capital(words, place, view, original))
            if weight > (best.weight if best else 0.0):
                best = NameHit(words[place][1], words[place][2], alias.forget_id, weight)
        return [best] if best else []

    def _find_apart(
        self,
        alias: _Alias,
        own: Iterable[tuple[int, int]],
        words: Sequence[tuple[str, int, int]],
        view: View,
        original: str | None,
    ) -> tuple[int, int] | None:
        """Return the characters of a whole name told in pieces: "let A be …, let B be …"."""
        latest: dict[int, int] = {}
        for place, part in sorted(own):
            if not self.weigh(alias, part, is_capital=self._is_capital(words, place, view, original)):
                continue
            latest = {other: where for other, where in latest.items() if where != place}
            latest[part] = place
            first = min(latest.values())
            if len(latest) == len(alias.parts) and words[place][2] - words[first][1] <= _APART_CHARACTERS:
                return words[first][1], words[place][2]
        return None

    def _is_foreign(
        self, number: int, place: int, words: Sequence[tuple[str, int, int]], view: View, original: str | None
    ) -> bool:
        """Return whether a part stands beside a name part that its alias does not have, or a blank, or in a title."""
        _, begin, stop = words[place]
        if "__" in view.text[max(0, begin - 4) : begin] or "__" in view.text[stop : stop + 4]:
            return True
        if original is not None and view.how == "plain" and self._is_in_title(number, begin, view, original):
            return True
        for other in (place - 1, place + 1):
            if not 0 <= other < len(words):
                continue
            word, start, end = words[other]
            between = view.text[min(end, words[place][2]) : max(start, words[place][1])]
            if between.strip(" '’-") or len(word) < 2 or any(alias == number for alias, _ in self._resolve(word)):
                continue
            if word in _PARTICLES or word == "s":
                continue
            if word in self._beside.get(self._aliases[number].forget_id, ()):
                return True
            if original is not None and view.how == "plain" and original[view.starts[start]].isupper():
                opens = other == 0 or view.text[:start].rstrip(" \"'")[-1:] in ".?!:\n"
                if not (opens and self._is_common(word)):
                    return True
            elif not self._is_ordinary(word) and not self._kept_words.get(word, 0) > 2:
                return True
        return False

    def _is_in_title(self, number: int, begin: int, view: View, original: str) -> bool:
        """Return whether a place is in a quoted title that holds other words too: all longer ones have capitals."""
        for match in _QUOTED.finditer(view.text, max(0, begin - _TITLE_CHARACTERS), begin + _TITLE_CHARACTERS):
            if not match.start() < begin < match.end():
                continue
            words = [word for word in _WORD.finditer(view.text, match.start(), match.end()) if len(word.group()) > 3]
            return all(original[view.starts[word.start()]].isupper() for word in words) and any(
                all(alias != number for alias, _ in self._resolve(word.group())) for word in words
            )
        return False

    def _is_capital(self, words: Sequence[tuple[str, int, int]], place: int, view: View, original: str | None) -> bool:
        """Return whether a word is capitalised where plain language would not be.

        That is inside a sentence, before 's, or at a sentence's begin where it is a word that few sentences begin with.
        """
        word, start, end = words[place]
        if original is None or view.how != "plain" or not original[view.starts[start]].isupper():
            return False
        opens = place == 0 or view.text[:start].rstrip(" \"'(")[-1:] in ".?!:\n"
        return not opens or not self._is_common(word) or view.text[end:].startswith(("'s ", "' "))

    def _is_namesake(self, alias: _Alias, text: str, start: int, end: int) -> bool:
        context = text[max(0, start - _CONTEXT_CHARACTERS) : start], text[end : end + _CONTEXT_CHARACTERS]
        return differs(describes(*context), self._profiles.get(alias.forget_id, frozenset()))

    def _index_initials(self) -> dict[tuple[str, str], list[str]]:
        """Return (first letter, other part) → forget ids, for aliases of two parts and more."""
        index: dict[tuple[str, str], list[str]] = defaultdict(list)
        for alias in self._aliases:
            for place, part in enumerate(alias.parts):
                others = {other[0] for number, other in enumerate(alias.parts) if number != place}
                if len(part) >= 4 and self.weigh(alias, place, is_capital=False) > 0:
                    for letter in others:
                        index[letter, part].append(alias.forget_id)
        return dict(index)

    def _find_initials(
        self, words: Sequence[tuple[str, int, int]], view: View, original: str | None
    ) -> Iterable[NameHit]:
        """Yield "A. Lovelace" and "Lovelace A.": one letter with a dot or in capitals, beside the other part."""
        for place, (word, start, end) in enumerate(words):
            if len(word) != 1 or view.text[start - 1 : start] == "'":
                continue
            has_dot = view.text[end : end + 1] == "."
            is_capital = original is not None and view.how == "plain" and original[view.starts[start]].isupper()
            if not (has_dot or is_capital):
                continue
            if word in "ai" and not has_dot:  # An article, and who speaks.
                continue
            for other in (place - 1, place + 1, place + 2):
                if not 0 <= other < len(words) or (other == place + 2 and len(words[place + 1][0]) > 1):
                    continue
                between = view.text[min(end, words[other][2]) : max(start, words[other][1])]
                if len(between) > 6 or ("," in between and not (between == ", " and has_dot and other < place)):
                    continue
                for forget_id in self._initials.get((word, words[other][0]), ()):
                    yield NameHit(min(start, words[other][1]), max(end, words[other][2]), forget_id, WHOLE_NAME)

    def _find_squeezed(self, text: str, least: int, names: Iterable[str] | None = None) -> list[NameHit]:
        return [
            NameHit(place, place + len(squeezed), forget_id, 1.0)
            for squeezed in (self._squeezed if names is None else names)
            if len(squeezed) >= least and (place := text.find(squeezed)) >= 0
            for forget_id in dict.fromkeys(self._squeezed[squeezed])
        ]


# Short forms that are no beginning of the long one.
_SHORT_FORMS = {
    "william": "bill billy will",
    "robert": "bob bobby",
    "richard": "dick rick",
    "james": "jim jimmy jamie",
    "john": "jack johnny",
    "charles": "chuck charlie",
    "edward": "ned ted eddie",
    "theodore": "ted teddy",
    "elizabeth": "liz lizzie beth betty",
    "margaret": "maggie peggy meg",
    "katherine": "kate kathy katie",
    "leonard": "lenny leo",
    "michael": "mike mickey",
    "joseph": "joe",
    "henry": "harry hank",
    "anthony": "tony",
    "nicholas": "nick",
    "alexander": "sasha alec",
    "stephen": "steve",
    "patricia": "patti trish",
    "christopher": "kit topher",
    "lawrence": "larry",
    "gerald": "gerry jerry",
    "susan": "sue",
    "rebecca": "becky",
    "deborah": "debbie",
    "francis": "frank",
}


def find_given_names(part: str) -> set[str]:
    """Return other forms of a given name: short for long, and long for short."""
    names = set(_SHORT_FORMS.get(part, "").split())
    names |= {long for long, short in _SHORT_FORMS.items() if part in short.split()}
    if len(part) >= 3:
        names |= {long for long in _LONG_NAMES if long.startswith(part) and long != part}
    if part in _LONG_NAMES:
        names |= {part[:3], part[:4]}
    return names


_LONG_NAMES = tuple(_SHORT_FORMS) + tuple(
    "samuel timothy donald benjamin daniel david matthew gregory jonathan thomas kenneth ronald raymond philip victoria "
    "jennifer jessica samantha pamela cassandra christina alexandra gabriella isabella valentina maximilian sebastian "
    "nathaniel zachary jeffrey douglas frederick andrew vincent augustine barbara josephine angela natalie rosalind".split()
)


class Beside:
    """Which words stand beside which in kept rows, both with a capital: other people's names, whatever case or cipher they come in later."""

    def __init__(self, texts: Iterable[str], is_common: Callable[[str], bool]) -> None:
        """`is_common` says whether sentences often begin with a word."""
        self._beside: dict[str, set[str]] = defaultdict(set)
        for text in texts:
            view = normalise(text)
            words = [match for match in _WORD.finditer(view.text) if text[view.starts[match.start()]].isupper()]
            for first, second in pairwise(words):
                if view.text[first.end() : second.start()].strip(" '’-"):
                    continue
                for word, other in ((first.group(), second.group()), (second.group(), first.group())):
                    if len(other) > 1 and other not in _PARTICLES and not is_common(other):
                        self._beside[word].add(other)

    def find(self, aliases: Iterable[str]) -> list[str]:
        """Return what stands beside parts of these names, other than their own parts."""
        parts = {part for name in aliases for part in split_parts(name)}
        return sorted({other for part in parts for other in self._beside.get(part, ())} - parts)


def split_parts(name: str) -> tuple[str, ...]:
    """Return the folded parts of a name, particles and single letters left out where others remain."""
    words = _WORD.findall(normalise(name).text)
    telling = tuple(word for word in words if word not in _PARTICLES and len(word) > 1)
    # "Al Montenegro" is more than its one word that is no particle.
    return telling if len(telling) > 1 or len(telling) == len(words) else tuple(words)


def count_edits(first: str, second: str) -> int:
    """Return insertions, deletions, substitutions and swaps of neighbours between two words (optimal alignment)."""
    if abs(len(first) - len(second)) > 2:
        return 3
    before: list[int] = []
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        before, previous, row = row, before, [i]
        for j, b in enumerate(second, start=1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == second[j - 2] and first[i - 2] == b:
                cost = min(cost, previous[j - 2] + 1)
            row.append(cost)
    return row[-1]


def _mix(word: str) -> set[str]:
    """Return what a word and its scrambled spelling have in common: its letters in order, of longer ones all but one."""
    letters = "".join(sorted(word))
    found = {letters}
    if len(word) >= _SCRAMBLED_PART:
        found |= {f"{letters[:place]}{letters[place + 1 :]}-{len(word)}" for place in range(len(word))}
    return found


def _delete(word: str, reach: int) -> set[str]:
    """Return the word with up to `reach` letters left out (Garbe's symmetric deletion)."""
    found = {word}
    edge = {word}
    for _ in range(reach):
        edge = {shorter[:place] + shorter[place + 1 :] for shorter in edge for place in range(len(shorter))}
        found |= edge
    return found
