"""What assistants and neuron hooks cost while decoding: vLLM with flagged rows beside stock, on a model of random weights.

Random weights cost what trained ones do. Stock and guarded engines answer in alternating rounds; the floating-point ratio
that they are compared with counts linears and head (attention left out), with LoRA merged as it is served.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from unlearn_guard.benchmarks.training import Recipe, make_jobs, train_models
from unlearn_guard.benchmarks.world import make_world
from unlearn_guard.corruptions.assistant import AssistantShape, count_flops
from unlearn_guard.guard.compose import fit

SHAPE = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 24, "num_attention_heads": 16}
"""With 32,000 tokens, tied: 341 million parameters."""
VOCABULARY = 32_000
CONCURRENT = (1, 8, 32)
SHARES = (0.0, 0.1, 0.5, 1.0)
_N_NEW = 32
_N_KEPT = 60
"""Rows to keep that `fit` reads: how well it fits changes no cost, how long it takes would."""
_OPTIONS: dict[str, dict[str, Any]] = {
    "uld": {
        "interventions": ("uld",),
        "uld": {"assistants": "one", "trainable": "lora", "epochs": 1, "batch_size": 512},
    },
    "neurons": {"interventions": ("neuron-adjust",), "key_space": True, "neurons": {"probe_alpha": 0.05}},
}


def write_random_model(folder: Path, tokenizer_folder: Path, *, seed: int = 0, **shape: int) -> int:
    """Write a model of random weights with a small tokenizer; return its number of parameters."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    config = LlamaConfig(
        **{**SHAPE, **shape},
        vocab_size=VOCABULARY,
        num_key_value_heads=shape.get("num_attention_heads", SHAPE["num_attention_heads"]),
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def measure_decoding(
    *, rounds: int, concurrent: Sequence[int] = CONCURRENT, kind: Literal["uld", "neurons"] = "uld"
) -> dict[str, Any]:
    """Return decode tokens/s of stock and guarded engines by concurrency and share of flagged requests.

    `uld` subtracts an assistant, and its FLOP ratio is told; `neurons` adjusts them and reads keys for a probe.
    """
    from transformers import AutoConfig

    from unlearn_guard.serving.transformers.engine import ReferenceEngine
    from unlearn_guard.serving.vllm.session import EngineSession

    world = make_world()
    small = train_models(make_jobs(world, Recipe()))["full"]  # Its tokenizer, and prompts of real length.
    reader = ReferenceEngine.load(small)
    longest = max(concurrent)
    person = world.forget_rows[0].forget_id
    rows = [row for row in world.forget_rows if row.forget_id == person]
    forget = [item.question for item in world.sets["forget.given"] if item.named and item.subject == person]
    clean = [reader.render(item.question) for item in world.sets["retain"]][:longest]
    flagged = [reader.render(question) for question in (forget * longest)[:longest]]
    environment = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
    options = {"max_model_len": 256, "block_size": 32, "dtype": "float32", "seed": 0, "max_num_seqs": longest}
    scratch = Path(tempfile.mkdtemp())
    try:
        n_parameters = write_random_model(scratch / "model", small)
        bundle = fit(
            scratch / "model",
            rows,
            world.retain_rows[:_N_KEPT],
            classifier="name-match",
            out=scratch / "bundle",
            **_OPTIONS[kind],
        )
        section = {"unlearn_guard": {"bundle": str(bundle.path), "on_answer": "pass"}}
        result: dict[str, Any] = {"n_parameters": n_parameters, "rounds": rounds}
        if kind == "uld":
            config = AutoConfig.from_pretrained(scratch / "model")
            merged = AssistantShape(**{**bundle.manifest.interventions["uld"]["shape"], "trainable": "layers"})
            result["flop_ratio"] = round(count_flops(config, merged) / count_flops(config, None), 4)
        with (
            EngineSession(scratch / "model", options, {**environment, "UNLEARN_GUARD_DISABLE": "1"}) as stock,
            EngineSession(scratch / "model", {**options, "additional_config": section}, environment) as guarded,
        ):
            for n in concurrent:
                for share in SHARES:
                    n_flagged = round(share * n)
                    if share and not n_flagged:
                        continue
                    prompts = flagged[:n_flagged] + clean[: n - n_flagged]
                    result[f"{n}_concurrent_{share:.0%}_flagged"] = _compare(stock, guarded, prompts, n_flagged, rounds)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return result


def _compare(stock: Any, guarded: Any, prompts: Sequence[Sequence[int]], n_flagged: int, rounds: int) -> dict[str, Any]:
    speeds: dict[str, list[float]] = {"stock": [], "guarded": []}
    engines = {"stock": stock, "guarded": guarded}
    for engine in engines.values():
        engine.ask("throughput", prompts=prompts, max_tokens=4)
    for number in range(rounds):
        for name in sorted(engines, reverse=bool(number % 2)):
            speeds[name].append(engines[name].ask("throughput", prompts=prompts, max_tokens=_N_NEW))
    ratios = [theirs / ours for theirs, ours in zip(speeds["stock"], speeds["guarded"], strict=True)]
    return {
        "n_flagged": n_flagged,
        "stock_tokens_per_s": round(statistics.median(speeds["stock"]), 2),
        "guarded_tokens_per_s": round(statistics.median(speeds["guarded"]), 2),
        "time_per_token_over_stock": round(statistics.median(ratios), 4),
    }
