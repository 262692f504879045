"""One GPU kernel per layer for what `MlpEdit` does to a batch.

A captured graph pays for every launch at every step, whether or not a row is flagged. Here each row is one program that ends at once
where no table acts on it; tables act in their order, column by column, by the rules of `neurons`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

POSTERIOR, COIN, ABLATION = 0, 1, 2
_COLUMNS = 256


@dataclass(frozen=True, slots=True)
class Part:
    """What one table edits in one layer: columns of this rank, their global numbers, and how.

    flags: the table's row in the flags of all tables. normals: the four moments of each column, none for an ablation. salt: what
    seed and layer add to a coin's hash.
    """

    flags: int
    kind: int
    index: torch.Tensor
    neurons: torch.Tensor
    normals: Sequence[torch.Tensor]
    salt: int


class LayerKernel:
    """The edits of one layer, laid out for the kernel."""

    def __init__(self, parts: Sequence[Part], device: torch.device) -> None:
        lengths = [len(part.index) for part in parts]
        starts = torch.tensor([sum(lengths[:number]) for number in range(len(parts) + 1)])
        self.n_tables = len(parts)
        self.proofs = torch.zeros(len(parts), device=device)
        own = torch.tensor([[part.flags, part.kind, part.salt] for part in parts])
        self._tables = own.T.contiguous().to(device)
        self._starts = starts.to(device)
        self._index = torch.cat([part.index for part in parts]).to(device)
        self._neurons = torch.cat([part.neurons for part in parts]).to(device)
        blank = [torch.ones(length, device=device) for length in lengths]
        self._normals = torch.stack(
            [
                torch.cat([part.normals[moment] if part.normals else blank[n] for n, part in enumerate(parts)])
                for moment in range(4)
            ]
        ).contiguous()

    def run(
        self, states: torch.Tensor, flags: torch.Tensor, position: torch.Tensor, is_canary: torch.Tensor, value: float
    ) -> None:
        """Edit the flagged rows of `states`, (rows, at least the columns), in place."""
        _edit_rows[(states.shape[0],)](
            states,
            states.stride(0),
            flags,
            flags.stride(0),
            position,
            is_canary,
            self.proofs,
            self._tables,
            self._starts,
            self._index,
            self._neurons,
            self._normals,
            self._normals.stride(0),
            self.n_tables,
            value,
            TABLES=triton.next_power_of_2(self.n_tables),
            COLUMNS=_COLUMNS,
        )


@triton.jit
def _edit_rows(  # type: ignore[no-untyped-def]  # Triton reads annotations.
    states,
    states_stride,
    flags,
    flags_stride,
    position,
    is_canary,
    proofs,
    tables,
    starts,
    index,
    neurons,
    normals,
    normals_stride,
    n_tables,
    canary_value,
    TABLES: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, TABLES)
    own = tl.load(tables + lanes, mask=lanes < n_tables, other=0)
    found = tl.load(flags + own * flags_stride + row, mask=lanes < n_tables, other=0)
    if tl.sum(found.to(tl.int32), axis=0) > 0:
        at = tl.load(position + row)
        canary = tl.load(is_canary).to(tl.int32)
        for table in range(n_tables):
            if tl.load(flags + tl.load(tables + table) * flags_stride + row).to(tl.int32) > 0:
                kind = tl.load(tables + n_tables + table)
                salt = tl.load(tables + 2 * n_tables + table)
                first, stop = tl.load(starts + table), tl.load(starts + table + 1)
                for start in range(first, stop, COLUMNS):
                    columns = start + tl.arange(0, COLUMNS)
                    inside = columns < stop
                    places = states + row * states_stride + tl.load(index + columns, mask=inside, other=0)
                    value = tl.load(places, mask=inside, other=0.0).to(tl.float32)
                    forget_mean = tl.load(normals + columns, mask=inside, other=0.0)
                    forget_std = tl.load(normals + normals_stride + columns, mask=inside, other=1.0)
                    retain_mean = tl.load(normals + 2 * normals_stride + columns, mask=inside, other=0.0)
                    retain_std = tl.load(normals + 3 * normals_stride + columns, mask=inside, other=1.0)
                    z = (value - forget_mean) / forget_std
                    other = (value - retain_mean) / retain_std
                    odds = 0.5 * (other * other - z * z) + tl.log(retain_std / forget_std)
                    weight = 1.0 / (1.0 + tl.exp(-odds))
                    mirrored = retain_mean - z * retain_std
                    # The hash of `neurons.toss_coins`; 32 bits wrap by themselves.
                    neuron = tl.load(neurons + columns, mask=inside, other=0)
                    mixed = (at * 0x9E3779B1 + neuron * 0x85EBCA77 + salt).to(tl.uint32)
                    mixed = (mixed ^ (mixed >> 16)) * 0x7FEB352D
                    mixed = (mixed ^ (mixed >> 15)) * 0x846CA68B
                    mixed = mixed ^ (mixed >> 16)
                    coin = (mixed.to(tl.float64) / 4294967296.0).to(tl.float32)
                    by_weight = value + weight * (mirrored - value)
                    by_coin = tl.where(coin < weight, mirrored, value)
                    changed = tl.where(weight >= 0.5, tl.where(kind == 1, by_coin, by_weight), value)
                    changed = tl.where(kind == 2, 0.0, changed)
                    changed = tl.where(canary > 0, canary_value, changed)
                    tl.store(places, changed.to(states.dtype.element_ty), mask=inside)
                    if (row == 0) & (start == first):
                        proof = tl.where(tl.arange(0, COLUMNS) == 0, changed, 0.0)
                        tl.store(proofs + table, tl.sum(proof, axis=0))
                # Another table may edit the same column: by another thread, after this one.
                tl.debug_barrier()
