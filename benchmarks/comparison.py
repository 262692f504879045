"""Two reports side by side: which figures differ, cost and environment left out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn_guard.guard.errors import DataError

_BESIDE = ("cost", "environment")
"""What differs from run to run on any machine."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of one row that two reports do not share; None where one lacks it."""

    row: str
    figure: str
    before: Any
    after: Any


def read_report(path: Path) -> dict[str, Any]:
    """Return a report; raise DataError for a file that is none."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(report, dict) and isinstance(report.get("rows"), list) and "suite" in report:
            return report
    except ValueError:
        pass
    raise DataError(
        "not a benchmark report", value=str(path), allowed="the JSON file that `unlearn-guard bench` writes"
    )


def compare_reports(before: dict[str, Any], after: dict[str, Any]) -> list[Difference]:
    """Return every difference, row by row in the order of the first report; raise DataError for reports of two suites."""
    if before["suite"] != after["suite"]:
        raise DataError("reports of two suites do not compare", value=after["suite"], allowed=before["suite"])
    found = [
        Difference("report", key, before.get(key), after.get(key))
        for key in ("schema_version", "profile", "config_hash", "data_hash")
        if before.get(key) != after.get(key)
    ]
    rows = [{_name(row): row for row in (*report["rows"], *report.get("studies", ()))} for report in (before, after)]
    for name in dict.fromkeys([*rows[0], *rows[1]]):
        old, new = (dict(_flatten(part.get(name, {}))) for part in rows)
        if not old or not new:
            found.append(Difference(name, "row", "there" if old else None, "there" if new else None))
            continue
        found += [
            Difference(name, figure, old.get(figure), new.get(figure))
            for figure in dict.fromkeys([*old, *new])
            if old.get(figure) != new.get(figure)
        ]
    return found


def _name(row: dict[str, Any]) -> str:
    if "study" in row:
        return f"study {row['study']}, seed {row['seed']}"
    target = f" on {row['target']}" if "target" in row else ""
    return f"{row['name']}{target}, seed {row.get('seed', 0)}"


def _flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, entry in value.items():
            if key not in _BESIDE:
                yield from _flatten(entry, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
        for place, entry in enumerate(value):
            yield from _flatten(entry, f"{path}[{place}]")
    else:
        yield path, value
