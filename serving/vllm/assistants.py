"""Assistants inside a worker: a pool of keys and values, and one packed forward pass per step for the flagged rows alone.

The trunk runs the model library's own code over a flat run of tokens; attention alone is ours, because it must read and
write the pool. Several assistants go through one pass: rows are ordered by assistant, and the modules that differ
between them work on their own part of the run.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from unlearn_guard.corruptions.assistant import (
    Assistant,
    check_fits,
    find_offset,
    load_assistants,
    load_trunk,
    materialise,
    shorten_config,
)
from unlearn_guard.corruptions.offset import NAME as OFFSET_NAME
from unlearn_guard.corruptions.offset import load_pair
from unlearn_guard.corruptions.planning import Fitted
from unlearn_guard.guard.errors import BundleError, EngineError
from unlearn_guard.guard.fingerprint import locate_model
from unlearn_guard.serving.vllm.settings import GuardSettings

logger = logging.getLogger("vllm.unlearn_guard")
_MIB = 2**20
PASS = 2_048
"""New tokens that one pass reads at most: longer prompts are read piece by piece, whatever the engine's own chunks are."""
BLOCK = 16
"""Tokens that one block of the pool holds."""
_NUMBERS = itertools.count()


@dataclass(slots=True, eq=False)
class Context:
    """What one assistant has read of one request. `read` returns the request's token ids from a position on."""

    assistant: str
    read: Callable[[int], list[int]]
    length: int = 0
    blocks: list[int] = field(default_factory=list)
    used: int = 0


@dataclass(slots=True)
class _Run:
    """Consecutive new tokens of one context in the packed pass."""

    context: Context
    ids: list[int]
    start: int
    """Where they lie in the packed run."""

    @property
    def stop(self) -> int:
        return self.start + len(self.ids)


class Chorus:
    """Models that read requests beside the target, on one device: every assistant of a bundle, or one of an offset pair."""

    @classmethod
    def of(cls, trunk: Any, assistants: Mapping[str, Assistant], **options: Any) -> Chorus:
        """Open the assistants of a trunk, the target's first layers; `options` are those of the constructor.

        Raises BundleError for assistants of different shapes or of another model.
        """
        shapes = {assistant.shape for assistant in assistants.values()}
        if len(shapes) != 1:
            raise BundleError("assistants of different shapes", value=len(shapes), allowed="one", mend="fit again")
        for assistant in assistants.values():
            check_fits(assistant, trunk)
        layout: list[tuple[int, int, int]] = []
        return cls(build_voices(trunk, list(assistants.values()), layout), list(assistants), layout, **options)

    def __init__(
        self,
        model: Any,
        names: Sequence[str],
        layout: list[tuple[int, int, int]],
        *,
        n_tokens: int,
        max_length: int,
        device: Any,
    ) -> None:
        """`layout`, (assistant, first token, end) of the running pass, is shared with the modules of `model`.

        n_tokens: the pool's size, at least one longest request. Raises EngineError for an attention that cannot be computed
        here.
        """
        config = model.config
        if getattr(config, "attn_logit_softcapping", None):
            raise EngineError("uld cannot run an attention with capped logits", value=config.model_type)
        self.device, self.names = device, {name: number for number, name in enumerate(names)}
        self.vocabulary = int(config.vocab_size)
        self.layout, self.model = layout, model
        dtype = next(model.parameters()).dtype
        if torch.device(device).type == "cpu":
            pack_linears(self.model)
        heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
        size = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
        n_blocks = round_tokens(n_tokens, max_length) // BLOCK
        shape = (int(config.num_hidden_layers), n_blocks * BLOCK, heads, size)
        # Filled, not only reserved: what vLLM measures before it sizes its own cache must see these pages.
        self.keys = torch.empty(shape, dtype=dtype, device=device).fill_(0)
        self.values = torch.empty(shape, dtype=dtype, device=device).fill_(0)
        self._free = list(range(n_blocks))
        self._contexts: list[Context] = []
        self._clock = 0
        self._runs: list[_Run] = []
        self._slots = torch.empty(0, dtype=torch.int64)
        self._decoding: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
        self._prefills: list[tuple[slice, torch.Tensor, torch.Tensor]] = []
        self._seen: dict[int | None, list[torch.Tensor]] = {}
        """What may be seen, by sliding window: one mask for the runs of one token, then one for each longer run."""
        self._name = f"unlearn_guard_{next(_NUMBERS)}"
        _register_attention(self._name, self._attend)
        self.model.config._attn_implementation = self._name

    def open(self, assistant: str, read: Callable[[int], list[int]]) -> Context:
        """Return an empty context; it takes blocks of the pool only when it is read."""
        context = Context(assistant, read)
        self._contexts.append(context)
        return context

    def close(self, context: Context) -> None:
        """Give a context's blocks back."""
        self._free += context.blocks
        context.blocks, context.length = [], 0
        if context in self._contexts:
            self._contexts.remove(context)

    @torch.inference_mode()
    def listen(self, contexts: Sequence[Context]) -> torch.Tensor:
        """Return the assistants' next-token logits, (contexts, vocabulary), float32.

        Contexts that do not fit the pool together are read one part after the other; what had to make room is read again
        when it is needed.
        """
        self._clock += 1
        found: list[torch.Tensor] = []
        n_new = 0
        order = sorted(range(len(contexts)), key=lambda place: self.names[contexts[place].assistant])
        batch: list[Context] = []
        for place in order:
            context = contexts[place]
            if batch and (n_new + _count_new(context) > PASS or not self._reserve(context, batch)):
                found.append(self._speak(batch))
                batch, n_new = [], 0
            if not batch and not self._reserve(context, batch):
                raise EngineError("a request is longer than the assistants' pool", value=len(context.read(0)))
            while _count_new(context) > PASS:
                self._speak([context])
            batch.append(context)
            n_new += _count_new(context)
        found.append(self._speak(batch))
        logits = found[0] if len(found) == 1 else torch.cat(found)
        if order == list(range(len(order))):
            return logits
        back = torch.empty(len(order), dtype=torch.int64)
        back[torch.tensor(order)] = torch.arange(len(order))
        return logits[back.to(logits.device)]

    def _reserve(self, context: Context, pinned: Sequence[Context]) -> bool:
        """Find blocks for all of a context's tokens, at the cost of contexts that were not used for longest."""
        context.used = self._clock
        total = context.length + len(context.read(context.length))
        missing = -(-total // BLOCK) - len(context.blocks)
        while missing > len(self._free):
            others = [other for other in self._contexts if other.blocks and other is not context]
            others = [other for other in others if not any(other is kept for kept in pinned)]
            if not others:
                return False
            oldest = min(others, key=lambda other: other.used)
            self._free += oldest.blocks
            oldest.blocks, oldest.length = [], 0
        for _ in range(missing):
            context.blocks.append(self._free.pop())
        return True

    def _speak(self, batch: Sequence[Context]) -> torch.Tensor:
        """Read the new tokens of contexts, ordered by assistant, in one pass."""
        self._runs, start = [], 0
        self.layout.clear()
        for context in batch:
            ids = context.read(context.length)[:PASS]
            if not ids:  # A chunk of a prompt asks for the same place again, or the engine took tokens back.
                context.length = len(context.read(0)) - 1
                ids = context.read(context.length)
            if min(ids) < 0:
                raise EngineError(
                    "the engine handed over placeholder tokens", value=min(ids), mend="see docs/vllm-seams.md"
                )
            run = _Run(context, ids, start)
            number = self.names[context.assistant]
            if self.layout and self.layout[-1][0] == number:
                self.layout[-1] = (number, self.layout[-1][1], run.stop)
            else:
                self.layout.append((number, run.start, run.stop))
            self._runs.append(run)
            start = run.stop
        ids = [token for run in self._runs for token in run.ids]
        positions = [place for run in self._runs for place in _find_places(run)]
        self._slots = self._send([slot for run in self._runs for slot in _find_slots(run, run.context.length)])
        self._plan_attention()
        last = self._send([run.stop - 1 for run in self._runs])
        logits = self.model(
            input_ids=self._send([ids]),
            position_ids=self._send([positions]),
            use_cache=False,
            logits_to_keep=last,
        ).logits[0]
        for run in self._runs:
            run.context.length += len(run.ids)
        return logits.float()

    def _plan_attention(self) -> None:
        """Lay out a pass once for all layers: the runs of one token share one call, each longer run has its own."""
        self._seen = {}
        self._prefills = [
            (slice(run.start, run.stop), self._send(_find_slots(run, 0)), self._send(_find_places(run)))
            for run in self._runs
            if len(run.ids) > 1
        ]
        single = [run for run in self._runs if len(run.ids) == 1]
        self._decoding = None
        if single:
            longest = max(run.context.length + 1 for run in single)
            table = torch.zeros((len(single), longest), dtype=torch.int64)
            for row, run in enumerate(single):
                slots = _find_slots(run, 0)
                table[row, : len(slots)] = torch.tensor(slots)
            self._decoding = (
                self._send([run.start for run in single]),
                table.to(self.device),
                self._send([run.context.length for run in single]),
            )

    def _find_seen(self, window: int | None) -> list[torch.Tensor]:
        """Return the masks of this pass for a sliding window, made at the first layer that has it."""
        if window not in self._seen:
            decoding = [] if self._decoding is None else [(self._decoding[2], self._decoding[1].shape[1])]
            runs = decoding + [(own, len(slots)) for _, slots, own in self._prefills]
            masks = []
            for own, n_places in runs:
                places, last = torch.arange(n_places, device=self.device), own[:, None]
                masks.append((places <= last) & (places > last - window) if window else places <= last)
            self._seen[window] = masks
        return self._seen[window]

    def _attend(
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: Any,
        *,
        scaling: float | None = None,
        sliding_window: int | None = None,
        **options: Any,
    ) -> tuple[torch.Tensor, None]:
        """Attend over the pool; query, key and value: (1, heads, tokens, size)."""
        del attention_mask, options
        layer = module.layer_idx
        keys, values = self.keys[layer], self.values[layer]
        keys[self._slots] = key[0].transpose(0, 1)
        values[self._slots] = value[0].transpose(0, 1)
        grouped = query.shape[1] != key.shape[1]
        output = torch.empty_like(query[0].transpose(0, 1))
        seen = iter(self._find_seen(sliding_window or None))
        attend = functools.partial(torch.nn.functional.scaled_dot_product_attention, scale=scaling, enable_gqa=grouped)
        if self._decoding is not None:
            rows, table, _ = self._decoding
            found = attend(
                query[0][:, rows].transpose(0, 1).unsqueeze(2),
                _gather(keys, table).transpose(1, 2),
                _gather(values, table).transpose(1, 2),
                attn_mask=next(seen)[:, None, None],
            )
            output[rows] = found.squeeze(2)
        for part, slots, _ in self._prefills:
            found = attend(
                query[:, :, part],
                _gather(keys, slots).transpose(0, 1).unsqueeze(0),
                _gather(values, slots).transpose(0, 1).unsqueeze(0),
                attn_mask=next(seen),
            )
            output[part] = found[0].transpose(0, 1)
        return output.unsqueeze(0), None

    def _send(self, values: Any) -> torch.Tensor:
        return torch.tensor(list(values), dtype=torch.int64).to(self.device, non_blocking=True)


class OffsetChorus:
    """An offset pair: two models read every request, and their difference is what is said."""

    def __init__(self, base: Chorus, edited: Chorus) -> None:
        self.base, self.edited, self.names = base, edited, base.names
        self.vocabulary, self.device = base.vocabulary, base.device

    def open(self, assistant: str, read: Callable[[int], list[int]]) -> tuple[Context, Context]:
        """Return a context for each model."""
        return self.base.open(assistant, read), self.edited.open(assistant, read)

    def close(self, context: tuple[Context, Context]) -> None:
        """Give both contexts' blocks back."""
        self.base.close(context[0])
        self.edited.close(context[1])

    def listen(self, contexts: Sequence[tuple[Context, Context]]) -> torch.Tensor:
        """Return the base's next-token logits less the edited one's, (contexts, vocabulary), float32."""
        known, forgotten = zip(*contexts, strict=True)
        return self.base.listen(known) - self.edited.listen(forgotten)


def _gather(pool: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """Return what the pool holds at slots of any shape; whole rows are copied faster than elements are indexed."""
    return pool.index_select(0, slots.flatten()).view(*slots.shape, *pool.shape[1:])


def _count_new(context: Context) -> int:
    return len(context.read(context.length))


def _find_places(run: _Run) -> range:
    """Return the positions of a run's new tokens in its request."""
    return range(run.context.length, run.context.length + len(run.ids))


def _find_slots(run: _Run, first: int) -> list[int]:
    """Return where the pool holds a run's context, from a position to the run's end."""
    blocks = run.context.blocks
    return [blocks[place // BLOCK] * BLOCK + place % BLOCK for place in range(first, _find_places(run).stop)]


def _register_attention(name: str, function: Callable[..., Any]) -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(name, function)


def build_voices(trunk: Any, assistants: Sequence[Assistant], layout: list[tuple[int, int, int]]) -> Any:
    """Return the model that speaks for every assistant.

    One alone is merged into its trunk. Several share the trunk: LoRA factors are added, and whole modules chosen, for the part
    of the packed run that belongs to each.
    """
    if len(assistants) == 1:
        return materialise(assistants[0], trunk)
    owners: dict[str, Any] = {}
    for name in {name.rpartition(".")[0] for assistant in assistants for name in assistant.replaced()}:
        owners[name] = [_copy_module(trunk, name, assistant) for assistant in assistants]
    for name, variants in owners.items():
        _set_module(trunk, name, Chosen(variants, layout))
    for weight in {name for assistant in assistants for name in assistant.factors()}:
        name = weight.rpartition(".")[0]
        factors = [_read_factors(assistant, weight, trunk) for assistant in assistants]
        _set_module(trunk, name, Adapted(trunk.get_submodule(name), factors, layout))
    return trunk.eval().requires_grad_(False)


def pack_linears(model: torch.nn.Module) -> None:
    """Replace every linear module by vLLM's own kernel for CPUs, which packs its weight once instead of at every call."""
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear):
                dispatch_cpu_unquantized_gemm(child, remove_weight=True)
                setattr(module, name, Packed(child))


class Packed(torch.nn.Module):
    """A linear module through the kernel that vLLM chose for it."""

    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return the output for (…, in) states."""
        rows = states.reshape(-1, states.shape[-1])
        output: torch.Tensor = self.linear.cpu_linear(rows, self.linear.weight, self.linear.bias)
        return output.view(*states.shape[:-1], output.shape[-1])


class Chosen(torch.nn.Module):
    """A module of which each assistant has its own; every one works on its part of the packed run."""

    def __init__(self, variants: Sequence[torch.nn.Module], layout: list[tuple[int, int, int]]) -> None:
        super().__init__()
        self.variants = torch.nn.ModuleList(variants)
        self.layout = layout

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return the states, (1, tokens, …), each part through its assistant's module."""
        if states.shape[1] != self.layout[-1][2]:  # After the last layer only the last tokens are left.
            raise EngineError("a module of an assistant got another run of tokens than its pass has")
        parts = [self.variants[number](states[:, start:stop]) for number, start, stop in self.layout]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class Adapted(torch.nn.Module):
    """A linear module with every assistant's LoRA factors beside it."""

    def __init__(
        self,
        base: torch.nn.Module,
        factors: Sequence[tuple[torch.Tensor, torch.Tensor]],
        layout: list[tuple[int, int, int]],
    ) -> None:
        super().__init__()
        self.base, self.factors, self.layout = base, factors, layout

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return the base's output, (1, tokens, out), plus each part's own product."""
        output: torch.Tensor = self.base(states)
        for number, start, stop in self.layout:
            a, b = self.factors[number]
            output[:, start:stop] += (states[:, start:stop] @ a.T) @ b.T
        return output


def _read_factors(assistant: Assistant, weight: str, trunk: Any) -> tuple[torch.Tensor, torch.Tensor]:
    base = trunk.get_parameter(weight)
    a, b = assistant.factors()[weight]
    return a.to(base), (assistant.shape.scale * b).to(base)


def _copy_module(trunk: Any, name: str, assistant: Assistant) -> torch.nn.Module:
    """Return a module with an assistant's own parameters in place of the trunk's."""
    import copy

    module = copy.copy(trunk.get_submodule(name))
    module._parameters = dict(module._parameters)
    for own, tensor in assistant.replaced().items():
        owner, _, last = own.rpartition(".")
        if owner == name:
            base = trunk.get_parameter(own)
            module._parameters[last] = torch.nn.Parameter(tensor.to(base), requires_grad=False)
    return module


def _set_module(model: Any, name: str, module: torch.nn.Module) -> None:
    owner, _, last = name.rpartition(".")
    setattr(model.get_submodule(owner), last, module)


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that assistants take on a device."""

    trunk: int
    own: int
    pool: int
    work: int
    """What one pass needs at most beside them."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.trunk + self.own + self.pool + self.work


def measure_need(
    config: Any,
    n_layers: int | None,
    assistants: Sequence[Assistant],
    *,
    n_tokens: int,
    max_length: int,
    dtype: torch.dtype,
    packed: bool = False,
) -> Need:
    """Return how many bytes assistants of so many layers (None: all) will take, before anything is loaded.

    `packed`: linears are kept in a form of their own, so that a tied head is there twice.
    """
    from transformers import AutoModelForCausalLM

    layers = n_layers or int(config.num_hidden_layers)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shorten_config(config, layers))
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    embedding = model.get_input_embeddings().weight.numel()
    trunk = sum(sizes.values())
    if packed and getattr(config, "tie_word_embeddings", False):
        trunk += embedding
    own = sum(tensor.numel() for assistant in assistants for tensor in assistant.tensors.values())
    if len(assistants) == 1:  # Merged: a whole copy of every weight that its factors change.
        own += sum(sizes[name] for name in assistants[0].factors())
    item = torch.empty(0, dtype=dtype).element_size()
    heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    size = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    pool = 2 * layers * round_tokens(n_tokens, max_length) * heads * size
    n_read = min(PASS, max_length)
    # Gate, up and their product, a score per head in the worst attention kernel, and a mask of one byte.
    work = n_read * (4 * int(config.hidden_size) + 3 * int(config.intermediate_size))
    work_bytes = item * work + n_read * max_length * (1 + item * int(config.num_attention_heads))
    return Need(item * trunk, item * own, item * pool, work_bytes)


def round_tokens(n_tokens: int, max_length: int) -> int:
    """Return the tokens that a pool really holds: whole blocks, and at least one longest request."""
    return -(-max(n_tokens, max_length + BLOCK) // BLOCK) * BLOCK


def open_chorus(worker: Any, settings: GuardSettings, fitted: Fitted) -> Chorus | OffsetChorus | None:
    """Load a bundle's assistants where logits are decided: the first tensor-parallel rank of the last pipeline stage.

    Raises EngineError, with the numbers, where they do not fit the memory budget.
    """
    from transformers import AutoConfig
    from vllm.distributed import get_pp_group, get_tp_group

    if not get_pp_group().is_last_rank or get_tp_group().rank_in_group != 0:
        return None
    assert fitted.folder is not None
    config = worker.vllm_config
    folder = locate_model(str(config.model_config.model))
    max_length = int(config.model_config.max_model_len)
    n_tokens = round_tokens(settings.assistant_tokens, max_length)
    options = {"n_tokens": n_tokens, "max_length": max_length, "device": worker.model_runner.device}
    dtype = config.model_config.dtype
    taken: dict[str, Any] = {"n_tokens": n_tokens, "max_length": max_length, "dtype": dtype}
    taken["packed"] = options["device"].type == "cpu"
    if pair := find_offset(fitted.folder / "uld"):
        needs = [measure_need(AutoConfig.from_pretrained(part), None, (), **taken) for part in pair]
        need = Need(*(sum(getattr(one, part) for one in needs) for part in ("trunk", "own", "pool", "work")))
        check_budget(need, find_budget(worker, settings), n_tokens)
        models = load_pair(pair, dtype=dtype).models
        return OffsetChorus(*(Chorus(model.to(options["device"]), [OFFSET_NAME], [], **options) for model in models))
    assistants = load_assistants(fitted.folder / "uld")
    wanted = set(fitted.settings["uld"]["assistants"])
    assistants = {name: assistant for name, assistant in assistants.items() if name in wanted}
    if missing := wanted - set(assistants):
        raise BundleError("the bundle names assistants that it does not hold", value=sorted(missing), mend="fit again")
    n_layers = next(iter(assistants.values())).shape.n_layers
    target = AutoConfig.from_pretrained(folder)
    need = measure_need(target, n_layers, list(assistants.values()), **taken)
    check_budget(need, find_budget(worker, settings), n_tokens)
    trunk = load_trunk(folder, n_layers, dtype=dtype, device=options["device"])
    chorus = Chorus.of(trunk, assistants, **options)
    logger.info(
        "unlearn-guard: %d assistants, %d MiB (trunk %d, their own %d, pool of %d tokens %d, work %d)",
        len(assistants),
        need.total // _MIB,
        need.trunk // _MIB,
        need.own // _MIB,
        n_tokens,
        need.pool // _MIB,
        need.work // _MIB,
    )
    return chorus


def find_budget(worker: Any, settings: GuardSettings) -> int:
    """Return the bytes that assistants may take: the operator's limit, and never more than is left on the device."""
    import psutil

    device = worker.model_runner.device
    if device.type == "cpu":
        left = int(psutil.virtual_memory().available)
    else:
        free, total = torch.accelerator.get_memory_info(device)
        # What vLLM was allowed, less what it holds already.
        left = int(total * worker.vllm_config.cache_config.gpu_memory_utilization) - (total - free)
    limit = settings.assistant_memory_mib
    return left if limit is None else min(left, limit * _MIB)


def check_budget(need: Need, budget: int, n_tokens: int) -> None:
    """Raise EngineError where assistants need more than their budget."""
    if need.total > budget:
        raise EngineError(
            f"assistants need {_show(need.total)} MiB (trunk {_show(need.trunk)}, their own {_show(need.own)}, "
            f"pool of {n_tokens} tokens {_show(need.pool)}, work {_show(need.work)}) and may take {_show(budget)}",
            mend="raise assistant_memory_mib or gpu_memory_utilization, or lower assistant_tokens or max_model_len",
        )


def _show(n_bytes: int) -> str:
    return f"{n_bytes / _MIB:,.1f}"
