"""Settings that lie as one YAML file each in a folder: suites, profiles, guards, methods of editing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from unlearn_guard.guard.errors import UnknownNameError


def list_entries(folder: Path) -> list[str]:
    """Return the names of a folder's files."""
    return sorted(file.stem for file in folder.glob("*.yaml"))


def read_entry(folder: Path, kind: str, name: str, known: Iterable[str] | None = None) -> dict[str, Any]:
    """Return what a file says; `known` are the names that are allowed, else all there are.

    Raises UnknownNameError for any other name.
    """
    allowed = list_entries(folder) if known is None else list(known)
    if name not in allowed:
        raise UnknownNameError(kind, name, allowed)
    return dict(yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8")))
