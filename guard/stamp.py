"""The canonical plain record that a flagged request carries to the worker."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

Ranges = tuple[tuple[int, int], ...]
"""Half-open ranges of prompt token positions."""


@dataclass(frozen=True, slots=True)
class Step:
    """One intervention on one request: its name and small plain parameters.

    `positions` are prompt token positions; `params` holds str, int, float, bool and lists of them only, because
    the stamp crosses process borders as msgpack.
    """

    method: str
    positions: Ranges = ()
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stamp:
    """Everything the worker needs to treat a flagged request, and nothing else. Steps compose in order."""

    revision: str
    forget_ids: tuple[str, ...]
    prompt_length: int
    seed: int
    steps: tuple[Step, ...]

    def to_record(self) -> dict[str, Any]:
        """Return plain data (JSON and msgpack safe)."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Stamp:
        """Rebuild a stamp from plain data; raise KeyError or TypeError for anything else."""
        return cls(
            revision=str(record["revision"]),
            forget_ids=tuple(str(name) for name in record["forget_ids"]),
            prompt_length=int(record["prompt_length"]),
            seed=int(record["seed"]),
            steps=tuple(
                Step(
                    method=str(step["method"]),
                    positions=tuple((int(start), int(end)) for start, end in step["positions"]),
                    params=dict(step["params"]),
                )
                for step in record["steps"]
            ),
        )

    def canonical(self) -> bytes:
        """Return the one byte string that stands for this stamp (keys sorted, no spaces)."""
        return canonical_json(self.to_record())

    def step(self, method: str) -> Step | None:
        """Return the first step of that method, or None."""
        return next((step for step in self.steps if step.method == method), None)


def find_tables(stamp: Stamp | None) -> list[str]:
    """Return the neuron tables that a stamp names, in order."""
    steps = [step for step in stamp.steps if step.method == "neurons"] if stamp is not None else []
    return [str(name) for step in steps for name in step.params["tables"]]


def canonical_json(value: Any) -> bytes:
    """Serialise plain data to the one byte string that stands for it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
