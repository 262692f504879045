"""The engine process of the tests: what a test may ask of a vLLM engine."""

from __future__ import annotations

from typing import Any

from unlearn_guard.serving.vllm.session import answer_requests


def do_run(llm: Any, items: list[dict[str, Any]], params: dict[str, Any], together: bool) -> list[dict[str, Any]]:
    from vllm import SamplingParams

    if "logit_bias" in params:  # JSON has string keys only.
        params["logit_bias"] = {int(token): bias for token, bias in params["logit_bias"].items()}
    prompts = [_render(llm, item) for item in items]
    batches = [prompts] if together else [[prompt] for prompt in prompts]
    sampling = SamplingParams(**{"temperature": 0.0, "max_tokens": 24, **params})
    outputs = []
    for batch in batches:
        if batch and isinstance(batch[0], list):
            goes_on = batch[0][-1]["role"] == "assistant"
            rendering = {"add_generation_prompt": not goes_on, "continue_final_message": goes_on}
            outputs += llm.chat(batch, sampling, use_tqdm=False, **rendering)
        else:
            outputs += llm.generate(batch, sampling, use_tqdm=False)
    return [_read(output) for output in outputs]


def do_beam(llm: Any, items: list[dict[str, Any]], width: int, max_tokens: int) -> list[list[dict[str, Any]]]:
    from vllm.sampling_params import BeamSearchParams

    outputs = llm.beam_search(
        [_render_tokens(llm, item) for item in items], BeamSearchParams(beam_width=width, max_tokens=max_tokens)
    )
    return [
        [{"tokens": beam.tokens, "text": beam.text, "logprob": beam.cum_logprob} for beam in output.sequences]
        for output in outputs
    ]


def do_unmarked(llm: Any, question: str) -> str:
    """Send a ready-made engine request that never passed admission."""
    from vllm import SamplingParams
    from vllm.v1.engine import EngineCoreRequest

    ids = llm.get_tokenizer()(question).input_ids
    request = EngineCoreRequest(
        request_id="skipped-admission",
        prompt_token_ids=ids,
        mm_features=None,
        sampling_params=SamplingParams(max_tokens=4),
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )
    try:
        llm.llm_engine.add_request("skipped-admission", request, request.sampling_params)
        while llm.llm_engine.has_unfinished_requests():
            llm.llm_engine.step()
    finally:  # vLLM's front-end remembers a request that its engine refused, and would wait for it.
        llm.llm_engine.abort_request([request.request_id], internal=True)
    return "accepted"


def do_embeds(llm: Any) -> str:
    import torch
    from vllm import SamplingParams

    llm.generate([{"prompt_embeds": torch.zeros(4, 128)}], SamplingParams(max_tokens=1), use_tqdm=False)
    return "accepted"


def do_capture(llm: Any, items: list[dict[str, Any]], params: dict[str, Any]) -> list[list[list[float]]]:
    """Return the embedding rows that the model saw, per forward pass with more than one row."""
    from vllm import SamplingParams

    from unlearn_guard.serving.vllm.worker import find_embedding

    rows: list[list[list[float]]] = []
    module = find_embedding(_runner(llm).get_model())
    handle = module.register_forward_hook(lambda _m, _i, output: rows.append(output.float().tolist()))
    try:
        batch = [_render(llm, item) for item in items]
        llm.chat(batch, SamplingParams(**{"temperature": 0.0, "max_tokens": 8, **params}), use_tqdm=False)
    finally:
        handle.remove()
    return [pass_ for pass_ in rows if len(pass_) > 1]


def do_preemptions(llm: Any) -> int:
    metrics = {metric.name: getattr(metric, "value", 0) for metric in llm.get_metrics()}
    return int(metrics.get("vllm:num_preemptions", 0))


def do_count_patches(llm: Any) -> dict[str, bool]:
    del llm
    from unlearn_guard.serving.vllm.seams import SEAMS, is_patched

    return {seam.name: is_patched(*seam.resolve()) for seam in SEAMS if seam.patched}


def _runner(llm: Any) -> Any:
    return llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner


def _render(llm: Any, item: dict[str, Any]) -> Any:
    del llm
    if "messages" in item:
        return item["messages"]
    if "ids" in item:
        return {"prompt_token_ids": item["ids"], **({"cache_salt": item["salt"]} if "salt" in item else {})}
    return item["prompt"]


def _render_tokens(llm: Any, item: dict[str, Any]) -> Any:
    if "messages" in item:
        tokenizer = llm.get_tokenizer()
        text = tokenizer.apply_chat_template(item["messages"], add_generation_prompt=True, tokenize=False)
        return {"prompt_token_ids": tokenizer(text, add_special_tokens=False).input_ids}
    return _render(llm, item)


def _read(output: Any) -> dict[str, Any]:
    first = output.outputs[0]
    return {
        "tokens": list(first.token_ids),
        "text": first.text,
        "texts": [entry.text for entry in output.outputs],
        "all_tokens": [list(entry.token_ids) for entry in output.outputs],
        "logprobs": [{str(token): value.logprob for token, value in step.items()} for step in first.logprobs or []],
        "prompt_logprobs": [
            None if step is None else {str(token): value.logprob for token, value in step.items()}
            for step in output.prompt_logprobs or []
        ],
        "cumulative": [entry.cumulative_logprob for entry in output.outputs],
        "finish": [entry.finish_reason for entry in output.outputs],
        "cached": output.num_cached_tokens,
        "prompt_ids": list(output.prompt_token_ids),
    }


if __name__ == "__main__":
    answer_requests({name.removeprefix("do_"): value for name, value in dict(globals()).items() if name[:3] == "do_"})
