"""Where sets come from: the folder first, RWKU's from the hub, and an error that says which file is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unlearn_guard.benchmarks.known_sets import read_general, read_set
from unlearn_guard.guard.errors import DependencyError


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder in ("general", "rwku"):
        (tmp_path / folder).mkdir()
    monkeypatch.setenv("UNLEARN_GUARD_DATA", str(tmp_path))
    return tmp_path


def write(file: Path, *rows: dict[str, Any]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_general_questions_have_the_right_answer_of_their_kind(data: Path) -> None:
    write(
        data / "general" / "mixed.jsonl",
        {"question": "Who?", "answers": ["Ada", "Bo"]},
        {"question": "Where?", "mc1_targets": {"choices": ["Graz", "Lund"], "labels": [1, 0]}},
        {"question": "Which?", "choices": ["red", "blue"], "answer": 1},
        {"instruction": "Write.", "answer": "A text."},
    )
    asked = [(item.question, item.answer) for item in read_general("mixed")]
    assert asked == [("Who?", "Ada"), ("Where?", "Graz"), ("Which?\nred\nblue", "blue"), ("Write.", "A text.")]


def test_rwku_comes_from_the_folder_else_from_the_hub(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(data / "rwku" / "intro.jsonl", {"target": "Ada"})
    assert read_set("rwku", "intro") == [{"target": "Ada"}]
    asked: list[tuple[str, str, str]] = []

    def load_dataset(hub: str, config: str, split: str) -> list[dict[str, str]]:
        asked.append((hub, config, split))
        return [{"query": "?"}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    (data / "rwku" / "intro.jsonl").unlink()
    assert read_set("rwku", "intro") == read_set("rwku", "forget_level2") == [{"query": "?"}]
    assert asked == [("jinzhuoran/RWKU", "forget_target", "train"), ("jinzhuoran/RWKU", "forget_level2", "test")]


def test_what_is_missing_is_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DependencyError, match=r"general/mmlu\.jsonl"):
        read_set("general", "mmlu")
    monkeypatch.setenv("UNLEARN_GUARD_DATA", str(data / "nowhere"))
    with pytest.raises(DependencyError, match=r"UNLEARN_GUARD_DATA: .*nowhere.*a folder"):
        read_set("general", "mmlu")
