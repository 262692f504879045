"""ULD inside vLLM: one logits processor for both runner interfaces, ahead of everything that reads the logits.

As a logits processor it follows the batch. Its work is done when the sampler begins, before vLLM takes the
log-probabilities that clients see: those of flagged requests come from the suppressed distribution. Where a sampler is
called in some other way, `apply` does the work itself.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from unlearn_guard.corruptions.uld import UldSettings, measure_penalty, read_settings, suppress
from unlearn_guard.guard.errors import EngineError
from unlearn_guard.guard.marks import read_stamp
from unlearn_guard.serving.vllm.assistants import Chorus, OffsetChorus
from unlearn_guard.serving.vllm.batch import BatchFollower
from unlearn_guard.serving.vllm.forcing import find_forced
from unlearn_guard.serving.vllm.seams import patch


@dataclass(slots=True, eq=False)
class Muted:
    """A flagged request: what is subtracted, and what its assistants have read."""

    settings: UldSettings
    names: tuple[str, ...]
    read: Callable[[int], list[int]]
    contexts: list[Any] = field(default_factory=list)

    def tail(self, start: int) -> list[int]:
        """Return the request's token ids from a position on, wherever they are read from in this step."""
        return self.read(start)


class LogitDifference(BatchFollower[Muted]):
    """Subtract the assistants of flagged rows from the target's logits."""

    def __init__(self, vllm_config: Any, *rest: Any) -> None:
        super().__init__(vllm_config, *rest)
        self._chorus: Chorus | OffsetChorus | None = None
        self._group: Any = None
        self._is_first = True
        self._done = False

    def attach(self, chorus: Chorus | OffsetChorus | None, group: Any = None) -> None:
        """Hand over the assistants; `group` is the tensor-parallel group, whose first rank alone has them."""
        self._chorus, self._group = chorus, group if group is not None and group.world_size > 1 else None
        self._is_first = self._group is None or self._group.rank_in_group == 0

    def prove(self, names: Sequence[str], vocabulary: int) -> bool:
        """Return whether each of these assistants alone changes a made-up row, the filter left out."""
        logits = torch.zeros(1, vocabulary, device=self._chorus.device if self._chorus is not None else None)
        logits[0, 0] = 100.0
        settings = UldSettings(kept_share=1.0)
        for name in names:
            muted = Muted(settings, (name,), lambda start: [1, 2, 3][start:])
            try:
                found = self._suppress(logits, [muted])
            finally:
                self.close_row(muted)
            if found.equal(logits):
                return False
        return True

    def open_row(self, params: Any, prompt: Sequence[int], output: Sequence[int]) -> Muted | None:
        """Return what is subtracted from a request."""
        stamp = read_stamp(params)
        step = stamp.step("uld") if stamp is not None else None
        if step is None:
            return None
        # In V2 the states are read when the rows of a step are known.
        return Muted(*read_settings(step), _read_lists(list(prompt), output))

    def close_row(self, entry: Muted) -> None:
        """Give the contexts' blocks back."""
        if self._chorus is not None:
            for context in entry.contexts:
                self._chorus.close(context)

    def apply(self, logits: torch.Tensor, ctx: Any = None) -> torch.Tensor:
        """Return the logits, suppressed unless the sampler's seam did it already in this step."""
        if self._done:
            self._done = False
            return logits
        return self.subtract(logits, None if ctx is None else ctx.idx_mapping_np.tolist())

    def begin(self, logits: torch.Tensor, slots: Sequence[int] | None = None) -> torch.Tensor:
        """Suppress at the beginning of a step; `apply` then has nothing left to do."""
        result = self.subtract(logits, slots)
        self._done = result is not logits
        return result

    def subtract(self, logits: torch.Tensor, slots: Sequence[int] | None = None) -> torch.Tensor:
        """Return logits with every flagged row suppressed; `slots` are the V2 slots of the rows, in order."""
        rows = self._find_rows(slots)
        return self._subtract(logits, rows) if rows else logits

    def _find_rows(self, slots: Sequence[int] | None) -> list[tuple[int, Muted]]:
        if slots is None:
            return sorted(self._rows.items())
        found = [(row, slot) for row, slot in enumerate(slots) if slot in self._rows]
        if not found:
            return []
        assert self._states is not None
        totals = self._states.total_len.gpu[[slot for _, slot in found]].tolist()
        for (_, slot), total in zip(found, totals, strict=True):
            self._rows[slot].read = _read_tensor(self._states.all_token_ids.gpu, slot, int(total))
        return [(row, self._rows[slot]) for row, slot in found]

    def _subtract(self, logits: torch.Tensor, rows: Sequence[tuple[int, Muted]]) -> torch.Tensor:
        muted = [muted for _, muted in rows]
        if len(rows) == len(logits):  # Both are in order of the batch.
            return self._decide(logits.float(), muted)
        places = torch.tensor([row for row, _ in rows], device=logits.device)
        # A copy, float32: the rows of others keep their values, and what vLLM holds of these logits stays as it was.
        result = logits.to(torch.float32, copy=True)
        result[places] = self._decide(logits[places].float(), muted)
        return result

    def _decide(self, logits: torch.Tensor, rows: Sequence[Muted]) -> torch.Tensor:
        """Return new logits of flagged rows, the same on every rank."""
        if self._is_first:
            logits = self._suppress(logits, rows)
        if self._group is not None:
            # One rank decides: assistants on several devices could differ in a last bit, and the ranks would part.
            logits = self._group.broadcast(logits.contiguous() if self._is_first else logits.clone(), src=0)
        return logits

    def _suppress(self, logits: torch.Tensor, rows: Sequence[Muted]) -> torch.Tensor:
        if self._chorus is None:
            raise EngineError("a request is to be suppressed by assistants, but none are loaded")
        for muted in rows:
            if not muted.contexts:
                muted.contexts = [self._chorus.open(name, muted.tail) for name in muted.names]
        said = self._chorus.listen([context for muted in rows for context in muted.contexts])[:, : logits.shape[1]]
        starts = list(itertools.accumulate((len(muted.contexts) for muted in rows), initial=0))
        alike: dict[tuple[UldSettings, int], list[int]] = {}
        for place, muted in enumerate(rows):
            alike.setdefault((muted.settings, len(muted.contexts)), []).append(place)
        if len(alike) == 1:
            ((settings, n_heard),) = alike
            return suppress(
                logits, measure_penalty([said[number::n_heard] for number in range(n_heard)], settings), settings
            )
        result = torch.empty_like(logits)
        for (settings, n_heard), places in alike.items():
            heard = [said[[starts[place] + number for place in places]] for number in range(n_heard)]
            result[places] = suppress(logits[places], measure_penalty(heard, settings), settings)
        return result


def install_subtraction() -> None:
    """Patch both samplers, so that log-probabilities are taken from suppressed logits."""
    from vllm.v1.sample.sampler import Sampler as SamplerV1
    from vllm.v1.worker.gpu.sample.sampler import Sampler as SamplerV2

    patch(SamplerV1, "forward", _wrap_forward)
    patch(SamplerV2, "__call__", _wrap_call)


def _wrap_forward(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def forward(self: Any, logits: torch.Tensor, sampling_metadata: Any, *args: Any, **kwargs: Any) -> Any:
        processors = sampling_metadata.logitsprocs.non_argmax_invariant
        if (processor := find_processor(processors)) is not None:
            logits = processor.begin(logits)
        if (forced := find_forced(processors)) is not None:
            logits = forced.begin(logits)
        return original(self, logits, sampling_metadata, *args, **kwargs)

    return forward


def _wrap_call(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(self: Any, logits: torch.Tensor, input_batch: Any, *args: Any, **kwargs: Any) -> Any:
        if (processor := find_processor(self.logits_processors)) is not None:
            logits = processor.begin(logits, input_batch.idx_mapping_np.tolist())
        if (forced := find_forced(self.logits_processors)) is not None:
            logits = forced.begin(logits)
        return original(self, logits, input_batch, *args, **kwargs)

    return call


def find_processor(processors: Sequence[Any]) -> LogitDifference | None:
    """Return ours among a sampler's processors."""
    return next((processor for processor in processors if isinstance(processor, LogitDifference)), None)


def _read_lists(prompt: Sequence[int], output: Sequence[int]) -> Callable[[int], list[int]]:
    """Read prompt and live output together."""

    def read(start: int) -> list[int]:
        if start >= len(prompt):
            return [int(token) for token in output[start - len(prompt) :]]
        return [*prompt[start:], *(int(token) for token in output)]

    return read


def _read_tensor(tokens: torch.Tensor, slot: int, total: int) -> Callable[[int], list[int]]:
    def read(start: int) -> list[int]:
        return [int(token) for token in tokens[slot, start:total].tolist()]

    return read
