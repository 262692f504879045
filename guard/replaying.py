"""Recorded traffic in, what would have been flagged out: an operator's first contact, before any enforcement."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn_guard.guard.conversation import Item, read_messages
from unlearn_guard.guard.drifting import DriftMonitor
from unlearn_guard.guard.errors import DataError, RowError
from unlearn_guard.guard.screening import Guard

_LEVELS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_BAR_WIDTH = 40


@dataclass(frozen=True, slots=True)
class Recorded:
    """One recorded request, and its answer where it was kept."""

    item: Item
    answer: str = ""


def read_traffic(path: str | Path) -> list[Recorded]:
    """Read JSON lines of recorded traffic.

    A line holds `prompt`, `question` or `messages`, on its own or inside `body` or `request` (as gateways log it), and
    optionally `answer` or `response`. Raises RowError for a line with none of them, DataError for an unreadable file.
    """
    path = Path(path)
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read traffic: {error.strerror or error}", value=str(path)) from None
    except UnicodeDecodeError as error:
        raise DataError("traffic is not UTF-8", value=str(path), mend=f"see byte {error.start}") from None
    requests = []
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise RowError(path, number, f"not JSON ({error})") from None
        requests.append(_read_record(path, number, record))
    if not requests:
        raise DataError("no requests in file", value=str(path), mend="give one JSON object per line")
    return requests


def replay_traffic(guard: Guard, requests: Iterable[Recorded], *, top: int = 10) -> dict[str, Any]:
    """Return counts, flags per million with Wilson's interval, a histogram of p-values, what other alphas would flag,
    and the requests nearest to being flagged.
    """
    drift = DriftMonitor(getattr(guard.classifier, "served", (0.0,)))
    p_values: list[float] = []
    latencies: list[float] = []
    hits: list[dict[str, Any]] = []
    flagged = stopped = errors = 0
    for request in requests:
        start = time.perf_counter()
        verdict = guard.screen([request.item])[0]
        latencies.append(time.perf_counter() - start)
        errors += bool(verdict.errors)
        flagged += verdict.flagged
        p_values.append(verdict.p_value)
        if not verdict.errors:
            drift.update(verdict.score)
        if request.answer and guard.screen_answer(request.item, request.answer, verdict=verdict).flagged:
            stopped += 1
        hits.append(
            {
                "p_value": verdict.p_value,
                "score": verdict.score,
                "flagged": verdict.flagged,
                "stage": verdict.stage,
                "suspects": list(verdict.suspects),
                "text": _show(request.item, verdict.fired),
            }
        )
    hits.sort(key=lambda hit: (hit["p_value"], -hit["score"]))
    n = len(p_values)
    low, high = wilson(flagged, n)
    tallest = max((sum(value <= level for value in p_values) for level in _LEVELS), default=1)
    smallest = guard.classifier.smallest_p
    return {
        "n": n,
        "flagged": flagged,
        "stopped": stopped,
        "errors": errors,
        "drift_log_martingale": round(drift.log_martingale, 3),
        "drift_alarms": drift.alarms,
        "flags_per_million": 1e6 * flagged / n if n else 0.0,
        "low_per_million": 1e6 * low,
        "high_per_million": 1e6 * high,
        "p50_ms": 1e3 * statistics.median(latencies) if latencies else 0.0,
        "p99_ms": 1e3 * sorted(latencies)[min(n - 1, int(0.99 * n))] if latencies else 0.0,
        "histogram": [
            {"p_value": level, "n": count, "width": round(_BAR_WIDTH * count / max(1, tallest))}
            for level in _LEVELS
            for count in [sum(value <= level for value in p_values)]
        ],
        "choices": [
            {"alpha": level, "flagged": sum(value <= level for value in p_values)}
            for level in _LEVELS[:-1]
            if level >= smallest
        ],
        "nearest": hits[:top],
    }


def _read_record(path: Path, number: int, record: object) -> Recorded:
    if not isinstance(record, Mapping):
        raise RowError(path, number, f"a {type(record).__name__}", allowed="a JSON object")
    body: Mapping[str, Any] = record
    for name in ("body", "request"):
        if isinstance(body.get(name), Mapping):
            body = body[name]
    item: Item | None = None
    if isinstance(body.get("messages"), list) and body["messages"]:
        item = body["messages"]
    else:
        for name in ("prompt", "question", "input", "text"):
            if isinstance(body.get(name), str) and body[name].strip():
                item = body[name]
                break
    if item is None:
        raise RowError(path, number, "no request", allowed="prompt, question, input or messages, also inside body")
    answer = record.get("answer") or record.get("response") or ""
    return Recorded(item, answer if isinstance(answer, str) else "\n".join(_find_strings(answer)))


def _find_strings(value: object) -> Iterator[str]:
    """Yield every string inside plain JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _find_strings(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _find_strings(entry)


def _show(item: Item, fired: tuple[int, int, int] | None) -> str:
    """Return the clause that decided, else the last message."""
    try:
        messages = read_messages(item)
    except Exception:  # What cannot be screened is shown as an error of its own.
        return ""
    if fired is not None and 0 <= fired[0] < len(messages):
        return messages[fired[0]].text[fired[1] : fired[2]]
    return messages[-1].text if messages else ""


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion."""
    if n == 0:
        return 0.0, 1.0
    share, square = hits / n, z * z
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = z * math.sqrt(share * (1 - share) / n + square / (4 * n * n)) / (1 + square / n)
    return max(0.0, middle - half), min(1.0, middle + half)
