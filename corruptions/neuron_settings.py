"""What an operator may set of neuron interventions and key-space probes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from unlearn_guard.guard.errors import SettingsError

Score = Literal["gap", "contrast", "energy", "peak"]
Shift = Literal["posterior", "coin"]
Counted = Literal["answer", "all", "last"]
ProbeKind = Literal["whitened", "logistic"]
Applies = Literal["flagged", "always"]
ADJUST, ABLATE = "neuron-adjust", "concept-ablation"
MAX_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class NeuronOptions:
    """What an operator may set.

    share: of all neurons, that Neuron Adjust shifts. score, shift: `gap` and `coin` are the paper's, the others ours.
    counted: the tokens that statistics count, those that predict the answer, all, or the prompt's last. concept_neurons: keys
    that concept ablation zeroes where no list names them. applies: to flagged requests, or Neuron Adjust to every request (`always`, as
    in the paper). probe, probe_depth, probe_alpha: the key-space probe's kind, the layers it reads as parts of the model's depth joined
    by `+`, and its rate of false flags.
    """

    share: float = 0.1
    score: Score = "peak"
    shift: Shift = "posterior"
    counted: Counted = "answer"
    concept_neurons: int = 20
    applies: Applies = "flagged"
    probe: ProbeKind = "whitened"
    probe_depth: str | float = "0.25+0.5+0.75+1"
    probe_alpha: float = 0.005

    def __post_init__(self) -> None:
        words = {"score": Score, "shift": Shift, "counted": Counted, "applies": Applies, "probe": ProbeKind}
        for name, kind in words.items():
            if getattr(self, name) not in get_args(kind):
                raise SettingsError(f"neurons {name}", value=getattr(self, name), allowed=", ".join(get_args(kind)))
        if not 0.0 < self.share <= MAX_SHARE:
            raise SettingsError("neurons share", value=self.share, allowed=f"above 0, at most {MAX_SHARE:g}")
        if self.concept_neurons < 1:
            raise SettingsError("neurons concept_neurons", value=self.concept_neurons, allowed="1 or more")
        if not 0.0 < self.probe_alpha < 1.0:
            raise SettingsError("neurons probe_alpha", value=self.probe_alpha, allowed="above 0, below 1")
        self.find_probe_layers(1)

    def find_probe_layers(self, n_layers: int) -> list[int]:
        """Return the layers, counted from 0, whose keys the probe reads in a model of so many; raise SettingsError for no depth."""
        try:
            depths = [float(part) for part in str(self.probe_depth).split("+")]
        except ValueError:
            depths = []
        if not depths or not all(0.0 < depth <= 1.0 for depth in depths):
            raise SettingsError(
                "neurons probe_depth",
                value=self.probe_depth,
                allowed="parts of the depth above 0, up to 1: 0.5, or 0.5+1",
            )
        return sorted({max(0, round(depth * n_layers) - 1) for depth in depths})


def read_options(given: Mapping[str, str | float]) -> NeuronOptions:
    """Return options from names and values; raise SettingsError for an unknown name or a value of another type."""
    known = {entry.name: entry.type for entry in fields(NeuronOptions)}
    if unknown := [name for name in given if name not in known]:
        raise SettingsError("neurons setting", value=unknown[0], allowed=", ".join(known))
    values: dict[str, Any] = {}
    for name, value in given.items():
        kind = {"float": "a number", "int": "a whole number"}.get(str(known[name]), "a word")
        is_wrong = isinstance(value, str) != (kind == "a word") or (kind == "a whole number" and int(value) != value)
        is_wrong = is_wrong and name != "probe_depth"  # One depth is a number, several are a word.
        if is_wrong:
            raise SettingsError(f"neurons {name}", value=value, allowed=kind)
        values[name] = int(value) if kind == "a whole number" else value
    return NeuronOptions(**values)


def read_concepts(path: Path) -> dict[str, list[tuple[int, int]]]:
    """Read `{forget_id: [[layer, neuron], …]}`; raise SettingsError for anything else."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {str(owner): [(int(layer), int(neuron)) for layer, neuron in places] for owner, places in record.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"concept neurons cannot be read ({type(error).__name__})",
            value=str(path),
            allowed='{"forget_id": [[layer, neuron], …]}',
        ) from None
