"""Neuron edits inside a running model: hooks on gated MLPs that read which rows of the batch are edited, and how.

The same code serves Hugging Face models and vLLM's, where the hooks' work is done by operators that the compiler does not look into.
Rows that are not flagged are never written. On a CPU only flagged rows are computed, and none costs nothing. Elsewhere a captured graph
replays without Python: one kernel per layer finds the flagged rows itself, or, where there is no Triton, all rows are computed and the
flagged ones chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from unlearn_guard.corruptions.gated_mlp import GatedMlp
from unlearn_guard.corruptions.neuron_settings import Shift
from unlearn_guard.corruptions.neurons import (
    Flags,
    Moments,
    Normals,
    salt_coins,
    shift_by_coin,
    shift_posterior,
    toss_coins,
)
from unlearn_guard.guard.errors import EngineError

CANARY_VALUE = 0.75  # Exact in every floating-point type.


@dataclass(frozen=True, slots=True)
class AdjustTable:
    """Neuron Adjust for one forget request: the chosen neurons, (layers, neurons), and their two distributions."""

    chosen: Flags
    forget: Moments
    retain: Moments
    shift: Shift = "posterior"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class AblationTable:
    """Concept ablation for one forget request: the keys, (layers, neurons), that become zero."""

    chosen: Flags


Table = AdjustTable | AblationTable


@dataclass(slots=True)
class _Columns:
    """What one table edits in one layer: columns of this rank's states, and their global numbers."""

    index: torch.Tensor
    neurons: torch.Tensor
    normals: Normals | None
    proof: torch.Tensor
    """The first edited column of the first row after an edit: the canary reads it."""


class MlpEdit:
    """Edit neurons of flagged rows, and read the keys of others.

    A row may be flagged for several tables; they act in their order. n_rows: the most rows of one forward pass; n_reads: the most
    rows whose keys one pass reads, in the layers `read_layers`.
    """

    def __init__(
        self,
        mlps: Sequence[GatedMlp],
        tables: Mapping[str, Table],
        *,
        n_rows: int,
        device: torch.device,
        read_layers: Sequence[int] = (),
        n_reads: int = 0,
    ) -> None:
        self.device, self.tables = device, dict(tables)
        self.is_static = device.type != "cpu"
        self.position = torch.zeros(n_rows, dtype=torch.int64, device=device)
        self._flags = torch.zeros(len(tables), n_rows, dtype=torch.bool, device=device)
        self.flags = dict(zip(tables, self._flags, strict=True))
        self.is_canary = torch.zeros(1, dtype=torch.bool, device=device)
        self.read_index = torch.zeros(n_reads, dtype=torch.int64, device=device)
        self.n_reads = 0
        self._rows: dict[str, torch.Tensor] = {}
        self.gates: dict[int, dict[str, _Columns]] = {}
        self.ablated: dict[int, dict[str, _Columns]] = {}
        self.keys: dict[int, torch.Tensor] = {}
        for mlp in mlps:
            for name, table in tables.items():
                if (columns := self._lay_out(mlp, table)) is not None:
                    kind = self.gates if isinstance(table, AdjustTable) else self.ablated
                    kind.setdefault(mlp.layer, {})[name] = columns
            if mlp.layer in read_layers:
                self.keys[mlp.layer] = torch.zeros(n_reads, mlp.width, dtype=torch.float32, device=device)
        self.kernels: dict[tuple[str, int], Any] = {}
        if device.type == "cuda" and find_spec("triton"):
            self.lay_out_kernels()

    def lay_out_kernels(self) -> None:
        """Have one kernel per layer do the edits; for a device that Triton compiles to."""
        from unlearn_guard.corruptions import mlp_kernel

        numbers = {name: number for number, name in enumerate(self.tables)}
        for kind, edited in (("gate", self.gates), ("key", self.ablated)):
            for layer, found in edited.items():
                parts = []
                for name, columns in found.items():
                    table, normals = self.tables[name], columns.normals
                    how, salt = mlp_kernel.ABLATION, 0
                    if isinstance(table, AdjustTable):
                        how = mlp_kernel.COIN if table.shift == "coin" else mlp_kernel.POSTERIOR
                        salt = salt_coins(table.seed, layer)
                    moments = [getattr(normals, entry.name) for entry in fields(Normals)] if normals else []
                    parts.append(mlp_kernel.Part(numbers[name], how, columns.index, columns.neurons, moments, salt))
                kernel = self.kernels[kind, layer] = mlp_kernel.LayerKernel(parts, self.device)
                for columns, proof in zip(found.values(), kernel.proofs.split(1), strict=True):
                    columns.proof = proof

    def _lay_out(self, mlp: GatedMlp, table: Table) -> _Columns | None:
        """Collect the columns of one layer that a table edits, those of this rank alone."""
        own = slice(mlp.first, mlp.first + mlp.width)
        index = np.flatnonzero(table.chosen[mlp.layer, own])
        if not len(index):
            return None
        normals = None
        if isinstance(table, AdjustTable):
            forget, retain = table.forget, table.retain
            found = (forget.mean, np.sqrt(forget.variance), retain.mean, np.sqrt(retain.variance))
            normals = Normals(*(self._send(values[mlp.layer, own][index].astype(np.float32)) for values in found))
        return _Columns(self._send(index), self._send(index + mlp.first), normals, torch.zeros(1, device=self.device))

    def stage(self, name: str, first_row: int, start: int, n_rows: int) -> None:
        """Have consecutive rows, from absolute position `start`, edited by a table in the next forward pass."""
        rows = slice(first_row, first_row + n_rows)
        self.flags[name][rows] = True
        self.position[rows] = torch.arange(start, start + n_rows, device=self.device)
        own = torch.arange(first_row, first_row + n_rows)
        self._rows[name] = torch.cat([self._rows[name], own]) if name in self._rows else own

    def read(self, rows: Sequence[int]) -> None:
        """Have the keys of these rows read in the next forward pass."""
        self.n_reads = len(rows)
        if self.n_reads:
            self.read_index[: self.n_reads] = torch.tensor(rows).to(self.device, non_blocking=True)

    def clear(self) -> None:
        """Make the next forward pass change and read nothing; costs nothing when nothing was staged."""
        for name in self._rows:
            self.flags[name].zero_()
        self._rows = {}
        self.n_reads = 0

    def edit_gate(self, gate: torch.Tensor, layer: int) -> None:
        """Shift the chosen pre-activations of flagged rows in place; gate: (rows, at least width)."""
        self._check_rows(gate)
        if (kernel := self.kernels.get(("gate", layer))) is not None:
            kernel.run(gate, self._flags, self.position, self.is_canary, CANARY_VALUE)
            return
        for name, columns in self.gates[layer].items():
            if (rows := self._find_rows(name, gate)) is not None:
                values = gate[rows[:, None], columns.index].float()
                self._write(gate, name, rows, columns, values, self._shift(name, layer, rows, columns, values))

    def edit_key(self, key: torch.Tensor, layer: int) -> None:
        """Zero the chosen keys of flagged rows in place, and read the rows that are asked for; key: (rows, width)."""
        self._check_rows(key)
        if layer in self.keys and (self.n_reads or self.is_static):
            n_reads = len(self.read_index) if self.is_static else self.n_reads
            index = self.read_index[:n_reads].clamp(max=key.shape[0] - 1)
            self.keys[layer][:n_reads] = key.index_select(0, index).float()
        if (kernel := self.kernels.get(("key", layer))) is not None:
            kernel.run(key, self._flags, self.position, self.is_canary, CANARY_VALUE)
            return
        for name, columns in self.ablated.get(layer, {}).items():
            if (rows := self._find_rows(name, key)) is not None:
                values = key[rows[:, None], columns.index].float()
                self._write(key, name, rows, columns, values, torch.zeros_like(values))

    def _check_rows(self, states: torch.Tensor) -> None:
        if states.shape[0] > len(self.position):
            raise EngineError(
                "rows of one forward pass", value=states.shape[0], allowed=f"{len(self.position)} at most"
            )

    def _find_rows(self, name: str, states: torch.Tensor) -> torch.Tensor | None:
        if self.is_static:
            return torch.arange(states.shape[0], device=self.device)
        return self._rows.get(name)

    def _shift(
        self, name: str, layer: int, rows: torch.Tensor, columns: _Columns, values: torch.Tensor
    ) -> torch.Tensor:
        table, normals = self.tables[name], columns.normals
        assert isinstance(table, AdjustTable)
        assert normals is not None
        if table.shift == "posterior":
            return shift_posterior(values, normals)
        return shift_by_coin(values, normals, toss_coins(table.seed, layer, self.position[rows], columns.neurons))

    def _write(
        self,
        states: torch.Tensor,
        name: str,
        rows: torch.Tensor,
        columns: _Columns,
        values: torch.Tensor,
        changed: torch.Tensor,
    ) -> None:
        changed = torch.where(self.is_canary, CANARY_VALUE, changed)
        result = torch.where(self.flags[name][rows, None], changed, values)
        states[rows[:, None], columns.index] = result.to(states.dtype)
        columns.proof.copy_(states[rows[:1], columns.index[:1]])

    def _send(self, array: Any) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def hook_mlps(edit: MlpEdit, mlps: Sequence[GatedMlp]) -> list[Any]:
    """Hook a Hugging Face model's MLPs, whose states are (texts, tokens, neurons); return what removes the hooks."""
    handles = []
    for mlp in mlps:
        if mlp.layer in edit.gates:

            def gate_hook(module: Any, args: Any, output: torch.Tensor, layer: int = mlp.layer) -> None:
                del module, args
                edit.edit_gate(output.view(-1, output.shape[-1]), layer)

            handles.append(mlp.gate.register_forward_hook(gate_hook))
        if mlp.layer in edit.ablated or mlp.layer in edit.keys:

            def key_hook(module: Any, args: Any, layer: int = mlp.layer) -> None:
                del module
                edit.edit_key(args[0].view(-1, args[0].shape[-1]), layer)

            handles.append(mlp.down.register_forward_pre_hook(key_hook))
    return handles
