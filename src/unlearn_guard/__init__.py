"""Inference-time unlearning for vLLM: suppression with audit, never erasure."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> home. Resolved on first use, so that `import unlearn_guard` stays free of torch and vLLM.
_HOMES = {
    "Bundle": "unlearn_guard.guard.bundle",
    "ForgetRequest": "unlearn_guard.guard.rows",
    "Guard": "unlearn_guard.guard.screening",
    "Policy": "unlearn_guard.guard.policy",
    "Row": "unlearn_guard.guard.rows",
    "Stamp": "unlearn_guard.guard.stamp",
    "UnlearnGuardError": "unlearn_guard.guard.errors",
    "Verdict": "unlearn_guard.guard.verdict",
    "fit": "unlearn_guard.guard.compose",
}

__all__ = [
    "Bundle",
    "ForgetRequest",
    "Guard",
    "Policy",
    "Row",
    "Stamp",
    "UnlearnGuardError",
    "Verdict",
    "__version__",
    "fit",
]

if TYPE_CHECKING:
    from unlearn_guard.guard.bundle import Bundle
    from unlearn_guard.guard.compose import fit
    from unlearn_guard.guard.errors import UnlearnGuardError
    from unlearn_guard.guard.policy import Policy
    from unlearn_guard.guard.rows import ForgetRequest, Row
    from unlearn_guard.guard.screening import Guard
    from unlearn_guard.guard.stamp import Stamp
    from unlearn_guard.guard.verdict import Verdict


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'unlearn_guard' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
