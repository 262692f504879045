"""Rare spans that identify a person without the name: full dates and quoted titles, mined from forget rows."""

from __future__ import annotations

import re
from collections.abc import Iterable

from unlearn_guard.classifiers.aliases import AliasMatcher
from unlearn_guard.classifiers.normalisation import normalise
from unlearn_guard.guard.rows import ForgetRequest, Row

_MONTHS = "january february march april may june july august september october november december".split()
_MONTH = "|".join(_MONTHS)
_FLAGS = re.IGNORECASE | re.ASCII  # Without ASCII, "ſ" would pass for an s.
_DAY_FIRST = re.compile(rf"\b(\d{{1,2}})(?:st|nd|rd|th)?(?: of)? ({_MONTH}),? (\d{{4}})\b", _FLAGS)
_MONTH_FIRST = re.compile(rf"\b({_MONTH}) (\d{{1,2}})(?:st|nd|rd|th)?,? (\d{{4}})\b", _FLAGS)
_SLASHED = re.compile(r"\b(\d{1,2})/(\d{1,2})/(\d{4})\b")
_DOTTED = re.compile(r"\b(\d{1,2})\.(\d{1,2})\.(\d{4})\b")
_ISO = re.compile(r"\b(\d{4})-(\d{2})-(\d{2})\b")
_TITLE = re.compile(r"[\"“]([^\"“”\n]{1,80})[\"”]")
_MIN_TITLE_LENGTH = 4


def mine_facts(request: ForgetRequest, kept: Iterable[Row]) -> tuple[str, ...]:
    """Return dates, in every usual spelling, and titles of a forget request that no kept row holds."""
    texts = [f"{row.query}\n{row.answer}" for row in request.rows]
    spellings = {fact: spelt for text in texts for fact, spelt in _find_facts(text)}
    if not spellings:
        return ()
    # One owner per fact, so that a date which kept rows spell in another way is shared all the same.
    matcher = AliasMatcher(spellings)
    seen = {owner for row in kept for owner in matcher.find_owners(f"{row.query}\n{row.answer}")}
    return tuple(dict.fromkeys(spelling for fact, spelt in spellings.items() if fact not in seen for spelling in spelt))


def _find_facts(text: str) -> Iterable[tuple[str, tuple[str, ...]]]:
    """Yield (fact, its spellings)."""
    for quoted in _TITLE.findall(text):
        title = quoted.strip(" .,!?")
        if len(normalise(title).text.strip()) >= _MIN_TITLE_LENGTH:
            yield title, (title,)
    dates = {(int(year), _month(month), int(day)) for day, month, year in _DAY_FIRST.findall(text)}
    dates |= {(int(year), _month(month), int(day)) for month, day, year in _MONTH_FIRST.findall(text)}
    dates |= {(int(year), int(month), int(day)) for year, month, day in _ISO.findall(text)}
    dates |= {(int(year), int(month), int(day)) for day, month, year in _DOTTED.findall(text)}
    for first, second, year in _SLASHED.findall(text):
        # Month first, as in TOFU, unless only day first makes a date.
        month, day = (int(first), int(second)) if int(first) <= 12 else (int(second), int(first))
        dates.add((int(year), month, day))
    for year, month, day in sorted(dates):
        if spelt := _spell_date(year, month, day):
            yield f"{year:04d}-{month:02d}-{day:02d}", tuple(spelt)


def _month(name: str) -> int:
    return _MONTHS.index(name.lower()) + 1


def _spell_date(year: int, month: int, day: int) -> list[str]:
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return []
    name = _MONTHS[month - 1]
    suffix = {1: "st", 2: "nd", 3: "rd"}.get(day % 10 if day not in (11, 12, 13) else 0, "th")
    return [
        f"{day} {name} {year}",
        f"{day}{suffix} {name} {year}",
        f"{day}{suffix} of {name} {year}",
        f"{day}{suffix} of {name}, {year}",
        f"{name} {day} {year}",
        f"{name} {day}, {year}",
        f"{name} {day}{suffix} {year}",
        f"{name} {day}{suffix}, {year}",
        f"{month:02d}/{day:02d}/{year}",
        f"{day:02d}/{month:02d}/{year}",
        f"{month}/{day}/{year}",
        f"{day}/{month}/{year}",
        f"{day}.{month}.{year}",
        f"{day:02d}.{month:02d}.{year}",
        f"{year}-{month:02d}-{day:02d}",
    ]
