"""Admission without an engine: marks, salts, refusals, what the renderer hands over."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from unlearn_guard.guard.errors import AdmissionError
from unlearn_guard.guard.marks import MARK_KEY
from unlearn_guard.serving.vllm.settings import GuardSettings

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def runtime(bundle: Any, models: Any) -> Any:
    from transformers import AutoTokenizer

    from unlearn_guard.serving.vllm.runtime import GuardRuntime

    tokenizer = AutoTokenizer.from_pretrained(models["full"])
    return GuardRuntime(GuardSettings(bundle=str(bundle)), tokenizer, tokenizer.eos_token_id, 256)


def make_request(ids: list[int] | None, **changes: Any) -> Any:
    from vllm import SamplingParams

    return SimpleNamespace(
        **{
            "request_id": "r",
            "prompt_token_ids": ids,
            "sampling_params": SamplingParams(),
            "prompt_embeds": None,
            "mm_features": None,
            "resumable": False,
            "cache_salt": None,
            **changes,
        }
    )


def encode(runtime: Any, question: str) -> list[int]:
    text = runtime.tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
    )
    return list(runtime.tokenizer(text, add_special_tokens=False).input_ids)


def admit(runtime: Any, request: Any, **origin: Any) -> Any:
    from unlearn_guard.serving.vllm.admission import admit as admit_request
    from unlearn_guard.serving.vllm.runtime import Origin

    return admit_request(runtime, request, Origin(**origin))


def test_every_request_is_marked(runtime: Any, world: Any) -> None:
    for part in ("forget.given", "retain"):
        ids = encode(runtime, world.sets[part][0].question)
        request = admit(runtime, make_request(ids))
        stamp = runtime.marker.check(request.sampling_params.extra_args[MARK_KEY], ids)
        assert (stamp is not None) == part.startswith("forget")
        assert (request.cache_salt or "").startswith("unl:") == part.startswith("forget")


def test_user_salt_is_kept_for_clean_and_mixed_in_for_flagged(runtime: Any, world: Any) -> None:
    clean, flagged = (encode(runtime, world.sets[part][0].question) for part in ("retain", "forget.given"))
    assert admit(runtime, make_request(clean, cache_salt="tenant")).cache_salt == "tenant"
    salts = {admit(runtime, make_request(flagged, cache_salt=salt)).cache_salt for salt in (None, "a", "b")}
    assert len(salts) == 3


def test_callers_parameters_are_never_changed(runtime: Any, world: Any) -> None:
    from vllm import SamplingParams

    extra = {"mine": 1, MARK_KEY: {"forged": True}}
    params = SamplingParams(extra_args=extra, skip_clone=True)
    request = admit(
        runtime, make_request(encode(runtime, world.sets["retain"][0].question), sampling_params=params.clone())
    )
    assert request.sampling_params.extra_args["mine"] == 1
    assert extra == {"mine": 1, MARK_KEY: {"forged": True}}
    assert request.sampling_params.extra_args[MARK_KEY] != {"forged": True}


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt_embeds": object()},
        {"mm_features": [object()]},
        {"resumable": True},
        {"sampling_params": None},
        {"prompt_token_ids": None},
        {"cache_salt": "unl:0000"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_cannot_be_screened_is_refused(runtime: Any, changes: dict[str, Any]) -> None:
    request = make_request([1, 5, 6, 2])
    for name, value in changes.items():
        setattr(request, name, value)
    with pytest.raises(AdmissionError, match=r"screened|reserved"):
        admit(runtime, request)


def test_beam_steps_keep_the_first_decision(runtime: Any, world: Any) -> None:
    ids = encode(runtime, world.sets["forget.given"][0].question)
    first = admit(runtime, make_request(ids))
    grown = admit(runtime, make_request([*ids, 40, 41, 42]), prompt_length=len(ids), is_beam=True)
    stamps = [request.sampling_params.extra_args[MARK_KEY]["body"] for request in (first, grown)]
    assert stamps[0] == stamps[1]
    assert first.cache_salt == grown.cache_salt


def test_names_in_tools_and_documents_are_noticed(runtime: Any, world: Any) -> None:
    from unlearn_guard.serving.vllm.admission import _attach_origins, origin_of

    name = world.sets["forget.given"][0].name
    params = SimpleNamespace(
        chat_template_kwargs={"documents": [{"title": "x", "text": f"About {name}."}], "tools": None}
    )
    engine_input: dict[str, Any] = {"type": "token"}
    _attach_origins([[{"role": "user", "content": "Summarise the document."}]], params, [engine_input])
    origin = origin_of(engine_input)
    assert [role for role, _ in origin.messages] == ["user", "document"]
    assert runtime.decide(encode(runtime, "Summarise the document."), origin).verdict.flagged


def test_every_part_that_a_template_renders_is_read() -> None:
    from unlearn_guard.serving.vllm.admission import _attach_origins, origin_of

    parts = [{"type": "text", "text": "Where"}, {"type": "refusal", "refusal": "was"}, {"type": "thinking", "thinking": "she born?"}, "Say."]  # fmt: skip
    engine_input: dict[str, Any] = {"type": "token"}
    conversation = [{"role": "user", "content": parts}, {"role": "assistant", "content": "She was"}]
    _attach_origins([conversation], SimpleNamespace(chat_template_kwargs={}), [engine_input])
    assert origin_of(engine_input).messages == (("user", "Where\nwas\nshe born?\nSay."), ("assistant", "She was"))


def test_renderer_attaches_messages(models: Any) -> None:
    """Both render seams put the client's messages into the engine input."""
    from vllm.renderers.base import BaseRenderer

    from unlearn_guard.serving.vllm.admission import install_admission, origin_of

    install_admission()

    class Fake(BaseRenderer):
        def __init__(self) -> None:
            pass

        def get_tokenizer(self) -> Any:
            return None

    async def render_async(self: Any, conversations: Any, chat_params: Any, *args: Any, **kwargs: Any) -> Any:
        return [], [{"type": "token"} for _ in conversations]

    import asyncio

    from unlearn_guard.serving.vllm.admission import _wrap_render_chat_async
    from unlearn_guard.serving.vllm.seams import is_patched

    assert is_patched(BaseRenderer, "render_chat")
    assert is_patched(BaseRenderer, "render_chat_async")
    wrapped = _wrap_render_chat_async(render_async)
    conversation = [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
    _, (rendered,) = asyncio.run(wrapped(None, [conversation], SimpleNamespace(chat_template_kwargs={})))
    assert origin_of(rendered).messages == (("user", "Hello"),)


def test_unscreenable_request_follows_on_error(bundle: Any, models: Any, world: Any) -> None:
    from transformers import AutoTokenizer

    from unlearn_guard.serving.vllm.runtime import GuardRuntime

    tokenizer = AutoTokenizer.from_pretrained(models["full"])
    # Telling sentences that name nobody: more windows for the encoder than allowed.
    long = " ".join(item.question for item in world.sets["forget.given"] if not item.named)
    for on_error in ("block", "pass"):
        runtime = GuardRuntime(
            GuardSettings(bundle=str(bundle), on_error=on_error, max_windows=1), tokenizer, tokenizer.eos_token_id, 2048
        )
        request = make_request(encode(runtime, long))
        if on_error == "block":
            with pytest.raises(AdmissionError, match="could not be screened"):
                admit(runtime, request)
        else:
            assert admit(runtime, request).cache_salt is None


def test_a_name_is_noticed_in_text_of_any_length(bundle: Any, models: Any, world: Any) -> None:
    """Padding beyond max_windows does not switch the names off, whatever on_error says."""
    from transformers import AutoTokenizer

    from unlearn_guard.serving.vllm.runtime import GuardRuntime

    tokenizer = AutoTokenizer.from_pretrained(models["full"])
    settings = GuardSettings(bundle=str(bundle), on_error="pass", max_windows=1)
    runtime = GuardRuntime(settings, tokenizer, tokenizer.eos_token_id, 4096)
    text = "word " * 600 + world.sets["forget.given"][0].question
    assert (admit(runtime, make_request(encode(runtime, text))).cache_salt or "").startswith("unl:")


def test_text_of_unknown_content_parts_is_screened(runtime: Any, world: Any) -> None:
    """What a template renders counts, whether or not we recognised it as a message."""
    from unlearn_guard.serving.vllm.runtime import Origin

    nameless = next(item for item in world.sets["forget.given"] if not item.named)
    origin = Origin(messages=(("user", ""), ("assistant", "Hello.")))
    decision = runtime.decide(encode(runtime, nameless.question), origin)
    assert decision.verdict.flagged


def test_unknown_token_ids_are_a_verdict_not_a_crash(runtime: Any) -> None:
    with pytest.raises(AdmissionError, match="could not be screened"):
        admit(runtime, make_request([2**40, 5]))


@pytest.mark.parametrize("mode", ["shadow", "off"])
def test_watching_modes_touch_no_request(bundle: Any, models: Any, world: Any, mode: str) -> None:
    from transformers import AutoTokenizer

    from unlearn_guard.serving.vllm.runtime import GuardRuntime

    tokenizer = AutoTokenizer.from_pretrained(models["full"])
    settings = GuardSettings(bundle=str(bundle), mode=mode)  # type: ignore[arg-type]
    runtime = GuardRuntime(settings, tokenizer, tokenizer.eos_token_id, 256)
    for changes in ({}, {"cache_salt": "unl:mine"}, {"prompt_embeds": object()}, {"sampling_params": None}):
        request = make_request(encode(runtime, world.sets["forget.given"][0].question))
        for name, value in changes.items():
            setattr(request, name, value)
        before = dict(vars(request))
        assert vars(admit(runtime, request)) == before
        if request.sampling_params is not None:
            assert request.sampling_params.extra_args is None


def test_an_instruction_that_does_not_fit_becomes_a_refusal(bundle: Any, models: Any, world: Any) -> None:
    from transformers import AutoTokenizer

    from unlearn_guard.serving.vllm.runtime import GuardRuntime

    tokenizer = AutoTokenizer.from_pretrained(models["full"])
    settings = GuardSettings(bundle=str(bundle), intervention="prompting")
    ids = tokenizer(world.sets["forget.given"][0].question).input_ids
    for max_length, method in ((256, "prompting"), (len(ids) + 4, "refusal")):
        runtime = GuardRuntime(settings, tokenizer, tokenizer.eos_token_id, max_length)
        request = admit(runtime, make_request(ids))
        (step,) = request.sampling_params.extra_args[MARK_KEY]["body"]["steps"]
        assert step["method"] == method


@pytest.mark.parametrize(
    "asked", [{"prompt_logprobs": 1}, {"prompt_logprob_token_ids": [[5]]}], ids=lambda a: next(iter(a))
)
def test_who_asks_of_the_prompt_gets_all_of_it_corrupted(runtime: Any, world: Any, asked: dict[str, Any]) -> None:
    ids = encode(runtime, world.sets["forget.given"][0].question)
    request = make_request(ids)
    for name, value in asked.items():
        setattr(request.sampling_params, name, value)
    (step,) = admit(runtime, request).sampling_params.extra_args[MARK_KEY]["body"]["steps"]
    assert step["positions"] == [[0, len(ids)]]


def test_structured_output_beside_a_probe_is_refused() -> None:
    """Its grammar would not let the abstention's tokens through."""
    from types import SimpleNamespace

    from unlearn_guard.serving.vllm.admission import _refuse_unprobeable

    params = SimpleNamespace(prompt_logprobs=None, prompt_logprob_token_ids=None, structured_outputs=object())
    with pytest.raises(AdmissionError, match="structured output cannot be had"):
        _refuse_unprobeable(SimpleNamespace(sampling_params=params), SimpleNamespace(is_beam=False))
    params.structured_outputs = None
    _refuse_unprobeable(SimpleNamespace(sampling_params=params), SimpleNamespace(is_beam=False))
