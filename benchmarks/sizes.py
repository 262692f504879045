"""What a suite and a profile ask for: one YAML file each, and what the suite has for the profile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from unlearn_guard.benchmarks.entries import list_entries, read_model

_SUITES = Path(__file__).parent / "suites"
_PROFILES = Path(__file__).parent / "profiles"


class AttackPlan(BaseModel):
    """How much of the attack protocol is run (docs/attacks.md).

    n_samples: answers drawn at temperature 1 for leak@k. n_queries: of the adaptive attacker, 0 for none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_facts: int = Field(default=30, ge=1)
    variants: tuple[str, ...] = ("v0",)
    n_samples: int = Field(default=8, ge=0)
    n_queries: int = Field(default=0, ge=0)


class ProfileFile(BaseModel):
    """What a profile asks of every suite; no `methods` means all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    seeds: tuple[int, ...]
    methods: tuple[str, ...] = ()
    attack: AttackPlan = AttackPlan()
    studies: tuple[str, ...] = ()
    """What is measured beside the rows (`studies.py`)."""
    without: tuple[str, ...] = ()
    """Rows that take too long for it, where none are named."""


class SuiteFile(BaseModel):
    """What a suite is, and its sizes by profile."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    source: str
    licence: str
    profiles: dict[str, dict[str, Any]]
    without: tuple[str, ...] = ()
    """Rows that the suite has no place for, where none are named."""


def list_suites() -> list[str]:
    """Return the names of all suites."""
    return list_entries(_SUITES)


def load_suite_file(name: str) -> SuiteFile:
    """Return what the file of a suite says; raise UnknownNameError for an unknown one."""
    return read_model(SuiteFile, _SUITES, "suite", name)


def load_profile(suite: str, profile: str) -> dict[str, Any]:
    """Return a suite's sizes in a profile, and what the profile asks for; raise UnknownNameError for either name."""
    file = load_suite_file(suite)
    sizes = file.profiles
    asked = read_model(ProfileFile, _PROFILES, "profile", profile, sizes)
    without = tuple(dict.fromkeys((*file.without, *asked.without)))
    return {**asked.model_dump(exclude={"title"}), "without": without, **sizes[profile]}
