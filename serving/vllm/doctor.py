"""Proof on the operator's own machine: seams, canary, identity of unflagged answers, idle and flagged cost."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from unlearn_guard.corruptions.planning import find_always_on
from unlearn_guard.guard.bundle import Bundle
from unlearn_guard.serving.vllm.seams import SEAMS, probe_seams
from unlearn_guard.serving.vllm.server import check_environment
from unlearn_guard.serving.vllm.session import EngineSession

_CLEAN = (
    "How do I bake bread?",
    "What causes rainbows?",
    "List five prime numbers.",
    "Explain recursion with an example.",
    "Write a haiku about winter.",
    "What is the boiling point of water?",
    "Recommend a science fiction novel.",
    "Why is the sky blue?",
)


def examine(
    model: str,
    bundle: Path,
    *,
    options: dict[str, Any],
    rounds: int = 5,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Start a stock and a guarded engine side by side, compare them, and return the findings.

    The keys `unflagged_identical` and `canary` are True or False; `always_on` are the neuron tables of a bundle fitted to act on every
    request, whose answers cannot be stock's; ratios are guarded over stock, medians of
    alternating rounds. Raises EngineError (seams) and SessionError (an engine that does not start).
    """
    check_environment()
    version = probe_seams()
    opened = Bundle.load(bundle)
    opened.check_model(model)
    report(f"vLLM {version}: all {len(SEAMS)} seams as expected")
    # Two engines share the memory that vLLM would give to one.
    base = {"enforce_eager": False, "gpu_memory_utilization": 0.4, **options}
    # The canary's line is looked for in the log, whatever level the operator's shell asks for.
    in_process = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "INFO"}
    with ExitStack() as stack:
        report("start stock engine")
        stock = stack.enter_context(EngineSession(model, base, {**in_process, "UNLEARN_GUARD_DISABLE": "1"}))
        report("start guarded engine")
        # The hooks are what is proved here; what a model says of forgotten people unasked would be ended.
        section = {"unlearn_guard": {"bundle": str(bundle), "on_answer": "pass"}}
        guarded = stack.enter_context(EngineSession(model, {**base, "additional_config": section}, in_process))
        log = guarded.log()
        canary = "canary passed" in log
        clean = [_encode(model, text) for text in _CLEAN]
        flagged = [_encode(model, text) for text in _flagged_questions(opened)]
        pairs = [engine.ask("generate", prompts=clean, max_tokens=16, together=False) for engine in (stock, guarded)]
        identical = all(pairs[0][key] == pairs[1][key] for key in ("tokens", "logprobs"))
        always_on = find_always_on(opened)
        by_design = f", as they should: {', '.join(always_on)} acts on every request" if always_on else ""
        report("unflagged answers " + ("identical to stock" if identical else f"DIFFER from stock{by_design}"))
        idle = compare_speed(stock, guarded, clean * 4, rounds)
        busy = compare_speed(stock, guarded, (flagged * 32)[:32], rounds) if flagged else None
    return {
        "vllm": version,
        "machine": f"{platform.processor() or platform.machine()}, Python {platform.python_version()}",
        "runner": "V2" if "V2 Model Runner" in log else "V1",
        "bundle": opened.revision,
        "seams": len(SEAMS),
        "canary": canary,
        "unflagged_identical": identical,
        "always_on": always_on,
        "idle_throughput_ratio": idle,
        "flagged_throughput_ratio": busy,
        "rounds": rounds,
    }


def compare_speed(stock: EngineSession, guarded: EngineSession, prompts: Sequence[Sequence[int]], rounds: int) -> float:
    """Return guarded over stock tokens per second, the median of alternating rounds after one warm-up each."""
    for engine in (stock, guarded):
        engine.ask("throughput", prompts=prompts, max_tokens=32)
    ratios = []
    for number in range(rounds):
        order = (stock, guarded) if number % 2 == 0 else (guarded, stock)
        speeds = {id(engine): engine.ask("throughput", prompts=prompts, max_tokens=32) for engine in order}
        ratios.append(speeds[id(guarded)] / speeds[id(stock)])
    return round(statistics.median(ratios), 4)


def _flagged_questions(bundle: Bundle) -> list[str]:
    return [f"Who is {request.aliases[0]}?" for request in bundle.requests if request.aliases][:8]


def _encode(model: str, text: str) -> list[int]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    if tokenizer.chat_template:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
        )
        return list(tokenizer(text, add_special_tokens=False).input_ids)
    return list(tokenizer(text).input_ids)
