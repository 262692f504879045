"""How an operator configures the plugin: environment variables or `--additional-config`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unlearn_guard.guard.errors import SettingsError
from unlearn_guard.guard.policy import Policy

SECTION = "unlearn_guard"
"""The key of vLLM's `additional_config`; it is part of vLLM's compile-cache key."""
ABI = 1
"""Raised whenever the hooks inside the compiled graph change, so that no older artefact is loaded."""


class GuardSettings(BaseModel):
    """The settings of one guarded engine; every process of it reads the same ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: str
    mode: Literal["enforce", "shadow", "off"] = "enforce"
    on_error: Literal["block", "pass"] = "block"
    alpha: float | None = Field(default=None, gt=0.0, lt=1.0)
    intervention: str | None = None
    max_windows: int | None = Field(default=None, ge=1)
    """Windows of text that one request may cost; None: enough for a prompt that fills the model's context."""
    on_answer: Literal["filter", "rewrite", "pass"] = "filter"
    context_policy: Literal["allow", "redact"] = "allow"
    device: Literal["cpu", "cuda"] = "cpu"
    audit: str | None = None
    assistant_tokens: int = Field(default=16_384, ge=1)
    """Tokens that the assistants' pool of keys and values holds; never less than one longest request."""
    assistant_memory_mib: int | None = Field(default=None, ge=1)
    """The most that assistants may take on each device; None: what the engine has left."""
    key_space: bool = True
    """Whether the bundle's key-space probes, if it has any, make what they notice abstain."""
    threads: int = Field(default=2, ge=1)
    """Threads that screen requests beside the event loop."""
    abi: int = ABI
    hooks: tuple[str, ...] = ("embedding", "forced-tokens")
    revision: str = ""

    @property
    def acts(self) -> bool:
        """Whether flagged requests are acted on; shadow and off install nothing in the worker."""
        return self.mode == "enforce"

    def make_policy(self, max_length: int) -> Policy:
        """Return the policy in force for a model of that context length."""
        # Sentences and overlapping windows: at most one for every 12 tokens that fit the context.
        enough = max(512, max_length // 12)
        return Policy(
            self.mode,
            self.on_error,
            self.alpha,
            self.intervention,
            self.max_windows or enough,
            on_answer=self.on_answer,
            context_policy=self.context_policy,
        )


def is_disabled() -> bool:
    """Return whether UNLEARN_GUARD_DISABLE=1 makes the plugin a complete no-op."""
    return os.environ.get("UNLEARN_GUARD_DISABLE", "") == "1"


def read_settings(additional: Any) -> GuardSettings | None:
    """Read settings from vLLM's additional_config, else from the environment; None: no guard is wanted.

    Raises SettingsError for a malformed section, a missing folder, or no bundle with UNLEARN_GUARD_REQUIRED=1.
    """
    section = additional.get(SECTION) if isinstance(additional, dict) else None
    if section is None:
        bundle = os.environ.get("UNLEARN_GUARD_BUNDLE", "")
        if not bundle:
            if os.environ.get("UNLEARN_GUARD_REQUIRED", "") == "1":
                raise SettingsError(
                    "UNLEARN_GUARD_REQUIRED=1 but no bundle is named",
                    mend='set UNLEARN_GUARD_BUNDLE, or --additional-config \'{"unlearn_guard": {"bundle": …}}\'',
                )
            return None
        section = {"bundle": bundle}
        for name in ("mode", "on_error", "on_answer", "context_policy", "intervention", "audit"):
            if value := os.environ.get(f"UNLEARN_GUARD_{name.upper()}", ""):
                section[name] = value
    if not isinstance(section, dict):
        raise SettingsError("additional_config.unlearn_guard", value=section, allowed='{"bundle": "FOLDER", …}')
    try:
        settings = GuardSettings.model_validate(section)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "bundle"
        raise SettingsError(
            f"setting unlearn_guard.{place}: {first['msg']}",
            value=first.get("input"),
            # Of a wrong value pydantic's message says what is allowed.
            allowed=", ".join(name for name in GuardSettings.model_fields if name not in ("abi", "hooks", "revision"))
            if first["type"] in ("extra_forbidden", "missing")
            else "",
        ) from None
    return settings.model_copy(update={"bundle": str(Path(settings.bundle).expanduser().resolve())})


def settings_of(vllm_config: Any) -> GuardSettings | None:
    """Return the settings that a running engine carries, or None without a guard."""
    additional = getattr(vllm_config, "additional_config", None)
    section = additional.get(SECTION) if isinstance(additional, dict) else None
    return GuardSettings.model_validate(section) if section else None
