"""The start-up canary: prove on the device, through whatever was compiled or captured, that every hook acts.

vLLM can load a compiled artefact that was made without hooks; nothing else would notice.
"""

from __future__ import annotations

import logging
from typing import Any

from unlearn_guard.corruptions.eco import RowEdits
from unlearn_guard.corruptions.mlp_edit import CANARY_VALUE
from unlearn_guard.guard.errors import EngineError

logger = logging.getLogger("vllm.unlearn_guard")
_ROWS = 8
_TOKENS = 3


def run_canary(guard: Any) -> None:
    """Run dummy steps with and without edits, and look for the forced-token processor; raise EngineError if any is idle."""
    if not _has_forced_tokens(guard):
        raise _idle("the forced-token logits processor is not in the sampler")
    if guard.subtracts:
        _prove_subtraction(guard)
    if guard.neurons is not None and (idle := guard.neurons.run_canary(guard.runner._dummy_run)):
        raise _idle(idle)
    if guard.edit is None:  # A later pipeline stage embeds nothing.
        return
    plain = _run(guard, RowEdits.blank(_ROWS, guard.hidden))
    edited = RowEdits.blank(_ROWS, guard.hidden)
    edited.dims[:], edited.scale[:], edited.shift[:] = guard.hidden, 0.0, CANARY_VALUE
    if _run(guard, edited) != CANARY_VALUE:
        raise _idle("the embedding edit changed nothing in a dummy step")
    swapped = RowEdits.blank(_ROWS, guard.hidden)
    values = set()
    for token in range(1, _TOKENS + 1):
        swapped.swap[:] = token
        values.add(_run(guard, swapped))
    if values <= {plain}:
        raise _idle("the token swap changed nothing in a dummy step")
    if _run(guard, RowEdits.blank(_ROWS, guard.hidden)) != plain:
        raise _idle("an edit outlived its step")
    acts = "embedding edit, token swap, forced tokens" + (", logit difference" if guard.subtracts else "")
    acts += ", neurons" if guard.neurons is not None else ""
    logger.info("unlearn-guard: canary passed (%s)", acts)


def _run(guard: Any, edits: RowEdits) -> float:
    """Run a dummy step under edits and return what the graph wrote of its first row."""
    guard.edit.write(0, edits)
    guard.runner._dummy_run(_ROWS)
    guard.edit.clear()
    return float(guard.edit.proof.float().cpu())


def _has_forced_tokens(guard: Any) -> bool:
    from unlearn_guard.serving.vllm.forcing import ForcedTokens

    processors = guard.processors()
    # Only the last pipeline stage samples.
    return processors is None or any(isinstance(processor, ForcedTokens) for processor in processors)


def _prove_subtraction(guard: Any) -> None:
    """Read a dummy prompt with every assistant, and see that the samplers begin with us; raise EngineError otherwise."""
    import torch
    from vllm.v1.sample.sampler import Sampler as SamplerV1
    from vllm.v1.worker.gpu.sample.sampler import Sampler as SamplerV2

    from unlearn_guard.serving.vllm.seams import is_patched
    from unlearn_guard.serving.vllm.subtraction import find_processor

    sampler = getattr(guard.runner, "sampler", None)
    if sampler is not None:
        owner, name = (SamplerV2, "__call__") if guard.is_v2 else (SamplerV1, "forward")
        if not isinstance(sampler, owner) or not is_patched(type(sampler), name):
            raise _idle("the sampler does not begin with the logit difference")
    if guard.chorus is None:
        return
    for assistant in guard.chorus.names:
        context = guard.chorus.open(assistant, lambda start: [1, 2, 3][start:])
        try:
            if not torch.isfinite(guard.chorus.listen([context])).all():
                raise _idle(f"assistant {assistant!r} says what is not finite")
        finally:
            guard.chorus.close(context)
    processor = find_processor(guard.processors() or ())
    if processor is None or not processor.prove(list(guard.chorus.names), guard.chorus.vocabulary):
        raise _idle("the logit difference changed nothing in a dummy step")


def _idle(what: str) -> EngineError:
    return EngineError(
        f"start-up canary: {what}",
        mend="clear vLLM's compile cache (VLLM_DISABLE_COMPILE_CACHE=1) and start again; if it stays, report it",
    )
