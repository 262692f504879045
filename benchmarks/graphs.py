"""What neuron hooks cost inside a captured CUDA graph: a decode step of a model of random weights, with hooks and without.

A graph replays every launch, so that what nobody is flagged for still costs. The model is Hugging Face's, not vLLM's, and attends to one
token: hooks and kernels are the same, the rest of the step is less, so that ratios are above what a server would see.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from unlearn_guard.corruptions.gated_mlp import find_gated_mlps
from unlearn_guard.corruptions.mlp_edit import AdjustTable, MlpEdit, hook_mlps
from unlearn_guard.corruptions.neurons import Moments
from unlearn_guard.guard.errors import DependencyError

SHAPE = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 16}
"""With 32,000 tokens: 1.2 billion parameters."""
N_TABLES = (1, 8)
_CONCURRENT, _SHARE, _REPLAYS = 8, 0.1, 100


def measure_graph(*, rounds: int, device: str = "cuda", shape: dict[str, int] | None = None) -> dict[str, Any]:
    """Return milliseconds per decode step of 8 requests: plain, hooked with nobody flagged, and with everybody flagged.

    `torch` rows are hooks without kernels. Raises DependencyError without a GPU.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    if device == "cuda" and not torch.cuda.is_available():
        raise DependencyError("captured graphs need a GPU", mend="run it where `nvidia-smi` lists one")
    torch.manual_seed(0)
    config = LlamaConfig(**(shape or SHAPE), vocab_size=32_000, max_position_embeddings=512)
    model = LlamaForCausalLM(config).to(device, torch.bfloat16).eval()
    mlps = find_gated_mlps(model)
    runs: dict[str, Callable[[], None]] = {"plain": _capture(model, device)}
    stages: dict[str, Callable[[], None]] = {}
    for n_tables in N_TABLES:
        for way in ("kernel", "torch"):
            tables = {f"skill {number}": _make_table(mlps, number) for number in range(n_tables)}
            last = len(mlps) - 1
            edit = MlpEdit(
                mlps, tables, n_rows=_CONCURRENT, device=torch.device(device), read_layers=[last], n_reads=_CONCURRENT
            )
            if way == "torch":
                edit.kernels = {}
            handles = hook_mlps(edit, mlps)
            run = _capture(model, device)
            for handle in handles:
                handle.remove()
            for flagged in (0, _CONCURRENT):
                name = f"{n_tables}_tables_{way}_{flagged}_flagged"
                runs[name] = run
                stages[name] = _make_stage(edit, flagged)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in sorted(runs, reverse=bool(number % 2)):
            stages.get(name, lambda: None)()
            times[name].append(_time_ms(runs[name], device))
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = {
        name: statistics.median(own / plain for own, plain in zip(values, times["plain"], strict=True))
        for name, values in times.items()
    }
    return {
        "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "concurrent": _CONCURRENT,
        "share": _SHARE,
        "rounds": rounds,
        "step_ms": {name: round(value, 4) for name, value in medians.items()},
        "over_plain": {name: round(value, 4) for name, value in ratios.items()},
    }


def _make_table(mlps: Sequence[Any], seed: int) -> AdjustTable:
    rng = np.random.default_rng(seed)
    shape = (len(mlps), mlps[0].n_neurons)
    forget, retain = (Moments(100, rng.normal(size=shape), 0.1 + rng.random(shape)) for _ in range(2))
    return AdjustTable(rng.random(shape) < _SHARE, forget, retain)


def _make_stage(edit: MlpEdit, flagged: int) -> Callable[[], None]:
    def stage() -> None:
        edit.clear()
        if flagged:
            for name in edit.tables:
                edit.stage(name, 0, 256, flagged)

    return stage


def _capture(model: Any, device: str) -> Callable[[], None]:
    """Return what runs one step of a new token per request, as a graph where there is a GPU."""
    tokens = torch.randint(0, 32_000, (_CONCURRENT, 1), device=device)

    @torch.inference_mode()
    def step() -> None:
        model(input_ids=tokens, use_cache=False)

    step()
    if device == "cpu":
        return step
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def _time_ms(run: Callable[[], None], device: str) -> float:
    if device == "cpu":
        import time

        start = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - start)
    run()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(_REPLAYS):
        run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / _REPLAYS
