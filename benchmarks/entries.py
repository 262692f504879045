"""Settings that lie as one YAML file each in a folder: suites, profiles, guards, methods of editing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from unlearn_guard.guard.errors import DataError, UnknownNameError

Settings = TypeVar("Settings", bound=BaseModel)


def list_entries(folder: Path) -> list[str]:
    """Return the names of a folder's files."""
    return sorted(file.stem for file in folder.glob("*.yaml"))


def read_entry(folder: Path, kind: str, name: str, known: Iterable[str] | None = None) -> dict[str, Any]:
    """Return what a file says; `known` are the names that are allowed, else all there are.

    Raises UnknownNameError for any other name, DataError for a file that is none of settings.
    """
    allowed = list_entries(folder) if known is None else list(known)
    if name not in allowed:
        raise UnknownNameError(kind, name, allowed)
    file = folder / f"{name}.yaml"
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise DataError(f"{kind} is not YAML", value=file.name, mend=" ".join(str(error).split())) from None
    if not isinstance(found, dict):
        raise DataError(f"{kind} says nothing", value=file.name, allowed="settings by name")
    return found


def read_model(
    model: type[Settings], folder: Path, kind: str, name: str, known: Iterable[str] | None = None
) -> Settings:
    """Return what a file says, checked; raise as `read_entry` does, and DataError for settings that are wrong."""
    found = read_entry(folder, kind, name, known)
    try:
        return model(**found)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{kind} has a wrong setting", value=f"{name}.yaml: {place}", mend=first["msg"]) from None
