"""Why a prompt was flagged, or was not: what an operator sees of one decision."""

from __future__ import annotations

from typing import Any

from unlearn_guard.guard.bundle import read_lines
from unlearn_guard.guard.screening import Guard
from unlearn_guard.guard.verdict import TextScore


def explain(guard: Guard, prompt: str) -> dict[str, Any]:
    """Return the verdict on one prompt with its windows, stage scores, nearest rows and the threshold, as plain JSON."""
    verdict = guard.screen([prompt])[0]
    score = _score(guard, prompt) if not verdict.errors else TextScore(0.0, "error")
    return {
        "prompt": prompt,
        "flagged": verdict.flagged,
        "forget_ids": list(verdict.forget_ids),
        "score": verdict.score,
        "threshold": guard.find_threshold(),
        "p_value": verdict.p_value,
        "stage": verdict.stage,
        "spans": [list(span) for span in verdict.spans],
        "fired": list(verdict.fired) if verdict.fired else None,
        "errors": list(verdict.errors),
        "n_windows": score.n_windows,
        "n_encoded": score.n_encoded,
        "windows": [
            {
                "start": window.start,
                "end": window.end,
                "text": window.text,
                "how": window.how,
                "score": window.score,
                "stage": window.stage,
                "signals": dict(window.signals),
            }
            for window in score.windows
        ],
        "neighbours": _find_neighbours(guard, score),
    }


def _score(guard: Guard, prompt: str) -> TextScore:
    return guard.classifier.score([prompt])[0]


def _find_neighbours(guard: Guard, score: TextScore) -> list[dict[str, Any]]:
    """Return the rows nearest to the highest window, as text where the bundle keeps it."""
    if guard.bundle is None or not score.windows:
        return []
    near = guard.classifier.find_neighbours(score.windows[0].encoded, 3)
    rows = read_lines(guard.bundle.path / "examples.jsonl")
    found = []
    for place, owner, cosine in near:
        row = rows[place] if place < len(rows) else {}
        text = row.get("prompt") or row.get("text") or row.get("hash", "")
        found.append({"forget_id": owner, "cosine": round(cosine, 4), "text": text})
    return found
