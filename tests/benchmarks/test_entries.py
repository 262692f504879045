"""Settings in files: read by name, other names are errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from unlearn_guard.benchmarks.entries import list_entries, read_entry, read_model
from unlearn_guard.benchmarks.sizes import ProfileFile
from unlearn_guard.guard.errors import DataError, UnknownNameError


def test_a_file_is_read_by_its_name(tmp_path: Path) -> None:
    for name in ("small", "full"):
        (tmp_path / f"{name}.yaml").write_text(f"title: {name}\n")
    assert list_entries(tmp_path) == ["full", "small"]
    assert read_entry(tmp_path, "profile", "small") == {"title": "small"}
    with pytest.raises(UnknownNameError, match=r"unknown profile: 'smal'.*did you mean 'small'"):
        read_entry(tmp_path, "profile", "smal")
    with pytest.raises(UnknownNameError, match="unknown profile: 'full'"):
        read_entry(tmp_path, "profile", "full", ["small"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", r"profile is not YAML: 'small\.yaml'"),
        ("", r"profile says nothing: 'small\.yaml'.*settings by name"),
        ("- 1", r"profile says nothing"),
        ("title: x", r"profile has a wrong setting: 'small\.yaml: seeds'.*Field required"),
        ("title: x\nseeds: [0]\nattack: {n_facts: 0}", r"'small\.yaml: attack\.n_facts'.*greater than or equal to 1"),
    ],
)
def test_a_file_that_is_none_of_settings_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(text)
    with pytest.raises(DataError, match=message):
        read_model(ProfileFile, tmp_path, "profile", "small")
