"""Which guard rows dominate which weight rows, by worst-case leak and retain ROUGE-L; and how sure that is, by a bootstrap over people.

A row dominates another where it leaks no more above chance to the black-box attacker, keeps no less, and is better in one of the two by
more than chance: the interval of that difference leaves out 0. Samples and the adaptive attacker are black-box attacks, too: who leaks more to
one of them, where both rows were attacked so, dominates nothing, and who leaks less to them alone is no better for it. Over several seeds means are compared. The intervals come from
resampling people, paired: both rows, and the model that never knew, are read on the same people; forgotten ones for the leak above chance, kept
ones for ROUGE-L. To leak less than chance is no merit. What is worse or better within its interval alone is said to be so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from unlearn_guard.benchmarks.threats import NEVER_KNEW, list_cells

Floats = npt.NDArray[np.float64]
N_RESAMPLES = 2000
WITHIN_CHANCE = "within chance"
_ROUND = 4
_FURTHER = {"samples": "leaks more in samples", "adaptive": "leaks more to the adaptive attacker"}
"""Black-box attacks beside the worst case over variants, and what is said of a guard row that does worse in one."""


def compare_rows(rows: Sequence[dict[str, Any]], suite: str) -> list[dict[str, Any]]:
    """Return every pair of a guard row and a weight row that was measured on the same seeds, with the verdict and its reason.

    A row that diverged on any seed is compared on none.
    """
    by_name: dict[str, list[dict[str, Any]]] = {}
    never_knew = {row["seed"]: row for row in rows if row["name"] == NEVER_KNEW}
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
            found.append(_compare(guard, edit, own, other, [never_knew[row["seed"]] for row in own], suite))
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
    leak = _measure_excess(rows, "black_box")
    kept = float(np.mean([row["sets"][f"{suite}.retain"]["rouge_l_recall"] for row in rows]))
    return leak, kept


def _measure_excess(rows: Sequence[Mapping[str, Any]], threat: str) -> float:
    return float(np.mean([row["threats"][threat]["excess"] for row in rows]))


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
    guard: str,
    edit: str,
    own: Sequence[dict[str, Any]],
    other: Sequence[dict[str, Any]],
    never_knew: Sequence[dict[str, Any]],
    suite: str,
) -> dict[str, Any]:
    (leak, kept), (other_leak, other_kept) = measure_trade(own, suite), measure_trade(other, suite)
    leaks = _resample_leaks(own, other, never_knew, suite, "black_box")
    keeps = _bootstrap(*(_gather(rows, suite) for rows in (own, other)))
    worse = [("leaks more", find_sign(leaks) > 0, leaks)] * (leak > other_leak)
    for threat, text in _FURTHER.items():
        is_measured = all(row["threats"].get(threat) for row in (*own, *other))
        if is_measured and _measure_excess(own, threat) > _measure_excess(other, threat):
            found = _resample_leaks(own, other, never_knew, suite, threat)
            worse.append((text, find_sign(found) > 0, found))
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


def _resample_leaks(
    own: Sequence[dict[str, Any]],
    other: Sequence[dict[str, Any]],
    never_knew: Sequence[dict[str, Any]],
    suite: str,
    threat: str,
) -> dict[str, float | int | None]:
    """Return the mean difference of what two rows leak above chance to an attacker, and its 95 % interval over forgotten people, none for fewer than two.

    A resample draws from all people of all seeds; a seed of which it draws nobody is left out of its mean.
    """
    tables = []
    for rows in zip(own, other, never_knew, strict=True):
        counts = _count_leaks(rows, threat)
        tables.append({_name(person, rows[0]["seed"], suite): row for person, row in counts.items()})
    people = sorted(set().union(*tables))
    n = len(people)
    mean = float(np.mean([_subtract(np.sum(list(table.values()), axis=0)) for table in tables]))
    drawn = np.random.default_rng(0).multinomial(n, [1.0 / n] * n, size=N_RESAMPLES)
    nobody = np.zeros(6)
    differences = []
    for table in tables:
        there = drawn @ np.array([person in table for person in people])
        found = _subtract((drawn @ np.array([table.get(person, nobody) for person in people])).T)
        differences.append(np.where(there > 0, found, np.nan))
    return _describe(mean, np.nanmean(differences, axis=0), n)


def _count_leaks(rows: Sequence[dict[str, Any]], threat: str) -> dict[str, Floats]:
    """Return for each forgotten person how many facts have a cell, and leak, in each of some rows of one seed, in turn."""
    counts: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        cells = list_cells(row, threat)
        for person, cell in zip(row["attack"]["people"], cells, strict=True):
            own = counts.setdefault(person, [0] * 2 * len(rows))
            own[2 * place] += cell is not None
            own[2 * place + 1] += bool(cell)
    return {person: np.array(own, np.float64) for person, own in counts.items()}


def _subtract(counts: Floats) -> Floats:
    """Return what the first row leaks above chance, less what the second does; the third is chance. counts: (6, …), as `_count_leaks` has them."""
    own, other, chance = (counts[at + 1] / np.maximum(counts[at], 1.0) for at in (0, 2, 4))
    room = np.where(chance < 1.0, 1.0 - chance, np.inf)
    return np.clip((own - chance) / room, 0.0, None) - np.clip((other - chance) / room, 0.0, None)  # type: ignore[no-any-return]


def _name(person: str, seed: int, suite: str) -> str:
    """Return what tells a person from all others of a suite: every seed of a world has people of its own, all other suites have the same ones."""
    return f"{seed}:{person}" if suite.startswith("world") else person


def _gather(rows: Sequence[Mapping[str, Any]], suite: str) -> dict[str, float]:
    """Return each kept person's mean ROUGE-L over seeds."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for person, value in row["people"][f"{suite}.retain"].items():
            found.setdefault(_name(person, row["seed"], suite), []).append(value)
    return {person: float(np.mean(values)) for person, values in found.items()}


def _bootstrap(own: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float | int | None]:
    """Return the mean difference over people and its 95 % interval, none for fewer than two."""
    differences = np.array([own[person] - other[person] for person in own if person in other])
    n = len(differences)
    if not n:
        return {"mean": None, "low": None, "high": None, "n_people": 0}
    draws = np.random.default_rng(0).integers(0, n, (N_RESAMPLES, n))
    return _describe(float(differences.mean()), differences[draws].mean(axis=1), n)


def _describe(mean: float, resampled: Floats, n_people: int) -> dict[str, float | int | None]:
    """Return a difference with the 95 % interval of its resamples, none for fewer than two people."""
    low, high = (round(float(bound), _ROUND) for bound in np.quantile(resampled, (0.025, 0.975)))
    is_known = n_people > 1
    return {
        "mean": round(mean, _ROUND),
        "low": low if is_known else None,
        "high": high if is_known else None,
        "n_people": n_people,
    }
