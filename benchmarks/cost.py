"""What a guard costs: screening beside sentence-transformers, and vLLM with nothing flagged beside stock.

    python -m unlearn_guard.benchmarks.cost screening --out FILE
    python -m unlearn_guard.benchmarks.cost engine --out FILE

Everything is a ratio of two things run side by side in one process or in alternating rounds; absolute times stand
beside their hardware.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from unlearn_guard.benchmarks.environment import describe_environment
from unlearn_guard.benchmarks.tofu import load_tofu
from unlearn_guard.benchmarks.training import Recipe, make_jobs, train_models
from unlearn_guard.benchmarks.world import make_world
from unlearn_guard.guard.bundle import write_atomic
from unlearn_guard.guard.compose import fit
from unlearn_guard.guard.errors import UnlearnGuardError
from unlearn_guard.guard.screening import Guard

_ENGINE = {"max_model_len": 256, "block_size": 32, "dtype": "float32", "seed": 0, "max_num_seqs": 64}


def measure_screening(*, n_questions: int = 200) -> dict[str, Any]:
    """Time screening of single prompts beside sentence-transformers' encode of the same prompts, one thread each."""
    import torch
    from sentence_transformers import SentenceTransformer

    from unlearn_guard.classifiers.export import DEFAULT_ENCODER, locate_encoder

    torch.set_num_threads(1)
    suite = load_tofu(n_retain=20, n_forget=20)
    folders = train_models(make_jobs(make_world(), Recipe()))  # Any model will do: screening never runs it.
    reference = SentenceTransformer(str(locate_encoder(DEFAULT_ENCODER)), device="cpu")
    questions = [item.question for item in suite.sets["forget.paraphrase"]][:n_questions]
    # Words in random order: windows that repeat would come from the vector cache.
    filler = sorted({word for question in questions for word in question.split()})
    tokenize = reference.tokenizer
    texts = {
        "tofu": questions,
        "64_tokens": [_fill(filler, 64, number, tokenize) for number in range(40)],
        "512_tokens": [_fill(filler, 512, number, tokenize) for number in range(20)],
    }
    with tempfile.TemporaryDirectory() as scratch:
        fit(
            folders["full"],
            suite.forget_rows,
            suite.retain_rows,
            clean=suite.clean_rows,
            interventions=("refusal",),
            out=Path(scratch) / "bundle",
        )
        guard = Guard.load(Path(scratch) / "bundle")
        result: dict[str, Any] = {}
        for name, prompts in texts.items():
            lengths = [len(tokenize(prompt).input_ids) - 2 for prompt in prompts]
            ours: list[float] = []
            theirs: list[float] = []
            for prompt in prompts:  # Side by side: whatever disturbs one disturbs the other.
                ours.append(_time(guard.screen, [prompt]))
                theirs.append(_time(reference.encode, [prompt]))
            result[name] = {
                "n": len(prompts),
                "median_tokens": statistics.median(lengths),
                "screen_p50_ms": round(1e3 * statistics.median(ours), 3),
                "sentence_transformers_p50_ms": round(1e3 * statistics.median(theirs), 3),
                "ratio": round(statistics.median(ours) / statistics.median(theirs), 3),
            }
    return result


def measure_engine(*, rounds: int, n_running: int = 64) -> dict[str, Any]:
    """Compare throughput with nothing flagged with stock, in alternating rounds, and time the host's share of a step."""
    from unlearn_guard.serving.transformers.engine import ReferenceEngine
    from unlearn_guard.serving.vllm.doctor import compare_speed
    from unlearn_guard.serving.vllm.session import EngineSession

    world = make_world()
    folders = train_models(make_jobs(world, Recipe()))
    engine = ReferenceEngine.load(folders["full"])
    clean = [engine.render(item.question) for item in world.sets["retain"][:n_running]]
    flagged = [engine.render(item.question) for item in world.sets["forget.given"][:n_running]]
    environment = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
    result: dict[str, Any] = {"n_running": n_running, "rounds": rounds}
    with tempfile.TemporaryDirectory() as scratch:
        bundle = Path(scratch) / "bundle"
        fit(folders["full"], world.forget_rows, world.retain_rows, clean=world.clean_rows, out=bundle)
        section = {"unlearn_guard": {"bundle": str(bundle)}}
        for name, eager in (("eager", True), ("compiled", False)):
            options = {**_ENGINE, "enforce_eager": eager}
            with (
                EngineSession(folders["full"], options, {**environment, "UNLEARN_GUARD_DISABLE": "1"}) as stock,
                EngineSession(folders["full"], {**options, "additional_config": section}, environment) as guarded,
            ):
                result[name] = {
                    "nothing_flagged": compare_speed(stock, guarded, clean, rounds),
                    "all_flagged": compare_speed(stock, guarded, flagged, rounds),
                    "half_flagged": compare_speed(
                        stock, guarded, clean[: n_running // 2] + flagged[: n_running // 2], rounds
                    ),
                    "host_us_per_step_nothing_flagged": guarded.ask("host_cost", prompts=clean, max_tokens=32),
                    "host_us_per_step_all_flagged": guarded.ask("host_cost", prompts=flagged, max_tokens=32),
                }
    return result


def _fill(filler: Sequence[str], n_tokens: int, number: int, tokenize: Callable[..., Any]) -> str:
    words = random.Random(number).choices(filler, k=n_tokens)
    low, high = 1, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        fits = len(tokenize(" ".join(words[:middle]), truncation=False).input_ids) - 2 <= n_tokens
        low, high = (middle, high) if fits else (low, middle - 1)
    return " ".join(words[:low])


def _time(call: Callable[..., Any], *arguments: Any) -> float:
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write JSON with its hardware line."""
    parser = argparse.ArgumentParser(prog="python -m unlearn_guard.benchmarks.cost")
    parser.add_argument("what", choices=("screening", "engine"))
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args(arguments)
    try:
        found = measure_screening() if chosen.what == "screening" else measure_engine(rounds=chosen.rounds)
    except UnlearnGuardError as error:
        sys.exit(f"unlearn-guard: {error}")
    report = {"schema_version": 1, "environment": describe_environment(), chosen.what: found}
    text = json.dumps(report, indent=1) + "\n"
    if chosen.out:
        write_atomic(chosen.out, text.encode())
    print(text)


if __name__ == "__main__":
    main()
