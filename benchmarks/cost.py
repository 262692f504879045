"""What a guard costs: screening beside sentence-transformers, and vLLM with nothing flagged beside stock.

    python -m unlearn_guard.benchmarks.cost screening --out FILE
    python -m unlearn_guard.benchmarks.cost engine --out FILE
    python -m unlearn_guard.benchmarks.cost traffic --out FILE
    python -m unlearn_guard.benchmarks.cost scale --out FILE
    python -m unlearn_guard.benchmarks.cost decoding --out FILE

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

from unlearn_guard.benchmarks.decoding import measure_decoding
from unlearn_guard.benchmarks.environment import describe_environment
from unlearn_guard.benchmarks.graphs import measure_graph
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
            quiet = {"unlearn_guard": {"bundle": str(bundle), "on_answer": "pass"}}
            with (
                EngineSession(folders["full"], options, {**environment, "UNLEARN_GUARD_DISABLE": "1"}) as stock,
                EngineSession(folders["full"], {**options, "additional_config": section}, environment) as guarded,
            ):
                judged = compare_speed(stock, guarded, clean, rounds)
            with (
                EngineSession(folders["full"], options, {**environment, "UNLEARN_GUARD_DISABLE": "1"}) as stock,
                EngineSession(folders["full"], {**options, "additional_config": quiet}, environment) as guarded,
            ):
                result[name] = {
                    "nothing_flagged_answers_judged": judged,
                    "nothing_flagged": compare_speed(stock, guarded, clean, rounds),
                    "all_flagged": compare_speed(stock, guarded, flagged, rounds),
                    "half_flagged": compare_speed(
                        stock, guarded, clean[: n_running // 2] + flagged[: n_running // 2], rounds
                    ),
                    "host_us_per_step_nothing_flagged": guarded.ask("host_cost", prompts=clean, max_tokens=32),
                    "host_us_per_step_all_flagged": guarded.ask("host_cost", prompts=flagged, max_tokens=32),
                }
    return result


_MIX = {"instructions": 40, "triviaqa": 20, "mmlu": 10, "truthfulqa": 10, "gsm8k": 10, "bbh": 5, "tofu": 5}
"""The stated clean mix, in per cent: everyday requests above all, a twentieth from the forget set's own domain."""


def measure_traffic(*, n_prompts: int = 1000) -> dict[str, Any]:
    """Time screening of the stated clean mix, of one long clean prompt, and the output guard's look at clean answers."""
    from unlearn_guard.benchmarks.known_sets import GENERAL, read_general
    from unlearn_guard.classifiers.traffic import make_traffic
    from unlearn_guard.guard.verdict import Verdict
    from unlearn_guard.guard.watching import AnswerWatch

    suite = load_tofu(n_retain=110, n_forget=20)
    folders = train_models(make_jobs(make_world(), Recipe()))
    pools = {name: [item.question for item in read_general(name)] for name in GENERAL}
    pools["tofu"] = [item.question for item in suite.sets["holdout"]]
    rng = random.Random(0)
    prompts = [rng.choice(pools[name]) for name in rng.choices(list(_MIX), list(_MIX.values()), k=n_prompts)]
    prompts = list(dict.fromkeys(prompts))
    result: dict[str, Any] = {"mix_per_cent": _MIX, "n": len(prompts)}
    with tempfile.TemporaryDirectory() as scratch:
        for precision in ("fp32", "int8"):
            bundle = Path(scratch) / precision
            fit(
                folders["full"],
                suite.forget_rows,
                suite.retain_rows,
                interventions=("refusal",),
                precision=precision,  # type: ignore[arg-type]
                out=bundle,
            )
            guard = Guard.load(bundle)
            for row in make_traffic(300, seed=9):  # Warm: words, not prompts.
                guard.screen([row.query])
            seconds = [(len(prompt.split()), _time(guard.screen, [prompt])) for prompt in prompts]
            encodes = [guard.classifier.score([prompt])[0].n_encoded for prompt in prompts]
            found: dict[str, Any] = {
                "mean_ms": round(1e3 * statistics.mean(each for _, each in seconds), 3),
                "encodes_per_prompt": round(statistics.mean(encodes), 3),
                "by_words": {},
            }
            for low, high in ((1, 15), (16, 40), (41, 100), (101, 10_000)):
                part = sorted(each for words, each in seconds if low <= words <= high)
                if part:
                    found["by_words"][f"{low}-{high}"] = {
                        "n": len(part),
                        "p50_ms": round(1e3 * statistics.median(part), 3),
                        "p99_ms": round(1e3 * part[min(len(part) - 1, int(0.99 * len(part)))], 3),
                    }
            long = []
            for number in range(5):
                words = " ".join(random.Random(number).sample(pools["instructions"], 600)).split()[:6200]
                long.append(_time(guard.screen, [" ".join(words)]))
            found["prompt_of_8k_tokens_ms"] = round(1e3 * statistics.median(long), 1)
            answers = [item.answer for item in read_general("gsm8k")[:200]] + [
                item.answer for item in suite.sets["holdout"]
            ]
            clean = Verdict(False, (), -1e6, 1.0, "lexical")
            n_tokens, spent = 0, 0.0
            for answer in answers:
                watch = AnswerWatch(guard, ["What is it?"], clean)
                ends = range(4, len(answer) + 4, 4)  # About one token.
                start = time.perf_counter()
                for end in ends:
                    watch.update(answer[:end])
                watch.update(answer, finished=True)
                spent += time.perf_counter() - start
                n_tokens += len(ends)
            found["output_guard_us_per_token"] = round(1e6 * spent / n_tokens, 2)
            result[precision] = found
    return result


def measure_scale() -> dict[str, Any]:
    """Time neighbour search, adding and removing a forget request at 1e4, 1e5 and 1e6 vectors, at measured recall."""
    import numpy as np

    from unlearn_guard.classifiers.index import NeighbourIndex

    result: dict[str, Any] = {}
    rng = np.random.default_rng(0)
    for n in (10_000, 100_000, 1_000_000):
        # Twenty questions about each person lie around that person's place, as real rows do.
        centres = rng.standard_normal((n // 20, 384), np.float32)
        vectors = np.repeat(centres, 20, axis=0) + 0.7 * rng.standard_normal((n, 384), np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        labels = [f"person-{number // 20}" for number in range(n)]
        start = time.perf_counter()
        index = NeighbourIndex.build(vectors, vectors[:1000], labels)
        built = time.perf_counter() - start
        queries = vectors[rng.integers(0, n, 200)] + 0.3 * rng.standard_normal((200, 384), np.float32) / 384**0.5
        queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
        truth = (queries @ vectors.T).argmax(axis=1)
        seconds, hits = [], 0
        for query, place in zip(queries, truth.tolist(), strict=True):
            start = time.perf_counter()
            nearest = index.find_neighbours(query, 1)
            seconds.append(time.perf_counter() - start)
            hits += nearest[0][0] == place
        add = _time(index.add, vectors[:20], "new")
        remove = _time(index.remove, "new")
        result[str(n)] = {
            "kind": "inverted lists" if index.probes else "flat",
            "probes": index.probes,
            "recall_at_1": hits / len(queries),
            "search_p50_ms": round(1e3 * statistics.median(seconds), 3),
            "search_p99_ms": round(1e3 * sorted(seconds)[int(0.99 * len(seconds))], 3),
            "build_s": round(built, 1),
            "add_request_s": round(add, 4),
            "remove_request_s": round(remove, 4),
        }
    result["amendment"] = measure_amendment()
    return result


def measure_amendment(*, n_requests: int = 5_000, rows_each: int = 20) -> dict[str, Any]:
    """Time a change of one forget request in a bundle that holds 5,000 of them, 100,000 vectors."""
    import numpy as np

    from unlearn_guard.classifiers.amending import Amendment
    from unlearn_guard.classifiers.index import NeighbourIndex
    from unlearn_guard.classifiers.traffic import make_traffic
    from unlearn_guard.guard.rows import ForgetRequest, Row

    folders = train_models(make_jobs(make_world(), Recipe()))  # Any model will do: it is never run.
    rng = random.Random(0)
    kept = make_traffic()
    words = sorted({word for row in kept for word in row.query.lower().split()})
    with tempfile.TemporaryDirectory() as scratch:
        one = [
            Row(f"What did Bo Lindqvarn do in {year}?", "Sailed.", forget_id="p", aliases=("Bo Lindqvarn",))
            for year in range(9)
        ]
        bundle = fit(folders["full"], one, kept, interventions=("refusal",), out=Path(scratch) / "bundle")
        folder = bundle.path / "classifier"
        file = folder / "aliases.json"
        record = json.loads(file.read_text(encoding="utf-8"))
        owners = [f"person-{number}" for number in range(n_requests)]
        for number, owner in enumerate(owners):
            record["aliases"][owner] = [f"Tor{number}an Vel{number}strom"]
            record["bags"][owner] = rng.sample(words, 100)
        vectors = np.random.default_rng(0).standard_normal((n_requests * rows_each, 384), np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        labels = [owner for owner in owners for _ in range(rows_each)]
        NeighbourIndex.build(vectors, vectors[:2000], labels).save(folder)
        file.write_text(json.dumps({**record, "index_labels": labels}), encoding="utf-8")
        start = time.perf_counter()
        amendment = Amendment(folder)
        opened = time.perf_counter() - start
        rows = tuple(
            Row(f"What did Ada Korvelin say in {year}?", "Nothing.", forget_id="new") for year in range(rows_each)
        )
        request = ForgetRequest("new", aliases=("Ada Korvelin",), rows=rows)
        added = _time(amendment.add, request, kept)
        removed = _time(amendment.remove, ["person-7"])
        saved = _time(amendment.save)
        return {
            "n_requests": n_requests,
            "n_vectors": len(labels),
            "open_s": round(opened, 3),
            "add_s": round(added, 3),
            "remove_s": round(removed, 3),
            "save_s": round(saved, 3),
        }


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
    parser.add_argument("what", choices=("screening", "engine", "traffic", "scale", "decoding", "neurons", "graph"))
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args(arguments)
    try:
        measures: dict[str, Callable[[], dict[str, Any]]] = {
            "screening": measure_screening,
            "engine": lambda: measure_engine(rounds=chosen.rounds),
            "traffic": measure_traffic,
            "scale": measure_scale,
            "decoding": lambda: measure_decoding(rounds=chosen.rounds),
            "neurons": lambda: measure_decoding(rounds=chosen.rounds, kind="neurons"),
            "graph": lambda: measure_graph(rounds=chosen.rounds),
        }
        found = measures[chosen.what]()
    except UnlearnGuardError as error:
        sys.exit(f"unlearn-guard: {error}")
    report = {"schema_version": 1, "environment": describe_environment(), chosen.what: found}
    text = json.dumps(report, indent=1) + "\n"
    if chosen.out:
        write_atomic(chosen.out, text.encode())
    print(text)


if __name__ == "__main__":
    main()
