"""The detection report from its JSON alone: Markdown, and one self-contained HTML page."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

from unlearn_guard.benchmarks.page import render_page, render_table
from unlearn_guard.benchmarks.plots import encode_figure, make_figure
from unlearn_guard.guard.bundle import write_atomic

_HEADER = ("cell", "n", "guard: flagged", "95 % (Wilson)", "guard: stopped", "name-match: flagged", "stopped", "gain")


def write_detection(report: dict[str, Any], out: Path) -> None:
    """Write the report as JSON to `out`, as Markdown and HTML beside it."""
    write_atomic(out, (json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
    write_atomic(out.with_suffix(".md"), _render_markdown(report).encode())
    write_atomic(out.with_suffix(".html"), _render_html(report).encode())


def tabulate_cells(report: dict[str, Any]) -> list[list[str]]:
    """Return one line per cell: ours beside the name match, and what ours adds."""
    rows = {row["name"]: row["detection"] for row in report["rows"]}
    ours, theirs = rows["guard"], rows.get("name-match", {})
    lines = []
    for cell, found in ours.items():
        n, other = found["n"], theirs.get(cell, {"flagged": 0, "stopped": 0})
        lines.append(
            [
                cell,
                str(n),
                _share(found["flagged"], n),
                f"{100 * found['flagged_low']:.2f}–{100 * found['flagged_high']:.2f}",
                _share(found["stopped"], n),
                _share(other["flagged"], n),
                _share(other["stopped"], n),
                f"{100 * (found['flagged'] - other['flagged']) / n:+.1f}",
            ]
        )
    return lines


def _render_markdown(report: dict[str, Any]) -> str:
    out = [f"# unlearn-guard bench: {report['suite']}, profile {report['profile']}", "", _describe(report), ""]
    out += ["| " + " | ".join(_HEADER) + " |", "|" + "---|" * len(_HEADER)]
    out += ["| " + " | ".join(line) + " |" for line in tabulate_cells(report)]
    out += ["", *(f"Area under the curve of {name}: {area:.4f}." for name, area in report.get("areas", {}).items())]
    out += ["", "## Fits", "", *(f"- `{name}`: {note}" for name, note in report["notes"].items()), ""]
    return "\n".join(out)


def _render_html(report: dict[str, Any]) -> str:
    notes = [[name, json.dumps(note)] for name, note in report["notes"].items()]
    curves = report.get("curves") or {}
    plots = [_plot_curves(curves)] if curves else []
    body = [
        f"<h1>unlearn-guard bench: {html.escape(report['suite'])}, profile {html.escape(report['profile'])}</h1>",
        f"<p>{html.escape(_describe(report))}</p>",
        *(f'<img alt="recall against false flags" src="data:image/png;base64,{plot}">' for plot in plots),
        *(
            f"<p>Area under the curve of {html.escape(name)}: {area:.4f}.</p>"
            for name, area in report.get("areas", {}).items()
        ),
        "<h2>Cells</h2>",
        render_table(_HEADER, tabulate_cells(report)),
        "<h2>Fits</h2>",
        render_table(("set", "what was fitted"), notes),
    ]
    return render_page("unlearn-guard detection", body)


def _plot_curves(curves: dict[str, list[list[float]]]) -> str:
    figure, axes = make_figure()
    for name, points in curves.items():
        axes.plot(
            [max(point[0], 1e-4) for point in points],
            [point[1] for point in points],
            label=name,
            drawstyle="steps-post",
        )
    axes.set(
        xscale="log",
        xlabel="false flags on clean prompts (log)",
        ylabel="recall on forget prompts",
        ylim=(-0.02, 1.02),
        title="Prompt score alone",
    )
    axes.legend(fontsize=8)
    return encode_figure(figure)


def _describe(report: dict[str, Any]) -> str:
    environment = report["environment"]
    where = ", ".join(f"{key} {value}" for key, value in environment.items())
    return (
        "Share of prompts in per cent. flagged: by the prompt alone; stopped: by prompt or gold answer. "
        f"name-match: the aliases as plain words. {where}"
    )


def _share(hits: int, n: int) -> str:
    return f"{100 * hits / n:.2f}" if n else "–"
