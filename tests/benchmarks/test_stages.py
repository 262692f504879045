"""Finished stages are found again by what decides them, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unlearn_guard.benchmarks import stages
from unlearn_guard.benchmarks.stages import Stages, hash_sources
from unlearn_guard.guard.errors import DataError


def count(calls: list[int]) -> dict[str, Any]:
    calls.append(1)
    return {"n": len(calls)}


def test_a_finished_stage_is_not_computed_again(tmp_path: Path) -> None:
    calls: list[int] = []
    for key in ({"seed": 0}, {"seed": 0}, {"seed": 1}, {"seed": 0}):
        Stages(tmp_path).run("world-eco", key, lambda: count(calls))
    assert len(calls) == 2
    assert Stages(tmp_path).run("world-eco", {"seed": 1}, lambda: count(calls)) == {"n": 2}
    assert Stages(tmp_path).run("world-npo", {"seed": 1}, lambda: count(calls)) == {"n": 3}


def test_fresh_computes_and_keeps(tmp_path: Path) -> None:
    calls: list[int] = []
    Stages(tmp_path).run("a", 0, lambda: count(calls))
    assert Stages(tmp_path, fresh=True).run("a", 0, lambda: count(calls)) == {"n": 2}
    assert Stages(tmp_path).run("a", 0, lambda: count(calls)) == {"n": 2}


def test_other_code_is_another_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    Stages(tmp_path).run("a", 0, lambda: count(calls))
    monkeypatch.setattr(stages, "hash_sources", lambda: "changed")
    Stages(tmp_path).run("a", 0, lambda: count(calls))
    assert len(calls) == 2
    assert len(hash_sources()) == 16


def test_a_stage_that_failed_is_not_kept(tmp_path: Path) -> None:
    calls: list[int] = []
    with pytest.raises(ZeroDivisionError):
        Stages(tmp_path).run("a", 0, lambda: {"n": 1 / 0})
    assert not list(tmp_path.iterdir())
    assert Stages(tmp_path).run("a", 0, lambda: count(calls)) == {"n": 1}


@pytest.mark.parametrize("content", ["", '{"digest": "', "[]", '{"digest": "x", "result": {}}', '{"result": {"n": 1}}'])
def test_a_damaged_file_says_what_to_do(tmp_path: Path, content: str) -> None:
    Stages(tmp_path).run("a", 0, lambda: {"n": 1})
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text())["stage"] == "a"
    file.write_text(content)
    with pytest.raises(DataError, match=r"cannot be read.*a-.*json.*--fresh"):
        Stages(tmp_path).run("a", 0, lambda: {"n": 2})
    assert Stages(tmp_path, fresh=True).run("a", 0, lambda: {"n": 2}) == {"n": 2}
