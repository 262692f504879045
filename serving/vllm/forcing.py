"""Forced tokens: one logits processor for both of vLLM's runner interfaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from unlearn_guard.guard.marks import read_stamp
from unlearn_guard.serving.vllm.batch import BatchFollower
from unlearn_guard.serving.vllm.neurons import NeuronGuard


@dataclass(frozen=True, slots=True, eq=False)
class Forced:
    """What a refused request says.

    tokens: on the device in the V2 runner. output: V1's live output. offset: tokens of the refusal that V1's prompt holds already;
    in V2 the prompt's own length.
    """

    tokens: Any
    output: Sequence[int]
    offset: int


class ForcedTokens(BatchFollower[Forced]):
    """Leave a refused request exactly one token to sample at every step.

    The position in the refusal is counted from the stamp's prompt length, so that beam search, which sends its
    hypotheses as new prompts, goes on where it was.
    """

    neurons: NeuronGuard | None = None
    """Whose probes may have noticed a prompt that was not flagged: it abstains."""

    def begin(self, logits: torch.Tensor) -> torch.Tensor:
        """Judge the prompts that ended in this step, and leave those that were noticed their forced token, log-probabilities included."""
        if self.neurons is None:
            return logits
        self.neurons.judge()
        return self.neurons.force(logits)

    def open_row(self, params: Any, prompt: Sequence[int], output: Sequence[int]) -> Forced | None:
        """Return what a refused request is forced to say."""
        stamp = read_stamp(params)
        step = stamp.step("refusal") if stamp is not None else None
        if stamp is None or step is None:
            return None
        tokens = [int(token) for token in step.params["tokens"]]
        if self._states is None:
            return Forced(tokens, output, len(prompt) - stamp.prompt_length)
        return Forced(torch.tensor(tokens, device=self._states.device), (), stamp.prompt_length)

    def apply(self, logits: torch.Tensor, ctx: Any = None) -> torch.Tensor:
        """Leave each refused row its forced token alone."""
        if self.neurons is not None:
            logits = self.neurons.force(logits)
        if ctx is not None:
            return self._apply_v2(logits, ctx)
        for row, forced in self._rows.items():
            place = min(forced.offset + len(forced.output), len(forced.tokens) - 1)
            logits[row] = float("-inf")
            logits[row, forced.tokens[place]] = 0.0
        return logits

    def _apply_v2(self, logits: torch.Tensor, ctx: Any) -> torch.Tensor:
        for slot in ctx.idx_mapping_np.tolist():
            if slot not in self._rows:
                continue
            tokens = self._rows[slot].tokens
            # On the device throughout: a row's position is not known on the host under speculative decoding.
            mine = ctx.expanded_idx_mapping == slot
            place = (ctx.pos + 1 - self._rows[slot].offset).clamp(0, len(tokens) - 1)
            chosen = tokens[place].unsqueeze(1)
            columns = torch.arange(logits.shape[1], device=logits.device).unsqueeze(0)
            forced = torch.where(columns == chosen, 0.0, float("-inf")).to(logits.dtype)
            logits = torch.where(mine.unsqueeze(1), forced, logits)
        return logits


def find_forced(processors: Sequence[Any]) -> ForcedTokens | None:
    """Return ours among a sampler's processors."""
    return next((processor for processor in processors if isinstance(processor, ForcedTokens)), None)
