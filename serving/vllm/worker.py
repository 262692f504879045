"""The worker's side: hooks on the embedding module, and the row layout of every step.

One installation serves both model runners. Edits are a pure function of (stamp, absolute position), so that chunked
prefill, preemption and resumption reproduce them.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

from unlearn_guard.corruptions.eco import NoiseTable, RowPlan
from unlearn_guard.corruptions.embedding import EmbeddingEdit
from unlearn_guard.corruptions.neuron_fitting import load_probes, load_tables
from unlearn_guard.corruptions.planning import (
    NEURON_INTERVENTIONS,
    Fitted,
    find_always_on,
    find_used,
    uses_assistants,
)
from unlearn_guard.guard.bundle import Bundle
from unlearn_guard.guard.errors import EngineError
from unlearn_guard.guard.marks import read_stamp
from unlearn_guard.serving.vllm.assistants import Chorus, OffsetChorus, open_chorus
from unlearn_guard.serving.vllm.forcing import find_forced
from unlearn_guard.serving.vllm.neurons import NeuronGuard
from unlearn_guard.serving.vllm.seams import patch
from unlearn_guard.serving.vllm.settings import GuardSettings, settings_of
from unlearn_guard.serving.vllm.subtraction import find_processor

logger = logging.getLogger("vllm.unlearn_guard")
_SLACK_ROWS = 64
"""Rows beyond the token budget, for graphs that are padded to their capture size."""


def install_worker() -> None:
    """Patch the worker's seams; CPU and XPU workers inherit `load_model`, but may warm up in their own way."""
    from vllm.v1.worker.gpu_worker import Worker

    patch(Worker, "load_model", _wrap_load_model)
    patch(Worker, "compile_or_warm_up_model", _wrap_warm_up)
    try:
        from vllm.v1.worker.cpu_worker import CPUWorker
    except ImportError:
        return
    patch(CPUWorker, "compile_or_warm_up_model", _wrap_warm_up)


def _wrap_load_model(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def load_model(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        settings = settings_of(self.vllm_config)
        if settings is not None and settings.acts:
            self.unlearn_guard = WorkerGuard(self, settings)
        return result

    return load_model


def _wrap_warm_up(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def compile_or_warm_up_model(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        guard = getattr(self, "unlearn_guard", None)
        if guard is not None:
            from unlearn_guard.serving.vllm.canary import run_canary

            run_canary(guard)
        return result

    return compile_or_warm_up_model


class WorkerGuard:
    """What one worker knows: the plans of its flagged requests, and the buffers its hooks read."""

    def __init__(self, worker: Any, settings: GuardSettings) -> None:
        config = worker.vllm_config
        bundle = Bundle.load(settings.bundle)
        bundle.check_model(config.model_config.model)
        self.runner = worker.model_runner
        self.is_v2 = bool(config.use_v2_model_runner)
        self.hidden = int(config.model_config.get_hidden_size())
        self.noise = NoiseTable(self.hidden)
        self.plans: dict[str, RowPlan] = {}
        fitted = Fitted.load(bundle)
        self.edit = self._hook(config, fitted)
        self.chorus: Chorus | OffsetChorus | None = None
        self.subtracts = uses_assistants(bundle, settings.intervention)
        if self.subtracts:
            self.chorus = open_chorus(worker, settings, fitted)
            self._attach()
        self.neurons = self._open_neurons(config, fitted, settings, bundle)
        self._wrap_runner()

    def _attach(self) -> None:
        from vllm.distributed import get_pp_group, get_tp_group

        processor = find_processor(self.processors() or ())
        if processor is not None:
            processor.attach(self.chorus, get_tp_group())
        elif get_pp_group().is_last_rank:
            raise EngineError("the logit-difference processor is not in the sampler", mend="report it")

    def _open_neurons(self, config: Any, fitted: Fitted, settings: GuardSettings, bundle: Bundle) -> NeuronGuard | None:
        kinds = NEURON_INTERVENTIONS & find_used(bundle, settings.intervention)
        probed = settings.key_space and "key_space" in fitted.settings
        if not kinds and not probed:
            return None
        from vllm.distributed import get_pp_group, get_tp_group

        assert fitted.folder is not None
        if probed and get_pp_group().world_size > 1:
            raise EngineError("the key-space probe does not work with pipeline parallelism", mend="set key_space=false")
        record = fitted.settings.get("key_space", {})
        if always_on := find_always_on(bundle, settings.intervention):
            logger.warning("unlearn-guard: %s acts on every request; no answer is stock's", ", ".join(always_on))
        neurons = NeuronGuard(
            self.runner.get_model(),
            load_tables(fitted.settings["neurons"], fitted.folder, kinds) if kinds else {},
            load_probes(record, fitted.folder) if probed else {},
            record.get("abstention", ()),
            always_on=always_on,
            is_partial=get_pp_group().world_size > 1,
            n_rows=_count_rows(config),
            n_reads=config.scheduler_config.max_num_seqs,
            device=self.runner.device,
            group=get_tp_group(),
        )
        forced = find_forced(self.processors() or ())
        if forced is not None:
            forced.neurons = neurons
        elif get_pp_group().is_last_rank:
            raise EngineError("the forced-token processor is not in the sampler", mend="report it")
        return neurons

    def processors(self) -> Sequence[Any] | None:
        """Return the sampler's processors that may change the best token, None where this stage does not sample."""
        if self.is_v2:
            sampler = getattr(self.runner, "sampler", None)
            return sampler.logits_processors if sampler is not None else None
        return list(self.runner.input_batch.logitsprocs.non_argmax_invariant)

    def _hook(self, config: Any, fitted: Fitted) -> EmbeddingEdit | None:
        from vllm.distributed import get_pp_group

        if not get_pp_group().is_first_rank:  # A later stage may hold the tied table, but embeds nothing with it.
            return None
        module = find_embedding(self.runner.get_model())
        if module is None:
            raise EngineError("the model has no input embedding to hook", mend="report the architecture")
        return EmbeddingEdit(
            module,
            n_rows=_count_rows(config),
            hidden=self.hidden,
            vocabulary=int(config.model_config.get_vocab_size()),
            dtype=config.model_config.dtype,
            device=self.runner.device,
            exclusive_ids=list(fitted.exclusive_ids),
        )

    def _wrap_runner(self) -> None:
        name = "prepare_inputs" if self.is_v2 else "_prepare_inputs"
        original = getattr(self.runner, name)
        stage = self._stage_v2 if self.is_v2 else self._stage_v1

        execute = self.runner.execute_model

        @functools.wraps(execute)
        def execute_model(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
            # Here, because a step without work, which may end the last request, prepares no inputs.
            self.follow(scheduler_output)
            return execute(scheduler_output, *args, **kwargs)

        @functools.wraps(original)
        def prepare(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(scheduler_output, *args, **kwargs)
            if self.edit is not None:
                self.edit.clear()
            if self.plans or self.neurons is not None:
                stage(result, *args)
            return result

        setattr(self.runner, name, prepare)
        self.runner.execute_model = execute_model

    def follow(self, scheduler_output: Any) -> None:
        """Keep the plans of running flagged requests; preempted ones keep theirs, resumed ones may be sent again."""
        for request_id in scheduler_output.finished_req_ids:
            self.plans.pop(request_id, None)
            if self.neurons is not None:
                self.neurons.close(request_id)
        for new in scheduler_output.scheduled_new_reqs:
            self.plans.pop(new.req_id, None)  # An id that comes again is another request.
            stamp = read_stamp(new.sampling_params)
            if self.neurons is not None:
                self.neurons.open(new.req_id, stamp, len(new.prompt_token_ids or ()))
            if stamp is not None:
                plan = RowPlan(stamp, self.hidden, self.noise)
                if plan.edits_rows:
                    self.plans[new.req_id] = plan

    def _stage_v1(self, result: Any, num_scheduled_tokens: Any) -> None:
        del result
        batch = self.runner.input_batch
        self.stage(batch.req_ids, batch.num_computed_tokens_cpu, num_scheduled_tokens)

    def _stage_v2(self, result: Any, *args: Any) -> None:
        del args
        counts = result.query_start_loc_np[1:] - result.query_start_loc_np[:-1]
        self.stage(result.req_ids, result.num_computed_tokens_np, counts)

    def stage(self, request_ids: Sequence[str], computed: Any, counts: Any) -> None:
        """Write this step's edits: request i owns the next counts[i] rows, from absolute position computed[i]."""
        if self.neurons is not None:
            self.neurons.stage(request_ids, computed, counts)
        if self.edit is None or not self.plans:
            return
        row = 0
        for place, request_id in enumerate(request_ids):
            count = int(counts[place])
            plan = self.plans.get(request_id)
            if plan is not None:
                start = int(computed[place])
                edits = plan.edit(start, start + count)
                if edits is not None:
                    self.edit.write(row, edits)
            row += count


def _count_rows(config: Any) -> int:
    """Return the most rows that one forward pass may have."""
    captured = config.compilation_config.max_cudagraph_capture_size or 0
    return int(max(config.scheduler_config.max_num_batched_tokens, captured)) + _SLACK_ROWS


def find_embedding(model: Any) -> Any:
    """Return the module that looks up input embeddings, the outermost one where LoRA wraps it; None without one.

    Raises EngineError where several modules could be it.
    """
    from vllm.lora.layers import VocabParallelEmbeddingWithLoRA
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        if isinstance(module, ParallelLMHead) or any(name.startswith(f"{outer}.") for outer in found):
            continue
        if isinstance(module, (VocabParallelEmbedding, VocabParallelEmbeddingWithLoRA)):
            found[name] = module
    if len(found) > 1:
        raise EngineError(
            "cannot tell which module embeds the prompt",
            value=sorted(found),
            allowed="a model with one input embedding",
            mend="report the architecture",
        )
    return next(iter(found.values()), None)
