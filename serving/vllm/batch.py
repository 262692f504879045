"""Which row of a running batch belongs to which flagged request, in both of vLLM's runners."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from vllm.v1.sample.logits_processor.interface import BatchUpdate, MoveDirectionality
from vllm.v1.sample.logits_processor.interface import LogitsProcessor as LogitsProcessorV1
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as LogitsProcessorV2

from unlearn_guard.serving.vllm.seams import require_patches
from unlearn_guard.serving.vllm.settings import settings_of

Entry = TypeVar("Entry")


class BatchFollower(LogitsProcessorV1, LogitsProcessorV2, Generic[Entry]):  # type: ignore[misc]
    """A logits processor that keeps an entry for each flagged request while runners add, remove and move requests.

    Subclasses say what an entry is (`open_row`), what becomes of it (`close_row`), and what is done to logits (`apply`).
    """

    def __init__(self, vllm_config: Any, *rest: Any) -> None:
        if settings_of(vllm_config) is not None:
            require_patches()
        self._states = rest[0] if len(rest) == 1 else None  # The V2 runner passes its request states.
        self._rows: dict[int, Entry] = {}
        """V1: by batch row; V2: by request slot."""

    def open_row(self, params: Any, prompt: Sequence[int], output: Sequence[int]) -> Entry | None:
        """Return the entry of a request, None where nothing is done to it.

        V1 hands over the prompt and the live output; V2 has both in its request states.
        """
        raise NotImplementedError

    def close_row(self, entry: Entry) -> None:
        """Give back what an entry holds."""

    def is_argmax_invariant(self) -> bool:
        """Return False: greedy sampling must see the change."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the V1 runner's batch: removed, added, moved."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self._drop(row)
        for row, params, prompt, output in batch_update.added:
            self._take(row, params, prompt or (), output)
        for first, second, direction in batch_update.moved:
            moved, other = self._rows.pop(first, None), self._rows.pop(second, None)
            if moved is not None:
                self._rows[second] = moved
            if other is not None:
                if direction == MoveDirectionality.SWAP:
                    self._rows[first] = other
                else:
                    self.close_row(other)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Take over a V2 slot; return whether anything is done to its request."""
        return self._take(req_idx, sampling_params, (), ())

    def _take(self, row: int, params: Any, prompt: Sequence[int], output: Sequence[int]) -> bool:
        self._drop(row)
        entry = self.open_row(params, prompt, output)
        if entry is not None:
            self._rows[row] = entry
        return entry is not None

    def _drop(self, row: int) -> None:
        entry = self._rows.pop(row, None)
        if entry is not None:
            self.close_row(entry)
