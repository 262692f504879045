"""Forced tokens: one logits processor for both of vLLM's runner interfaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from vllm.v1.sample.logits_processor.interface import BatchUpdate, MoveDirectionality
from vllm.v1.sample.logits_processor.interface import LogitsProcessor as LogitsProcessorV1
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as LogitsProcessorV2

from unlearn_guard.guard.marks import read_stamp
from unlearn_guard.serving.vllm.seams import require_patches
from unlearn_guard.serving.vllm.settings import settings_of


class ForcedTokens(LogitsProcessorV1, LogitsProcessorV2):  # type: ignore[misc]
    """Leave a refused request exactly one token to sample at every step.

    The position in the refusal is counted from the stamp's prompt length, so that beam search, which sends its
    hypotheses as new prompts, goes on where it was.
    """

    def __init__(self, vllm_config: Any, *rest: Any) -> None:
        if settings_of(vllm_config) is not None:
            require_patches()
        self._states = rest[0] if len(rest) == 1 else None  # The V2 runner passes its request states.
        self._rows: dict[int, tuple[list[int], Sequence[int], int]] = {}
        """V1: batch row → (forced tokens, live output, tokens already in the prompt)."""
        self._slots: dict[int, tuple[torch.Tensor, int]] = {}
        """V2: request slot → (forced tokens on the device, prompt length)."""

    def is_argmax_invariant(self) -> bool:
        """Return False: greedy sampling must see the forced token."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the V1 runner's batch: removed, added, moved."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self._rows.pop(row, None)
        for row, params, prompt, output in batch_update.added:
            self._rows.pop(row, None)
            if forced := _read_forced(params):
                tokens, prompt_length = forced
                self._rows[row] = (tokens, output, len(prompt or ()) - prompt_length)
        for first, second, direction in batch_update.moved:
            moved, other = self._rows.pop(first, None), self._rows.pop(second, None)
            if moved is not None:
                self._rows[second] = moved
            if other is not None and direction == MoveDirectionality.SWAP:
                self._rows[first] = other

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Take over a V2 slot; return whether this request is refused."""
        self._slots.pop(req_idx, None)
        forced = _read_forced(sampling_params)
        if forced is None:
            return False
        tokens, prompt_length = forced
        assert self._states is not None
        self._slots[req_idx] = (torch.tensor(tokens, device=self._states.device), prompt_length)
        return True

    def apply(self, logits: torch.Tensor, ctx: Any = None) -> torch.Tensor:
        """Leave each refused row its forced token alone."""
        if ctx is not None:
            return self._apply_v2(logits, ctx)
        for row, (tokens, output, offset) in self._rows.items():
            _force(logits, row, tokens[min(offset + len(output), len(tokens) - 1)])
        return logits

    def _apply_v2(self, logits: torch.Tensor, ctx: Any) -> torch.Tensor:
        for slot in ctx.idx_mapping_np.tolist():
            if slot not in self._slots:
                continue
            tokens, prompt_length = self._slots[slot]
            # On the device throughout: a row's position is not known on the host under speculative decoding.
            mine = ctx.expanded_idx_mapping == slot
            place = (ctx.pos + 1 - prompt_length).clamp(0, len(tokens) - 1)
            chosen = tokens[place].unsqueeze(1)
            columns = torch.arange(logits.shape[1], device=logits.device).unsqueeze(0)
            forced = torch.where(columns == chosen, 0.0, float("-inf")).to(logits.dtype)
            logits = torch.where(mine.unsqueeze(1), forced, logits)
        return logits


def _force(logits: torch.Tensor, row: int, token: int) -> None:
    logits[row] = float("-inf")
    logits[row, token] = 0.0


def _read_forced(params: Any) -> tuple[list[int], int] | None:
    stamp = read_stamp(params)
    step = stamp.step("refusal") if stamp is not None else None
    if stamp is None or step is None:
        return None
    return [int(token) for token in step.params["tokens"]], stamp.prompt_length
