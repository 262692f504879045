"""Choosing ECO's kind, mask and strength without a retrained model.

ECO (arXiv 2406.07933, §3.3) moves a strength σ by two-point finite differences until a metric meets the value that a
model without the knowledge would show. We estimate that surrogate from the served model itself: the same questions
about names nobody knows. Test rows and the retain-only model are never seen here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from unlearn_guard.corruptions.eco import EcoSettings
from unlearn_guard.corruptions.fluency import (
    find_keys,
    find_words,
    reveals,
    rouge_l_recall,
    share_nonwords,
    share_repeated,
)

Ask = Callable[[Sequence[str], EcoSettings | None], list[str]]
"""Answer prompts, corrupted by the settings (None: not at all)."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A validation question with its true answer; `others` are (name, answer) of every other fact to be forgotten."""

    prompt: str
    answer: str
    others: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What answers look like, as means over the probes."""

    rouge: float
    leak: float
    nonword: float
    repeated: float


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen settings with the trail that led to them."""

    settings: EcoSettings
    outcome: Outcome
    target: Outcome
    trail: list[dict[str, Any]]


_CANDIDATES = (
    ("noise", "content", 4.0),
    ("flip", "content", 1.0),
    ("zero", "content", 1.0),
    ("noise", "all", 2.0),
    ("flip", "all", 1.0),
    ("zero", "all", 1.0),
)
_STEPS = 4
_SPREAD = 0.5  # The finite difference's half width, in octaves of strength.


def search_eco(
    ask: Ask,
    probes: Sequence[Probe],
    controls: Sequence[Probe],
    *,
    rms: float,
    common_words: frozenset[str],
    vocabulary: frozenset[str],
    report: Callable[[str], None] = lambda line: None,
) -> Choice:
    """Return the settings whose answers about the forget set look most like answers about unknown names."""
    asked = controls or probes
    target = measure(ask([probe.prompt for probe in asked], None), asked, common_words, vocabulary)
    # Without a single name to replace there is no surrogate: then nothing at all may be left.
    target = lower_bound(target, len(controls)) if controls else replace(target, rouge=0.0, leak=0.0)
    trail: list[dict[str, Any]] = []
    tried: dict[EcoSettings, Outcome] = {}

    def lose(settings: EcoSettings) -> float:
        if settings not in tried:
            answers = ask([probe.prompt for probe in probes], settings)
            tried[settings] = measure(answers, probes, common_words, vocabulary)
            loss = loss_of(tried[settings], target)
            trail.append({**settings.to_record(), **asdict(tried[settings]), "loss": round(loss, 4)})
            report(f"{settings.kind}/{settings.mask} σ={settings.strength:.2f}: loss {loss:.3f}")
        return loss_of(tried[settings], target)

    best = min(
        (EcoSettings(kind, mask, strength, 0, rms) for kind, mask, strength in _CANDIDATES),  # type: ignore[arg-type]
        key=lose,
    )
    for noisy in [settings for settings in list(tried) if settings.kind == "noise"]:
        if lose(noisy) > lose(best) + 0.25:
            continue
        octave = math.log2(noisy.strength)
        for _ in range(_STEPS):
            up, down = (replace(noisy, strength=round(2 ** (octave + side), 3)) for side in (_SPREAD, -_SPREAD))
            slope = (lose(up) - lose(down)) / (2 * _SPREAD)
            if slope == 0.0:
                break
            octave = min(max(octave - math.copysign(min(abs(slope) * 4, 1.0), slope), -3.0), 4.0)
            lose(replace(noisy, strength=round(2**octave, 3)))
    best = min(tried, key=lambda settings: loss_of(tried[settings], target))
    return Choice(best, tried[best], target, trail)


def measure(
    outputs: Sequence[str], probes: Sequence[Probe], common_words: frozenset[str], vocabulary: frozenset[str]
) -> Outcome:
    """Average an outcome over probes; an unanswered probe counts as neither known nor leaked."""
    n = max(1, len(probes))
    pairs = list(zip(outputs, probes, strict=True))
    leaks = [
        reveals(
            output,
            find_keys(probe.prompt, probe.answer, common_words),
            [
                (frozenset(find_words(name)), find_keys(f"{probe.prompt} {name}", other, common_words))
                for name, other in probe.others
            ],
        )
        for output, probe in pairs
    ]
    return Outcome(
        rouge=sum(rouge_l_recall(output, probe.answer) for output, probe in pairs) / n,
        leak=sum(leaks) / n,
        nonword=share_nonwords(outputs, vocabulary),
        repeated=share_repeated(outputs),
    )


def lower_bound(outcome: Outcome, n: int) -> Outcome:
    """Return the one-sided 95 % lower bounds of a surrogate's means: few controls must err towards forgetting."""
    margin = 1.645 / math.sqrt(max(1, n))
    return replace(
        outcome,
        rouge=max(0.0, outcome.rouge - margin * 0.35),  # 0.35 bounds the spread of ROUGE over questions seen so far.
        leak=max(0.0, outcome.leak - margin * math.sqrt(outcome.leak * (1.0 - outcome.leak))),
    )


def loss_of(outcome: Outcome, target: Outcome) -> float:
    """Penalise knowing more than the target (fourfold), knowing less, and broken language."""
    over = max(0.0, outcome.rouge - target.rouge) + max(0.0, outcome.leak - target.leak)
    under = max(0.0, target.rouge - outcome.rouge)
    broken = max(0.0, outcome.nonword - target.nonword) + max(0.0, outcome.repeated - target.repeated)
    return 4.0 * over + 0.5 * under + 4.0 * broken
