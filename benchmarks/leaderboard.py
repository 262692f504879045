"""The leaderboard: one page from committed reports, each with its hardware and commit; nothing on it is typed in by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from unlearn_guard.benchmarks.dominance import find_diverged, measure_trade
from unlearn_guard.benchmarks.environment import name_hardware
from unlearn_guard.benchmarks.plots import group_rows
from unlearn_guard.guard.bundle import write_atomic
from unlearn_guard.guard.errors import DataError

_HEAD = """\
# Leaderboard

Written by `unlearn-guard bench leaderboard` from the reports in `docs/results`; not edited by hand. Sorted by worst-case leak above chance to the
black-box attacker, then by what is kept. Figures are means over the seeds of a report; definitions: [metrics](metrics.md),
[attacks](attacks.md). *logprobs*: who may read likelihoods, too. *weights*: the worst that whoever holds the weights gets, where a guard is taken away. *fit s*: of retain-only, its training where that was timed.
`eco-oracle` is tuned on the retain-only model, which no operator has.
"""
_HEADER = (
    "method",
    "kind",
    "seeds",
    "leak above chance",
    "retain ROUGE-L",
    "leak@k",
    "adaptive",
    "logprobs",
    "weights",
    "utility",
    "told apart",
    "fit s",
)


def find_reports(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the reports of a folder that hold threats, by file name; raise DataError where there is none."""
    found = []
    for file in sorted(folder.glob("*.json")):
        try:
            report = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError("not JSON", value=str(file), mend=str(error)) from None
        if isinstance(report, dict) and any(
            row.get("threats") for row in report.get("rows", ()) if isinstance(row, dict)
        ):
            found.append((file.name, report))
    if not found:
        raise DataError(
            "no report with threats", value=str(folder), mend="run `unlearn-guard bench --out` into it first"
        )
    return found


def render_leaderboard(reports: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """Return the page as Markdown."""
    out = [_HEAD]
    for name, report in reports:
        environment = report["environment"]
        where = name_hardware(report)
        out += [f"## {report['suite']}, profile {report['profile']}", ""]
        out += [
            f"[{name}](results/{name}): {where}; commit {environment['commit']}; config {report['config_hash']}, data {report['data_hash']}.",
            "",
        ]
        header = name_columns(report)
        out += ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
        out += ["| " + " | ".join(line) + " |" for line in list_means(report)] + [""]
        diverged = [name + seeds for name, seeds in find_diverged(report["rows"]).items()]
        out += [f"Diverged: {', '.join(diverged)}.", ""] if diverged else []
        missing = {row["name"]: row["reasons"]["sets"] for row in report["rows"] if row["status"] == "n/a"}
        out += (
            [f"Not applicable: {'; '.join(f'{name} ({why})' for name, why in missing.items())}.", ""] if missing else []
        )
    return "\n".join(out)


def write_leaderboard(folder: Path, out: Path) -> int:
    """Write the page from a folder of reports; return how many reports it holds."""
    reports = find_reports(folder)
    write_atomic(out, render_leaderboard(reports).encode())
    return len(reports)


def name_columns(report: Mapping[str, Any]) -> list[str]:
    """Return the header of the lines of means."""
    return [title.replace("@k", f"@{report['attack']['n_samples']}") for title in _HEADER]


def list_means(report: Mapping[str, Any]) -> list[list[str]]:
    """Return a line of means over seeds for every row that was attacked on all of its seeds, those that leak least first."""
    lines = []
    for name, rows in group_rows(report["rows"]).items():
        if not all((row.get("threats") or {}).get("black_box") for row in rows):
            continue
        leak, kept = measure_trade(rows, report["suite"])
        cells = [name, rows[0]["kind"], str(len(rows)), f"{leak:.3f}", f"{kept:.3f}"]
        cells += [
            _average([(row["threats"].get(threat) or {}).get("excess") for row in rows])
            for threat in ("samples", "adaptive", "logprobs", "weights")
        ]
        cells += [_average([row.get(key) for row in rows]) for key in ("model_utility", "indistinguishability")]
        cells.append(_average([row["cost"]["fit_s"] for row in rows], "{:.1f}"))
        lines.append((leak, -kept, name, cells))
    return [cells for *_, cells in sorted(lines)]


def _average(values: Sequence[float | None], form: str = "{:.3f}") -> str:
    known = [value for value in values if value is not None]
    return form.format(mean(known)) if known else "–"
