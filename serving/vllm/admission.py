"""Admission: every request of every entry point is screened, marked and, when flagged, stamped and salted.

The choke point is `InputProcessor.process_inputs`: completions, chat, responses, anthropic messages, token ids, beam
search and the offline `LLM` all pass it. The request it returns is changed, never the caller's own parameters.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from unlearn_guard.guard.errors import AdmissionError
from unlearn_guard.guard.marks import MARK_KEY, SALT_PREFIX
from unlearn_guard.guard.stamp import Stamp
from unlearn_guard.serving.vllm.runtime import Decision, GuardRuntime, Origin, open_runtime
from unlearn_guard.serving.vllm.seams import patch
from unlearn_guard.serving.vllm.settings import settings_of

logger = logging.getLogger("vllm.unlearn_guard")
_ORIGIN_KEY = "_unlearn_guard_origin"
_SPOKEN = ("text", "refusal", "thinking")
"""Keys of a content part that templates render."""
"""Where rendered engine inputs carry an Origin; renderers build these dicts, clients cannot."""
_DECISION: ContextVar[Decision | None] = ContextVar("unlearn_guard_decision", default=None)


def install_admission() -> None:
    """Patch the front-end's seams."""
    from vllm.entrypoints.generate.beam_search.utils import BeamSearchSequence
    from vllm.renderers.base import BaseRenderer
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.input_processor import InputProcessor

    patch(InputProcessor, "__init__", _wrap_init)
    patch(InputProcessor, "process_inputs", _wrap_process_inputs)
    patch(AsyncLLM, "add_request", _wrap_add_request)
    patch(BaseRenderer, "render_chat", _wrap_render_chat)
    patch(BaseRenderer, "render_chat_async", _wrap_render_chat_async)
    patch(BeamSearchSequence, "get_prompt", _wrap_get_prompt)


def runtime_of(processor: Any) -> GuardRuntime | None:
    """Return the guard of an input processor, or None where no guard is in force."""
    if not hasattr(processor, "_unlearn_guard_runtime"):
        settings = settings_of(processor.vllm_config)
        runtime = None
        if settings is not None:
            renderer, model = processor.renderer, processor.vllm_config.model_config
            runtime = open_runtime(
                settings,
                str(model.model),
                renderer.get_tokenizer(),
                int(renderer.get_eos_token_id()),
                int(model.max_model_len),
            )
        processor._unlearn_guard_runtime = runtime
    found: GuardRuntime | None = processor._unlearn_guard_runtime
    return found


def _wrap_init(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        runtime_of(self)  # A guard that cannot be loaded stops the start, not the first request.

    return init


def _wrap_process_inputs(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def process_inputs(self: Any, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        request = original(self, request_id, prompt, params, *args, **kwargs)
        runtime = runtime_of(self)
        if runtime is None:
            return request
        try:
            return admit(runtime, request, origin_of(prompt))
        except AdmissionError as error:
            from vllm.exceptions import VLLMValidationError

            raise VLLMValidationError(str(error)) from None

    return process_inputs


def _wrap_add_request(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def add_request(self: Any, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        runtime = runtime_of(self.input_processor)
        ids = _token_ids_of(prompt)
        if runtime is None or runtime.settings.mode == "off" or ids is None:
            return await original(self, request_id, prompt, params, *args, **kwargs)
        loop = asyncio.get_running_loop()
        decision = await loop.run_in_executor(runtime.pool, runtime.decide, ids, origin_of(prompt))
        token = _DECISION.set(decision)
        try:
            return await original(self, request_id, prompt, params, *args, **kwargs)
        finally:
            _DECISION.reset(token)

    return add_request


def _wrap_render_chat(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def render_chat(self: Any, conversations: Any, chat_params: Any, *args: Any, **kwargs: Any) -> Any:
        rendered = original(self, conversations, chat_params, *args, **kwargs)
        _attach_origins(conversations, chat_params, rendered[1])
        return rendered

    return render_chat


def _wrap_render_chat_async(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def render_chat_async(self: Any, conversations: Any, chat_params: Any, *args: Any, **kwargs: Any) -> Any:
        rendered = await original(self, conversations, chat_params, *args, **kwargs)
        _attach_origins(conversations, chat_params, rendered[1])
        return rendered

    return render_chat_async


def _wrap_get_prompt(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def get_prompt(self: Any) -> Any:
        prompt = original(self)
        start = self.orig_prompt
        if isinstance(prompt, dict) and start.get("type") == "token":
            messages = start[_ORIGIN_KEY].messages if _ORIGIN_KEY in start else ()
            prompt[_ORIGIN_KEY] = Origin(messages, len(start["prompt_token_ids"]), is_beam=True)
        return prompt

    return get_prompt


def admit(runtime: GuardRuntime, request: Any, origin: Origin) -> Any:
    """Mark a request, and stamp and salt it when it is flagged.

    Raises AdmissionError for what cannot be screened while a guard is in force; shadow and off change no request.
    """
    if runtime.settings.mode == "off":
        return request
    if runtime.settings.mode == "shadow":
        _watch(runtime, request, origin)
        return request
    _refuse_unscreenable(request)
    if runtime.has_probes:
        _refuse_unprobeable(request, origin)
    ids = request.prompt_token_ids
    if (request.cache_salt or "").startswith(SALT_PREFIX):
        raise AdmissionError("cache_salt begins with a reserved prefix", allowed=f"anything but {SALT_PREFIX}…")
    decision = _decide(runtime, ids, origin)
    decision = replace(decision, is_beam=origin.is_beam)
    verdict = decision.verdict
    if verdict.errors and verdict.flagged:
        runtime.record(request.request_id, decision, "refused")
        raise AdmissionError("the request could not be screened", mend="shorten it, or ask the operator")
    if not verdict.flagged:
        runtime.record(request.request_id, decision, "none")
        runtime.expect(ids, decision)
        _attach_mark(request, runtime.marker.sign(None, ids))
        return request
    params = request.sampling_params
    asks_of_prompt = params.prompt_logprobs is not None or params.prompt_logprob_token_ids is not None
    stamp = runtime.planner.plan(
        verdict,
        decision.prompt,
        cover_prompt=asks_of_prompt,
        whole_support=_names_tokens(params),
        max_length=runtime.max_length,
    )
    methods = "+".join(step.method for step in stamp.steps)
    request.cache_salt = runtime.marker.salt(stamp, ids, request.cache_salt)
    runtime.expect(ids, replace(decision, refused=stamp.step("refusal") is not None))
    if stamp.step("refusal"):
        _free_refusal(params, stamp, len(ids), origin)
    _attach_mark(request, runtime.marker.sign(stamp, ids))
    runtime.record(request.request_id, decision, methods)
    return request


def _names_tokens(params: Any) -> bool:
    """Return whether the client says which tokens may follow, or asks about tokens of its own choice."""
    return any(
        getattr(params, name, None)
        for name in ("allowed_token_ids", "logit_bias", "logprob_token_ids", "bad_words", "trace_decode_token_ids")
    )


def _decide(runtime: GuardRuntime, ids: Sequence[int], origin: Origin) -> Decision:
    decision = _DECISION.get()
    if decision is None or not _belongs(decision, ids, origin):
        decision = runtime.decide(ids, origin)
    return decision


def _watch(runtime: GuardRuntime, request: Any, origin: Origin) -> None:
    """Record what enforcing would have done; nothing here may reach the request, errors included."""
    try:
        _refuse_unscreenable(request)
        decision = _decide(runtime, request.prompt_token_ids, origin)
        if not decision.verdict.flagged:
            action = "none"
        elif decision.verdict.errors:
            action = "would:refused"
        else:
            stamp = runtime.planner.plan(decision.verdict, decision.prompt, max_length=runtime.max_length)
            action = "would:" + "+".join(step.method for step in stamp.steps)
        runtime.record(request.request_id, decision, action)
        runtime.expect(request.prompt_token_ids, replace(decision, is_beam=origin.is_beam))
    except AdmissionError:
        runtime.counters.count("would", runtime.settings.mode)
    except Exception:
        logger.exception("unlearn-guard: shadow screening failed; the request is unaffected")


def _refuse_unscreenable(request: Any) -> None:
    what = None
    if request.sampling_params is None:
        what = "pooling requests"
    elif request.prompt_embeds is not None:
        what = "prompt embeddings"
    elif request.mm_features:
        what = "images, audio and other non-text inputs"
    elif request.resumable:
        what = "streaming input sessions"
    elif request.prompt_token_ids is None:
        what = "prompts without token ids"
    if what:
        raise AdmissionError(f"{what} cannot be screened and are refused while a guard is in force", allowed="text")


def _refuse_unprobeable(request: Any, origin: Origin) -> None:
    """Refuse what a key-space probe, which decides after the prompt was read, comes too late for."""
    params, what = request.sampling_params, None
    if params.prompt_logprobs is not None or params.prompt_logprob_token_ids is not None:
        what = "log-probabilities of the prompt"
    elif origin.is_beam:
        what = "beam search"
    elif params.structured_outputs is not None:  # Its grammar would not let the abstention's tokens through.
        what = "structured output"
    if what:
        raise AdmissionError(
            f"{what} cannot be had while a key-space probe is in force",
            mend="leave it out, or ask the operator for key_space=false",
        )


def _belongs(decision: Decision, ids: Sequence[int], origin: Origin) -> bool:
    return decision.prompt.ids == tuple(ids[: origin.prompt_length]) and decision.key[1] == origin.messages


def _attach_mark(request: Any, mark: dict[str, Any]) -> None:
    # A new dict: with skip_clone, vLLM's copy of the parameters shares the caller's.
    kept = {key: value for key, value in (request.sampling_params.extra_args or {}).items() if key != MARK_KEY}
    request.sampling_params.extra_args = {**kept, MARK_KEY: mark}


def _free_refusal(params: Any, stamp: Stamp, n_tokens: int, origin: Origin) -> None:
    """Drop whatever of the client's parameters would fight the forced tokens."""
    params.structured_outputs = None
    params.logit_bias = None
    params.allowed_token_ids = None
    params.bad_words = None
    if getattr(params, "_bad_words_token_ids", None):
        params._bad_words_token_ids = None
    params.min_tokens = 0
    params.trace_decode_token_ids = None
    if hasattr(params, "thinking_token_budget"):
        params.thinking_token_budget = None
    params.presence_penalty = params.frequency_penalty = 0.0
    params.repetition_penalty = 1.0
    if origin.is_beam:
        # Beam search follows log-probabilities, not samples: leave it the forced token alone to follow.
        refusal = stamp.step("refusal")
        assert refusal is not None
        forced = refusal.params["tokens"]
        params.logprob_token_ids = [forced[min(n_tokens - stamp.prompt_length, len(forced) - 1)]]


def origin_of(prompt: Any) -> Origin:
    """Return what the renderer knew of an engine input, nothing where it was not rendered by us."""
    origin = prompt.get(_ORIGIN_KEY) if isinstance(prompt, dict) else None
    return origin if isinstance(origin, Origin) else Origin()


def _token_ids_of(prompt: Any) -> list[int] | None:
    if isinstance(prompt, dict) and prompt.get("type") == "token":
        return prompt.get("prompt_token_ids")
    return None


def _attach_origins(conversations: Any, chat_params: Any, engine_inputs: Sequence[Any]) -> None:
    extras = _read_extras(chat_params)
    for conversation, engine_input in zip(conversations, engine_inputs, strict=True):
        if isinstance(engine_input, dict):
            engine_input[_ORIGIN_KEY] = Origin(tuple(_read_message(message) for message in conversation) + extras)


def _read_message(message: Any) -> tuple[str, str]:
    if not isinstance(message, Mapping):
        message = message.model_dump() if hasattr(message, "model_dump") else {"content": str(message)}
    content = message.get("content")
    if isinstance(content, str) or content is None:
        text = content or ""
    else:
        # Parts without text (images) are refused by their features, not here.
        text = "\n".join(_read_part(part) for part in content)
    calls = message.get("tool_calls")
    if calls:
        text = "\n".join(filter(None, [text, json.dumps(_plain(calls), ensure_ascii=False)]))
    return str(message.get("role", "user")), text


def _read_part(part: Any) -> str:
    if not isinstance(part, Mapping):
        return str(part)
    return "\n".join(str(part[key]) for key in _SPOKEN if part.get(key))


def _read_extras(chat_params: Any) -> tuple[tuple[str, str], ...]:
    """Return tool descriptions and documents, which templates render too, as messages of their own."""
    kwargs = getattr(chat_params, "chat_template_kwargs", None) or {}
    extras = []
    for name, role in (("tools", "tools"), ("documents", "document")):
        for entry in kwargs.get(name) or ():
            extras.append((role, json.dumps(_plain(entry), ensure_ascii=False)))
    return tuple(extras)


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump()
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)) or (not isinstance(value, (str, bytes)) and hasattr(value, "__iter__")):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
