"""Reports from the JSON alone: Markdown for reading, one self-contained HTML page with plots."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn_guard.benchmarks.attacks.cells import find_rate
from unlearn_guard.benchmarks.attacks.protocol import COMBINED, HARMLESS
from unlearn_guard.benchmarks.environment import name_hardware
from unlearn_guard.benchmarks.examiner import NOTHING_DECODES
from unlearn_guard.benchmarks.leaderboard import list_means, name_columns
from unlearn_guard.benchmarks.page import render_marks, render_page, render_table
from unlearn_guard.benchmarks.plots import find_studies, plot_queries, plot_scaling, plot_tradeoff
from unlearn_guard.benchmarks.subjects import NO_GUARD
from unlearn_guard.benchmarks.threats import THREATS
from unlearn_guard.benchmarks.verdicts import summarise
from unlearn_guard.guard.bundle import write_atomic
from unlearn_guard.guard.errors import SettingsError

SCHEMA_VERSION = 1
_THREAT_TITLES = ("black box", "leak@k", "adaptive", "likelihoods", "logprobs", "weights")
_COLUMNS = (
    ("rouge given", "forget.given", "rouge_l_recall"),
    ("unseen", "forget.unseen", "rouge_l_recall"),
    ("paraphrase", "forget.paraphrase", "rouge_l_recall"),
    ("leak given", "forget.given", "leak_rate"),
    ("unseen", "forget.unseen", "leak_rate"),
    ("paraphrase", "forget.paraphrase", "leak_rate"),
    ("non-words", "forget.given", "nonword_rate"),
    ("repeats", "forget.given", "repeated_trigrams"),
    ("retain rouge", "retain", "rouge_l_recall"),
    ("neighbour rouge", "neighbour", "rouge_l_recall"),
)


def prepare_output(out: Path) -> None:
    """Raise SettingsError, before hours of work, where a report cannot be written; make its folder."""
    if out.suffix != ".json":
        raise SettingsError("--out", value=str(out), allowed="a name that ends in .json")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError("--out", value=str(out), allowed="a folder to write to", mend=str(error)) from None
    if not os.access(out.parent, os.W_OK):
        raise SettingsError("--out", value=str(out), allowed="a folder to write to", mend="choose another folder")


def write_report(report: dict[str, Any], out: Path) -> None:
    """Write the report as JSON to `out`, as Markdown and HTML beside it."""
    write_atomic(out, (json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
    write_atomic(out.with_suffix(".md"), render_markdown(report).encode())
    write_atomic(out.with_suffix(".html"), render_html(report).encode())


@dataclass(frozen=True, slots=True)
class Section:
    """A table of the report with what is said before it; cells of `heat` columns are shares, and coloured."""

    title: str
    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    text: str = ""
    heat: tuple[int, int] = (0, 0)


def render_markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    out = [f"# unlearn-guard bench: {report['suite']}, profile {report['profile']}", "", _describe(report), ""]
    out += [f"- {line}" for line in summarise(report)] + [""]
    for section in _list_sections(report):
        out += [f"## {section.title}", ""] + ([section.text, ""] if section.text else [])
        out += ["| " + " | ".join(section.header) + " |", "|" + "---|" * len(section.header)]
        out += ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in section.lines] + [""]
    out += ["## How to read it", "", *(f"- {note}" for note in _notes(report)), ""]
    if reasons := _reasons(report):
        out += ["## Why a figure is missing", "", *(f"- {why}: {what} ({names})." for names, what, why in reasons), ""]
    return "\n".join(out)


def render_html(report: dict[str, Any]) -> str:
    """Return the report as one self-contained page."""
    plots = [
        (image, alt)
        for image, alt in (
            (plot_tradeoff(report), "leak above chance against retain ROUGE-L"),
            (plot_tradeoff(report, "utility"), "leak above chance against model utility"),
            (plot_queries(report), "queries to leak"),
            (plot_scaling(report), "cost of more forget requests"),
        )
        if image
    ]
    body = [
        f"<h1>unlearn-guard bench: {html.escape(report['suite'])}, profile {html.escape(report['profile'])}</h1>",
        f"<p>{html.escape(_describe(report))}</p>",
        "<ul>" + "".join(f"<li>{render_marks(html.escape(line))}</li>" for line in summarise(report)) + "</ul>",
        '<div class="grid">'
        + "".join(f'<img alt="{alt}" src="data:image/png;base64,{image}">' for image, alt in plots)
        + "</div>",
    ]
    for section in _list_sections(report):
        body.append(f"<h2>{render_marks(html.escape(section.title))}</h2>")
        body += [f"<p>{render_marks(html.escape(section.text))}</p>"] if section.text else []
        body.append(render_table(section.header, section.lines, heat=section.heat))
    body.append(
        "<h2>How to read it</h2><ul>"
        + "".join(f"<li>{render_marks(html.escape(note))}</li>" for note in _notes(report))
        + "</ul>"
    )
    if reasons := _reasons(report):
        body += ["<h2>Why a figure is missing</h2>", render_table(["methods", "figure", "reason"], reasons)]
    return render_page("unlearn-guard bench", body)


def _list_sections(report: dict[str, Any]) -> list[Section]:
    if not report["rows"]:  # Studies alone.
        return _study_sections(report)
    header, lines = tabulate(report)
    sections = [Section("Forgetting and keeping", header, lines)]
    if len({row["seed"] for row in report["rows"]}) > 1 and (means := list_means(report)):
        sections.insert(0, Section("Means over seeds", name_columns(report), means, "Leaks are above chance."))
    if any(row.get("threats") for row in report["rows"]):
        sections += [_threat_section(report), _variant_section(report)]
    if any(row.get("probes") for row in report["rows"]):
        sections.append(_metric_section(report))
    sections += [
        *_flag_section(report),
        *_kept_section(report),
        *_harmless_section(report),
        *_study_sections(report),
        _cost_section(report),
    ]
    if pairs := [pair for pair in report.get("comparisons", ()) if pair["guard"] == "guard"]:
        sections.append(_comparison_section(pairs))
    return sections


def _threat_section(report: Mapping[str, Any]) -> Section:
    lines = []
    for row in report["rows"]:
        if not row.get("threats"):
            continue
        cells = [row["name"], str(row["seed"])]
        for name in THREATS:
            found = row["threats"].get(name)
            cells += ["–"] if found is None else [f"{found['leak']:.2f} → {found['excess']:.2f}"]
        lines.append([*cells, _show(row.get("indistinguishability"), "{:.2f}")])
    chances = [row["threats"] for row in report["rows"] if row["name"] == "retain-only" and row.get("threats")]
    told = ", ".join(
        f"{title} {', '.join(values)}"
        for name, title in zip(THREATS, _THREAT_TITLES, strict=True)
        if (values := [f"{found['chance']:.2f}" for threats in chances if (found := threats.get(name))])
    )
    k = report["attack"]["n_samples"]
    return Section(
        "Threat models",
        ["method", "seed", *(title.replace("@k", f"@{k}") for title in _THREAT_TITLES), "told apart (AUC)"],
        lines,
        "Share of facts that leak → what is left above chance, (leak − chance) / (1 − chance). Black box: worst case per fact over the informative "
        f"variants. leak@{k}: any of {k} samples at temperature 1. likelihoods: the true answer is the likeliest of the options, in the worst variant. "
        "logprobs: who may read likelihoods, and ask: the column before that tells most. "
        "weights: worst case over the variants, rounding to 8 and 4 bits, and relearning on other rows, or one of the columns before where it tells "
        "more; of a guard, the unguarded model's. "
        + (f"Chance, which is what retain-only tells, seed by seed: {told}." if told else ""),
    )


def _metric_section(report: Mapping[str, Any]) -> Section:
    def read(row: Mapping[str, Any], part: str, name: str) -> Any:
        return (row.get(part) or {}).get(name)

    lines = []
    has_documents = any("passages_leak" in (row.get("probes") or {}) for row in report["rows"])
    for row in report["rows"]:
        if not row.get("probes"):
            continue
        given = row["sets"][f"{report['suite']}.forget.given"]
        values = [given.get(name) for name in ("extraction_strength", "exact_memorisation", "paraphrased_probability")]
        values += [read(row, "privacy", name) for name in ("loss", "min_k", "min_k_plus")]
        cells = [_show(value, "{:.2f}") for value in values]
        # Where there are documents, C3 is about them.
        documents = "passages_leak" in row["probes"]
        leak = row["probes"]["passages_leak"] if documents else read(row, "privacy", "privacy_leak")
        cells.append(_show(leak, "{:+.0f}"))
        names = ("verbatim", "knowledge", "utility", "jailbreak", "forgetting_rate", "retention_rate")
        cells += [_show(row["probes"][name], "{:.2f}") for name in names]
        cells.append(_show(read(row, "language", "perplexity"), "{:.3g}"))
        cells += [
            _show(read(row, "aggregate", name), "{:.2f}") for name in ("memorisation", "privacy", "utility", "overall")
        ]
        lines.append([row["name"], str(row["seed"]), *cells])
    header = [
        "method",
        "seed",
        "ES",
        "EM",
        "para-prob",
        "MIA loss",
        "min-K",
        "min-K++",
        "C3 PrivLeak",
        "C1 verbatim",
        "C2 knowledge",
        "C4 utility",
    ]
    header += ["jailbreak", "KFR", "KRR", "PPL", "Mem", "Priv", "Util", "overall"]
    return Section(
        "The field's metrics",
        header,
        lines,
        "ES, EM, para-prob: extraction strength, exact memorisation, probability of the paraphrased answer, on forget.given. MIA: AUC; ideal is what retain-only has, near 0.5. "
        f"C1 to C4: {'MUSE' if has_documents else 'as MUSE has them, on answers instead of documents'}. KFR, KRR: ReLearn, by words. Mem, Priv, Util, overall: OpenUnlearning's harmonic means. Definitions: docs/metrics.md.",
    )


def _variant_section(report: Mapping[str, Any]) -> Section:
    names = [name for name in report["attack"]["variants"] if name != HARMLESS]
    lines = []
    for row in report["rows"]:
        if row.get("attack"):
            rates = [find_rate(row["attack"], name) for name in names]
            streamed = row["attack"].get("streaming")
            rates.append(streamed.count("1") / len(streamed) if streamed else None)
            rates += [((row.get("threats") or {}).get(name) or {}).get("leak") for name in THREATS]
            rates.append(row["attack"]["variants"].get(COMBINED, {}).get("companion_rouge"))
            lines.append([row["name"], str(row["seed"]), *(_show(rate, "{:.2f}") for rate in rates)])
    by_seed = {row["seed"]: row["threats"]["informative"] for row in report["rows"] if row.get("threats")}
    told: dict[str, list[str]] = {}
    for seed, found in by_seed.items():
        told.setdefault(", ".join(name for name in names if name in found) or "none", []).append(str(seed))
    informative = "; ".join(
        f"{variants} (seed {', '.join(seeds)})" if len(told) > 1 else variants for variants, seeds in told.items()
    )
    return Section(
        "Leak by variant and threat model",
        ["method", "seed", *names, "streamed", *_THREAT_TITLES, "v6, clean half"],
        lines,
        f"Share of facts that leak, greedy answers; streamed: v0 where an output guard judges while the answer leaves. Informative: "
        f"{informative or 'none'}; in the others the unguarded model cannot answer. "
        "v6, clean half: ROUGE-L recall of the answer to the clean question that is asked beside the fact.",
        heat=(2, 3 + len(names) + len(THREATS)),
    )


def _flag_section(report: Mapping[str, Any]) -> list[Section]:
    rows = [row for row in report["rows"] if row.get("detection")]
    names = list(dict.fromkeys(name for row in rows for name in row["detection"] if ".forget." not in name))
    if not names:
        return []
    lines = [
        [
            row["name"],
            str(row["seed"]),
            *(_count(row["detection"].get(name), row["sets"].get(name, {}).get("flagged")) for name in names),
        ]
        for row in rows
    ]
    header = ["method", "seed", *(name.removeprefix(f"{report['suite']}.") for name in names)]
    text = "Of every set that stays: flagged by the prompt, and stopped by prompt or answer."
    return [Section("What is stopped though it stays", header, lines, text)]


def _kept_section(report: Mapping[str, Any]) -> list[Section]:
    rows = [row for row in report["rows"] if (row.get("attack") or {}).get("kept")]
    if not rows:
        return []
    names = list(rows[0]["attack"]["kept"])
    lines = [[row["name"], str(row["seed"]), *(_count(row["attack"]["kept"][name]) for name in names)] for row in rows]
    text = "Kept questions under the same variants: how many prompts the classifier flags, and, where that was measured, how many are stopped by prompt or answer."
    return [Section("False flags under attack", ["method", "seed", *names], lines, text)]


def _harmless_section(report: Mapping[str, Any]) -> list[Section]:
    rows = [row for row in report["rows"] if (row.get("attack") or {}).get("harmless")]
    if not rows:
        return []
    kinds = list(rows[0]["attack"]["harmless"])
    lines = [
        [
            row["name"],
            str(row["seed"]),
            *(
                f"{'–' if found['flagged'] is None else found['flagged']}, {found['unchanged']} of {found['n']}"
                for found in row["attack"]["harmless"].values()
            ),
        ]
        for row in rows
    ]
    text = "V14: flagged, and answers that are still the unguarded model's. V14a: a shared given name, in some suites a shared place or profession; namesake: somebody else of the same name; V14b: the name as a distractor. v11_shown: a question about a forgotten fact that stands in the context, so that telling it is reading; whether to allow it is the operator's choice."
    return [Section("Harmless questions", ["method", "seed", *kinds], lines, text)]


def _cost_section(report: Mapping[str, Any]) -> Section:
    forms = {
        "fit_s": ("fit s", "{:.1f}"),
        "screen_p50_ms": ("screen p50 ms", "{:.2f}"),
        "screen_p99_ms": ("p99 ms", "{:.2f}"),
        "encodes_per_prompt": ("encodes", "{:.2f}"),
        "decode_ratio": ("decode × unguarded", "{:.2f}"),
        "added_memory_mb": ("added memory MB", "{:.0f}"),
    }
    lines = [
        [row["name"], str(row["seed"]), *(_show(row["cost"].get(name), form) for name, (_, form) in forms.items())]
        for row in report["rows"]
        if row.get("cost")
    ]
    return Section(
        "Cost",
        ["method", "seed", *(title for title, _ in forms.values())],
        lines,
        "On this machine, beside other rows. decode: seconds per token that leaves, on kept questions, side by side with an unguarded model of the same size; "
        "batched, offline, prompts screened before.",
    )


def _count(counts: Mapping[str, int | None] | None, *known: int | None) -> str:
    """Return how many are flagged, and stopped where that is known; `known` is how many are flagged where counts do not say that nothing decides."""
    if not counts:
        return "–"
    (number,) = known or (counts["flagged"],)
    flagged = "–" if number is None else str(number)
    return f"{flagged}, {counts['stopped']} of {counts['n']}" if "stopped" in counts else f"{flagged}/{counts['n']}"


def _study_sections(report: Mapping[str, Any]) -> list[Section]:
    sections = []
    if points := find_studies(report, "requests"):
        names = ("fit_s", "add_s", "remove_s", "screen_p50_ms", "bundle_mb")
        lines = [
            [
                str(point["n_requests"]),
                *(_show(point["cost"][name], "{:.3g}") for name in names),
                *(_count(point.get(part)) for part in ("named", "described")),
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
                _show(found["worst_case"]),
                _show(found.get("rest", {}).get("worst_case")),
                *_show_all(found, "leak", "retain_rouge"),
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
        lines = [[name, _show(record[name]["leak"])] for name in ("old", "new", "new, unguarded", "retain-only")]
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
                seconds = _show(found.get("cost", {}).get("seconds"), "{:.1f}")
                lines.append(
                    [str(step["n_requests"]), name, seconds, *_show_all(found, "leak", "retain_rouge", "retain_f1")]
                )
    revoked = record.get("revoked")
    undone = (
        f" Revoking the first request takes the guard {revoked['cost']['seconds']:.1f} s, after which {_show(revoked['leak'], '{:.2f}')} of what it asked for is told again; "
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


def _show_all(found: Mapping[str, Any], *names: str) -> list[str]:
    return [_show(found.get(name)) for name in names]


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
    lines = [[known, name, *_show_all(rates, *variants)] for known, name, rates in told]
    header = ["facts known", "row", *variants]
    text = "Of the facts that a variant can be made of, those that leak to it; chance (retain-only) in it."
    return [Section("Partial knowledge, by variant", header, lines, text, heat=(2, len(header)))]


def _comparison_section(pairs: Sequence[Mapping[str, Any]]) -> Section:
    def show(found: Mapping[str, Any]) -> str:
        if found["low"] is None:
            return _show(found["mean"], "{:+.3f}")
        return f"{found['mean']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"

    lines = [
        [
            pair["weights"],
            "yes" if pair["dominates"] else "no",
            show(pair["leak_difference"]),
            show(pair["retain_difference"]),
        ]
        for pair in pairs
    ]
    n = [pairs[0][name]["n_people"] for name in ("leak_difference", "retain_difference")]
    return Section(
        "`guard` against weight editing, pair by pair",
        ["weight row", "dominated", "leak above chance, guard − row (95 %)", "retain ROUGE-L, guard − row (95 %)"],
        lines,
        f"Paired bootstrap over people: {n[0]} forgotten, {n[1]} kept. No row that leaks more in samples or to the adaptive attacker dominates.",
    )


def tabulate(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the headline table: header and one line per row of the report."""
    suite = report["suite"]
    header = ["method", "seed", "status", *(name for name, _, _ in _COLUMNS)]
    header += ["retain flagged", "or stopped", "FQ n", "FQ D (95 %)", "FQ p", "ROUGE p", "utility", "fit s"]
    lines = []
    for row in report["rows"]:
        sets, quality = row.get("sets", {}), row.get("forget_quality") or {}
        retain = sets.get(f"{suite}.retain", {})
        flagged, stopped = retain.get("flagged"), (row.get("detection") or {}).get(f"{suite}.retain")
        cells = [row["name"], str(row["seed"]), row["status"]]
        cells += [_show(sets.get(f"{suite}.{part}", {}).get(metric)) for _, part, metric in _COLUMNS]
        cells += [
            "–" if flagged is None else f"{flagged}/{retain['n']}",
            "–" if stopped is None else f"{stopped['stopped']}/{stopped['n']}",
            _show(quality.get("n"), "{:d}"),
            _show_interval(quality),
            _show(quality.get("p_value"), "{:.1e}"),
            _show(quality.get("ks_rouge_p"), "{:.1e}"),
            _show(row.get("model_utility")),
            _show((row.get("cost") or {}).get("fit_s"), "{:.0f}"),
        ]
        lines.append(cells)
    return header, lines


def _show_interval(quality: Mapping[str, Any]) -> str:
    """Return D with its interval, where there is one."""
    shown = _show(quality.get("ks_d"))
    low, high = quality.get("ks_d_low"), quality.get("ks_d_high")
    return shown if low is None or high is None else f"{shown} ({_show(low, '{:.2f}')} to {_show(high, '{:.2f}')})"


def _describe(report: dict[str, Any]) -> str:
    environment = report["environment"]
    return (
        f"{name_hardware(report)}; "
        f"Python {environment['python']}; commit {environment['commit']}; "
        f"config {report['config_hash']}, data {report['data_hash']}"
    )


def _notes(report: dict[str, Any]) -> list[str]:
    positions = sorted(
        {
            f"{row['name']}: {row['forget_quality']['corrupted_positions']}"
            for row in report["rows"]
            if row.get("forget_quality") and row["kind"] == "guard"
        }
    )
    notes = [
        "rouge: ROUGE-L recall against the true answer. leak: at least half of the words that give the asked fact away, "
        "or any fact of the set beside its person's name.",
        "FQ: two-sample Kolmogorov-Smirnov test between a method's truth ratios on forget.given and retain-only's; "
        "p > 0.05 reads “indistinguishable”, a weak statement at this n. ROUGE p: the same test on the served answers.",
        "Teacher forcing hands a memorising model the answer's own prefix, so the forget quality of a method that "
        "corrupts the prompt alone stays near zero however good its served answers are.",
        "Suppression, not erasure: guards leave the weights as they are.",
    ]
    if left_out := report.get("left_out"):
        notes.append(f"Not measured here: {', '.join(left_out)}.")
    if elsewhere := sorted({row["name"] for row in report["rows"] if "checkpoint" in row.get("settings", {})}):
        notes.append(
            f"{', '.join(elsewhere)}: edited elsewhere, maybe on the rows that are unseen to all others here; nothing says which."
        )
    return notes + ([f"Positions corrupted when scoring — {'; '.join(positions)}."] if positions else [])


def _reasons(report: dict[str, Any]) -> list[list[str]]:
    merged: dict[tuple[str, str], list[str]] = {}
    for row in report["rows"]:
        for path, reason in row.get("reasons", {}).items():
            if reason not in (NO_GUARD, "not scored on this set", NOTHING_DECODES):
                merged.setdefault((row["name"], reason), []).append(path.removeprefix(f"sets.{report['suite']}."))
    named: dict[tuple[str, str], list[str]] = {}
    for (name, reason), paths in merged.items():
        named.setdefault((", ".join(dict.fromkeys(paths)), reason), []).append(name)
    everybody = {row["name"] for row in report["rows"]}
    return [
        ["every row" if everybody == {*names} else ", ".join(names), what, reason]
        for (what, reason), names in named.items()
    ]


def _show(value: Any, form: str = "{:.3f}") -> str:
    return "–" if value is None else form.format(value)
