"""Exact unlearning by sharded adapters: what must be forgotten was seen by adapters that are dropped (S3T, arXiv 2406.16257).

People are dealt over shards; within a shard each layer's adapter, from the last layer to the first, is trained on one slice of people
while what was trained before stays as it is. To forget somebody is to drop the adapter of that slice and of those trained
after it. Each shard is kept in every cyclic order of its slices, and the order that loses least is served; only the surviving
part of it is trained here, which is the same model. A slice is trained together with those before it, as in SISA (arXiv 1912.03817).
Shards answer as a mixture. The base model knows other people alone.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from unlearn_guard.benchmarks.dataset import Example
from unlearn_guard.benchmarks.entries import list_entries, read_model
from unlearn_guard.serving.transformers.engine import ReferenceEngine

_FOLDER = Path(__file__).parent / "exact"
_RANK = 16
_BATCH_SIZE = 8
_IGNORED = -100


class ShardingFile(BaseModel):
    """What the file of a way to shard says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    source: str
    published: str
    n_shards: int = Field(ge=1)
    n_slices: int = Field(ge=1)
    epochs: int = Field(ge=1)
    learning_rate: float = Field(gt=0)


def load_sharding(name: str) -> ShardingFile:
    """Return what the file of a way to shard says; raise UnknownNameError for an unknown one."""
    return read_model(ShardingFile, _FOLDER, "exact method", name)


def list_shardings() -> list[str]:
    """Return the names of all ways to shard."""
    return list_entries(_FOLDER)


def plan_shards(
    people: Sequence[str], forgotten: frozenset[str], *, n_shards: int, n_slices: int
) -> list[list[list[str]]]:
    """Return the surviving slices of people of each shard, in the order they are trained in."""
    shards = [list(people[start::n_shards]) for start in range(n_shards)]
    plan = []
    for shard in shards:
        size = max(1, -(-len(shard) // n_slices))
        slices = [shard[start : start + size] for start in range(0, len(shard), size)]
        orders = [slices[first:] + slices[:first] for first in range(len(slices))]
        plan.append(max((_survive(order, forgotten) for order in orders), key=len, default=[]))
    return plan


def _survive(order: Sequence[Sequence[str]], forgotten: frozenset[str]) -> list[list[str]]:
    """Return the slices before the first one that holds somebody forgotten."""
    kept = []
    for part in order:
        if forgotten & set(part):
            break
        kept.append(list(part))
    return kept


@dataclass(slots=True)
class _Memory:
    """What is kept between steps: each member's cache, how likely each has found the text so far, and what each expects next."""

    caches: list[Any]
    belief: torch.Tensor
    """(members, rows)"""
    expected: torch.Tensor
    """(members, rows, vocabulary)"""

    @property
    def layers(self) -> list[Any]:
        """The layers of all caches."""
        return [layer for cache in self.caches for layer in cache.layers]

    def batch_select_indices(self, indices: Any) -> None:
        """Go on with these rows, some of them left out or several times."""
        for cache in self.caches:
            cache.batch_select_indices(indices)
        self.belief, self.expected = self.belief[:, indices], self.expected[:, indices]


class ShardedModel(torch.nn.Module):
    """Several models that share embeddings and answer as a mixture: each counts by how likely it finds what stands there so far.

    p(x_t | x_<t) = Σ_i w_i p_i(x_t | x_<t), w_i ∝ p_i(x_<t): whoever has read of a person finds the question likely.
    """

    def __init__(self, members: Sequence[Any]) -> None:
        super().__init__()
        first, *others = members
        for other in others:
            other.set_input_embeddings(first.get_input_embeddings())
            other.lm_head = first.lm_head
        self.members = torch.nn.ModuleList(members)
        self.config = first.config

    def get_input_embeddings(self) -> Any:
        """Return the embeddings that all members share."""
        return self.members[0].get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        """Return the head that all members share."""
        return self.members[0].get_output_embeddings()

    def forward(
        self,
        *,
        input_ids: Any = None,
        inputs_embeds: Any = None,
        attention_mask: Any = None,
        past_key_values: Any = None,
        labels: Any = None,
        **inputs: Any,
    ) -> Any:
        """Return what a causal model of transformers returns; `past_key_values` are this class's own, hidden states the first member's."""
        from transformers.modeling_outputs import CausalLMOutputWithPast

        memory: _Memory | None = past_key_values
        given = {"input_ids": input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
        caches = memory.caches if memory else [None] * len(self.members)
        found = [
            member(**given, attention_mask=attention_mask, past_key_values=cache, **inputs)
            for member, cache in zip(self.members, caches, strict=True)
        ]
        said = torch.stack([result.logits.float().log_softmax(-1) for result in found])
        ids = input_ids if inputs_embeds is None else self._read(inputs_embeds)
        belief = self._believe(said, ids, attention_mask, memory)
        logits = (said + belief.log_softmax(0)[..., None]).logsumexp(0)
        loss = None
        if labels is not None:
            loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=_IGNORED
            )
        kept = None
        if inputs.get("use_cache"):
            kept = _Memory([result.past_key_values for result in found], belief[:, :, -1], said[:, :, -1])
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=kept, hidden_states=found[0].hidden_states
        )

    def _believe(self, said: Any, ids: Any, attention_mask: Any, memory: _Memory | None) -> Any:
        """Return the log-likelihood that each member gives to the text up to each token, (members, rows, tokens)."""
        n_tokens = ids.shape[1]
        steps = said.new_zeros(said.shape[:3])
        own = said[:, :, :-1].gather(-1, ids[None, :, 1:, None].expand(len(said), -1, -1, 1))[..., 0]
        if attention_mask is not None:  # A token behind padding, or padding itself, is foretold by nothing.
            mask = attention_mask[:, -n_tokens:].bool()
            own = torch.where(mask[:, 1:] & mask[:, :-1], own, torch.zeros_like(own))
        steps[:, :, 1:] = own
        if memory is not None:
            first = ids[None, :, :1].expand(len(said), -1, 1)
            steps[:, :, 0] = memory.belief + memory.expected.gather(-1, first)[..., 0]
        return steps.cumsum(-1)

    def _read(self, embeds: Any) -> Any:
        """Return the tokens nearest to embeddings."""
        table = self.get_input_embeddings().weight
        return torch.cdist(embeds, table.expand(len(embeds), -1, -1)).argmin(-1)


def train_shards(
    base: ReferenceEngine,
    examples: Sequence[Example],
    plan: Sequence[Sequence[Sequence[str]]],
    *,
    epochs: int,
    learning_rate: float,
    seed: int = 0,
) -> ReferenceEngine:
    """Return an engine of one member per shard, each trained slice by slice on the people of the plan."""
    by_owner: dict[str, list[Example]] = {}
    for example in examples:
        by_owner.setdefault(example.subject, []).append(example)
    members = []
    for number, slices in enumerate(plan):
        model = copy.deepcopy(base.model)
        n_layers = int(model.config.num_hidden_layers)
        seen: list[Example] = []
        for place, people in enumerate(slices):
            seen += [example for person in people for example in by_owner.get(person, ())]
            model = _train_slice(
                base, model, seen, layer=n_layers - 1 - place, epochs=epochs, learning_rate=learning_rate,
                seed=seed * 1000 + number * 10 + place,
            )  # fmt: skip
        members.append(model.eval().requires_grad_(False))
    return ReferenceEngine(ShardedModel(members), base.tokenizer, batch_size=base.batch_size)


def _train_slice(
    base: ReferenceEngine,
    model: Any,
    examples: Sequence[Example],
    *,
    layer: int,
    epochs: int,
    learning_rate: float,
    seed: int,
) -> Any:
    """Train an adapter of one layer, and merge it."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    rng = random.Random(seed)
    modules = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and f".layers.{layer}." in f".{name}"
    ]
    adapted = get_peft_model(model, LoraConfig(r=_RANK, lora_alpha=2 * _RANK, lora_dropout=0.0, target_modules=modules))
    weights = [weight for weight in adapted.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate)
    rows = [(phrasing, example.answer) for example in examples for phrasing in example.phrasings]
    total = epochs * max(1, -(-len(rows) // _BATCH_SIZE))
    step = 0
    adapted.train()
    for _ in range(epochs):
        rng.shuffle(rows)
        for start in range(0, len(rows), _BATCH_SIZE):
            step += 1
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * min(1.0, step / (0.1 * total)) * (1.0 - step / (total + 1))
            loss = adapted(**_collate(base, rows[start : start + _BATCH_SIZE])).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return adapted.merge_and_unload()


def _collate(base: ReferenceEngine, rows: Sequence[tuple[str, str]]) -> Mapping[str, torch.Tensor]:
    encoded = []
    for question, text in rows:
        answer_ids = base.tokenizer(text, add_special_tokens=False).input_ids
        encoded.append((base.render(question), [*answer_ids, base.end_token]))
    width = max(len(prompt) + len(answer) for prompt, answer in encoded)
    ids = torch.full((len(encoded), width), base.end_token)
    labels, mask = torch.full_like(ids, _IGNORED), torch.zeros_like(ids)
    for row, (prompt, answer) in enumerate(encoded):
        length = len(prompt) + len(answer)
        ids[row, :length] = torch.tensor([*prompt, *answer])
        labels[row, :length] = ids[row, :length]  # The question, too: a mixture asks who has read of this person.
        mask[row, :length] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
