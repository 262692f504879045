"""Undo disguises: each view of a text is what a reader, or a model told to decode it, would see.

The work is bounded: at most MAX_DECODED encoded segments, two levels deep.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import html
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from unlearn_guard.classifiers.normalisation import Normalised, normalise

MAX_DECODED = 32
"""Encoded segments looked into per text."""
_DEPTH = 2
_LEET = str.maketrans("013457@$!|8", "oieastasilb")
_LEET_RUN = re.compile(r"(?<![a-z0-9@$!|])[a-z0-9@$!|]*?[013457@$!|8][a-z0-9@$!|]*")
_MEASURE = re.compile(r"\d*(?:1st|2nd|3rd|[04-9]th|1[123]th)|\d+(?:am|pm|s|d|k|x|m|kg|km|cm|mm|ml|mb|gb|tb)")
_LEET_SIGNS = frozenset("013457@$!|8")
_MAX_LEET = 64
_SPACED = re.compile(r"(?<![^\W_])(?:[^\W_][ ._*|/\\'’-]{1,3}){3,}[^\W_](?![^\W_])")
# In one piece, or wrapped as mail and PEM files wrap it.
_BASE64 = re.compile(
    r"(?<![A-Za-z0-9+/_-])(?:(?:[A-Za-z0-9+/_-]{40,80}\r?\n)+[A-Za-z0-9+/_-]{2,}|[A-Za-z0-9+/_-]{12,})={0,2}(?![A-Za-z0-9+/_=-])"
)
_HEX = re.compile(r"(?<![0-9A-Fa-f])(?:[0-9A-Fa-f]{2}[ :,]?){8,}(?![0-9A-Fa-f])")
_CAMEL = re.compile(r"[a-z][A-Z](?=[a-z])")
_ESCAPE = re.compile(r"\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}|%[0-9A-Fa-f]{2}|&(?:#\d+|#x[0-9A-Fa-f]+|[a-z]+);")
_UNICODE_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2}))")
_FOREIGN_WORD = re.compile(r"[^\W\d_a-zA-Z]+")
_ROT13 = str.maketrans(codecs.decode("abcdefghijklmnopqrstuvwxyz", "rot13"), "abcdefghijklmnopqrstuvwxyz")
_WORD = re.compile(r"[^\W\d_]+")
_LINE = re.compile(r"[^\r\n]+")
_LEAST_LETTERS = 5
_LINE_BREAK = re.compile(r"\n+")
_LEAST_WORD = 3
"""Letters of a word that can tell language from nonsense."""
_MOST_PLAIN = 2
"""Ordinary words in a row that turned text may hold by chance."""
_TURNED_SHARE = 0.3
_AROUND = 80
"""Characters on both sides of a local disguise that are read with it."""


@dataclass(frozen=True, slots=True)
class View:
    """One reading of a text: folded, how it came about, and the original characters behind it."""

    text: str
    how: str
    starts: Sequence[int]
    ends: Sequence[int]

    def locate(self, start: int, end: int) -> tuple[int, int]:
        """Return the original half-open span behind a non-empty span of this view."""
        return min(self.starts[start], self.starts[end - 1]), max(self.ends[start], self.ends[end - 1])

    def find_lines(self, original: str) -> list[int]:
        """Return the places behind the original's line breaks, in order."""
        if "\n" not in original or not len(self.starts):
            return []
        if self.how == "reversed":
            return [place + 1 for place, start in enumerate(self.starts) if original[start] == "\n"]
        low, high = self.starts[0], self.ends[-1]
        breaks = [match.start() for match in _LINE_BREAK.finditer(original, low, high)]
        return [bisect_right(self.starts, place) for place in breaks]


class Views(list[View]):
    """Every view of a text, the plain one first."""

    complete = True
    """False where the text holds more encoded segments than are looked into."""


def read_views(text: str, is_word: Callable[[str], bool] | None = None) -> Views:
    """Return the plain view, then every view that differs from it.

    `is_word` says whether a folded word is ordinary language, or worth noticing: stretches that are not are read as
    rot13 and in reverse, where that makes words of them. Without it both readings of the whole text are taken.
    """
    folded = normalise(text)
    left = [MAX_DECODED]
    views = Views([View(folded.text, "plain", folded.starts, folded.ends), *_undo(text, folded, is_word, left)])
    views.complete = left[0] >= 0
    return views


def decode_segments(
    text: str, depth: int = _DEPTH, left: list[int] | None = None
) -> Iterator[tuple[int, int, str, str]]:
    """Yield (start, end, how, decoded text) of base64 and hex segments, decoded again where they hold another.

    `left` counts down from MAX_DECODED over all levels; below 0 there was more than that.
    """
    left = [MAX_DECODED] if left is None else left
    for how, pattern, decode in (("hex", _HEX, _decode_hex), ("base64", _BASE64, _decode_base64)):
        for match in pattern.finditer(text):
            for start, end, decoded in _decode_lines(match.group(), match.start(), decode):
                left[0] -= 1
                if left[0] < 0:
                    return
                yield start, end, how, decoded
                if depth > 1:
                    for _, _, inner, content in decode_segments(decoded, depth - 1, left):
                        yield start, end, f"{how}+{inner}", content


def _decode_lines(segment: str, offset: int, decode: Callable[[str], str | None]) -> Iterator[tuple[int, int, str]]:
    """Yield (start, end, decoded text) of a segment as a whole, else without a line above or below, else line by line."""
    lines = [(match.start(), match.end()) for match in _LINE.finditer(segment)]
    # A rule of dashes above is no part of what it rules off.
    lines = [line for line in lines if len(lines) == 1 or len(set(segment[slice(*line)])) >= _LEAST_LETTERS]
    for group in (lines, lines[1:], lines[:-1]):
        if group and (decoded := decode(segment[group[0][0] : group[-1][1]])) is not None:
            yield offset + group[0][0], offset + group[-1][1], decoded
            return
    for start, end in lines:
        if (decoded := decode(segment[start:end])) is not None:
            yield offset + start, offset + end, decoded


def turn_word(word: str) -> tuple[str, str]:
    """Return what a folded word would be in rot13 and in reverse."""
    return word.translate(_ROT13), word[::-1]


def _undo(text: str, folded: Normalised, is_word: Callable[[str], bool] | None, left: list[int]) -> Iterable[View]:
    yield from _undo_leet(folded)
    yield from _join_letters(folded)
    for start, end in _widen((match.span() for match in _CAMEL.finditer(text)), len(text)):
        yield _shift(_split_camel(text[start:end]), start)
    for start, end in _widen((match.span() for match in _ESCAPE.finditer(text)), len(text)):
        if (plain := _unescape(text[start:end])) != text[start:end]:
            inner = normalise(plain)
            yield View(inner.text, "escapes", [start] * len(inner.text), [end] * len(inner.text))
    if not text.isascii():
        yield from _transliterate(text)
    for start, end, how, decoded in decode_segments(text, left=left):
        inner = normalise(decoded)
        yield View(inner.text, how, [start] * len(inner.text), [end] * len(inner.text))
    yield from _turn(text, folded, is_word)


def _undo_leet(folded: Normalised) -> Iterable[View]:
    """Map digits and signs inside words back to letters, one to one."""
    undone = {
        match.span(): plain
        for match in _LEET_RUN.finditer(folded.text)
        if (plain := _read_leet(match)) != match.group()
    }
    if not undone:
        return
    letters = list(folded.text)
    for (start, end), plain in undone.items():
        letters[start:end] = plain
    for start, end in _widen(undone, len(letters)):
        yield View("".join(letters[start:end]), "leet", folded.starts[start:end], folded.ends[start:end])


def _read_leet(match: re.Match[str]) -> str:
    word = match.group()
    if len(word) > _MAX_LEET and "|" in word:  # So many in one run part words.
        return "|".join(_read_leet_word(piece) for piece in word.split("|"))
    return _read_leet_word(word)


def _read_leet_word(word: str) -> str:
    inner = word.strip("!|")
    mixed = len(word) <= _MAX_LEET and any(map(str.isalpha, inner)) and not _LEET_SIGNS.isdisjoint(inner)
    return word.translate(_LEET) if mixed and not _MEASURE.fullmatch(word) else word


def _widen(spans: Iterable[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    """Return the stretches around spans, overlapping ones merged; the whole text where they are many."""
    stretches: list[tuple[int, int]] = []
    for start, end in spans:
        start, end = max(0, start - _AROUND), min(length, end + _AROUND)
        if stretches and start <= stretches[-1][1]:
            stretches[-1] = (stretches[-1][0], end)
        else:
            stretches.append((start, end))
    return stretches if len(stretches) <= MAX_DECODED else [(0, length)]


def _shift(view: View, by: int) -> View:
    return View(view.text, view.how, [start + by for start in view.starts], [end + by for end in view.ends])


def _split_camel(text: str) -> View:
    """Put a space where a capital follows a small letter: "isAda Lovelace" holds a name too."""
    pieces: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    cursor = 0
    for place in [*(match.start() + 1 for match in _CAMEL.finditer(text)), len(text)]:
        inner = normalise(text[cursor:place])
        pieces += [inner.text, " "]
        starts += [*(cursor + start for start in inner.starts), place - 1]
        ends += [*(cursor + end for end in inner.ends), place]
        cursor = place
    return View("".join(pieces)[:-1], "camel", starts[:-1], ends[:-1])


def _unescape(text: str) -> str:
    """Undo backslash-u, percent and HTML escapes."""
    text = _UNICODE_ESCAPE.sub(lambda match: chr(int(match.group(1) or match.group(2), 16)), text)
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return html.unescape(unquote(text) if "%" in text else text)


def _join_letters(folded: Normalised) -> Iterable[View]:
    """Join runs of single letters, with what stands around them; where words ended inside a run is lost."""
    runs = {match.span(): "".join(filter(str.isalnum, match.group())) for match in _SPACED.finditer(folded.text)}
    for begin, stop in _widen(runs, len(folded.text)):
        text: list[str] = []
        starts: list[int] = []
        ends: list[int] = []
        cursor = begin
        for (start, end), joined in [*runs.items(), ((stop, stop), "")]:
            if not begin <= start <= stop:
                continue
            places = [place for place in range(start, end) if folded.text[place].isalnum()]
            text += [folded.text[cursor:start], joined]
            starts += [folded.starts[place] for place in (*range(cursor, start), *places)]
            ends += [folded.ends[place] for place in (*range(cursor, start), *places)]
            cursor = end
        yield View("".join(text), "joined", starts, ends)


def _transliterate(text: str) -> Iterable[View]:
    """Spell words of other scripts in Latin letters; words that mix scripts are look-alikes, and stay folded."""
    from anyascii import anyascii

    spelt = {}
    for match in _WORD.finditer(text):
        word = match.group()
        if not word.isascii() and _FOREIGN_WORD.fullmatch(word):
            latin = normalise(anyascii(word)).text
            if latin != normalise(word).text:
                spelt[match.span()] = latin
    for begin, stop in _widen(spelt, len(text)):
        yield _spell(text, begin, stop, spelt)


def _spell(text: str, begin: int, stop: int, spelt: Mapping[tuple[int, int], str]) -> View:
    """Return characters [begin, stop) of a text with the words that are spelt otherwise."""
    pieces: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    cursor = begin
    for (start, end), latin in spelt.items():
        if start < begin or end > stop:
            continue
        before = normalise(text[cursor:start])
        pieces += [before.text, latin]
        starts += [cursor + place for place in before.starts] + [start] * len(latin)
        ends += [cursor + place for place in before.ends] + [end] * len(latin)
        cursor = end
    rest = normalise(text[cursor:stop])
    pieces.append(rest.text)
    starts += [cursor + place for place in rest.starts]
    ends += [cursor + place for place in rest.ends]
    return View("".join(pieces), "transliterated", starts, ends)


def _turn(original: str, folded: Normalised, is_word: Callable[[str], bool] | None) -> Iterable[View]:
    """Read stretches of nonsense as rot13 and in reverse; whatever surrounds them says how to, and is no part of them."""
    stretches = [(0, len(folded.text))] if is_word is None else _find_nonsense(folded.text, is_word)
    many: dict[str, list[View]] = {"rot13": [], "reversed": []}
    for start, end in stretches:
        text = folded.text[start:end]
        starts, ends = folded.starts[start:end], folded.ends[start:end]
        least = 0.0 if is_word is None else max(_share_words(text, is_word), _TURNED_SHARE)
        for how, turned in (("rot13", _rotate(text, original, starts)), ("reversed", text[::-1])):
            if is_word is None or _share_words(turned, is_word) > least:
                places = (starts[::-1], ends[::-1]) if how == "reversed" else (starts, ends)
                many[how].append(View(turned, how, *places))
    for views in many.values():
        yield from views[:MAX_DECODED]
        if rest := views[MAX_DECODED:]:
            yield _concatenate(rest)


def _concatenate(views: Sequence[View]) -> View:
    """Return one view of several, each a sentence."""
    text, starts, ends = [], [], []
    for view in views:
        text.append(f"{view.text}. ")
        starts += [*view.starts, view.starts[-1], view.starts[-1]]
        ends += [*view.ends, view.ends[-1], view.ends[-1]]
    return View("".join(text), views[0].how, starts, ends)


def _rotate(text: str, original: str, starts: Sequence[int]) -> str:
    """Undo rot13 of what had been a plain letter before folding: an accented one stays as it is."""
    turned = text.translate(_ROT13)
    if original.isascii():
        return turned
    return "".join(
        new if original[start].isascii() else old for old, new, start in zip(text, turned, starts, strict=True)
    )


def _find_nonsense(text: str, is_word: Callable[[str], bool]) -> list[tuple[int, int]]:
    """Return stretches around words that are none; a few ordinary ones in a row do not end a stretch."""
    stretches: list[tuple[int, int]] = []
    n_plain = _MOST_PLAIN + 1
    before = start = 0
    for match in _WORD.finditer(text):
        if len(word := match.group()) >= _LEAST_WORD:
            if is_word(word):
                n_plain += 1
            else:
                if n_plain > _MOST_PLAIN:
                    start = before  # The short words before it may be turned too.
                    stretches.append((start, match.end()))
                stretches[-1] = (start, match.end())
                n_plain = 0
            before = match.end()
    # And so may the short words and signs behind it.
    return [(begin, _find_end(text, end)) for begin, end in stretches]


def _find_end(text: str, end: int) -> int:
    following = next((match for match in _WORD.finditer(text, end) if len(match.group()) >= _LEAST_WORD), None)
    return following.start() if following else len(text)


def _share_words(text: str, is_word: Callable[[str], bool]) -> float:
    """Return the share of ordinary words among the words long enough to tell."""
    judged = [is_word(word) for word in _WORD.findall(text) if len(word) >= _LEAST_WORD]
    return sum(judged) / len(judged) if judged else 0.0


def _decode_base64(segment: str) -> str | None:
    core = "".join(segment.split()).rstrip("=").replace("-", "+").replace("_", "/")
    if len(core) % 4 == 1 or core.isdigit():
        return None
    try:
        return _as_text(base64.b64decode(core + "=" * (-len(core) % 4), validate=True))
    except (binascii.Error, ValueError):
        return None


def _decode_hex(segment: str) -> str | None:
    digits = re.sub(r"[ :,]", "", segment)
    return _as_text(bytes.fromhex(digits)) if len(digits) % 2 == 0 else None


def _as_text(content: bytes) -> str | None:
    """Return bytes as text where they are printable UTF-8 with letters, else None."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return None
    printable = sum(character.isprintable() or character in "\n\t" for character in text)
    letters = sum(character.isalnum() or character == " " for character in text)
    return text if text and printable == len(text) and letters >= 0.6 * len(text) else None
