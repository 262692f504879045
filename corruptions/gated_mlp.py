"""Where a decoder keeps its neurons: the gated MLP of each layer, found by its parts and not by the model's name.

A gated MLP computes down(act(gate(x)) · up(x)). Its *gate pre-activation* is what the gate projection gives, its *key* is what the
down projection reads (Geva et al., arXiv 2012.14913). The same parts are found in Hugging Face models and in vLLM's, where gate and up
are one projection and each tensor-parallel rank holds a run of the neurons.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from unlearn_guard.guard.errors import DataError

_FUSED, _GATE, _UP, _DOWN = "gate_up_proj", "gate_proj", "up_proj", "down_proj"


@dataclass(frozen=True, slots=True, eq=False)
class GatedMlp:
    """The gated MLP of one layer, or this rank's part of it.

    The first `width` columns of `gate`'s output are pre-activations, and so many columns has `down`'s input; they are the neurons
    `first` to `first + width` of the layer's `n_neurons`.
    """

    name: str
    layer: int
    gate: Any
    down: Any
    width: int
    first: int
    n_neurons: int


def find_gated_mlps(model: Any, *, partial: bool = False) -> list[GatedMlp]:
    """Return the gated MLPs of a decoder, by layer.

    `partial`: some layers may be elsewhere, as in a pipeline stage. Raises DataError where a layer has none, or several (a mixture of
    experts).
    """
    found: dict[int, GatedMlp] = {}
    for name, module in model.named_modules():
        parts = dict(module.named_children())
        fused = _FUSED in parts
        if _DOWN not in parts or not (fused or (_GATE in parts and _UP in parts)):
            continue
        if (layer := _find_layer(name)) is None or not hasattr(parts[_DOWN], "weight"):
            continue
        if layer in found or "expert" in name:
            raise _refuse("several MLPs in one layer", name)
        found[layer] = _read(name, layer, parts[_FUSED if fused else _GATE], parts[_DOWN])
    n_layers = int(getattr(getattr(model, "config", None), "num_hidden_layers", len(found)))
    if not found or (not partial and len(found) != n_layers):
        raise _refuse(f"gated MLPs in {len(found)} of {n_layers} layers", type(model).__name__)
    return [found[layer] for layer in sorted(found)]


def _read(name: str, layer: int, gate: Any, down: Any) -> GatedMlp:
    # vLLM's row-parallel module states both its part and the whole.
    bare = getattr(down, "base_layer", down)  # An adapter's wrapper states neither.
    width = int(getattr(bare, "input_size_per_partition", None) or bare.weight.shape[1])
    n_neurons = int(getattr(bare, "input_size", None) or width)
    return GatedMlp(name, layer, gate, down, width, int(getattr(bare, "tp_rank", 0)) * width, n_neurons)


def _find_layer(name: str) -> int | None:
    numbers = re.findall(r"\.(\d+)\.", f".{name}.")
    return int(numbers[0]) if numbers else None


def _refuse(what: str, value: str) -> DataError:
    return DataError(
        f"the model has {what}",
        value=value,
        allowed="a decoder with one gated MLP (gate, up and down projection) per layer",
        mend="use another intervention, for example eco or uld",
    )
