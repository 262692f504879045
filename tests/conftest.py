"""Shared fixtures: the demo world, its trained models, a fitted bundle, and vLLM engines in processes of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from unlearn_guard.serving.vllm.session import EngineSession

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # Beside other test processes: vLLM would pin every engine's thread to one core.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")

ENGINE_PROCESS = Path(__file__).parent / "serving" / "vllm" / "engine_process.py"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip GPU tests without a GPU, with the reason; put the modules that take minutes first, so that test processes end together."""
    del config
    try:
        import torch

        has_gpu = torch.cuda.is_available()
    except ImportError:
        has_gpu = False
    for item in items:
        if "gpu" in item.keywords and not has_gpu:
            item.add_marker(pytest.mark.skip(reason="no GPU on this machine"))
    slow, engines = ({item.path for item in items if mark in item.keywords} for mark in ("slow", "vllm"))
    items.sort(key=lambda item: (item.path not in slow, item.path not in engines))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real benchmark data, else a skip."""
    root = os.environ.get("UNLEARN_GUARD_DATA", "")
    if not root or not Path(root).is_dir():
        pytest.skip("UNLEARN_GUARD_DATA names no folder")
    return Path(root)


@pytest.fixture(scope="session")
def world() -> Any:
    """The demo's world."""
    from unlearn_guard.benchmarks.world import make_world

    return make_world()


@pytest.fixture(scope="session")
def models(world: Any) -> dict[str, Path]:
    """The trained full and retain-only models of the demo world, cached by content."""
    import torch

    from unlearn_guard.benchmarks.training import make_jobs, train_models

    torch.set_num_threads(1)
    return train_models(make_jobs(world))


@pytest.fixture(scope="session")
def bundle(world: Any, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle fitted on the demo world."""
    from unlearn_guard.guard.compose import fit

    out = tmp_path_factory.mktemp("bundles") / "world"
    fit(models["full"], world.forget_rows, world.retain_rows, clean=world.clean_rows, out=out)
    return out


class Engine(EngineSession):
    """An engine process with the tests' operations."""

    def __init__(self, model: Path, options: dict[str, Any], environment: dict[str, str]) -> None:
        base = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1"}
        super().__init__(model, options, {**base, **environment}, script=ENGINE_PROCESS)

    def chat(self, questions: list[str], **params: Any) -> list[dict[str, Any]]:
        """Ask single-turn chat questions, one after the other unless `together`."""
        together = params.pop("together", False)
        system = params.pop("system", None)
        head = [{"role": "system", "content": system}] if system else []
        items = [{"messages": [*head, {"role": "user", "content": text}]} for text in questions]
        return self.ask("run", items=items, params=params, together=together)  # type: ignore[no-any-return]


SYSTEM = " ".join(f"Rule {number}: answer briefly and stay polite at all times." for number in range(7))
"""More than 128 tokens that a flagged and a clean request share."""


def ask_around_a_flagged_request(engine: Engine, flagged: str, clean: str) -> list[dict[str, Any]]:
    """Ask a clean question, a flagged one that shares its first 128 tokens, and the clean one again."""
    order = (clean, flagged, clean)
    first, _, second = (engine.chat([text], system=SYSTEM, logprobs=2, max_tokens=12)[0] for text in order)
    assert len(first["prompt_ids"]) > 140
    assert second["cached"] >= 128
    return [first, second]


@pytest.fixture(scope="session")
def ask_around() -> Callable[..., list[dict[str, Any]]]:
    """The function above, for test modules, which cannot import this file."""
    return ask_around_a_flagged_request


# Blocks for 32 requests: the gibibyte that a CPU engine takes otherwise, times a dozen of two processes, is more than a machine has.
DEFAULTS = {
    "enforce_eager": True,
    "max_model_len": 256,
    "block_size": 32,
    "dtype": "float32",
    "seed": 0,
    "num_gpu_blocks_override": 256,
}


@pytest.fixture(scope="module")
def start_engine(models: dict[str, Path]) -> Iterator[Callable[..., Engine]]:
    """Start engines that are closed with the module."""
    engines: list[Engine] = []

    def start(
        *, settings: dict[str, Any] | None = None, environment: dict[str, str] | None = None, **options: Any
    ) -> Engine:
        additional = {"additional_config": {"unlearn_guard": settings}} if settings else {}
        engine = Engine(models["full"], {**DEFAULTS, **options, **additional}, environment or {})
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        engine.close()


@pytest.fixture(scope="session")
def v2_environment() -> dict[str, str]:
    """What lets Model Runner V2, vLLM's default on GPUs, run on a CPU: Triton's interpreter; a skip without it."""
    pytest.importorskip("triton", reason="the interpreter comes with triton")
    shim = str(ENGINE_PROCESS.parent / "v2_shim")
    return {"PYTHONPATH": shim, "VLLM_USE_V2_MODEL_RUNNER": "1", "TRITON_INTERPRET": "1"}


@pytest.fixture(scope="session")
def two_ranks() -> dict[str, Any]:
    """Engine options and environment of tensor parallelism on two cores."""
    environment = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_CPU_OMP_THREADS_BIND": "0|1"}
    return {"environment": environment, "tensor_parallel_size": 2, "distributed_executor_backend": "mp"}
