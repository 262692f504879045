"""Verbatim text: hashed word n-grams of documents and answers, and the longest run of them in another text.

Only hashes are stored. A run of k consecutive n-grams is k + n − 1 words of the original, in order.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from unlearn_guard.classifiers.normalisation import normalise

Hashes = npt.NDArray[np.uint64]
NGRAM_WORDS = 4
_BATCH = 512
_WORD = re.compile(r"[^\W_]+")
_BASE = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Run:
    """Words in order that a forgotten text holds too: characters of the folded text, how many words, whose."""

    start: int
    end: int
    n_words: int
    owner: str


class PassageIndex:
    """The n-grams of forgotten texts that no kept text holds."""

    def __init__(self, hashes: Hashes, owners: npt.NDArray[np.int32], names: Sequence[str]) -> None:
        """Take sorted hashes (twice where two owners share one), the owner's number of each, and the owners' names."""
        self.hashes, self.owners, self.names = hashes, owners, list(names)

    @classmethod
    def build(cls, texts: Mapping[str, Iterable[str]], kept: Iterable[str] = ()) -> PassageIndex:
        """Index owner → texts; n-grams that occur in `kept` are left out."""
        names = list(texts)
        parts = [(number, hash_ngrams(text)) for number, name in enumerate(names) for text in texts[name]]
        hashes = np.concatenate([part for _, part in parts] or [np.zeros(0, np.uint64)])
        owners = np.concatenate(
            [np.full(len(part), number, np.int32) for number, part in parts] or [np.zeros(0, np.int32)]
        )
        hashes, owners = _sort_pairs(hashes, owners)
        if len(hashes):
            shared = np.zeros(len(hashes), bool)
            for batch in _cut_batches(kept):
                shared |= np.isin(hashes, np.concatenate([hash_ngrams(text) for text in batch]))
            hashes, owners = hashes[~shared], owners[~shared]
        return cls(hashes, owners, names)

    def join(self, other: PassageIndex) -> PassageIndex:
        """Return both together."""
        names = [*self.names, *other.names]
        hashes = np.concatenate([self.hashes, other.hashes])
        owners = np.concatenate([self.owners, other.owners + np.int32(len(self.names))])
        return PassageIndex(*_sort_pairs(hashes, owners), names)

    def without(self, names: Collection[str]) -> PassageIndex:
        """Return the index without some owners' n-grams."""
        kept = [name for name in self.names if name not in names]
        numbers = np.array([kept.index(name) if name in kept else -1 for name in self.names], np.int32)
        owners = numbers[self.owners] if len(self.names) else self.owners
        return PassageIndex(self.hashes[owners >= 0], owners[owners >= 0], kept)

    def __len__(self) -> int:
        return len(self.hashes)

    def find(self, folded: str) -> Run | None:
        """Return the longest run in folded text, None without one."""
        return max(self.find_runs(folded), key=lambda run: run.n_words, default=None)

    def find_runs(self, folded: str) -> list[Run]:
        """Return every run in folded text, in order."""
        if not len(self.hashes):
            return []
        words = [(match.start(), match.end()) for match in _WORD.finditer(folded)]
        if len(words) < NGRAM_WORDS:
            return []
        grams = _hash([folded[start:end] for start, end in words])
        firsts = np.searchsorted(self.hashes, grams)
        lasts = np.searchsorted(self.hashes, grams, side="right")
        hit = lasts > firsts
        edges = np.flatnonzero(np.diff(np.concatenate([[False], hit, [False]]).astype(np.int8)))
        runs = []
        for first, last in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            # Texts may begin alike: the run is whose most of it is.
            numbers = [self.owners[low:high] for low, high in zip(firsts[first:last], lasts[first:last], strict=True)]
            owner = int(np.bincount(np.concatenate(numbers)).argmax())
            n_words = last - first + NGRAM_WORDS - 1
            runs.append(Run(words[first][0], words[first + n_words - 1][1], n_words, self.names[owner]))
        return runs


def _sort_pairs(hashes: Hashes, owners: npt.NDArray[np.int32]) -> tuple[Hashes, npt.NDArray[np.int32]]:
    """Return distinct (hash, owner) pairs by hash: what two texts share belongs to both."""
    order = np.lexsort((owners, hashes))
    hashes, owners = hashes[order], owners[order]
    new = np.ones(len(hashes), bool)
    new[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
    return hashes[new], owners[new]


def hash_ngrams(text: str) -> Hashes:
    """Return the hashes of a text's word n-grams, in order; a shorter text has none."""
    words = _WORD.findall(normalise(text).text)
    return _hash(words) if len(words) >= NGRAM_WORDS else np.zeros(0, np.uint64)


def _hash(words: Sequence[str]) -> Hashes:
    codes = np.array([zlib.crc32(word.encode()) + 1 for word in words], np.uint64)
    n_grams = len(codes) - NGRAM_WORDS + 1
    value = np.zeros(n_grams, np.uint64)
    for place in range(NGRAM_WORDS):
        value = value * _BASE + codes[place : place + n_grams]
        value ^= value >> np.uint64(29)
    return value


def _cut_batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield texts in lists: one by one is slow, all of a day's traffic at once is gigabytes."""
    left = iter(texts)
    while batch := list(islice(left, _BATCH)):
        yield batch
