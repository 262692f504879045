"""The leaderboard is what the committed reports say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unlearn_guard.benchmarks.leaderboard import find_reports, render_leaderboard, write_leaderboard
from unlearn_guard.guard.errors import DataError

DOCS = Path(__file__).parents[2] / "docs"


def make_report(*rows: dict[str, Any]) -> dict[str, Any]:
    environment = {"processor": "P", "cores": 2, "memory_gib": 8, "commit": "abc"}
    return {
        "suite": "world",
        "profile": "small",
        "environment": environment,
        "attack": {"n_samples": 8},
        "config_hash": "c",
        "data_hash": "d",
        "rows": list(rows),
    }


def make_row(name: str, kind: str, excess: float, kept: float, seed: int = 0, **threats: float) -> dict[str, Any]:
    found = {"black_box": {"excess": excess}, **{key: {"excess": value} for key, value in threats.items()}}
    return {
        "name": name, "kind": kind, "seed": seed, "status": "ok", "threats": found, "model_utility": None,
        "sets": {"world.retain": {"rouge_l_recall": kept}}, "cost": {"fit_s": 2.0}, "indistinguishability": 0.5,
    }  # fmt: skip


def test_rows_are_means_over_seeds_sorted_by_leak_then_by_what_is_kept() -> None:
    page = render_leaderboard(
        [
            (
                "a.json",
                make_report(
                    make_row("npo", "weights", 0.0, 0.9),
                    make_row("eco", "guard", 0.0, 1.0, 0, adaptive=0.1, weights=1.0),
                    make_row("ga", "weights", 0.2, 0.5),
                    make_row("ga", "weights", 0.4, 0.7, 1),
                    {"name": "dpo", "kind": "weights", "seed": 0, "status": "diverged"},
                ),
            )
        ]
    )
    lines = [line for line in page.split("\n") if line.startswith("| ") and "method" not in line]
    assert lines == [
        "| eco | guard | 1 | 0.000 | 1.000 | – | 0.100 | – | 1.000 | – | 0.500 | 2.0 |",
        "| npo | weights | 1 | 0.000 | 0.900 | – | – | – | – | – | 0.500 | 2.0 |",
        "| ga | weights | 2 | 0.300 | 0.600 | – | – | – | – | – | 0.500 | 2.0 |",
    ]
    assert "Diverged: dpo." in page
    assert "P, 2 cores, 8 GiB; commit abc" in page


def test_reports_without_threats_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(json.dumps({"rows": [{"name": "none"}]}))
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(DataError, match="no report with threats"):
        find_reports(tmp_path)
    (tmp_path / "new.json").write_text(json.dumps(make_report(make_row("eco", "guard", 0.0, 1.0))))
    assert write_leaderboard(tmp_path, tmp_path / "page.md") == 1
    assert "eco" in (tmp_path / "page.md").read_text()


def test_the_committed_page_is_what_the_committed_reports_give() -> None:
    assert (DOCS / "leaderboard.md").read_text() == render_leaderboard(find_reports(DOCS / "results"))
