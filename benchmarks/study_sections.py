"""The sections of a report about its studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unlearn_guard.benchmarks.plots import find_studies
from unlearn_guard.benchmarks.section import Section, count, show, show_all


def list_study_sections(report: Mapping[str, Any]) -> list[Section]:
    """Return a section for each kind of study that a report has, and one for those that failed."""
    sections = []
    if points := find_studies(report, "requests"):
        names = ("fit_s", "add_s", "remove_s", "screen_p50_ms", "bundle_mb")
        lines = [
            [
                str(point["n_requests"]),
                *(show(point["cost"][name], "{:.3g}") for name in names),
                *(count(point.get(part)) for part in ("named", "described")),
                f"{point['false_flags']}/{point['n_kept']}",
            ]
            for point in points
        ]
        header = [
            "forget requests",
            "fit s",
            "one more s",
            "revoke one s",
            "screen p50 ms",
            "bundle MB",
            "named, noticed",
            "described, noticed",
            "kept flagged",
        ]
        text = "Invented people, asked a question each that `fit` did not see; one that describes a person without the name fits others, too. One more request or one fewer is an amendment: nothing else is fitted again."
        text += f" Seed {points[0]['seed']}."
        sections.append(Section("Cost of more forget requests", header, lines, text))
    sections += [_sequence_section(record) for record in find_studies(report, "sequence")]
    if records := find_studies(report, "partial"):
        header = [
            "facts known",
            "people known",
            "row",
            "leaks to any informative variant",
            "of what was not handed over",
            "leak, unseen questions",
            "retain ROUGE-L",
        ]
        lines = [
            [
                f"{record['percent']} % ({record['n_facts_known']})",
                str(record["n_people_known"]),
                name,
                show(found["worst_case"]),
                show(found.get("rest", {}).get("worst_case")),
                *show_all(found, "leak", "retain_rouge"),
            ]
            for record in records
            for name, found in record.items()
            if isinstance(found, dict) and "worst_case" in found
        ]
        text = "The operator hands over a part of the facts; the leak is measured on all of them, chance (retain-only) in it. "
        text += f"Seed {records[0]['seed']}."
        sections.append(Section("Partial knowledge", header, lines, text))
        sections += _partial_variants_section(records)
    failed = [
        [record["study"], str(record["seed"]), record["failed"]]
        for record in report.get("studies", ())
        if "failed" in record
    ]
    if failed:
        sections.append(Section("Studies that failed", ["study", "seed", "why"], failed))
    for record in find_studies(report, "upgrade"):
        lines = [[name, show(record[name]["leak"])] for name in ("old", "new", "new, unguarded", "retain-only")]
        text = (
            "The bundle that was fitted on one model, before another one of the same data and another training seed. "
            f"The outcome flips for {record['flips']} of {record['n']} facts."
        )
        sections.append(Section("A model upgrade", ["model", "leaks to any informative variant"], lines, text))
    return sections


def _sequence_section(record: Mapping[str, Any]) -> Section:
    lines = []
    for step in record["steps"]:
        for name, found in step.items():
            if isinstance(found, dict):
                seconds = show(found.get("cost", {}).get("seconds"), "{:.1f}")
                lines.append(
                    [str(step["n_requests"]), name, seconds, *show_all(found, "leak", "retain_rouge", "retain_f1")]
                )
    revoked = record.get("revoked")
    undone = (
        f" Revoking the first request takes the guard {revoked['cost']['seconds']:.1f} s, after which {show(revoked['leak'], '{:.2f}')} of what it asked for is told again; "
        "edited weights have no way back but the old checkpoint."
        if revoked
        else ""
    )
    return Section(
        "One request after another",
        ["requests", "row", "seconds", "leak", "retain ROUGE-L", "retain F1 (C5, C6)"],
        lines,
        "The guard is fitted for the first and amended for each further one; `-sequential` edits the edited weights again (MUSE C6), `-at-once` edits the "
        f"first model for all of them (C5). Seed {record['seed']}.{undone}",
    )


def _partial_variants_section(records: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Return which variants tell what an operator did not hand over; nothing for reports that do not know it."""
    told = [
        (f"{record['percent']} %", name, found["variants"])
        for record in records
        for name, found in record.items()
        if isinstance(found, dict) and "variants" in found
    ]
    if not told:
        return []
    variants = list(dict.fromkeys(variant for _, _, rates in told for variant in rates))
    lines = [[known, name, *show_all(rates, *variants)] for known, name, rates in told]
    header = ["facts known", "row", *variants]
    text = "Of the facts that a variant can be made of, those that leak to it; chance (retain-only) in it."
    return [Section("Partial knowledge, by variant", header, lines, text, heat=(2, len(header)))]
