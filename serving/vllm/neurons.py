"""Skill neurons inside vLLM: hooks on the gated MLPs of either runner's model, and probes that make a request abstain.

The hooks' work is done by two operators of our own that change their input in place. The compiler does not look into them, so that eager,
compiled and captured runs share one code; on a CPU they see at once that nothing is staged.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from unlearn_guard.corruptions.gated_mlp import GatedMlp, find_gated_mlps
from unlearn_guard.corruptions.key_space import Probe
from unlearn_guard.corruptions.mlp_edit import CANARY_VALUE, MlpEdit, Table
from unlearn_guard.guard.errors import DataError, EngineError
from unlearn_guard.guard.stamp import Stamp, find_tables

logger = logging.getLogger("vllm.unlearn_guard")
_EDITS: list[MlpEdit] = []
_NAMESPACE = "unlearn_guard"
_UNREAD = -123_456.5


def _edit_gate(states: torch.Tensor, edit: int, layer: int) -> None:
    _EDITS[edit].edit_gate(states, layer)


def _edit_key(states: torch.Tensor, edit: int, layer: int) -> None:
    _EDITS[edit].edit_key(states, layer)


def _change_nothing(states: torch.Tensor, edit: int, layer: int) -> None:
    """Stand in for an operator while shapes alone are traced."""


def register_operators() -> None:
    """Register both operators, once per process."""
    if hasattr(torch.ops.unlearn_guard, "edit_gate"):
        return
    for name, function in (("edit_gate", _edit_gate), ("edit_key", _edit_key)):
        operator = torch.library.custom_op(f"{_NAMESPACE}::{name}", function, mutates_args=("states",))
        operator.register_fake(_change_nothing)


@dataclass(frozen=True, slots=True)
class Watched:
    """A running request: how long its prompt is, the tables that act on it, and whether a probe looks at it."""

    prompt_length: int
    tables: Sequence[str]
    is_probed: bool


class NeuronGuard:
    """What one worker does at neurons, and what it says instead where a probe notices a prompt."""

    def __init__(
        self,
        model: Any,
        tables: Mapping[str, Table],
        probes: Mapping[str, Probe],
        abstention: Sequence[int],
        *,
        always_on: Sequence[str] = (),
        is_partial: bool = False,
        n_rows: int,
        n_reads: int,
        device: torch.device,
        group: Any = None,
    ) -> None:
        """`always_on` are tables that act on unflagged requests too; `is_partial`: other pipeline stages hold the other layers;
        `group` is the tensor-parallel group. Raises EngineError for a model without gated MLPs, or whose kernels skip a hook."""
        try:
            self.mlps = find_gated_mlps(model, partial=is_partial)
        except DataError as error:
            raise EngineError(error.what, value=error.value, allowed=error.allowed, mend=error.mend) from None
        register_operators()
        self.probes, self.abstention = dict(probes), list(abstention)
        self.always_on = list(always_on)
        self._group = group if group is not None and group.world_size > 1 else None
        layers = sorted({layer for probe in probes.values() for layer in probe.weights})
        _check_layers(self.mlps, tables, layers)
        self.edit = MlpEdit(
            self.mlps, tables, n_rows=n_rows, device=device, read_layers=layers, n_reads=n_reads if layers else 0
        )
        self._weights = {
            mlp.layer: torch.stack(
                [
                    torch.from_numpy(_take(probe, mlp.layer, mlp.n_neurons)[mlp.first : mlp.first + mlp.width])
                    for probe in probes.values()
                ]
            ).to(device)
            for mlp in self.mlps
            if mlp.layer in layers
        }
        self._thresholds = torch.tensor([probe.threshold for probe in probes.values()], dtype=torch.float64)
        self._requests: dict[str, Watched] = {}
        self._noticed: set[str] = set()
        self._reads: list[str] = []
        self._steps: list[tuple[str, int]] = []
        """Of the running step, by row of the logits: the request, and the place of the token that is sampled; −1: none is."""
        self._hook()

    def _hook(self) -> None:
        number = len(_EDITS)
        _EDITS.append(self.edit)
        for mlp in self.mlps:
            if mlp.layer in self.edit.gates:
                mlp.gate.register_forward_hook(_make_gate_hook(number, mlp.layer))
            if mlp.layer in self.edit.ablated or mlp.layer in self.edit.keys:
                _check_kernel(mlp)
                mlp.down.register_forward_pre_hook(_make_key_hook(number, mlp.layer))

    def open(self, request_id: str, stamp: Stamp | None, prompt_length: int) -> None:
        """Take over a request; one that was noticed and is resumed stays so."""
        tables = list(dict.fromkeys([*self.always_on, *find_tables(stamp)]))
        self._requests[request_id] = Watched(prompt_length, tables, bool(self.probes) and stamp is None)

    def close(self, request_id: str) -> None:
        """Forget a request."""
        self._requests.pop(request_id, None)
        self._noticed.discard(request_id)

    def stage(self, request_ids: Sequence[str], computed: Any, counts: Any) -> None:
        """Write a step's edits and readings: request i owns the next counts[i] rows, from absolute position computed[i]."""
        self.edit.clear()
        self._reads, self._steps = [], []
        reads: list[int] = []
        row = 0
        for place, request_id in enumerate(request_ids):
            start, count = int(computed[place]), int(counts[place])
            watched = self._requests.get(request_id)
            sampled = -1
            if watched is not None:
                for name in watched.tables:
                    self.edit.stage(name, row, start, count)
                last = watched.prompt_length - 1 - start
                sampled = start + count - watched.prompt_length
                if watched.is_probed and 0 <= last < count:
                    reads.append(row + last)
                    self._reads.append(request_id)
            self._steps.append((request_id, sampled))
            row += count
        self.edit.read(reads)

    def judge(self) -> None:
        """Decide about the prompts that ended in the step that has just run; waits for the device where there are some."""
        if not self._reads:
            return
        n_reads, self.edit.n_reads = len(self._reads), 0
        parts = [self.edit.keys[layer][:n_reads] @ weight.T for layer, weight in self._weights.items()]
        scores = torch.stack(parts).sum(0)
        if self._group is not None:
            scores = self._group.all_reduce(scores)
        above = (~(scores.double().cpu() < self._thresholds)).tolist()  # What is not a number is flagged.
        for request_id, flags in zip(self._reads, above, strict=True):
            if owners := [owner for owner, flag in zip(self.probes, flags, strict=True) if flag]:
                self._noticed.add(request_id)
                logger.info("unlearn-guard: key space noticed %s in request %s", ", ".join(owners), request_id)
        self._reads = []

    def force(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits of a step with one token left to requests that a probe has noticed; the others' are as they were."""
        if not self._noticed:
            return logits
        forced = [
            (row, self.abstention[min(place, len(self.abstention) - 1)])
            for row, (request_id, place) in enumerate(self._steps[: len(logits)])
            if place >= 0 and request_id in self._noticed
        ]
        result = logits.clone()
        for row, token in forced:
            result[row] = float("-inf")
            result[row, token] = 0.0
        return result

    def run_canary(self, run: Any) -> str:
        """Run a dummy step with every edit on, through `run(n_rows)`; return what did nothing, empty where all acted."""
        n_rows = 8
        for name in self.edit.tables:
            self.edit.stage(name, 0, 0, n_rows)
        self.edit.is_canary.fill_(True)
        if self.probes:
            self.edit.read([0])
            for states in self.edit.keys.values():
                states.fill_(_UNREAD)
        run(n_rows)
        self.edit.is_canary.fill_(False)
        self.edit.clear()
        for kind, edited in (("neuron adjustment", self.edit.gates), ("concept ablation", self.edit.ablated)):
            for layer, tables in edited.items():
                for columns in tables.values():
                    if float(columns.proof.cpu()) != CANARY_VALUE:
                        return f"the {kind} of layer {layer} changed nothing in a dummy step"
        for layer, states in self.edit.keys.items():
            if bool((states[0] == _UNREAD).any()):  # Not NaN: a dummy step may well compute that.
                return f"the keys of layer {layer} were not read in a dummy step"
        return ""


def _make_gate_hook(edit: int, layer: int) -> Any:
    def hook(module: Any, args: Any, output: Any) -> None:
        del module, args
        states = output[0] if isinstance(output, tuple) else output
        torch.ops.unlearn_guard.edit_gate(states, edit, layer)

    return hook


def _make_key_hook(edit: int, layer: int) -> Any:
    def hook(module: Any, args: Any) -> None:
        del module
        torch.ops.unlearn_guard.edit_key(args[0], edit, layer)

    return hook


def _check_layers(mlps: Sequence[GatedMlp], tables: Mapping[str, Table], layers: Sequence[int]) -> None:
    widths = {(mlp.layer, mlp.n_neurons) for mlp in mlps}
    for name, table in tables.items():
        n_layers, n_neurons = table.chosen.shape
        if any(layer >= n_layers or width != n_neurons for layer, width in widths):
            raise EngineError(
                "neuron tables are of another model",
                value=f"{name}: {n_layers} layers of {n_neurons}",
                allowed=f"{len(mlps)} layers of {mlps[0].n_neurons}",
                mend="fit again for this model",
            )
    if missing := set(layers) - {mlp.layer for mlp in mlps}:
        raise EngineError(
            "the key-space probe reads a layer that is not here",
            value=min(missing),
            mend="serve without pipeline parallelism, or fit without --key-space",
        )


def _check_kernel(mlp: GatedMlp) -> None:
    """Raise EngineError where the activation is fused with a quantisation: the key never exists as such."""
    from vllm.model_executor.layers.fusion.quant_activation import get_input_quant_key

    if get_input_quant_key(mlp.down) is not None:
        raise EngineError(
            "a fused kernel quantises keys before they can be read or changed",
            value=mlp.name,
            allowed="neuron-adjust, which works ahead of it",
            mend="fit without key space and concept ablation, or serve another checkpoint",
        )


def _take(probe: Probe, layer: int, width: int) -> Any:
    import numpy as np

    return probe.weights.get(layer, np.zeros(width, np.float32))
