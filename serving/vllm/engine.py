"""The engine's side: configuration at start-up, and the check that refuses requests which skipped admission."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from typing import Any

from unlearn_guard.corruptions.planning import uses_assistants
from unlearn_guard.guard.bundle import Bundle
from unlearn_guard.guard.errors import DependencyError, EngineError
from unlearn_guard.guard.marks import MARK_KEY, Marker, ensure_secret
from unlearn_guard.serving.vllm.seams import patch, probe_seams
from unlearn_guard.serving.vllm.settings import SECTION, GuardSettings, read_settings, settings_of

# Below vLLM's own logger: its logging configuration switches every other one off.
logger = logging.getLogger("vllm.unlearn_guard")
FORCED_TOKENS = "unlearn_guard.serving.vllm.forcing:ForcedTokens"
LOGIT_DIFFERENCE = "unlearn_guard.serving.vllm.subtraction:LogitDifference"
_SALTED_CONNECTORS = frozenset({"LMCacheMPConnector"})
"""KV connectors known to honour `cache_salt`."""


def install_configuration() -> None:
    """Patch the one seam that decides whether a guard is wanted at all."""
    from vllm.engine.arg_utils import EngineArgs

    patch(EngineArgs, "create_engine_config", _wrap_create_engine_config)


def install_engine() -> None:
    """Patch the engine core's seam."""
    from vllm.v1.engine.core import EngineCore

    patch(EngineCore, "preprocess_add_request", _wrap_preprocess)


def _wrap_create_engine_config(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def create_engine_config(self: Any, *args: Any, **kwargs: Any) -> Any:
        settings = read_settings(self.additional_config)
        if settings is None:
            logger.info("unlearn-guard: installed, no bundle named, inert")
            return original(self, *args, **kwargs)
        version = probe_seams()
        ensure_secret()
        bundle = Bundle.load(settings.bundle)
        settings = settings.model_copy(update={"revision": bundle.revision})
        self.additional_config = {**(self.additional_config or {}), SECTION: settings.model_dump(mode="json")}
        # By entry point the V1 runner would hand the processor placeholder tokens (vLLM issue 52461).
        wanted = [FORCED_TOKENS] if settings.acts else []
        subtracts = settings.acts and uses_assistants(bundle, settings.intervention)
        if subtracts:
            # Before the forced tokens: a refusal wins over whatever is subtracted.
            wanted = [LOGIT_DIFFERENCE, FORCED_TOKENS]
        processors = list(self.logits_processors or ())
        if missing := [name for name in wanted if name not in processors]:
            self.logits_processors = [*processors, *missing]
        config = original(self, *args, **kwargs)
        if settings.acts:
            check_config(
                config, subtracts=subtracts, probes=settings.key_space and "key_space" in bundle.manifest.interventions
            )
        check_model(bundle, config.model_config.model)
        logger.info(
            "unlearn-guard: bundle %s, %d forget requests, mode %s, intervention %s, vLLM %s",
            bundle.revision,
            len(bundle.requests),
            settings.mode,
            settings.intervention or bundle.manifest.intervention,
            version,
        )
        return config

    return create_engine_config


def check_model(bundle: Bundle, model: str) -> None:
    """Compare fingerprints where the model is on disk already; the worker compares them again after loading."""
    try:
        bundle.check_model(model)
    except DependencyError:
        logger.info("unlearn-guard: model not on disk yet, its fingerprint is checked after loading")


def check_config(config: Any, *, subtracts: bool = False, probes: bool = False) -> None:
    """Raise EngineError for a setting under which a hook would not run, or flagged state would leak."""
    parallel, cache = config.parallel_config, config.kv_transfer_config
    refused = {
        "the Rust front-end (VLLM_USE_RUST_FRONTEND)": os.environ.get("VLLM_USE_RUST_FRONTEND", "0") not in ("0", ""),
        "pooling models": config.model_config.runner_type != "generate",
        "speculative decoding on the V1 runner": bool(config.speculative_config) and not config.use_v2_model_runner,
        "speculative decoding with uld": bool(config.speculative_config) and subtracts,
        "speculative decoding with a key-space probe": bool(config.speculative_config) and probes,
        "dual batch overlap (--enable-dbo)": bool(parallel.use_ubatching),
        "prefill context parallelism": parallel.prefill_context_parallel_size > 1,
        "batch-sharded sampling": bool(parallel.enable_batch_sharded_sampling),
        "fast prefill over shared KV (--kv-sharing-fast-prefill)": bool(config.cache_config.kv_sharing_fast_prefill),
        "prompt embeddings (--enable-prompt-embeds)": bool(config.model_config.enable_prompt_embeds),
        "a KV connector not known to honour cache salts": (
            cache is not None and cache.kv_connector is not None and cache.kv_connector not in _SALTED_CONNECTORS
        ),
    }
    for what, present in refused.items():
        if present:
            raise EngineError(
                f"{what} cannot be used with a guard",
                mend="switch it off, or set UNLEARN_GUARD_DISABLE=1 to serve unguarded",
            )


@functools.lru_cache(maxsize=8)
def _open_marker(revision: str, secret: str) -> Marker:
    return Marker(secret, revision)


def _marker_of(settings: GuardSettings) -> Marker:
    return _open_marker(settings.revision, ensure_secret())


def _wrap_preprocess(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def preprocess_add_request(self: Any, request: Any) -> Any:
        if not hasattr(self, "_unlearn_guard_settings"):
            self._unlearn_guard_settings = settings_of(self.vllm_config)
        settings = self._unlearn_guard_settings
        if settings is not None and settings.acts and not request.abort_immediately:
            params = request.sampling_params
            mark = (params.extra_args or {}).get(MARK_KEY) if params is not None else None
            stamp = _marker_of(settings).check(mark, request.prompt_token_ids or ())
            step = stamp.step("prompting") if stamp else None
            if step is not None:
                # Here and not at admission, so that `usage` counts the client's own prompt.
                request.prompt_token_ids = [*step.params["tokens"], *request.prompt_token_ids]
        return original(self, request)

    return preprocess_add_request
