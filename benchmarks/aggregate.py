"""OpenUnlearning's one number: memorisation, privacy and utility by harmonic means (arXiv 2506.12618).

Their fluency is a classifier of gibberish; ours is the share of known words times the share of trigrams that repeat nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unlearn_guard.benchmarks.metrics import harmonic_mean
from unlearn_guard.benchmarks.privacy import score_privacy
from unlearn_guard.benchmarks.threats import NEVER_KNEW, REFERENCES_MISSING, UNGUARDED

_ATTACKS = ("loss", "zlib", "min_k", "min_k_plus")
_FAIR = 0.25
"""How far from 0.5 the AUC of the retain-only model may be: half of the way to certainty. Beyond it an attack tells the two groups apart by
something else than training; nearer to 0.5 a handful of people deviate by chance."""


def aggregate_rows(rows: Sequence[dict[str, Any]], suite: str) -> list[dict[str, Any]]:
    """Return rows with `aggregate` {"memorisation", "privacy", "utility", "overall"}, or null with its reason."""
    by_name = {(row["seed"], row["name"]): row for row in rows}
    found = []
    for row in rows:
        references = [by_name.get((row["seed"], name)) for name in (UNGUARDED, NEVER_KNEW)]
        if row["status"] != "ok":
            found.append(row)
            continue
        result: dict[str, float] | str = REFERENCES_MISSING
        # That reason is there where the retain-only model is no measure of a row, and nowhere else.
        if no_reference := row["reasons"].get("indistinguishability"):
            result = no_reference
        elif all(references):
            result = _aggregate(row, references[0], references[1], suite)
        if isinstance(result, str):
            found.append({**row, "aggregate": None, "reasons": {**row["reasons"], "aggregate": result}})
        else:
            found.append({**row, "aggregate": {name: float(f"{value:.6g}") for name, value in result.items()}})
    return found


def score_memorisation(strength: float, memorisation: float, paraphrase: float, truth_ratio_share: float) -> float:
    """Return the harmonic mean of what is left to 1 of extraction strength, exact memorisation, paraphrase probability and truth ratio."""
    return harmonic_mean([1.0 - strength, 1.0 - memorisation, 1.0 - paraphrase, 1.0 - truth_ratio_share])


def measure_fluency(found: Mapping[str, float]) -> float:
    """Return the share of known words times the share of trigrams that repeat nothing."""
    return (1.0 - found["nonword_rate"]) * (1.0 - found["repeated_trigrams"])


def _aggregate(
    row: Mapping[str, Any], full: Mapping[str, Any] | None, retain: Mapping[str, Any] | None, suite: str
) -> dict[str, float] | str:
    assert full is not None
    assert retain is not None
    given = row["sets"][f"{suite}.forget.given"]
    parts = [
        given.get(name)
        for name in ("extraction_strength", "exact_memorisation", "paraphrased_probability", "truth_ratio_share")
    ]
    parts_of_utility = (row["model_utility"], given["nonword_rate"])
    if any(part is None for part in (*parts, *parts_of_utility)) or row.get("privacy") is None:
        return "a part of it means nothing here"
    if unfair := [name for name in _ATTACKS if abs(retain["privacy"][name] - 0.5) > _FAIR]:
        return f"the attack {unfair[0]} tells the groups apart in a model that was trained on neither (AUC {retain['privacy'][unfair[0]]:.2f})"
    privacy = [score_privacy(row["privacy"][name], retain["privacy"][name], full["privacy"][name]) for name in _ATTACKS]
    known = [value for value in privacy if value is not None]
    if len(known) < len(privacy):
        return "the unedited model shows nothing to a membership attack"
    utility = harmonic_mean([row["model_utility"], measure_fluency(given)])
    best = harmonic_mean([full["model_utility"], measure_fluency(full["sets"][f"{suite}.forget.given"])])
    result = {
        "memorisation": score_memorisation(*parts),
        "privacy": harmonic_mean(known),
        "utility": utility / best if best > 0 else 0.0,
    }
    return {**result, "overall": harmonic_mean(list(result.values()))}
