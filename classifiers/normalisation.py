"""Fold text so that look-alike spellings compare equal, and remember where each character came from."""

from __future__ import annotations

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
    if text.isascii() and "  " not in text and "`" not in text and text.isprintable():
        return Normalised(text.lower(), range(len(text)), range(1, len(text) + 1))
    folded: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for position, character in enumerate(text):
        for piece in _fold(character):
            if piece == " " and folded and folded[-1] == " ":
                ends[-1] = position + 1
                continue
            folded.append(piece)
            starts.append(position)
            ends.append(position + 1)
    return Normalised("".join(folded), starts, ends)


@lru_cache(maxsize=8192)
def _fold(character: str) -> str:
    if character.isspace():
        return " "
    decomposed = unicodedata.normalize("NFKD", character).casefold()
    kept = "".join(piece for piece in decomposed if unicodedata.category(piece) not in {"Mn", "Cf", "Cc"})
    return kept.translate(_LOOK_ALIKES)
