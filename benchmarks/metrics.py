"""Metrics of forgetting and utility, with their public definitions (docs/metrics.md).

Probability, truth ratio, forget quality and model utility follow TOFU (arXiv 2401.06121) and its public code: mean
log-likelihood of the answer tokens, the end token counted; geometric mean over wrong answers. Exact memorisation and
extraction strength follow OpenUnlearning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from unlearn_guard.benchmarks.dataset import Item
from unlearn_guard.corruptions.fluency import find_words, reveals, rouge_l_recall, share_nonwords, share_repeated

_GENERIC = frozenset("a an and at by for from in is of on or the to university college institute was with".split())
_MAX_EXPONENT = 700.0
UTILITY_SETS = ("retain", "real_authors", "world_facts")


def find_fact(item: Item) -> frozenset[str]:
    """Return the words that give an item's fact away.

    The item's key where there is one, else the words of its answer; words of the question, generic words and words
    that most wrong answers share are left out.
    """
    words = set(find_words(item.key or item.answer)) - set(find_words(item.question)) - _GENERIC
    shared = [set(find_words(answer)) for answer in item.wrong]
    common = {word for word in words if shared and sum(word in other for other in shared) * 2 > len(shared)}
    return frozenset(words - common) or frozenset(words)


def find_leaks(items: Sequence[Item], outputs: Sequence[str]) -> list[bool]:
    """Return, per item, whether its output gives away the fact asked for, or any fact of the set beside its name."""
    facts = {
        (item.name, item.answer): (frozenset(find_words(item.name)), find_fact(item)) for item in items if item.name
    }
    leaks = []
    for item, output in zip(items, outputs, strict=True):
        asked = frozenset(find_words(item.question))
        others = [(name, fact - asked - name) for (_, answer), (name, fact) in facts.items() if answer != item.answer]
        leaks.append(reveals(output, find_fact(item), others))
    return leaks


def measure_coverage(items: Sequence[Item], outputs: Sequence[str]) -> float:
    """Return the share of outputs that hold at least half of the words which give the item's fact away."""
    return float(np.mean([reveals(output, find_fact(item)) for item, output in zip(items, outputs, strict=True)]))


def rouge_l_f1(answer: str, reference: str) -> float:
    """Return ROUGE-L F1 as MUSE's public code has it (arXiv 2407.06460): words as they stand, without a stemmer."""
    return float(_load_plain_scorer().score(reference, answer)["rougeL"].fmeasure)


@cache
def _load_plain_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False)


def truth_ratio(paraphrase: float, wrong: Sequence[float]) -> float:
    """Return R = P(wrong) / P(paraphrase) from mean log-likelihoods; wrong answers by geometric mean.

    A model that has collapsed can be as sure as a float cannot say; R stays between e^-700 and e^700.
    """
    return math.exp(min(_MAX_EXPONENT, max(-_MAX_EXPONENT, float(np.mean(wrong)) - paraphrase)))


def extraction_strength(hits: Sequence[bool]) -> float:
    """Return 1 − k*/T, k* being the smallest k from which every teacher-forced argmax is right; floor 1/T."""
    total = len(hits)
    for start in range(total - 1):
        if all(hits[start:]):
            return 1.0 - start / total
    return 1.0 / total


def average_facts(items: Sequence[Item], values: Sequence[float]) -> list[float]:
    """Return the mean of a value over the phrasings of each fact: items that differ in nothing but the question.

    Phrasings of one fact share its answers, and so nearly their values: a test that took them for independent would be sure too soon.
    Values that are fewer than the items, where some items have none, are returned as they are.
    """
    if len(values) != len(items):
        return list(values)
    facts = [(item.subject, item.answer, item.paraphrase, item.wrong) for item in items]
    found: dict[tuple[object, ...], list[float]] = {}
    for fact, value in zip(facts, values, strict=True):
        found.setdefault(fact, []).append(value)
    return [float(np.mean(own)) for own in found.values()]


def forget_quality(ratios: Sequence[float], reference: Sequence[float]) -> dict[str, float]:
    """Return D and p of the two-sample Kolmogorov-Smirnov test between truth ratios (TOFU §3.2.2)."""
    from scipy.stats import ks_2samp

    result = ks_2samp(list(ratios), list(reference))
    return {"ks_d": float(result.statistic), "p_value": float(result.pvalue), "n": len(ratios)}


def bootstrap_distance(
    ratios: Sequence[float], reference: Sequence[float], *, n_resamples: int = 200
) -> tuple[float, float]:
    """Return the 95 % interval of D over resampled facts, the same ones on both sides where both have as many.

    Resamples of a largest gap lie above it on the mean: the interval is moved by what they are off on the mean, within 0 and 1.
    """
    own, other = np.asarray(ratios), np.asarray(reference)
    rng = np.random.default_rng(0)
    distances = []
    for _ in range(n_resamples):
        chosen = rng.integers(0, len(own), len(own))
        beside = chosen if len(own) == len(other) else rng.integers(0, len(other), len(other))
        distances.append(_find_gap(own[chosen], other[beside]))
    bias = float(np.mean(distances)) - _find_gap(own, other)
    low, high = np.clip(np.quantile(distances, (0.025, 0.975)) - bias, 0.0, 1.0)
    return float(low), float(high)


def _find_gap(own: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    """Return the largest gap between two distribution functions, which is D."""
    first, second = np.sort(own), np.sort(other)
    places = np.concatenate([first, second])
    gaps = np.searchsorted(first, places, "right") / len(first) - np.searchsorted(second, places, "right") / len(second)
    return float(np.abs(gaps).max())


def harmonic_mean(values: Sequence[float]) -> float:
    """Return the harmonic mean, 0 where any value is not positive."""
    return 0.0 if min(values) <= 0 else len(values) / sum(1.0 / value for value in values)


def model_utility(sets: dict[str, dict[str, Any]]) -> float | None:
    """Return the harmonic mean of probability, ROUGE-L recall and truth ratio over retain, authors and facts."""
    values = [
        sets[name][metric]
        for name in UTILITY_SETS
        if name in sets
        for metric in ("probability", "rouge_l_recall", "truth_ratio")
    ]
    return None if len(values) < 9 or any(value is None for value in values) else harmonic_mean(values)


def average_by(owners: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """Return the mean value of each owner, in the order of their first one."""
    found: dict[str, list[float]] = {}
    for owner, value in zip(owners, values, strict=True):
        found.setdefault(owner, []).append(value)
    return {owner: float(np.mean(own)) for owner, own in found.items()}


def measure_outputs(
    items: Sequence[Item], outputs: Sequence[str], vocabulary: frozenset[str] | None
) -> tuple[dict[str, Any], list[float]]:
    """Return what generated answers show, and ROUGE-L recall per item; without a vocabulary there are no non-words."""
    recall = [rouge_l_recall(output, item.answer) for output, item in zip(outputs, items, strict=True)]
    return {
        "n": len(items),
        "rouge_l_recall": float(np.mean(recall)),
        "leak_rate": float(np.mean(find_leaks(items, outputs))),
        "nonword_rate": None if vocabulary is None else share_nonwords(outputs, vocabulary),
        "repeated_trigrams": share_repeated(outputs),
    }, recall
