"""Models from the cache: whole ones are used, damaged ones are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unlearn_guard.benchmarks.training import _is_finished
from unlearn_guard.guard.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    record = {"seconds": 1.0, "bytes": {"config.json": 2, "model.safetensors": 7}}
    (tmp_path / "training.json").write_text(json.dumps(record))
    return tmp_path


def test_a_whole_model_is_finished(folder: Path) -> None:
    assert _is_finished(folder)
    (folder / "training.json").unlink()  # Trained before sizes were kept, or elsewhere.
    assert _is_finished(folder)
    (folder / "config.json").unlink()
    assert not _is_finished(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [("model.safetensors", b"weig"), ("model.safetensors", None), ("training.json", b'{"seconds": 1')],
)
def test_a_damaged_model_is_named(folder: Path, name: str, content: bytes | None) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=f"a trained model is damaged.*{name}.*delete"):
        _is_finished(folder)
