"""The audit log: whole JSON lines, appended by whoever shares the file."""

from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from unlearn_guard.guard.audit import AuditLog, AuditRow

ERRORS = ("ValueError: x\ny",)
ROW = AuditRow("req-1", "hash", "rev", "enforce", "alias", 3.5, 0.001, ("p1", "ö"), "eco", ERRORS, (0, 4, 9))


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_row_is_one_line_with_every_field(tmp_path: Path) -> None:
    AuditLog(tmp_path / "audit.jsonl").append(ROW)
    (record,) = read(tmp_path / "audit.jsonl")
    assert record.pop("time") > 0
    assert record == {
        "request_id": "req-1",
        "prompt": "hash",
        "revision": "rev",
        "mode": "enforce",
        "stage": "alias",
        "score": 3.5,
        "p_value": 0.001,
        "forget_ids": ["p1", "ö"],
        "action": "eco",
        "errors": ["ValueError: x\ny"],
        "fired": [0, 4, 9],
    }


def test_log_is_private_and_its_folder_is_made(tmp_path: Path) -> None:
    log = AuditLog(str(tmp_path / "deep" / "audit.jsonl"))
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600


def test_reopened_log_is_appended_to(tmp_path: Path) -> None:
    for name in ("a", "b"):
        AuditLog(tmp_path / "audit.jsonl").append(replace(ROW, request_id=name))
    assert [record["request_id"] for record in read(tmp_path / "audit.jsonl")] == ["a", "b"]


def test_lines_of_several_writers_stay_whole(tmp_path: Path) -> None:
    logs = [AuditLog(tmp_path / "audit.jsonl") for _ in range(2)]
    rows = [replace(ROW, request_id=str(number), errors=("x" * number,)) for number in range(400)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda row: logs[int(row.request_id) % 2].append(row), rows))
    found = {record["request_id"]: record["errors"] for record in read(tmp_path / "audit.jsonl")}
    assert found == {row.request_id: list(row.errors) for row in rows}
