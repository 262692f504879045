"""Every vLLM symbol this plugin stands on, and the probe that refuses to start when one has changed.

docs/vllm-seams.md holds the same table for people; a test compares the two.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from unlearn_guard.guard.errors import EngineError

SUPPORTED = ("0.32",)
"""Supported vLLM releases, as major.minor."""
_MARK = "__unlearn_guard__"


@dataclass(frozen=True, slots=True)
class Seam:
    """One symbol: where it lives, which parameters it must have, and what we use it for."""

    module: str
    symbol: str
    parameters: tuple[str, ...]
    purpose: str
    patched: bool = True

    @property
    def name(self) -> str:
        """The full dotted name."""
        return f"{self.module}.{self.symbol}"

    def resolve(self) -> tuple[Any, str]:
        """Return the object that owns the symbol, and the symbol's last name."""
        owner: Any = import_module(self.module)
        *path, last = self.symbol.split(".")
        for part in path:
            owner = getattr(owner, part)
        return owner, last


SEAMS = (
    Seam(
        "vllm.engine.arg_utils",
        "EngineArgs.create_engine_config",
        ("self", "usage_context", "headless"),
        "settings, seam probe, compile-cache key, logits processor",
    ),
    Seam(
        "vllm.v1.engine.input_processor",
        "InputProcessor.__init__",
        ("self", "vllm_config", "renderer", "mm_registry"),
        "load the guard before the first request",
    ),
    Seam(
        "vllm.v1.engine.input_processor",
        "InputProcessor.process_inputs",
        ("self", "request_id", "prompt", "params", "supported_tasks", "resumable"),
        "mark, salt and stamp every request",
    ),
    Seam(
        "vllm.v1.engine.async_llm",
        "AsyncLLM.add_request",
        ("self", "request_id", "prompt", "params"),
        "screen in a thread pool, off the event loop",
    ),
    Seam(
        "vllm.renderers.base",
        "BaseRenderer.render_chat",
        ("self", "conversations", "chat_params", "tok_params"),
        "carry message roles and texts to admission",
    ),
    Seam(
        "vllm.renderers.base",
        "BaseRenderer.render_chat_async",
        ("self", "conversations", "chat_params", "tok_params"),
        "carry message roles and texts to admission",
    ),
    Seam(
        "vllm.entrypoints.generate.beam_search.utils",
        "BeamSearchSequence.get_prompt",
        ("self",),
        "carry the original prompt length through beam search",
    ),
    Seam(
        "vllm.v1.engine.output_processor",
        "OutputProcessor.add_request",
        ("self", "request", "prompt", "parent_req", "request_index", "queue"),
        "hold every answer back until it was judged",
    ),
    Seam(
        "vllm.entrypoints.generate.beam_search.offline",
        "BeamSearchOfflineMixin.beam_search",
        ("self", "prompts", "params"),
        "judge the answers of offline beam search",
    ),
    Seam(
        "vllm.entrypoints.generate.beam_search.online",
        "BeamSearchOnlineMixin.beam_search",
        ("self", "prompt", "request_id", "params"),
        "judge the answers of the server's beam search",
    ),
    Seam(
        "vllm.v1.engine.core",
        "EngineCore.preprocess_add_request",
        ("self", "request"),
        "refuse requests that skipped admission",
    ),
    Seam(
        "vllm.v1.worker.gpu_worker",
        "Worker.load_model",
        ("self", "load_dummy_weights"),
        "install the embedding hooks before the first forward pass",
    ),
    Seam("vllm.v1.worker.gpu_worker", "Worker.compile_or_warm_up_model", ("self",), "start-up canary"),
    Seam(
        "vllm.v1.worker.gpu_model_runner",
        "GPUModelRunner._prepare_inputs",
        ("self", "scheduler_output", "num_scheduled_tokens"),
        "row layout of a step (V1 runner)",
    ),
    Seam(
        "vllm.v1.worker.gpu.model_runner",
        "GPUModelRunner.prepare_inputs",
        ("self", "scheduler_output", "batch_req_state", "batch_desc", "num_active_loras"),
        "row layout of a step (V2 runner)",
    ),
    Seam(
        "vllm.v1.worker.gpu_model_runner",
        "GPUModelRunner.execute_model",
        ("self", "scheduler_output"),
        "requests that begin and end (V1 runner)",
    ),
    Seam(
        "vllm.v1.worker.gpu.model_runner",
        "GPUModelRunner.execute_model",
        ("self", "scheduler_output"),
        "requests that begin and end (V2 runner)",
    ),
    Seam("vllm.v1.worker.gpu_model_runner", "GPUModelRunner._dummy_run", ("self", "num_tokens"), "canary", False),
    Seam(
        "vllm.v1.engine",
        "EngineCoreRequest",
        ("prompt_token_ids", "sampling_params", "cache_salt"),
        "the request that admission returns",
        False,
    ),
    Seam(
        "vllm.v1.sample.sampler",
        "Sampler.forward",
        ("self", "logits", "sampling_metadata"),
        "log-probabilities of suppressed logits (V1 runner)",
    ),
    Seam(
        "vllm.v1.worker.gpu.sample.sampler",
        "Sampler.__call__",
        ("self", "logits", "input_batch"),
        "log-probabilities of suppressed logits (V2 runner)",
    ),
    Seam(
        "vllm.v1.engine.output_processor",
        "RequestState.make_request_output",
        ("self", "new_token_ids", "pooling_output", "finish_reason", "stop_reason"),
        "what leaves of an answer (instance attribute)",
        False,
    ),
    Seam(
        "vllm.v1.engine.output_processor",
        "RequestState._new_completion_output",
        ("self", "token_ids", "finish_reason", "stop_reason"),
        "the finish reason of a filtered answer (instance attribute)",
        False,
    ),
    Seam(
        "vllm.v1.engine.detokenizer",
        "BaseIncrementalDetokenizer.get_next_output_text",
        ("self", "finished", "delta"),
        "text that may leave (instance attribute)",
        False,
    ),
    Seam(
        "vllm.v1.engine.detokenizer",
        "BaseIncrementalDetokenizer.update",
        ("self", "new_token_ids", "stop_terminated"),
        "new text, and how a hit ends an answer (instance attribute)",
        False,
    ),
    Seam(
        "vllm.model_executor.layers.utils",
        "dispatch_cpu_unquantized_gemm",
        ("layer", "remove_weight"),
        "the assistants' linears on a CPU",
        False,
    ),
    Seam(
        "vllm.v1.core.sched.output",
        "NewRequestData",
        ("req_id", "sampling_params", "prompt_token_ids"),
        "stamps in the worker, and where a prompt ends",
        False,
    ),
    Seam(
        "vllm.model_executor.layers.fusion.quant_activation",
        "get_input_quant_key",
        ("layer",),
        "whether a fused kernel would skip the keys of an MLP",
        False,
    ),
    Seam(
        "vllm.v1.sample.logits_processor.interface",
        "LogitsProcessor.update_state",
        ("self", "batch_update"),
        "forced tokens (V1 runner)",
        False,
    ),
    Seam(
        "vllm.v1.worker.gpu.sample.logits_processor.interface",
        "LogitsProcessor.apply",
        ("self", "logits", "ctx"),
        "forced tokens (V2 runner)",
        False,
    ),
)


_BROKEN: list[str] = []
"""Why seams could not be patched in this process; held against the first engine that wants a guard."""


def note_broken(error: Exception) -> None:
    """Remember a failed installation: without a bundle it must not stop a server that never asked for a guard."""
    _BROKEN.append(f"{type(error).__name__}: {error}")


def probe_seams() -> str:
    """Check the vLLM version and every seam; return the version.

    Raises EngineError that names the supported versions, or the seam that changed.
    """
    version = find_version()
    if not version.startswith(tuple(f"{release}." for release in SUPPORTED)):
        raise EngineError(
            "unsupported vLLM version",
            value=version,
            allowed=", ".join(f"{release}.x" for release in SUPPORTED),
            mend="install a supported vLLM, or set UNLEARN_GUARD_DISABLE=1 to serve unguarded",
        )
    for seam in SEAMS:
        check_seam(seam)
    if _BROKEN:
        raise EngineError("vLLM could not be patched", value=_BROKEN[0], mend="see docs/vllm-seams.md")
    return version


def require_patches() -> None:
    """Raise EngineError unless this process refuses unmarked requests and installs the hooks.

    The probe runs where the configuration is made; engine cores and workers are other processes, perhaps on another
    machine, and one whose plugin did not load would serve unguarded.
    """
    needed = ("EngineCore.preprocess_add_request", "Worker.load_model")
    for seam in SEAMS:
        if seam.symbol in needed and not is_patched(*seam.resolve()):
            raise EngineError(
                f"the plugin is not active in this process ({seam.symbol} is not patched)",
                mend="install unlearn-guard there, and list unlearn_guard in VLLM_PLUGINS if that is set",
            )
    if _BROKEN:
        raise EngineError("vLLM could not be patched", value=_BROKEN[0], mend="see docs/vllm-seams.md")


def check_seam(seam: Seam) -> None:
    """Raise EngineError when a seam is gone or lacks a parameter we use."""
    try:
        owner, last = seam.resolve()
        found = set(inspect.signature(getattr(owner, last)).parameters)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise _changed(seam, f"cannot be read ({error})") from None
    missing = [name for name in seam.parameters if name not in found]
    if missing:
        raise _changed(seam, f"lacks {', '.join(missing)}")


def _changed(seam: Seam, how: str) -> EngineError:
    return EngineError(
        f"vLLM seam {seam.name} {how}",
        allowed="vLLM " + ", ".join(f"{release}.x" for release in SUPPORTED),
        mend="install a supported vLLM; see docs/vllm-seams.md",
    )


def find_version() -> str:
    """Return the installed vLLM's version; raise EngineError where there is none."""
    try:
        import vllm
    except ImportError:
        raise EngineError(
            "vLLM is not installed", allowed="the extras `cpu` or `gpu`", mend="pip install 'unlearn-guard[cpu]'"
        ) from None
    return str(vllm.__version__)


def patch(owner: Any, name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace `owner.name` by `wrap(original)`, once: plugins are loaded several times per process."""
    original = owner.__dict__.get(name)
    if original is None:
        raise EngineError(f"vLLM seam {owner.__name__}.{name} is gone", mend="see docs/vllm-seams.md")
    if hasattr(original, _MARK):
        return
    wrapped = wrap(original)
    wrapped.__wrapped__ = original  # type: ignore[attr-defined]
    setattr(wrapped, _MARK, True)
    setattr(owner, name, wrapped)


def is_patched(owner: Any, name: str) -> bool:
    """Return whether our wrapper is what callers of `owner.name` reach."""
    return hasattr(getattr(owner, name), _MARK)
