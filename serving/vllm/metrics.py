"""Prometheus metrics on vLLM's own /metrics page. Names are public API; content never appears in them."""

from __future__ import annotations

from typing import Any

from unlearn_guard.guard.verdict import Verdict

_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)


class Counters:
    """Counters of one front-end process; vLLM sums them over API servers."""

    def __init__(self, revision: str) -> None:
        self._metrics = _make_metrics()
        self._revision = revision

    def observe(self, verdict: Verdict, seconds: float) -> None:
        """Record one screening."""
        self._metrics["seconds"].observe(seconds)
        self._metrics["verdicts"].labels(verdict.stage, str(verdict.flagged).lower(), self._revision).inc()
        if verdict.errors:
            self._metrics["errors"].inc()

    def set_drift(self, log_martingale: float) -> None:
        """Record the drift monitor's log martingale; 4.6 and more is an alarm."""
        self._metrics["drift"].set(log_martingale)

    def count(self, action: str, mode: str) -> None:
        """Record what was done to one request."""
        self._metrics["requests"].labels(action, mode).inc()

    def count_answer(self, action: str) -> None:
        """Record an answer that gave something away."""
        self._metrics["answers"].labels(action).inc()


_METRICS: dict[str, Any] = {}


def _make_metrics() -> dict[str, Any]:
    """Make the collectors at first use: vLLM sets its multi-process folder only after plugins are loaded."""
    if not _METRICS:
        from prometheus_client import Counter, Gauge, Histogram

        _METRICS["requests"] = Counter("guard_requests_total", "Requests by what was done to them", ["action", "mode"])
        _METRICS["verdicts"] = Counter("guard_verdicts_total", "Verdicts by stage", ["stage", "flagged", "revision"])
        _METRICS["errors"] = Counter("guard_errors_total", "Requests that could not be screened")
        _METRICS["answers"] = Counter("guard_answers_total", "Answers that gave something away", ["action"])
        _METRICS["drift"] = Gauge(
            "guard_drift_log_martingale", "Evidence that traffic left its calibration", multiprocess_mode="max"
        )
        _METRICS["seconds"] = Histogram("guard_decision_seconds", "Seconds to screen a request", buckets=_BUCKETS)
    return _METRICS
