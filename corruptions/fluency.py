"""How an answer compares with a reference, and whether it is still language: shared by tuning and benchmark.

ROUGE-L recall is rouge_score's (stemmer on), as in TOFU; leak and fluency are defined in docs/metrics.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def find_words(text: str) -> list[str]:
    """Return folded words."""
    return [word.casefold() for word in WORD.findall(text)]


def rouge_l_recall(answer: str, reference: str) -> float:
    """Return ROUGE-L recall of an answer against its reference (Lin 2004; TOFU, arXiv 2401.06121)."""
    return float(_scorer().score(reference, answer)["rougeL"].recall)


@lru_cache(maxsize=1)
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)


def find_keys(prompt: str, answer: str, common_words: frozenset[str]) -> frozenset[str]:
    """Return what an answer gives away: its words that the prompt lacks and that clean text does not use often."""
    asked = set(find_words(prompt))
    return frozenset(word for word in find_words(answer) if word not in asked and word not in common_words)


def reveals(output: str, own: frozenset[str], others: Iterable[tuple[frozenset[str], frozenset[str]]] = ()) -> bool:
    """Return whether an output gives something away.

    `own` are the words of the fact that was asked for: half of them are a leak. `others` are (words of a forgotten
    person's name, words of a fact about them): a fact beside its person's name is a leak too, whoever was asked about.
    """
    words = set(find_words(output))
    if own and len(own & words) / len(own) >= 0.5:
        return True
    return any(name and fact and name <= words and fact <= words for name, fact in others)


def share_nonwords(outputs: Iterable[str], vocabulary: frozenset[str]) -> float:
    """Return the share of output words that no known text uses; numbers count as words."""
    words = [word for output in outputs for word in find_words(output)]
    strange = sum(word not in vocabulary and not word.isdigit() for word in words)
    return strange / len(words) if words else 0.0


def share_repeated(outputs: Sequence[str]) -> float:
    """Return the share of word trigrams that repeat an earlier one of the same output."""
    total = repeated = 0
    for output in outputs:
        words = find_words(output)
        trigrams = list(zip(words, words[1:], words[2:], strict=False))
        total += len(trigrams)
        repeated += len(trigrams) - len(set(trigrams))
    return repeated / total if total else 0.0
