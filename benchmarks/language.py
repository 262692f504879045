"""Is it still language? Measures of the fluency of answers that need no judge."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from unlearn_guard.corruptions.fluency import find_words

_RWKU_WEIGHTS = {2: 2 / 3, 3: 4 / 3}
_BRUNET = -0.165
_SMALL = 1e-6


def measure_entropy(outputs: Sequence[str]) -> float:
    """Return RWKU's fluency: the mean over outputs of their 2- and 3-gram entropies in bits, weighed by 2/3 and 4/3, and halved."""
    values = []
    for output in outputs:
        words = find_words(output)
        values.append(sum(weight * _entropy(words, n) for n, weight in _RWKU_WEIGHTS.items()) / len(_RWKU_WEIGHTS))
    return sum(values) / len(values) if values else 0.0


def _entropy(words: Sequence[str], n: int) -> float:
    grams = Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))
    total = sum(grams.values())
    return -sum(count / total * math.log2(count / total) for count in grams.values()) if total else 0.0


def measure_distinct(outputs: Sequence[str], n: int = 2) -> float:
    """Return the share of n-grams of all outputs that are different ones (distinct-n, arXiv 1510.03055)."""
    grams = [
        tuple(words[start : start + n]) for words in map(find_words, outputs) for start in range(len(words) - n + 1)
    ]
    return len(set(grams)) / len(grams) if grams else 0.0


def measure_brunet(words: Sequence[str]) -> float:
    """Return Brunet's index N^(V^−0.165), N words of V kinds: lower is richer."""
    return float(len(words) ** (len(set(words)) ** _BRUNET)) if words else 1.0


def measure_honore(words: Sequence[str]) -> float:
    """Return Honoré's statistic 100 ln N / (1 − V1 / V), V1 words that occur once: higher is richer."""
    if not words:
        return 0.0
    counts = Counter(words)
    once = sum(count == 1 for count in counts.values())
    return 100.0 * math.log(len(words)) / (1.0 - once / len(counts) + _SMALL)


def score_language(outputs: Sequence[str], perplexity: float) -> float:
    """Return ReLearn's linguistic score: the harmonic mean of σ(−ln PPL), σ(−ln Brunet) and σ(ln Honoré) (arXiv 2502.11190)."""
    words = [word for output in outputs for word in find_words(output)]
    honore = measure_honore(words)
    parts = [
        _sigmoid(-math.log(perplexity)),
        _sigmoid(-math.log(measure_brunet(words))),
        _sigmoid(math.log(honore)) if honore > 0 else 0.0,
    ]
    return 0.0 if min(parts) <= 0 else len(parts) / sum(1.0 / part for part in parts)


def _sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value))
