"""Which guard rows dominate which weight rows, by worst-case leak and retain ROUGE-L; and how sure that is, by a bootstrap over people.

A row dominates another where it leaks no more above chance to the black-box attacker, keeps no less, and is better in one of the two by
more than chance: the interval of that difference leaves out 0. Over several seeds means are compared. The intervals come from
resampling people (forgotten ones for the raw leak, kept ones for ROUGE-L), paired: both rows are read on the same people. What is worse or
better within its interval alone is said to be so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from unlearn_guard.benchmarks.attacks.cells import find_worst
from unlearn_guard.benchmarks.threats import list_lines

N_RESAMPLES = 2000
WITHIN_CHANCE = "within chance"
_ROUND = 4


def compare_rows(rows: Sequence[dict[str, Any]], suite: str) -> list[dict[str, Any]]:
    """Return every pair of a guard row and a weight row that was measured on the same seeds, with the verdict and its reason.

    A row that diverged on any seed is compared on none.
    """
    by_name: dict[str, list[dict[str, Any]]] = {}
    diverged = find_diverged(rows)
    for row in rows:
        if is_comparable(row) and row["name"] not in diverged:
            by_name.setdefault(row["name"], []).append(row)
    found = []
    for guard, own in by_name.items():
        for edit, other in by_name.items():
            if own[0]["kind"] != "guard" or other[0]["kind"] != "weights":
                continue
            if [row["seed"] for row in own] != [row["seed"] for row in other]:
                continue
            found.append(_compare(guard, edit, own, other, suite))
    return found


def find_diverged(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the names of rows that diverged, each with on how many of its seeds where it was not all: " (1 of 3 seeds)"."""
    found: dict[str, list[bool]] = {}
    for row in rows:
        found.setdefault(row["name"], []).append(row["status"] == "diverged")
    return {
        name: "" if all(own) else f" ({sum(own)} of {len(own)} seeds)"
        for name, own in sorted(found.items())
        if any(own)
    }


def is_comparable(row: Mapping[str, Any]) -> bool:
    """Return whether a row was measured against the black-box attacker, and is no oracle: one tuned on what no operator has."""
    measured = row["status"] == "ok" and bool((row.get("threats") or {}).get("black_box"))
    return measured and "oracle" not in row.get("settings", {})


def measure_trade(rows: Sequence[Mapping[str, Any]], suite: str) -> tuple[float, float]:
    """Return the mean worst-case leak above chance and the mean retain ROUGE-L of a row over its seeds."""
    leak = float(np.mean([row["threats"]["black_box"]["excess"] for row in rows]))
    kept = float(np.mean([row["sets"][f"{suite}.retain"]["rouge_l_recall"] for row in rows]))
    return leak, kept


def find_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the names that no other dominates, those that leak least first; points are (leak, kept)."""
    front = [
        name
        for name, (leak, kept) in points.items()
        if not any(
            other_leak <= leak and other_kept >= kept and (other_leak, other_kept) != (leak, kept)
            for other_leak, other_kept in points.values()
        )
    ]
    return sorted(front, key=lambda name: points[name])


def _compare(
    guard: str, edit: str, own: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]], suite: str
) -> dict[str, Any]:
    (leak, kept), (other_leak, other_kept) = measure_trade(own, suite), measure_trade(other, suite)
    leaks = _bootstrap(*(_gather(rows, _read_leaks, suite) for rows in (own, other)))
    keeps = _bootstrap(*(_gather(rows, lambda row: row["people"][f"{suite}.retain"], suite) for rows in (own, other)))
    worse = [("leaks more", find_sign(leaks) > 0, leaks)] * (leak > other_leak)
    worse += [("keeps less", find_sign(keeps) < 0, keeps)] * (kept < other_kept)
    better = [(find_sign(leaks) < 0, leaks)] * (leak < other_leak) + [(find_sign(keeps) > 0, keeps)] * (
        kept > other_kept
    )
    reasons = [text if is_sure else f"{text} {_say_unsure(found)}" for text, is_sure, found in worse]
    if not worse and not better:
        reasons = ["equal in both"]
    elif not worse and not any(is_sure for is_sure, _ in better):
        reasons = [f"better {_say_unsure(better[0][1])} alone"]
    return {
        "guard": guard,
        "weights": edit,
        "dominates": not reasons,
        "reason": " and ".join(reasons),
        "leak_difference": leaks,
        "retain_difference": keeps,
    }


def find_sign(difference: Mapping[str, Any]) -> int:
    """Return the sign of a difference whose interval leaves out 0; 0 where it does not, or where there is none."""
    low, high = difference["low"], difference["high"]
    return 0 if low is None else int(low > 0) - int(high < 0)


def _say_unsure(difference: Mapping[str, Any]) -> str:
    return WITHIN_CHANCE if difference["low"] is not None else "with no interval (one person)"


def _read_leaks(row: Mapping[str, Any]) -> dict[str, float]:
    """Return each forgotten person's share of facts that leak to the black-box attacker."""
    attack = row["attack"]
    cells = find_worst(list_lines(attack, row["threats"]["informative"]))
    people: dict[str, list[bool]] = {}
    for person, cell in zip(attack["people"], cells, strict=True):
        if cell is not None:
            people.setdefault(person, []).append(cell)
    return {person: float(np.mean(own)) for person, own in people.items()}


def _gather(
    rows: Sequence[Mapping[str, Any]], read: Callable[[Mapping[str, Any]], Mapping[str, float]], suite: str
) -> dict[str, float]:
    """Return each person's mean over seeds; worlds of different seeds have different people, all other suites the same ones."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for person, value in read(row).items():
            found.setdefault(f"{row['seed']}:{person}" if suite.startswith("world") else person, []).append(value)
    return {person: float(np.mean(values)) for person, values in found.items()}


def _bootstrap(own: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float | int | None]:
    """Return the mean difference over people and its 95 % interval, none for fewer than two."""
    differences = np.array([own[person] - other[person] for person in own if person in other])
    mean = round(float(differences.mean()), _ROUND) if len(differences) else None
    if len(differences) < 2:
        return {"mean": mean, "low": None, "high": None, "n_people": len(differences)}
    draws = np.random.default_rng(0).integers(0, len(differences), (N_RESAMPLES, len(differences)))
    low, high = np.quantile(differences[draws].mean(axis=1), (0.025, 0.975))
    return {
        "mean": mean,
        "low": round(float(low), _ROUND),
        "high": round(float(high), _ROUND),
        "n_people": len(differences),
    }
