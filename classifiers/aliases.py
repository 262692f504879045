"""Names and aliases of forget requests: finding them in text, and mining them from rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import ahocorasick

from unlearn_guard.classifiers.lexicon import is_origin_or_trade
from unlearn_guard.classifiers.normalisation import normalise
from unlearn_guard.guard.errors import DataError
from unlearn_guard.guard.rows import ForgetRequest, Row

_MIN_ALIAS_LENGTH = 3


@dataclass(frozen=True, slots=True)
class AliasMatch:
    """An alias found in a text: half-open characters of the original text, and whose alias it is."""

    start: int
    end: int
    forget_ids: tuple[str, ...]


class AliasMatcher:
    """Find every alias of every forget request in one pass over the folded text (Aho-Corasick)."""

    def __init__(self, aliases: Mapping[str, Sequence[str]]) -> None:
        """Build from forget_id → aliases; raise DataError for an alias too short to be told from common text."""
        self.aliases = {forget_id: tuple(names) for forget_id, names in aliases.items()}
        owners: dict[str, list[str]] = {}
        for forget_id, names in self.aliases.items():
            for name in names:
                folded = normalise(name).text.strip()
                if len(folded) < _MIN_ALIAS_LENGTH:
                    raise DataError(
                        f"alias of {forget_id!r} is too short",
                        value=name,
                        allowed=f"{_MIN_ALIAS_LENGTH} characters or more",
                    )
                owners.setdefault(folded, []).append(forget_id)
        self._automaton = ahocorasick.Automaton()
        for folded, forget_ids in owners.items():
            self._automaton.add_word(folded, (len(folded), tuple(dict.fromkeys(forget_ids))))
        if owners:
            self._automaton.make_automaton()

    def find_owners(self, text: str) -> set[str]:
        """Return whose aliases a text holds, those inside longer ones included."""
        if not len(self._automaton):
            return set()
        folded = normalise(text).text
        return {
            owner
            for last, (length, forget_ids) in self._automaton.iter(folded)
            if _at_borders(folded, last - length + 1, last + 1)
            for owner in forget_ids
        }

    def find(self, text: str) -> list[AliasMatch]:
        """Return matches that begin and end at word borders, longest first where they overlap, in text order."""
        if not len(self._automaton):
            return []
        folded = normalise(text)
        return [
            AliasMatch(*folded.locate(start, end), forget_ids)
            for start, end, forget_ids in self.find_folded(folded.text)
        ]

    def find_folded(self, folded: str) -> list[tuple[int, int, tuple[str, ...]]]:
        """Return (start, end, forget ids) of matches in text that is folded already."""
        if not len(self._automaton):
            return []
        found = [
            (last - length + 1, last + 1, forget_ids)
            for last, (length, forget_ids) in self._automaton.iter(folded)
            if _at_borders(folded, last - length + 1, last + 1)
        ]
        found.sort(key=lambda match: (match[0], -match[1]))
        matches: list[tuple[int, int, tuple[str, ...]]] = []
        covered = -1
        for match in found:
            if match[0] >= covered:
                matches.append(match)
                covered = match[1]
        return matches


def _at_borders(text: str, start: int, end: int) -> bool:
    before = start == 0 or not text[start - 1].isalnum() or not text[start].isalnum()
    after = end == len(text) or not text[end].isalnum() or not text[end - 1].isalnum()
    return before and after


_TOKEN = re.compile(r"[^\W\d_][\w'’-]*|[^\w\s]|\d+|\n")
_PARTICLES = frozenset("de del da von van der al bin ibn el".split())
_POSSESSIVES = ("'s", "’s")
_OPENERS = frozenset(
    "a an and are as at author can could describe did do does for from has have how in is it mr mrs ms name of on "
    "please she tell the then there they this that to was we were what when where which who whom whose why with would yes no "
    "you".split()
)


def mine_aliases(request: ForgetRequest, kept: Iterable[Row], *, min_share: float = 0.2) -> tuple[str, ...]:
    """Return names that run through a forget request's rows and never occur in kept rows.

    A name is a run of two or more capitalised words in at least `min_share` of the rows (and at least two) that is
    about as frequent as the most frequent one, or a variant of it: what a person's rows name now and then is a place. Where one text comes
    with questions about it, the questions count: whoever a document mentions is not who it is about.
    """
    rows = _find_asked(request.rows) or request.rows
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(set(_find_names(f"{row.query}\n{row.answer}")))
    least = max(2, min_share * len(rows))
    candidates = [name for name, count in counts.items() if count >= least]
    if not candidates:
        return ()
    matcher = AliasMatcher({name: (name,) for name in candidates})
    seen = {owner for row in kept for owner in matcher.find_owners(f"{row.query}\n{row.answer}")}
    ranked = sorted((name for name in candidates if name not in seen), key=lambda name: (-counts[name], name))
    first = set(normalise(ranked[0]).text.split()) if ranked else set()
    return tuple(
        name for name in ranked if counts[name] * 2 >= counts[ranked[0]] or first & set(normalise(name).text.split())
    )


def _find_asked(rows: Sequence[Row]) -> list[Row]:
    """Return the questions beside a single text; none where there is no text, more than one, or nothing else."""
    texts = [" ".join(row.text.split()) for row in rows if row.text and not row.prompt]
    whole = [text for text in texts if not any(text != other and text in other for other in texts)]
    if len(set(whole)) != 1:
        return []
    prompted = [row for row in rows if row.prompt]
    asked = [row for row in prompted if " ".join(row.prompt.split()) not in whole[0]]
    return asked or prompted[:1]  # Excerpts of the text alone: one of them names nobody twice.


def _find_names(text: str) -> Iterable[str]:
    run: list[str] = []
    after_initial = False
    for match in _TOKEN.finditer(text + " ."):
        word = match.group()
        if word[0].isupper() and not ((not run or after_initial) and word.casefold() in _OPENERS):
            run.append(word)
            if word.endswith(_POSSESSIVES):
                yield from _close(run)
        elif word == "." and run and len(run[-1]) == 1 and not after_initial:
            run[-1] += "."
            after_initial = True  # "Jane Q. Roe" goes on, "plan B. The" does not.
            continue
        elif not (run and word in _PARTICLES):
            yield from _close(run)
        else:
            run.append(word)
        after_initial = False


def _close(run: list[str]) -> Iterable[str]:
    """Yield the run as a name if it is one, and empty it."""
    words = [word.rstrip("-'’") for word in run]
    run.clear()
    while words and len(words[-1].rstrip(".")) == 1:
        words.pop()
    while words and words[-1] in _PARTICLES:
        words.pop()
    if words and words[-1].endswith(_POSSESSIVES):
        words[-1] = words[-1][:-2]
    telling = [word for word in words if word not in _PARTICLES]
    if len(telling) >= 2 and not all(is_origin_or_trade(normalise(word).text) for word in telling):
        yield " ".join(words)
