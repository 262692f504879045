"""Fingerprints of the served model, cheap enough to check at every start."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from unlearn_guard.guard.errors import BundleMismatchError, DataError, DependencyError

Fingerprint = dict[str, str]
"""Keys: `config`, `tokenizer`, `weights`; values: sha256 hex digests."""


def locate_model(model: str) -> Path:
    """Return the folder of a model given by path or by hub name (already downloaded).

    Raises DependencyError where neither a folder nor a cached snapshot is found.
    """
    if Path(model).is_dir():
        return Path(model)
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(model, local_files_only=True))
    except Exception:
        raise DependencyError(
            "model not found",
            value=model,
            allowed="a folder with config.json, or the name of a downloaded hub model",
        ) from None


def fingerprint_model(model: str | Path) -> Fingerprint:
    """Hash config.json, tokenizer.json and each weight shard's safetensors header and size.

    Weights themselves are not read: a header names every tensor with its type, shape and place.
    """
    folder = locate_model(str(model))
    shards = sorted(folder.glob("*.safetensors"))
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(f"{shard.name}:{shard.stat().st_size}:".encode())
        digest.update(_read_header(shard))
    return {
        "config": _hash_config(folder / "config.json"),
        "tokenizer": _hash_file(folder / "tokenizer.json"),
        "weights": digest.hexdigest() if shards else "none",
    }


def check_fingerprint(expected: Fingerprint, model: str | Path) -> None:
    """Raise BundleMismatchError, with both fingerprints, when a bundle was made for another model."""
    found = fingerprint_model(model)
    different = [part for part in expected if expected[part] != found.get(part)]
    if different:
        shown = ", ".join(
            f"{part} {expected[part][:12]} in the bundle, {found.get(part, 'none')[:12]} here" for part in different
        )
        raise BundleMismatchError(
            f"the bundle was made for another model ({shown})",
            value=str(model),
            mend="fit a bundle for this model, or serve the model the bundle was made for",
        )


def hash_bytes(content: bytes) -> str:
    """Return the sha256 hex digest."""
    return hashlib.sha256(content).hexdigest()


def _hash_file(path: Path) -> str:
    return hash_bytes(path.read_bytes()) if path.is_file() else "none"


def _hash_config(path: Path) -> str:
    """Hash a configuration by content: libraries rewrite the file with another layout or version stamp."""
    if not path.is_file():
        return "none"
    try:
        config: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"model configuration is not a JSON object ({error})", value=str(path)) from None
    for volatile in ("transformers_version", "_name_or_path"):
        config.pop(volatile, None)
    return hash_bytes(json.dumps(config, sort_keys=True).encode())


def _read_header(shard: Path) -> bytes:
    with shard.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= shard.stat().st_size - 8:
            raise DataError(
                "not a safetensors file", value=str(shard), mend="download the weights again (a git-lfs pointer?)"
            )
        return file.read(length)
