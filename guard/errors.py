"""Every error that unlearn-guard raises on purpose.

UnlearnGuardError
├── InputError                  wrong input, exit code 2
│   ├── RowError                a line of a rows file
│   ├── DataError               rows that cannot be fitted together
│   ├── SettingsError           configuration, environment, command line
│   ├── UnknownNameError        a name no registry knows
│   ├── DependencyError         a package or model that is not installed
│   ├── BundleError             a bundle that cannot be used
│   │   ├── BundleIntegrityError    truncated, edited, unlisted or missing file
│   │   └── BundleMismatchError     made for another model, tokenizer or encoder
│   └── EngineError             an unsupported vLLM version, seam or setting
├── ScreeningError              a request that could not be screened
└── AdmissionError              a request that is refused while a guard is in force

Each message says what is wrong, the value, what is allowed and how to mend it, on one line.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

__all__ = [
    "AdmissionError",
    "BundleError",
    "BundleIntegrityError",
    "BundleMismatchError",
    "DataError",
    "DependencyError",
    "EngineError",
    "InputError",
    "RowError",
    "ScreeningError",
    "SettingsError",
    "UnknownNameError",
    "UnlearnGuardError",
]


class UnlearnGuardError(Exception):
    """Report what went wrong, the value, what is allowed and how to mend it."""

    exit_code = 1

    def __init__(self, what: str, *, value: object = None, allowed: str = "", mend: str = "") -> None:
        self.what, self.value, self.allowed, self.mend = what, value, allowed, mend
        parts = [what if value is None else f"{what}: {value!r}"]
        if allowed:
            parts.append(f"allowed: {allowed}")
        if mend:
            parts.append(mend)
        super().__init__(" ".join(" — ".join(parts).splitlines()))

    def __reduce__(self) -> tuple[Any, ...]:
        # Kinds differ in what they are made from; across processes only what they say counts.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[UnlearnGuardError], args: tuple[Any, ...], content: dict[str, Any]) -> UnlearnGuardError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(content)
    return error


class InputError(UnlearnGuardError):
    """Wrong input: the caller can mend it."""

    exit_code = 2


class RowError(InputError):
    """A line of a rows file is malformed."""

    def __init__(self, path: object, line: int, what: str, *, allowed: str = "", mend: str = "") -> None:
        self.path, self.line = str(path), line
        super().__init__(f"{path}, line {line}: {what}", allowed=allowed, mend=mend)


class DataError(InputError):
    """Rows are well-formed but cannot be fitted together."""


class SettingsError(InputError):
    """A setting, environment variable or command-line value is wrong."""


class UnknownNameError(InputError):
    """A name is not registered; the message lists the known ones and the nearest."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = get_close_matches(name, names, n=1, cutoff=0.4)
        super().__init__(
            f"unknown {kind}",
            value=name,
            allowed=", ".join(names),
            mend=f"did you mean {near[0]!r}?" if near else "",
        )


class DependencyError(InputError):
    """An optional package or model is not installed."""


class BundleError(InputError):
    """A bundle cannot be used."""


class BundleIntegrityError(BundleError):
    """A bundle file is truncated, edited, missing or not listed in the manifest."""


class BundleMismatchError(BundleError):
    """A bundle was made for another model, tokenizer or encoder."""


class EngineError(InputError):
    """The installed vLLM, or a setting of it, is not supported while a guard is in force."""


class ScreeningError(UnlearnGuardError):
    """A request could not be screened."""


class AdmissionError(UnlearnGuardError):
    """A request is refused while a guard is in force."""
