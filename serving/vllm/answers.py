"""The output guard inside vLLM's front-end: every generated text is held back until it was judged.

The choke point is `OutputProcessor.add_request`: each request state gets a `HeldAnswer`, which stands between vLLM's
detokeniser and whatever leaves (text, token ids, log-probabilities), streamed or not, for each of n answers. Beam
search never passes it with text, so its results are judged where it returns them.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from typing import Any

from unlearn_guard.guard.errors import AdmissionError
from unlearn_guard.guard.marks import MARK_KEY
from unlearn_guard.guard.verdict import Verdict
from unlearn_guard.guard.watching import AnswerWatch
from unlearn_guard.serving.vllm.admission import origin_of, runtime_of
from unlearn_guard.serving.vllm.runtime import Decision, GuardRuntime, runtimes
from unlearn_guard.serving.vllm.seams import patch

FILTERED = "content_filter"
"""OpenAI's finish reason for an answer that a filter ended."""


def install_answers() -> None:
    """Patch the seams through which answers leave."""
    from vllm.entrypoints.generate.beam_search.offline import BeamSearchOfflineMixin
    from vllm.entrypoints.generate.beam_search.online import BeamSearchOnlineMixin
    from vllm.v1.engine.output_processor import OutputProcessor

    patch(OutputProcessor, "add_request", _wrap_add_request)
    patch(BeamSearchOfflineMixin, "beam_search", _wrap_beam_search)
    patch(BeamSearchOnlineMixin, "beam_search", _wrap_beam_search_async)


def _wrap_add_request(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def add_request(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        known = request.request_id in self.request_states
        result = original(self, request, *args, **kwargs)
        if known or request.sampling_params is None:
            return result
        for runtime in runtimes():
            decision = runtime.recall(request.prompt_token_ids or ())
            if decision is not None:
                if runtime.has_probes and runtime.settings.acts and not decision.verdict.flagged:
                    _watch_abstention(runtime, decision, self.request_states[request.request_id])
                _hold(runtime, decision, self.request_states[request.request_id])
                return result
        judges = any(runtime.settings.on_answer != "pass" for runtime in runtimes())
        if judges and MARK_KEY in (request.sampling_params.extra_args or {}):  # Admitted, and nobody would judge it.
            self.abort_requests([request.request_id], internal=True)
            raise AdmissionError("the request's decision is not known any more", mend="send it again")
        return result

    return add_request


def _hold(runtime: GuardRuntime, decision: Decision, state: Any) -> None:
    if decision.is_beam or runtime.settings.on_answer == "pass" or state.detokenizer is None:
        return
    if decision.refused:  # Its tokens are forced; there is nothing to judge.
        return
    HeldAnswer(runtime, decision, state)


def _watch_abstention(runtime: GuardRuntime, decision: Decision, state: Any) -> None:
    """Record an answer that the worker replaced because a key-space probe noticed the prompt: the tokens alone tell."""
    detokenizer, make = state.detokenizer, state.make_request_output
    if detokenizer is None:
        return

    def make_request_output(new_token_ids: list[int], *args: Any, **kwargs: Any) -> Any:
        finish_reason = args[1] if len(args) > 1 else kwargs.get("finish_reason")
        if finish_reason is not None:
            runtime.record_abstention(name_request(state), decision, detokenizer.output_token_ids)
        return make(new_token_ids, *args, **kwargs)

    state.make_request_output = make_request_output


def name_request(state: Any) -> str:
    """Return the request's id as its client gave it, the parent's where n answers are asked for: the one that admission recorded."""
    owner = state.parent_req if state.parent_req is not None else state
    return str(owner.external_req_id)


class HeldAnswer:
    """Stand in for a request state's detokeniser and for the methods that make its outputs."""

    def __init__(self, runtime: GuardRuntime, decision: Decision, state: Any) -> None:
        from vllm.sampling_params import RequestOutputKind

        self._runtime, self._decision, self._state = runtime, decision, state
        self._inner = state.detokenizer
        self._acts = runtime.settings.acts
        self._final_only = state.output_kind == RequestOutputKind.FINAL_ONLY
        self._is_delta = state.output_kind == RequestOutputKind.DELTA
        self._has_text = hasattr(self._inner, "output_text")
        streams = self._acts and not self._final_only and self._has_text
        self._watch = AnswerWatch(runtime.guard, decision.given, decision.verdict, streams=streams)
        self._borders: list[tuple[int, int]] = [(0, 0)]
        """(tokens, characters) after each step: a token leaves only with all of its text."""
        self._sent_tokens = self._sent_characters = 0
        self._interval = max(1, state.stream_interval)
        self._ended = False
        if self._acts:
            state.stream_interval = 1  # Intervals are kept here, where it is known what may leave.
            state.detokenizer = self
        self._make, self._new = state.make_request_output, state._new_completion_output
        state.make_request_output = self.make_request_output
        if self._acts:
            state._new_completion_output = self._new_completion_output

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def output_token_ids(self) -> list[int]:
        """Token ids that may leave, when outputs are being made; vLLM's own otherwise."""
        ids: list[int] = self._inner.output_token_ids
        return ids[: self._sent_tokens] if self._is_making else ids

    _is_making = False

    def update(self, new_token_ids: list[int], stop_terminated: bool) -> str | None:
        """Take over new tokens; a hit ends the answer as a stop string would."""
        stop: str | None = self._inner.update(new_token_ids, stop_terminated)
        if self._has_text:
            self._borders.append((self._inner.num_output_tokens(), len(self._inner.output_text)))
            if stop is None and self._judge(finished=False):
                return FILTERED
        return stop

    def get_next_output_text(self, finished: bool, delta: bool) -> str:
        """Return the text that may leave, in vLLM's two ways."""
        if not self._has_text:
            return ""
        end = self._safe_characters(finished)
        text = self._inner.output_text[:end] + (self._epilogue() if finished else "")
        if not delta:
            return text
        new = text[self._sent_characters :]
        self._sent_characters = max(self._sent_characters, end)
        return new

    def make_request_output(self, new_token_ids: list[int], *args: Any, **kwargs: Any) -> Any:
        """Make an output of what may leave; None while nothing new may."""
        finish_reason = args[1] if len(args) > 1 else kwargs.get("finish_reason")
        finished = finish_reason is not None
        if finished and not self._ended:
            self._ended = True
            self._judge(finished=True)
            self._record()
        if not self._acts:
            return self._make(new_token_ids, *args, **kwargs)
        tokens = self._safe_tokens(finished)
        if not finished and (self._final_only or tokens - self._sent_tokens < self._interval):
            return None
        start, self._sent_tokens = self._sent_tokens, tokens
        new = list(self._inner.output_token_ids[start:tokens]) if self._is_delta else new_token_ids
        processor = self._state.logprobs_processor
        logprobs = processor.logprobs
        shown = None if logprobs is None else logprobs[:tokens]
        if finished and self._is_delta and not tokens and self._watch.hit is not None:
            # vLLM's chat stream drops an output without any token, and the finish reason with it.
            new, shown = self._end_alone(shown)
        self._is_making = True
        try:
            processor.logprobs = shown
            return self._make(new, *args, **kwargs)
        finally:
            self._is_making = False
            processor.logprobs = logprobs

    def _new_completion_output(self, token_ids: list[int], finish_reason: Any, stop_reason: Any) -> Any:
        output = self._new(token_ids, finish_reason, stop_reason)
        if finish_reason is not None and self._watch.hit is not None:
            output.stop_reason = None
            output.finish_reason = FILTERED if self._runtime.settings.on_answer == "filter" else "stop"
            output.cumulative_logprob = None  # It would count what was withheld.
        return output

    def _judge(self, *, finished: bool) -> Verdict | None:
        text = self._inner.output_text if self._has_text else self._decode()
        return self._watch.update(text, finished=finished)

    def _decode(self) -> str:
        return str(self._runtime.tokenizer.decode(self._inner.output_token_ids, skip_special_tokens=True))

    def _safe_characters(self, finished: bool) -> int:
        """Return how much text may leave: what was judged harmless, less what vLLM holds back for stop strings."""
        length = len(self._inner.output_text)
        if self._watch.hit is not None:
            return min(length, self._watch.safe)
        if finished:
            return length
        return min(self._watch.safe, length - self._inner.stop_buffer_length)

    def _safe_tokens(self, finished: bool) -> int:
        total = int(self._inner.num_output_tokens())
        if finished and self._watch.hit is None:
            return total
        if not self._has_text:  # Without text nothing is known to be safe before the end.
            return 0
        limit = self._safe_characters(finished)
        kept = max((tokens for tokens, characters in self._borders if characters <= limit), default=0)
        return max(self._sent_tokens, min(total, kept))

    def _end_alone(self, logprobs: Any) -> tuple[list[int], Any]:
        """Return the end token as if it alone had been generated."""
        from vllm.logprobs import Logprob

        end = self._runtime.end_token
        return [end], None if logprobs is None else [{end: Logprob(0.0, rank=1, decoded_token="")}]

    def _epilogue(self) -> str:
        rewrites = self._watch.hit is not None and self._runtime.settings.on_answer == "rewrite"
        return self._runtime.guard.policy.rewrite_text if rewrites else ""

    def _record(self) -> None:
        if self._watch.hit is not None:
            action = self._runtime.settings.on_answer
            self._runtime.record_answer(
                name_request(self._state), self._decision, self._watch.hit, action if self._acts else f"would:{action}"
            )


def _wrap_beam_search(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def beam_search(self: Any, prompts: Any, *args: Any, **kwargs: Any) -> Any:
        results = original(self, prompts, *args, **kwargs)
        runtime = runtime_of(self.llm_engine.input_processor)
        if runtime is None or not runtime.settings.acts or runtime.settings.on_answer == "pass":
            return results
        for result in results:
            for beam in result.sequences:
                start = beam.orig_prompt
                ids = start.get("prompt_token_ids", ()) if isinstance(start, dict) else ()
                decision = runtime.decide(ids, origin_of(start))
                if (kept := _judge_whole(runtime, decision, beam.text or "")) is not None:
                    beam.text, beam.tokens, beam.logprobs = kept, list(ids), []
                    beam.finish_reason, beam.stop_reason = FILTERED, None
        return results

    return beam_search


def _wrap_beam_search_async(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def beam_search(self: Any, prompt: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        runtime = runtime_of(self.engine_client.input_processor)
        async for result in original(self, prompt, *args, **kwargs):
            if runtime is not None and runtime.settings.acts and runtime.settings.on_answer != "pass":
                ids = prompt.get("prompt_token_ids", ()) if isinstance(prompt, dict) else ()
                decision = runtime.decide(ids, origin_of(prompt))
                for output in result.outputs:
                    if (kept := _judge_whole(runtime, decision, output.text)) is not None:
                        output.text, output.token_ids, output.logprobs = kept, [], None
                        output.finish_reason, output.stop_reason = FILTERED, None
            yield result

    return beam_search


def _judge_whole(runtime: GuardRuntime, decision: Decision, text: str) -> str | None:
    """Return what may leave of a finished text that gives something away, None for a harmless one."""
    if decision.refused:
        return None
    watch = AnswerWatch(runtime.guard, decision.given, decision.verdict, streams=False)
    hit = watch.update(text, finished=True)
    if hit is None:
        return None
    action = runtime.settings.on_answer
    runtime.record_answer("beam-search", decision, hit, action)
    return text[: watch.safe] + (runtime.guard.policy.rewrite_text if action == "rewrite" else "")
