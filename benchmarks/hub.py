"""Rows of public benchmarks: from the folder that UNLEARN_GUARD_DATA names, else from the Hugging Face hub."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from unlearn_guard.benchmarks.stages import describe_folder
from unlearn_guard.guard.errors import DependencyError


def read_local(folder: str, name: str) -> list[dict[str, Any]] | None:
    """Return the rows of `<folder>/<name>.jsonl` below UNLEARN_GUARD_DATA, None where there is no such file; raise DependencyError where that is no folder."""
    root = os.environ.get("UNLEARN_GUARD_DATA", "")
    if root and not Path(root).is_dir():
        raise DependencyError("UNLEARN_GUARD_DATA", value=root, allowed="a folder", mend="correct it, or unset it")
    file = Path(root) / folder / f"{name}.jsonl"
    if not root or not file.is_file():
        return None
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def describe_local() -> list[tuple[str, int, int]]:
    """Return what tells one state of the folder UNLEARN_GUARD_DATA from another; nothing where none is set."""
    root = os.environ.get("UNLEARN_GUARD_DATA", "")
    return describe_folder(Path(root), "*/*.jsonl") if root else []


def read_table(
    folder: str, name: str, *, hub: str, config: str | None = None, split: str = "train"
) -> list[dict[str, Any]]:
    """Return the rows of `<folder>/<name>.jsonl` below UNLEARN_GUARD_DATA, or of a split of a hub data set.

    Raises DependencyError where neither is at hand.
    """
    if (rows := read_local(folder, name)) is not None:
        return rows
    try:
        from datasets import load_dataset

        return [dict(row) for row in load_dataset(hub, config or name, split=split)]
    except Exception as error:
        raise DependencyError(
            f"{folder} is not at hand",
            value=name,
            allowed=f"{folder}/{name}.jsonl below UNLEARN_GUARD_DATA, or {hub} on the hub",
            mend=f"set UNLEARN_GUARD_DATA, or go online once ({type(error).__name__})",
        ) from None
