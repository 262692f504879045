"""Reports from the JSON alone: Markdown for reading, one self-contained HTML page with plots."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unlearn_guard.guard.bundle import write_atomic

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2433; --soft: #5c6577; --line: #d9dee8; --paper: #ffffff; --mark: #2458d3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9f0; --soft: #9aa4b8; --line: #333c4d; --paper: #141922; --mark: #8fb0ff; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1180px; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p, .soft { color: var(--soft); } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { text-align: right; padding: .35rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child, td.text, .prose th, .prose td { text-align: left; } th { font-weight: 600; border-bottom-width: 2px; }
.wide { overflow-x: auto; } img { max-width: 100%; background: #fff; border-radius: 6px; border: 1px solid var(--line); }
.pass { color: #1a7f47; font-weight: 600; } .fail { color: #c0392b; font-weight: 600; } .gone { color: #c0392b; } .kept { color: #1a7f47; }
code { font-size: .88em; } .grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(360px, 1fr)); gap: 1rem; }
"""

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
)


def write_report(report: dict[str, Any], out: Path) -> None:
    """Write the report as JSON to `out`, as Markdown and HTML beside it."""
    write_atomic(out, (json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
    write_atomic(out.with_suffix(".md"), render_markdown(report).encode())
    write_atomic(out.with_suffix(".html"), render_html(report).encode())


def tabulate(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the headline table: header and one line per row of the report."""
    suite = report["suite"]
    header = ["method", "seed", "status", *(name for name, _, _ in _COLUMNS)]
    header += ["retain flagged", "FQ D", "FQ p", "ROUGE p", "utility", "fit s"]
    lines = []
    for row in report["rows"]:
        sets, quality = row.get("sets", {}), row.get("forget_quality") or {}
        retain = sets.get(f"{suite}.retain", {})
        flagged = retain.get("flagged")
        cells = [row["name"], str(row["seed"]), row["status"]]
        cells += [_show(sets.get(f"{suite}.{part}", {}).get(metric)) for _, part, metric in _COLUMNS]
        cells += [
            "–" if flagged is None else f"{flagged}/{retain['n']}",
            _show(quality.get("ks_d")),
            _show(quality.get("p_value"), "{:.1e}"),
            _show(quality.get("ks_rouge_p"), "{:.1e}"),
            _show(row.get("model_utility")),
            _show((row.get("cost") or {}).get("fit_s"), "{:.0f}"),
        ]
        lines.append(cells)
    return header, lines


def render_markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    header, lines = tabulate(report)
    out = [f"# unlearn-guard bench: {report['suite']}, profile {report['profile']}", "", _describe(report), ""]
    out += ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    out += ["| " + " | ".join(line) + " |" for line in lines]
    out += ["", *(f"- {note}" for note in _notes(report)), ""]
    return "\n".join(out)


def render_html(report: dict[str, Any]) -> str:
    """Return the report as one self-contained page."""
    header, lines = tabulate(report)
    images = [plot_tradeoff(report), plot_leak(report)]
    body = [
        f"<h1>unlearn-guard bench: {html.escape(report['suite'])}, profile {html.escape(report['profile'])}</h1>",
        f"<p>{html.escape(_describe(report))}</p>",
        '<div class="grid">'
        + "".join(f'<img alt="" src="data:image/png;base64,{image}">' for image in images)
        + "</div>",
        "<h2>Methods</h2>",
        render_table(header, lines),
        "<h2>How to read it</h2><ul>" + "".join(f"<li>{html.escape(note)}</li>" for note in _notes(report)) + "</ul>",
        "<h2>Why a figure is missing</h2>",
        render_table(["method", "figure", "reason"], _reasons(report)),
    ]
    return render_page("unlearn-guard bench", body)


def render_page(title: str, body: Sequence[str]) -> str:
    """Wrap HTML in the house's one page."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>\n'
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def render_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return an HTML table; cells are escaped."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def plot_tradeoff(report: dict[str, Any]) -> str:
    """Plot what is left of the forget set against what is kept of the retain set; return a base64 PNG."""
    suite = report["suite"]
    figure, axes = make_figure()
    for row in report["rows"]:
        sets = row.get("sets") or {}
        if f"{suite}.retain" not in sets:
            continue
        left = sets[f"{suite}.forget.unseen"]["rouge_l_recall"]
        kept = sets[f"{suite}.retain"]["rouge_l_recall"]
        color = {"guard": "#2458d3", "weights": "#c0392b"}.get(row["kind"], "#5c6577")
        axes.scatter([left], [kept], color=color, s=42, zorder=3)
        axes.annotate(row["name"], (left, kept), xytext=(5, -9), textcoords="offset points", fontsize=8)
    axes.set(
        xlabel="ROUGE-L recall on unseen forget questions (lower: forgotten)",
        ylabel="ROUGE-L recall on retain (higher: kept)",
        xlim=(-0.03, 1.12),
        ylim=(-0.05, 1.08),
        title="Forgetting against keeping",
    )
    return encode_figure(figure)


def plot_leak(report: dict[str, Any]) -> str:
    """Plot leak rates by method and forget set; return a base64 PNG."""
    suite = report["suite"]
    rows = [row for row in report["rows"] if row.get("sets") and row["seed"] == report["rows"][0]["seed"]]
    figure, axes = make_figure()
    parts = ("forget.given", "forget.unseen", "forget.paraphrase")
    for number, (part, color) in enumerate(zip(parts, ("#2458d3", "#7a9bea", "#c3d2f7"), strict=True)):
        values = [row["sets"][f"{suite}.{part}"]["leak_rate"] for row in rows]
        places = [place + (number - 1) * 0.27 for place in range(len(rows))]
        axes.bar(places, values, width=0.25, color=color, label=part, zorder=3)
    for row in rows:
        if row["name"] == "retain-only":
            level = row["sets"][f"{suite}.forget.unseen"]["leak_rate"]
            axes.axhline(level, color="#5c6577", linestyle="--", linewidth=1, label="retain-only (chance)")
    axes.set_xticks(range(len(rows)), [row["name"] for row in rows], rotation=35, ha="right", fontsize=8)
    axes.set(ylabel="leak rate", ylim=(0, 1.05), title="Facts that still come out")
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=4, frameon=False)
    return encode_figure(figure)


def make_figure() -> Any:
    """Return an empty figure and its axes in the house style."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.2, 4.2), dpi=110)
    axes.grid(color="#e6e9f0", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def encode_figure(figure: Any) -> str:
    """Return a figure as base64 PNG, and close it."""
    from matplotlib import pyplot

    buffer = io.BytesIO()
    figure.tight_layout()
    figure.savefig(buffer, format="png")
    pyplot.close(figure)
    return base64.b64encode(buffer.getvalue()).decode()


def _describe(report: dict[str, Any]) -> str:
    environment = report["environment"]
    return (
        f"{environment['processor']}, {environment['cores']} cores, {environment['memory_gib']} GiB; "
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
    return notes + ([f"Positions corrupted when scoring — {'; '.join(positions)}."] if positions else [])


def _reasons(report: dict[str, Any]) -> list[list[str]]:
    merged: dict[tuple[str, str], list[str]] = {}
    for row in report["rows"]:
        for path, reason in row.get("reasons", {}).items():
            if reason not in ("no guard", "not scored on this set"):
                merged.setdefault((row["name"], reason), []).append(path.removeprefix(f"sets.{report['suite']}."))
    return [[name, ", ".join(dict.fromkeys(paths)), reason] for (name, reason), paths in merged.items()]


def _show(value: Any, form: str = "{:.3f}") -> str:
    return "–" if value is None else form.format(value)
