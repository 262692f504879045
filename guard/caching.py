"""The user's cache folder: exported encoders, trained demo models."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "UNLEARN_GUARD_CACHE"


def cache_folder(name: str) -> Path:
    """Return a named folder below UNLEARN_GUARD_CACHE, or below the user's cache folder, made if missing."""
    root = os.environ.get(CACHE_VARIABLE)
    if not root:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        root = str(Path(base) / "unlearn-guard")
    folder = Path(root) / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
