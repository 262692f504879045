"""A small typed registry: names to factories, with helpful errors for unknown names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from unlearn_guard.guard.errors import UnknownNameError

T = TypeVar("T")
_NAME = re.compile(r"[a-z][a-z0-9+-]*")


class Registry(Generic[T]):
    """Map lower-case, dash-separated names to values of one kind."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._values: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Register a value under `name`, as a decorator; raise ValueError for a taken or ill-formed name."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"{self.kind} name {name!r} must match {_NAME.pattern}")
        if name in self._values:
            raise ValueError(f"{self.kind} {name!r} is registered already")

        def add(value: T) -> T:
            self._values[name] = value
            return value

        return add

    def __getitem__(self, name: str) -> T:
        if name not in self._values:
            raise UnknownNameError(self.kind, name, self._values)
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values
