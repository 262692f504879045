"""The audit log: one JSON line per screened request, without its text."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class AuditRow:
    """What was decided about one request, and what really ran.

    `prompt` is a keyed hash; `action` is `none`, `would:<methods>` (shadow), `<methods>`, `refused`, or, for an answer that
    gave something away, `answer:filter`, `answer:rewrite` or `answer:would:…`; `fired` is the clause that decided:
    message, start and end.
    """

    request_id: str
    prompt: str
    revision: str
    mode: str
    stage: str
    score: float
    p_value: float
    forget_ids: tuple[str, ...]
    action: str
    errors: tuple[str, ...] = ()
    fired: tuple[int, int, int] | None = None


class AuditLog:
    """Append rows to a file; one line is one write, so that several front-ends can share it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def append(self, row: AuditRow) -> None:
        """Write one row."""
        line = json.dumps({"time": round(time.time(), 3), **asdict(row)}, ensure_ascii=False) + "\n"
        with self._lock:
            os.write(self._descriptor, line.encode())
