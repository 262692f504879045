"""Fold text so that look-alike spellings compare equal, and remember where each character came from."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

# Letters of other scripts that are drawn like Latin ones, and typographic variants of ASCII punctuation.
_LOOK_ALIKES = str.maketrans(
    {
        **dict(zip("аеорсухіјѕһԁԛԝɡ", "aeopcyxijshdqwg", strict=True)),
        **dict(zip("αεικνορτυχ", "aeiknoptux", strict=True)),
        **dict.fromkeys("‘’ʼ`´ʻ", "'"),
        **dict.fromkeys("‐‑‒–—−", "-"),
        **dict.fromkeys("“”„«»", '"'),
        "ı": "i",
        "ł": "l",
        "ø": "o",
        "đ": "d",
    }
)
# Capitals that look like Latin ones though their small letters do not, and letters that are drawn as nothing.
_CAPITALS = str.maketrans(dict(zip("ВМНКТΒΗΜΖΚΝ", "bmhktbhmzkn", strict=True)))
_BLANKS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
# Whatever is not copied as it stands: anything beyond printable ASCII, the backtick, and runs of space.
_ODD = re.compile(r"[^ -_a-~]+|  +")


@dataclass(frozen=True, slots=True)
class Normalised:
    """Folded text; `starts[i]`, `ends[i]` are the original characters behind folded character i, half-open."""

    text: str
    starts: Sequence[int]
    ends: Sequence[int]

    def locate(self, start: int, end: int) -> tuple[int, int]:
        """Return the original half-open span behind a non-empty folded span."""
        return self.starts[start], self.ends[end - 1]


def normalise(text: str) -> Normalised:
    """Fold compatibility forms, case, diacritics, invisible characters, look-alikes and runs of space."""
    first = _ODD.search(text)
    if first is None:
        return Normalised(text.lower(), range(len(text)), range(1, len(text) + 1))
    folded: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    after_space = False
    cursor = 0
    for odd in _ODD.finditer(text, first.start()):
        if odd.start() > cursor:
            start = cursor
            if after_space and text[start] == " ":
                ends[-1] = start + 1
                start += 1
            _copy(text, start, odd.start(), folded, starts, ends)
            after_space = text[odd.start() - 1] == " "
        for position in range(odd.start(), odd.end()):
            for piece in _fold(text[position]):
                if piece == " " and after_space:
                    ends[-1] = position + 1
                    continue
                folded.append(piece)
                starts.append(position)
                ends.append(position + 1)
                after_space = piece == " "
        cursor = odd.end()
    if after_space and text[cursor : cursor + 1] == " ":
        ends[-1] = cursor + 1
        cursor += 1
    _copy(text, cursor, len(text), folded, starts, ends)
    return Normalised("".join(folded), starts, ends)


def _copy(text: str, start: int, end: int, folded: list[str], starts: list[int], ends: list[int]) -> None:
    """Take over printable ASCII, which folds one to one."""
    folded.append(text[start:end].lower())
    starts.extend(range(start, end))
    ends.extend(range(start + 1, end + 1))


@lru_cache(maxsize=8192)
def _fold(character: str) -> str:
    if character.isspace():
        return " "
    if character in _BLANKS:
        return ""
    decomposed = unicodedata.normalize("NFKD", character.translate(_CAPITALS)).casefold()
    kept = "".join(piece for piece in decomposed if unicodedata.category(piece) not in {"Mn", "Cf", "Cc", "Cs"})
    return kept.translate(_LOOK_ALIKES)
