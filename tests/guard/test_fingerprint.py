"""Fingerprints: stable under rewriting, different for another model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from unlearn_guard.guard.errors import BundleMismatchError, DataError, DependencyError
from unlearn_guard.guard.fingerprint import check_fingerprint, fingerprint_model, hash_bytes

CONFIG = {"layers": 2, "hidden": 8, "rope": {"theta": 1.0, "kind": "x"}, "transformers_version": "4.1"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    save_file({"w": np.zeros((2, 3), np.float32)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda config: dict(reversed(config.items())),
        lambda config: {**config, "rope": dict(reversed(config["rope"].items()))},
        lambda config: {**config, "transformers_version": "5.0"},
        lambda config: {**config, "_name_or_path": "/elsewhere"},
        lambda config: {key: value for key, value in config.items() if key != "transformers_version"},
    ],
)
def test_rewritten_config_is_the_same_model(model: Path, rewrite: Callable[[dict], dict]) -> None:
    before = fingerprint_model(model)
    (model / "config.json").write_text(json.dumps(rewrite(CONFIG), indent=4))
    assert fingerprint_model(model) == before


def test_other_weights_of_the_same_shape_are_not_read(model: Path) -> None:
    before = fingerprint_model(model)
    save_file({"w": np.ones((2, 3), np.float32)}, model / "model.safetensors")
    assert fingerprint_model(model) == before


def grow(model: Path) -> None:
    with (model / "model.safetensors").open("ab") as file:
        file.write(b"\0")


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("config", lambda model: (model / "config.json").write_text(json.dumps({**CONFIG, "layers": 3}))),
        ("config", lambda model: (model / "config.json").unlink()),
        ("tokenizer", lambda model: (model / "tokenizer.json").write_text("{ }")),
        ("tokenizer", lambda model: (model / "tokenizer.json").unlink()),
        ("weights", lambda model: save_file({"w": np.zeros((3, 2), np.float32)}, model / "model.safetensors")),
        ("weights", lambda model: save_file({"w": np.zeros((2, 3), np.int32)}, model / "model.safetensors")),
        ("weights", lambda model: save_file({"v": np.zeros((2, 3), np.float32)}, model / "model.safetensors")),
        ("weights", lambda model: save_file({"v": np.zeros(1, np.float32)}, model / "more.safetensors")),
        ("weights", lambda model: (model / "model.safetensors").rename(model / "other.safetensors")),
        ("weights", lambda model: (model / "model.safetensors").unlink()),
        ("weights", grow),
    ],
)
def test_change_shows_in_its_own_part_alone(model: Path, part: str, change: Callable[[Path], object]) -> None:
    before = fingerprint_model(model)
    change(model)
    after = fingerprint_model(model)
    assert [name for name in before if before[name] != after[name]] == [part]


def test_same_model_passes_from_another_place(model: Path) -> None:
    expected = fingerprint_model(model)
    moved = model.rename(model.parent / "moved")
    check_fingerprint(expected, moved)


def test_mismatch_shows_both_fingerprints(model: Path) -> None:
    expected = fingerprint_model(model)
    (model / "tokenizer.json").write_text("{ }")
    with pytest.raises(BundleMismatchError) as caught:
        check_fingerprint(expected, str(model))
    message = str(caught.value)
    assert f"tokenizer {expected['tokenizer'][:12]} in the bundle" in message
    assert f"{hash_bytes(b'{ }')[:12]} here" in message
    assert "weights" not in message
    assert str(model) in message


def test_unknown_model_is_named() -> None:
    with pytest.raises(DependencyError, match="model not found: 'no-such-owner/no-such-model'"):
        fingerprint_model("no-such-owner/no-such-model")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08\0\0",
        bytes(8),
        b"\xff" * 8 + b"{}",
        b"\x03" + bytes(7) + b"{}",
        b"version https://git-lfs.github.com/spec/v1",
    ],
)
def test_broken_shard_is_named(model: Path, content: bytes) -> None:
    shard = model / "model.safetensors"
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"not a safetensors file.*git-lfs") as caught:
        fingerprint_model(model)
    assert str(shard) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b'{"layers": 2', b'{"name": "\xff"}'])
def test_broken_config_is_named(model: Path, content: bytes) -> None:
    (model / "config.json").write_bytes(content)
    with pytest.raises(DataError, match="model configuration is not a JSON object") as caught:
        fingerprint_model(model)
    assert str(model / "config.json") in str(caught.value)
