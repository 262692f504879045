"""Plots of a report, from its JSON alone: the trade between forgetting and keeping, queries to leak, what more requests cost."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from unlearn_guard.benchmarks.attacks.adaptive import Attempt, count_leaks
from unlearn_guard.benchmarks.dominance import find_diverged, find_front, is_comparable, measure_trade

COLORS = {"guard": "#2458d3", "weights": "#c0392b", "none": "#5c6577", "retain": "#1a7f47"}
_TITLES = {"guard": "guards", "weights": "weight editing", "none": "unguarded", "retain": "retain-only"}


def make_figure(width: float = 6.2, height: float = 4.2) -> Any:
    """Return an empty figure and its axes in the house style; sizes in inches."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(width, height), dpi=110)
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


def group_rows(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return measured rows by name, seeds together; without those that diverged on any seed, which a mean over the others would flatter."""
    groups: dict[str, list[dict[str, Any]]] = {}
    diverged = find_diverged(rows)
    for row in rows:
        if row["status"] == "ok" and row.get("sets") and row["name"] not in diverged:
            groups.setdefault(row["name"], []).append(row)
    return groups


def plot_tradeoff(report: Mapping[str, Any], kept: str = "retain") -> str | None:
    """Plot worst-case leak above chance against what is kept, with the front of guards and of weight editing; return a base64 PNG.

    kept: `retain`, ROUGE-L on kept questions, which weight editing trains on; or `utility`, model utility, None where no row has one.
    """
    points: dict[str, dict[str, tuple[float, float]]] = {}
    for name, rows in group_rows(report["rows"]).items():
        if not all(is_comparable(row) for row in rows):
            continue
        leak, rouge = measure_trade(rows, report["suite"])
        if kept == "retain":
            points.setdefault(rows[0]["kind"], {})[name] = leak, rouge
        elif all(row["model_utility"] is not None for row in rows):
            points.setdefault(rows[0]["kind"], {})[name] = leak, mean(row["model_utility"] for row in rows)
    if not points and kept != "retain":
        return None
    figure, axes = make_figure(7.4, 5.0)
    for kind, own in points.items():
        axes.scatter(
            *zip(*own.values(), strict=True), color=COLORS[kind], s=38, zorder=3, label=_TITLES[kind], alpha=0.85
        )
        front = find_front(own)
        if kind in ("guard", "weights"):
            axes.plot(
                *zip(*(own[name] for name in front), strict=True),
                color=COLORS[kind],
                alpha=0.4,
                zorder=2,
                drawstyle="steps-post",  # What lies between two points nobody measured.
            )
        places: dict[tuple[float, float], list[str]] = {}
        for name in front:
            places.setdefault(own[name], []).append(name)
        for place, names in places.items() if kind != "retain" else ():
            axes.annotate(
                "\n".join(", ".join(names[start : start + 4]) for start in range(0, len(names), 4)),
                place,
                xytext=(8, -8 if kind == "guard" else 8),
                textcoords="offset points",
                va="top" if kind == "guard" else "bottom",
                fontsize=7.5,
                color=COLORS[kind],
            )
    what = "ROUGE-L recall on retain" if kept == "retain" else "model utility, where likelihoods mean something"
    axes.set(
        xlabel="worst-case leak above chance, black box (lower: forgotten)",
        ylabel=f"{what} (higher: kept)",
        xlim=(-0.04, 1.06),
        ylim=(-0.05, 1.18),
        title="Forgetting against keeping; named: what nothing of its kind dominates",
    )
    if points:
        axes.legend(fontsize=8, loc="lower right", frameon=False)
    else:
        axes.text(0.5, 0.5, "not attacked, or no variant tells the models apart", ha="center", color="#5c6577")
    return encode_figure(figure)


def plot_queries(report: Mapping[str, Any]) -> str | None:
    """Plot the share of facts leaked by queries of the adaptive attacker; None where no row was attacked so."""
    groups = {
        name: own
        for name, rows in group_rows(report["rows"]).items()
        if (own := [row for row in rows if row.get("adaptive")])
    }
    if not groups:
        return None
    from matplotlib import colormaps

    figure, axes = make_figure(7.4, 4.2)
    axes.set_prop_cycle(color=[colormaps["tab20"](place) for place in range(20)])
    for name, rows in groups.items():
        attempts = [Attempt("", each) for row in rows for each in row["adaptive"]["needed"]]
        curve = count_leaks(attempts, queries=rows[0]["adaptive"]["queries"])
        axes.plot(
            *zip(*curve, strict=True),
            drawstyle="steps-post",
            linestyle="--" if rows[0]["kind"] == "weights" else "-",
            label=name,
        )
    axes.set(
        xlabel="queries to the adaptive attacker's first leak",
        ylabel="share of facts leaked, all seeds",
        ylim=(-0.03, 1.03),
        title="Queries to leak (dashed: weight editing)",
    )
    axes.legend(
        fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.0)
    )  # Beside the lines, not over them.
    return encode_figure(figure)


def plot_scaling(report: Mapping[str, Any]) -> str | None:
    """Plot what n forget requests cost; None where that was not measured."""
    points = find_studies(report, "requests")
    if len(points) < 2:
        return None
    figure, axes = make_figure(7.4, 4.2)
    right = axes.twinx()
    right.spines[["top"]].set_visible(False)
    titles = (
        ("fit_s", "fit, s", axes, "#2458d3"),
        ("add_s", "one more request, s", axes, "#1a7f47"),
        ("remove_s", "revoke one, s", axes, "#c0392b"),
        ("screen_p50_ms", "screening p50, ms (right)", right, "#5c6577"),
    )
    lines = []
    for name, title, side, color in titles:
        values = [(point["n_requests"], point["cost"][name]) for point in points if point["cost"][name] is not None]
        if values:
            style = "--" if side is right else "-"
            lines += side.plot(*zip(*values, strict=True), marker="o", label=title, color=color, linestyle=style)
    axes.set(xscale="log", yscale="log", xlabel="forget requests in force", ylabel="seconds")
    right.set(yscale="log", ylabel="milliseconds per prompt")
    axes.set_title("What more forget requests cost")
    axes.legend(handles=lines, fontsize=8, frameon=False)
    return encode_figure(figure)


def find_studies(report: Mapping[str, Any], kind: str, *, every_seed: bool = False) -> list[dict[str, Any]]:
    """Return the records of one kind of study, of the first seed that has it, or of every one."""
    records = [
        record
        for record in report.get("studies", ())
        if record["study"].partition("-")[0] == kind and "failed" not in record
    ]
    return [record for record in records if every_seed or record["seed"] == records[0]["seed"]]
