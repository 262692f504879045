"""The sections of a report about its rows: what they tell, keep, flag and cost, and guards against edits, pair by pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unlearn_guard.benchmarks.attacks.cells import find_rate
from unlearn_guard.benchmarks.attacks.protocol import COMBINED, HARMLESS
from unlearn_guard.benchmarks.leaderboard import list_means, name_columns
from unlearn_guard.benchmarks.section import Section, count, show
from unlearn_guard.benchmarks.threats import THREATS

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


def list_row_sections(report: dict[str, Any]) -> tuple[list[Section], list[Section]]:
    """Return the sections that stand before those of studies, and those behind them: cost, and pairs."""
    header, lines = tabulate(report)
    sections = [Section("Forgetting and keeping", header, lines)]
    if len({row["seed"] for row in report["rows"]}) > 1 and (means := list_means(report)):
        sections.insert(0, Section("Means over seeds", name_columns(report), means, "Leaks are above chance."))
    if any(row.get("threats") for row in report["rows"]):
        sections += [_threat_section(report), _variant_section(report)]
    if any(row.get("probes") for row in report["rows"]):
        sections.append(_metric_section(report))
    sections += [*_flag_section(report), *_kept_section(report), *_harmless_section(report)]
    behind = [_cost_section(report)]
    if pairs := [pair for pair in report.get("comparisons", ()) if pair["guard"] == "guard"]:
        behind.append(_comparison_section(pairs))
    return sections, behind


def _threat_section(report: Mapping[str, Any]) -> Section:
    lines = []
    for row in report["rows"]:
        if not row.get("threats"):
            continue
        cells = [row["name"], str(row["seed"])]
        for name in THREATS:
            found = row["threats"].get(name)
            cells += ["–"] if found is None else [f"{found['leak']:.2f} → {found['excess']:.2f}"]
        lines.append([*cells, show(row.get("indistinguishability"), "{:.2f}")])
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
        cells = [show(value, "{:.2f}") for value in values]
        # Where there are documents, C3 is about them.
        documents = "passages_leak" in row["probes"]
        leak = row["probes"]["passages_leak"] if documents else read(row, "privacy", "privacy_leak")
        cells.append(show(leak, "{:+.0f}"))
        names = ("verbatim", "knowledge", "utility", "jailbreak", "forgetting_rate", "retention_rate")
        cells += [show(row["probes"][name], "{:.2f}") for name in names]
        cells.append(show(read(row, "language", "perplexity"), "{:.3g}"))
        cells += [
            show(read(row, "aggregate", name), "{:.2f}") for name in ("memorisation", "privacy", "utility", "overall")
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
            lines.append([row["name"], str(row["seed"]), *(show(rate, "{:.2f}") for rate in rates)])
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
            *(count(row["detection"].get(name), row["sets"].get(name, {}).get("flagged")) for name in names),
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
    lines = [[row["name"], str(row["seed"]), *(count(row["attack"]["kept"][name]) for name in names)] for row in rows]
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
        "peak_memory_mb": ("of a process MB", "{:.0f}"),
    }
    lines = [
        [row["name"], str(row["seed"]), *(show(row["cost"].get(name), form) for name, (_, form) in forms.items())]
        for row in report["rows"]
        if row.get("cost")
    ]
    return Section(
        "Cost",
        ["method", "seed", *(title for title, _ in forms.values())],
        lines,
        "On this machine, beside other rows. decode: seconds per token that leaves, on kept questions, side by side with an unguarded model of the same size; "
        "batched, offline, prompts screened before. of a process: the most that one which measures rows holds meanwhile, models and all.",
    )


def _comparison_section(pairs: Sequence[Mapping[str, Any]]) -> Section:
    def show_interval(found: Mapping[str, Any]) -> str:
        if found["low"] is None:
            return show(found["mean"], "{:+.3f}")
        return f"{found['mean']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"

    lines = [
        [
            pair["weights"],
            "yes" if pair["dominates"] else "no",
            show_interval(pair["leak_difference"]),
            show_interval(pair["retain_difference"]),
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
        cells += [show(sets.get(f"{suite}.{part}", {}).get(metric)) for _, part, metric in _COLUMNS]
        cells += [
            "–" if flagged is None else f"{flagged}/{retain['n']}",
            "–" if stopped is None else f"{stopped['stopped']}/{stopped['n']}",
            show(quality.get("n"), "{:d}"),
            _show_interval(quality),
            show(quality.get("p_value"), "{:.1e}"),
            show(quality.get("ks_rouge_p"), "{:.1e}"),
            show(row.get("model_utility")),
            show((row.get("cost") or {}).get("fit_s"), "{:.0f}"),
        ]
        lines.append(cells)
    return header, lines


def _show_interval(quality: Mapping[str, Any]) -> str:
    """Return D with its interval, where there is one."""
    shown = show(quality.get("ks_d"))
    low, high = quality.get("ks_d_low"), quality.get("ks_d_high")
    return shown if low is None or high is None else f"{shown} ({show(low, '{:.2f}')} to {show(high, '{:.2f}')})"
