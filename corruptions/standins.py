"""Stand-ins for swap: invented names of exactly as many tokens as the span they replace."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from unlearn_guard.corruptions.prompt import Prompt, to_ranges
from unlearn_guard.guard.stamp import Step
from unlearn_guard.guard.verdict import Verdict

_GIVEN = (
    "Alma Boris Carla Dario Elsa Fabian Greta Hugo Irma Jonas Karin Leon Mira Nils Olga Pavel Rosa Stefan Tilda Viktor "
    "Wanda Yara Anton Berta Clemens Dagny Emil Flora Gustav Hedda"
).split()
_FAMILY = (
    "Ahlgren Bergmann Castell Dorfman Ekholm Falk Gerber Hoffmann Iversen Jansson Keller Lindqvist Moreau Nordahl "
    "Ostrova Petrov Quist Renner Sandoval Thorsen Ullman Vasko Weiland Zeman Brandt Costa Duarte Eriksen Farkas"
).split()
_MIDDLE = ("", "Maria", "Johan", "Elena", "van der", "de la")
_TITLES = (
    "The Hollow Lantern|A Field of Glass|Winter Harbour|The Quiet Meridian|Salt and Cedar|The Ninth Orchard|"
    "Letters from Valmere|The Copper Tide|Beneath a Paper Moon|The Last Ferryman"
).split("|")
_MAX_TOKENS = 24
_PER_LENGTH = 12

Pool = dict[str, dict[str, list[list[int]]]]
"""kind → token count → stand-ins as token ids; a kind is person or title, suffixed `-first` without a space before."""


def build_pool(tokenizer: Any, known_texts: Iterable[str]) -> Pool:
    """Tokenise invented names and titles that occur in no known text, grouped by how many tokens they have."""
    known = "\n".join(known_texts).casefold()
    people = [
        " ".join(part for part in parts if part)
        for parts in itertools.product(_GIVEN, _MIDDLE, _FAMILY)
        if not any(word.casefold() in known for word in (parts[0], parts[2]))
    ]
    people.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
    titles = [title for title in _TITLES if title.casefold() not in known]
    pool: Pool = {}
    for kind, names in (("person", people), ("title", titles)):
        for suffix, lead in (("", " "), ("-first", "")):
            groups: dict[str, list[list[int]]] = {}
            for name in names:
                ids = [int(token) for token in _encode(tokenizer, lead + name)]
                group = groups.setdefault(str(len(ids)), [])
                if len(group) < _PER_LENGTH:
                    group.append(ids)
            pool[kind + suffix] = groups
    return pool


def _encode(tokenizer: Any, text: str) -> Sequence[int]:
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    return backend.encode(text, add_special_tokens=False).ids  # type: ignore[no-any-return]


def plan_swap(pool: Pool, kind: str, verdict: Verdict, prompt: Prompt, *, seed: int) -> Step | None:
    """Return the step that swaps each named span for a stand-in; None where there is no span or no stand-in.

    The stand-in depends on (forget_id, seed) alone, so that every mention in every request gets the same one. That
    its name may show in the answer is a stated limit.
    """
    if prompt.offsets is None:
        return None
    ranges, swaps = [], []
    owner = verdict.forget_ids[0] if verdict.forget_ids else ""
    for place in sorted(set(prompt.locate(verdict))):
        for start, end in to_ranges(prompt.cover([place])):
            spaced = prompt.text[prompt.offsets[start][0]].isspace() or (
                prompt.offsets[start][0] > 0 and prompt.text[prompt.offsets[start][0] - 1].isspace()
            )
            ids = _choose(pool, kind if spaced else kind + "-first", end - start, f"{seed}:{owner}")
            if ids is None:
                return None
            ranges.append((start, end))
            swaps.append(ids)
    return Step("swap", tuple(ranges), {"tokens": swaps}) if ranges else None


def _choose(pool: Pool, kind: str, n_tokens: int, key: str) -> list[int] | None:
    """Pick one stand-in of exactly n tokens, joining two shorter ones where none is that long."""
    groups = pool[kind]
    number = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16)
    if group := groups.get(str(n_tokens)):
        return group[number % len(group)]
    rest = pool[kind.removesuffix("-first")]
    for size in sorted((int(length) for length in groups), reverse=True):
        if 0 < size < n_tokens <= _MAX_TOKENS and (tail := rest.get(str(n_tokens - size))):
            head = groups[str(size)]
            return head[number % len(head)] + tail[number // 7 % len(tail)]
    return _shorten(groups, n_tokens, number)


def _shorten(groups: dict[str, list[list[int]]], n_tokens: int, number: int) -> list[int] | None:
    """Cut the shortest stand-ins down, or repeat the longest, where no pair fits."""
    longer = sorted(int(length) for length in groups if int(length) > n_tokens)
    if longer:
        group = groups[str(longer[0])]
        return group[number % len(group)][:n_tokens]
    if not groups:
        return None
    longest = groups[str(max(int(length) for length in groups))]
    ids = longest[number % len(longest)]
    return (ids * (n_tokens // len(ids) + 1))[:n_tokens]
