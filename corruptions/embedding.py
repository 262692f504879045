"""Row edits inside a running model: hooks on the embedding module that read persistent buffers.

Unflagged rows stay bit-exact, because `torch.where` passes them through untouched, and the same graph serves every
batch, because only the buffers change: torch.compile and CUDA graphs keep working.
"""

from __future__ import annotations

from typing import Any

import torch

from unlearn_guard.corruptions.eco import RowEdits


class EmbeddingEdit:
    """Edit the rows of an embedding module's input ids and output.

    n_rows: the most rows one forward pass may have. exclusive_ids: the `token-id` table.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        *,
        n_rows: int,
        hidden: int,
        vocabulary: int,
        dtype: torch.dtype,
        device: torch.device,
        exclusive_ids: list[int],
    ) -> None:
        self.dims = torch.zeros((n_rows, 1), dtype=torch.int32, device=device)
        self.scale = torch.ones((n_rows, 1), dtype=dtype, device=device)
        self.shift = torch.zeros((n_rows, hidden), dtype=dtype, device=device)
        self.by_token = torch.zeros(n_rows, dtype=torch.bool, device=device)
        self.swap = torch.full((n_rows,), -1, dtype=torch.int64, device=device)
        self.exclusive = torch.zeros(vocabulary, dtype=torch.bool, device=device)
        self.exclusive[torch.tensor(exclusive_ids, dtype=torch.int64, device=device)] = True
        self.columns = torch.arange(hidden, dtype=torch.int32, device=device)
        self.proof = torch.zeros(1, dtype=dtype, device=device)
        """The first element of the last forward's first row, written by the graph itself: the canary reads it."""
        self.dirty = 0
        self._handles = [
            module.register_forward_pre_hook(self._swap_ids),
            module.register_forward_hook(self._edit_rows),
        ]

    def _swap_ids(self, module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        del module
        ids = args[0]
        swap = self.swap[: ids.shape[0]]
        return (torch.where(swap >= 0, swap.to(ids.dtype), ids), *args[1:])

    def _edit_rows(self, module: torch.nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        del module
        n_rows = output.shape[0]
        listed = self.exclusive[args[0].clamp(0, self.exclusive.shape[0] - 1)] | ~self.by_token[:n_rows]
        edited = (self.columns < self.dims[:n_rows]) & listed.unsqueeze(1)
        result = torch.where(edited, output * self.scale[:n_rows] + self.shift[:n_rows], output)
        self.proof.copy_(result[0, :1])
        return result

    def write(self, start: int, edits: RowEdits) -> None:
        """Stage the edits of consecutive rows for the next forward pass."""
        rows = slice(start, start + len(edits.dims))
        self.dims[rows, 0] = self._send(edits.dims)
        self.scale[rows, 0] = self._send(edits.scale).to(self.scale.dtype)
        self.by_token[rows] = self._send(edits.by_token)
        self.swap[rows] = self._send(edits.swap)
        if edits.shift.any():
            self.shift[rows] = self._send(edits.shift).to(self.shift.dtype)
        self.dirty = max(self.dirty, rows.stop)

    def clear(self) -> None:
        """Make the next forward pass change nothing; costs nothing when nothing was staged."""
        if self.dirty:
            self.dims[: self.dirty] = 0
            self.scale[: self.dirty] = 1
            self.shift[: self.dirty] = 0
            self.by_token[: self.dirty] = False
            self.swap[: self.dirty] = -1
            self.dirty = 0

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _send(self, array: Any) -> torch.Tensor:
        # A fresh pageable tensor: a reused pinned one could be overwritten while the previous step still copies it.
        return torch.from_numpy(array).to(self.dims.device, non_blocking=True)
