"""Reports from the JSON alone: Markdown for reading, one self-contained HTML page with plots."""

from __future__ import annotations

import html
import json
import os
from pathlib import Path
from typing import Any

from unlearn_guard.benchmarks.environment import name_hardware
from unlearn_guard.benchmarks.examiner import NOTHING_DECODES, NOTHING_FITTED, NOTHING_SCREENED
from unlearn_guard.benchmarks.page import render_marks, render_page, render_table
from unlearn_guard.benchmarks.plots import plot_queries, plot_scaling, plot_tradeoff
from unlearn_guard.benchmarks.row_sections import list_row_sections
from unlearn_guard.benchmarks.section import Section
from unlearn_guard.benchmarks.study_sections import list_study_sections
from unlearn_guard.benchmarks.subjects import NO_GUARD
from unlearn_guard.benchmarks.verdicts import summarise
from unlearn_guard.guard.bundle import write_atomic
from unlearn_guard.guard.errors import SettingsError

SCHEMA_VERSION = 1
_OBVIOUS = (NO_GUARD, NOTHING_DECODES, NOTHING_SCREENED, NOTHING_FITTED, "not scored on this set")
"""Reasons that a reader does not ask for."""


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
    studies = list_study_sections(report)
    if not report["rows"]:  # Studies alone.
        return studies
    before, after = list_row_sections(report)
    return [*before, *studies, *after]


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
            if reason not in _OBVIOUS:
                merged.setdefault((row["name"], reason), []).append(path.removeprefix(f"sets.{report['suite']}."))
    named: dict[tuple[str, str], list[str]] = {}
    for (name, reason), paths in merged.items():
        named.setdefault((", ".join(dict.fromkeys(paths)), reason), []).append(name)
    everybody = {row["name"] for row in report["rows"]}
    return [
        ["every row" if everybody == {*names} else ", ".join(names), what, reason]
        for (what, reason), names in named.items()
    ]
