"""Sections about studies: what several seeds say stands side by side."""

from __future__ import annotations

from typing import Any

from unlearn_guard.benchmarks.section import Section
from unlearn_guard.benchmarks.study_sections import list_study_sections


def make_partial(seed: int, told: float, rest: float | None, rates: dict[str, float | None]) -> dict[str, Any]:
    return {
        "study": "partial-10",
        "seed": seed,
        "percent": 10,
        "n_facts_known": 6,
        "n_people_known": 4 + seed % 2,
        "guard": {"worst_case": told, "rest": {"n": 9, "worst_case": rest}, "variants": rates, "leak": 0.25},
        "retain-only": {"worst_case": 0.2, "variants": {"v0": 0.1}},
    }


def find(*records: dict[str, Any]) -> dict[str, Section]:
    return {section.title: section for section in list_study_sections({"studies": list(records)})}


def test_what_leaks_is_shown_of_every_seed() -> None:
    found = find(
        make_partial(30, 0.5, 0.75, {"v0": 0.1, "v6": None}), make_partial(31, 0.0, None, {"v0": 0.3, "v6": 0.5})
    )
    assert found["Partial knowledge"].lines == [
        ["10 % (6)", "30, 31", "4, 5", "guard", "0.50, 0.00", "0.75, –", "0.25", "–"],
        ["10 % (6)", "30, 31", "4, 5", "retain-only", "0.20", "–", "–", "–"],
    ]
    assert "Seeds in turn" in found["Partial knowledge"].text
    # Means over the seeds that have a variant.
    assert found["Partial knowledge, by variant"].lines == [
        ["10 %", "guard", "0.20", "0.50"],
        ["10 %", "retain-only", "0.10", "–"],
    ]


def test_flips_are_counted_seed_by_seed() -> None:
    records = [
        {"study": "upgrade", "seed": seed, "old": {"leak": 0.0}, "new": {"leak": leak}, "new, unguarded": {"leak": 1.0},
         "retain-only": {"leak": 0.2}, "flips": flips, "n": 50}
        for seed, leak, flips in ((30, 0.0, 0), (31, 0.02, 1))
    ]  # fmt: skip
    section = find(*records)["A model upgrade"]
    assert section.lines[:2] == [["old", "0.00"], ["new", "0.00, 0.02"]]
    assert "flips for 0 of 50, 1 of 50 facts" in section.text
    assert find(records[0])["A model upgrade"].text.endswith("Seed 30.")


def test_cost_is_shown_of_one_seed() -> None:
    record = {
        "study": "requests-1", "seed": 30, "n_requests": 1, "false_flags": 0, "n_kept": 5,
        "cost": dict.fromkeys(("fit_s", "add_s", "remove_s", "screen_p50_ms", "bundle_mb"), 1.0),
    }  # fmt: skip
    section = find(record, {**record, "seed": 31})["Cost of more forget requests"]
    assert len(section.lines) == 1
    assert section.text.endswith("Seed 30.")
