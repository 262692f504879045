"""Settings in files: read by name, other names are errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from unlearn_guard.benchmarks.entries import list_entries, read_entry
from unlearn_guard.guard.errors import UnknownNameError


def test_a_file_is_read_by_its_name(tmp_path: Path) -> None:
    for name in ("small", "full"):
        (tmp_path / f"{name}.yaml").write_text(f"title: {name}\n")
    assert list_entries(tmp_path) == ["full", "small"]
    assert read_entry(tmp_path, "profile", "small") == {"title": "small"}
    with pytest.raises(UnknownNameError, match=r"unknown profile: 'smal'.*did you mean 'small'"):
        read_entry(tmp_path, "profile", "smal")
    with pytest.raises(UnknownNameError, match="unknown profile: 'full'"):
        read_entry(tmp_path, "profile", "full", ["small"])
