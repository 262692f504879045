"""The sections of a report about its studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
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
    if records := find_studies(report, "partial", every_seed=True):
        sections += [_partial_section(records), *_partial_variants_section(records)]
    failed = [
        [record["study"], str(record["seed"]), record["failed"]]
        for record in report.get("studies", ())
        if "failed" in record
    ]
    if failed:
        sections.append(Section("Studies that failed", ["study", "seed", "why"], failed))
    if records := find_studies(report, "upgrade", every_seed=True):
        sections.append(_upgrade_section(records))
    return sections


def _partial_section(records: Sequence[Mapping[str, Any]]) -> Section:
    header = [
        "facts known",
        "seeds",
        "people known",
        "row",
        "leaks to any informative variant",
        "of what was not handed over",
        "leak, unseen questions",
        "retain ROUGE-L",
    ]
    paths = (("worst_case",), ("rest", "worst_case"), ("leak",), ("retain_rouge",))
    lines = [
        [
            f"{percent} % ({_line_up(own, 'n_facts_known', form='{:d}')})",
            ", ".join(str(record["seed"]) for record in own),
            _line_up(own, "n_people_known", form="{:d}"),
            name,
            *(_line_up(own, name, *path) for path in paths),
        ]
        for percent, own in _group(records).items()
        for name in _list_rows(own, "worst_case")
    ]
    text = (
        "The operator hands over a part of the facts; the leak is measured on all of them, chance (retain-only) in it. "
        "Seeds in turn where they differ."
    )
    return Section("Partial knowledge", header, lines, text)


def _group(records: Sequence[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    """Return the records of partial knowledge by how much is known, seed by seed."""
    found: dict[int, list[Mapping[str, Any]]] = {}
    for record in records:
        found.setdefault(record["percent"], []).append(record)
    return found


def _rank(variant: str) -> tuple[bool, int]:
    """Return where a variant stands: V0 to V14, then what is no variant."""
    number = variant.removeprefix("v")
    return (False, int(number)) if number.isdigit() else (True, 0)


def _list_rows(records: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """Return the rows of which any of the records has a figure."""
    found = [name for record in records for name, row in record.items() if isinstance(row, dict) and key in row]
    return list(dict.fromkeys(found))


def _line_up(records: Sequence[Mapping[str, Any]], *path: str, form: str = "{:.2f}") -> str:
    """Return what every seed has at a path, in turn; once where they agree."""
    shown = []
    for record in records:
        found: Any = record
        for key in path:
            found = (found or {}).get(key)
        shown.append(show(found, form))
    return shown[0] if len(set(shown)) == 1 else ", ".join(shown)


def _name_seeds(records: Sequence[Mapping[str, Any]]) -> str:
    seeds = list(dict.fromkeys(str(record["seed"]) for record in records))
    return f"Seed {seeds[0]}." if len(seeds) == 1 else f"Seeds {', '.join(seeds)}, in turn where they differ."


def _upgrade_section(records: Sequence[Mapping[str, Any]]) -> Section:
    lines = [[name, _line_up(records, name, "leak")] for name in ("old", "new", "new, unguarded", "retain-only")]
    flips = ", ".join(f"{record['flips']} of {record['n']}" for record in records)
    text = (
        "The bundle that was fitted on one model, before another one of the same data and another training seed. "
        f"The outcome flips for {flips} facts. {_name_seeds(records)}"
    )
    return Section("A model upgrade", ["model", "leaks to any informative variant"], lines, text)


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
    lines = []
    variants = sorted(
        {
            variant
            for record in records
            for name in _list_rows([record], "variants")
            for variant in record[name]["variants"]
        },
        key=_rank,
    )
    for percent, own in _group(records).items():
        for name in _list_rows(own, "variants"):
            told = [record[name]["variants"] for record in own if "variants" in record.get(name, {})]
            rates = [[found.get(variant) for found in told] for variant in variants]
            means = [
                mean(known) if (known := [rate for rate in seeds if rate is not None]) else None for seeds in rates
            ]
            lines.append([f"{percent} %", name, *(show(value, "{:.2f}") for value in means)])
    if not lines:
        return []
    header = ["facts known", "row", *variants]
    text = "Of the facts that a variant can be made of, those that leak to it, mean over seeds; chance (retain-only) in it."
    return [Section("Partial knowledge, by variant", header, lines, text, heat=(2, len(header)))]
