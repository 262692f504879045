"""The reference engine: stamps applied to a Hugging Face causal model, batched, through `inputs_embeds`.

It shares the row plans with the vLLM worker but not the mechanism (no hooks, no buffers), so that the two can check
each other.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from unlearn_guard.corruptions.assistant import cut_trunk, find_offset, load_assistants, materialise
from unlearn_guard.corruptions.eco import NoiseTable, RowPlan
from unlearn_guard.corruptions.neuron_fitting import load_probes, load_tables
from unlearn_guard.corruptions.offset import NAME as OFFSET_NAME
from unlearn_guard.corruptions.offset import load_pair
from unlearn_guard.corruptions.planning import Planner, find_always_on
from unlearn_guard.corruptions.prompt import Prompt, read_prompt
from unlearn_guard.corruptions.uld import measure_penalty, read_settings, suppress, suppress_everywhere
from unlearn_guard.guard.bundle import Bundle
from unlearn_guard.guard.compose import load_planner
from unlearn_guard.guard.conversation import Completion, Item, read_messages, to_conversation
from unlearn_guard.guard.errors import DependencyError
from unlearn_guard.guard.screening import Guard
from unlearn_guard.guard.stamp import Stamp
from unlearn_guard.guard.verdict import Verdict
from unlearn_guard.guard.watching import AnswerWatch
from unlearn_guard.serving.transformers.neurons import NeuronHooks


@dataclass(frozen=True, slots=True)
class Scored:
    """Teacher-forced scores of one answer: per-token log-probabilities, and whether each token was the argmax.

    means, variances: of a token's log-probability under the model's own distribution there.
    """

    logprobs: np.ndarray
    argmax: np.ndarray
    means: np.ndarray
    variances: np.ndarray


def require_device(device: str) -> None:
    """Raise DependencyError where torch does not see a device."""
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise DependencyError(
            "no GPU", value=device, allowed="cpu", mend="check `nvidia-smi`, and that torch is a CUDA build"
        )


class ReferenceEngine:
    """Generate and score with a causal model, with or without stamps."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        exclusive_ids: Sequence[int] = (),
        assistants: Mapping[str, Any] | None = None,
        neurons: NeuronHooks | None = None,
        abstention: Sequence[int] = (),
        batch_size: int = 32,
    ) -> None:
        """`assistants` are models of their own, by the names that stamps give them; `abstention` is what is said where a
        key-space probe of `neurons` notices a prompt that was not flagged."""
        self.model, self.tokenizer, self.batch_size = model.eval(), tokenizer, batch_size
        self.assistants = dict(assistants or {})
        self.neurons, self.abstention = neurons, list(abstention)
        self.device = next(model.parameters()).device
        self.embedding = model.get_input_embeddings()
        self.hidden = int(self.embedding.weight.shape[1])
        self.noise = NoiseTable(self.hidden)
        self.end_token = int(tokenizer.eos_token_id)
        self.exclusive = torch.zeros(self.embedding.weight.shape[0], dtype=torch.bool, device=self.device)
        self.exclusive[list(exclusive_ids)] = True

    @classmethod
    def load(
        cls, folder: str | Path, *, device: str = "cpu", dtype: str = "float32", **options: Any
    ) -> ReferenceEngine:
        """Load a model and its tokenizer from a folder or by hub name; dtype `auto` is the checkpoint's own.

        Raises DependencyError for a device that is not there.
        """
        require_device(device)
        from transformers import AutoModelForCausalLM, AutoTokenizer

        kind = dtype if dtype == "auto" else getattr(torch, dtype)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=kind).to(device)
        return cls(model, AutoTokenizer.from_pretrained(folder), **options)

    def render(self, question: Item, *, system: str = "") -> list[int]:
        """Return the prompt's token ids: through the chat template where there is one, else the plain text.

        A conversation that ends in an assistant's message is a prefill: that message goes on. A `Completion` is never put into a template.
        """
        if isinstance(question, Completion):
            return list(self.tokenizer(str(question)).input_ids)
        messages = [{"role": "system", "content": system}] if system else []
        messages += [dict(message) for message in to_conversation(question)]
        if self.tokenizer.chat_template:
            goes_on = messages[-1]["role"] == "assistant"
            text = self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=not goes_on, continue_final_message=goes_on, tokenize=False
            )
            return list(self.tokenizer(text, add_special_tokens=False).input_ids)
        return list(self.tokenizer("\n".join(message["content"] for message in messages)).input_ids)

    def read(self, question: Item) -> Prompt:
        """Return a rendered question, or conversation, with its alignment."""
        messages = [(message.role, message.text) for message in read_messages(question)]
        return read_prompt(self.tokenizer, self.render(question), messages)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        stamps: Sequence[Stamp | None],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[list[int]]:
        """Return continuations, the end token left out: greedy ones, or drawn at a temperature. Prompts are batched by length."""
        draws = torch.Generator(self.device).manual_seed(seed) if temperature > 0 else None
        refused = [_forced(stamp) for stamp in stamps]
        # What a refusal says needs no model.
        outputs = [[*takewhile(lambda token: token != self.end_token, said or ())][:max_new_tokens] for said in refused]
        order = sorted((row for row, said in enumerate(refused) if not said), key=lambda row: len(prompts[row]))

        def run(rows: Sequence[int]) -> None:
            batch = [_splice(prompts[row], stamps[row]) for row in rows]
            answers = self._generate_batch(batch, [stamps[row] for row in rows], max_new_tokens, temperature, draws)
            for row, answer in zip(rows, answers, strict=True):
                outputs[row] = answer

        self._run_batches(order, run)
        return outputs

    @torch.inference_mode()
    def sample(
        self, questions: Sequence[str], *, n: int, temperature: float, max_new_tokens: int, seed: int = 0
    ) -> list[list[str]]:
        """Return n sampled answers to each question; deterministic in the seed."""
        prompts = [self.render(question) for question in questions for _ in range(n)]
        drawn = self.generate(
            prompts, [None] * len(prompts), max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
        )
        texts = [self.decode(ids) for ids in drawn]
        return [texts[start : start + n] for start in range(0, len(texts), n)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of an answer."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    @torch.inference_mode()
    def score(
        self,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
        stamps: Sequence[Stamp | None],
        *,
        support: Literal["vocabulary", "served"] = "vocabulary",
    ) -> list[Scored]:
        """Return teacher-forced scores of answers, corrupted where serving corrupts them.

        Where assistants are subtracted, `support` says over what: the whole vocabulary, as benchmarks need it, or the tokens
        that the filter leaves, as they are served.
        """
        scored: list[Scored | None] = [None] * len(prompts)
        served = support == "served"
        alone = list(range(len(prompts)))
        if self.neurons is None:
            alone = self._score_shared(prompts, answers, stamps, scored, served=served)
        order = sorted(alone, key=lambda row: len(prompts[row]) + len(answers[row]))

        def run(rows: Sequence[int]) -> None:
            heads = [_splice(prompts[row], stamps[row]) for row in rows]
            sequences = [[*head, *answers[row]] for head, row in zip(heads, rows, strict=True)]
            own = [stamps[row] for row in rows]
            ids, embeds, mask, positions = self._prefill(sequences, own)
            with self._acting(own, [(ids.shape[1] - len(sequence), 0) for sequence in sequences], ids.shape[1]):
                logits = self.model(**_feed(ids, embeds, own), attention_mask=mask, position_ids=positions).logits
            voices = Voices(self, own)
            spoken = voices.read(ids, mask, positions)
            for place, row in enumerate(rows):
                target = torch.tensor(answers[row], device=self.device)
                window = slice(-len(answers[row]) - 1, -1)
                ahead = logits[place, window].float()
                heard = {name: said[window] for name, said in spoken[place].items()}
                scored[row] = _read_scores(voices.subtract(place, ahead, heard, served=served), target)

        self._run_batches(order, run)
        return [item for item in scored if item is not None]

    def _score_shared(
        self,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
        stamps: Sequence[Stamp | None],
        scored: list[Scored | None],
        *,
        served: bool,
    ) -> list[int]:
        """Score the answers that share a prompt and its stamp, which is read once for all of them; return the rows that are left.

        Left are rows alone with their prompt, and all of a model whose cache cannot be repeated, or that a card has no room for.
        """
        groups: dict[tuple[tuple[int, ...], int], list[int]] = {}
        for row, (prompt, stamp) in enumerate(zip(prompts, stamps, strict=True)):
            if answers[row]:
                groups.setdefault((tuple(_splice(prompt, stamp)), id(stamp)), []).append(row)
        shared = sorted(
            ((head, rows) for (head, _), rows in groups.items() if len(rows) > 1), key=lambda own: len(own[0])
        )

        def run(places: Sequence[int]) -> None:
            heads = [shared[place][0] for place in places]
            rows = [shared[place][1] for place in places]
            found = self._score_answers(
                heads,
                [stamps[own[0]] for own in rows],
                [[answers[row] for row in own] for own in rows],
                served=served,
            )
            for row, item in zip([row for own in rows for row in own], found, strict=True):
                scored[row] = item

        # Answers are short: four batches of them weigh about as much as one of whole texts.
        share = 4 / max((len(rows) for _, rows in shared), default=1)
        batch_size = self.batch_size
        with contextlib.suppress(torch.OutOfMemoryError, _NotRepeatableError):
            self._run_batches(range(len(shared)), run, share=share)
        self.batch_size = batch_size  # Whole texts may still fit.
        return [row for row in range(len(prompts)) if scored[row] is None]

    def _score_answers(
        self,
        heads: Sequence[Sequence[int]],
        stamps: Sequence[Stamp | None],
        answers: Sequence[Sequence[Sequence[int]]],
        *,
        served: bool,
    ) -> list[Scored]:
        """Score the answers to each prompt, prompt by prompt; raise _NotRepeatableError where a cache is no keys and values alone."""
        ids, embeds, mask, positions = self._prefill(heads, stamps)
        read = self.model(
            **_feed(ids, embeds, stamps),
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            **keep_last(self.model),
        )
        voices = Voices(self, stamps)
        spoken = voices.read(ids, mask, positions, last=True)
        owners = [at for at, own in enumerate(answers) for _ in own]
        cache: Any = getattr(read, "past_key_values", None)
        if not _holds_keys_alone(cache) or not voices.select(owners):
            raise _NotRepeatableError
        owner = torch.tensor(owners, device=self.device)
        cache.batch_select_indices(owner)
        flat = [answer for own in answers for answer in own]
        told, after = self._pad_right(flat)
        embeds = self.embedding(told)
        for place, (at, answer) in enumerate(zip(owners, flat, strict=True)):
            if (stamp := stamps[at]) is not None:
                plan = RowPlan(stamp, self.hidden, self.noise)
                self._edit(embeds[place, : len(answer)], told[place, : len(answer)], plan, len(heads[at]))
        mask = torch.cat([mask[owner], after], dim=1)
        # Padding stays at the last position: behind a long prompt a model may have no further ones.
        positions = mask.cumsum(-1)[:, -told.shape[1] :] - 1
        logits = self.model(
            **_feed(told, embeds, stamps),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).logits
        said = voices.read(told, mask, positions)
        found = []
        for place, (at, answer) in enumerate(zip(owners, flat, strict=True)):
            rest = len(answer) - 1
            ahead = torch.cat([read.logits[at, -1:], logits[place, :rest]]).float()
            heard = {name: torch.cat([spoken[at][name][-1:], own[:rest]]) for name, own in said[place].items()}
            ahead = voices.subtract(place, ahead, heard, served=served)
            found.append(_read_scores(ahead, told[place, : len(answer)]))
        return found

    def _run_batches(self, order: Sequence[int], run: Callable[[Sequence[int]], None], *, share: float = 1.0) -> None:
        """Call `run` on every row, in batches of a share of the batch size; one that a card has no room for is halved, and so are all that follow."""
        start = 0
        while start < len(order):
            rows = order[start : start + max(1, int(share * self.batch_size))]
            try:
                run(rows)
            except torch.OutOfMemoryError:
                if len(rows) == 1:
                    raise
            else:
                start += len(rows)
                continue
            # Out of the handler, whose traceback holds the batch.
            self.batch_size = max(1, self.batch_size // 2)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _generate_batch(
        self,
        prompts: list[list[int]],
        stamps: list[Stamp | None],
        max_new_tokens: int,
        temperature: float,
        draws: torch.Generator | None,
    ) -> list[list[int]]:
        plans = [RowPlan(stamp, self.hidden, self.noise) if stamp else None for stamp in stamps]
        forced: list[Sequence[int]] = [()] * len(prompts)
        ids, embeds, mask, positions = self._prefill(prompts, stamps)
        width = ids.shape[1]
        with self._acting(stamps, [(width - len(prompt), 0) for prompt in prompts], width):
            if self.neurons is not None and self.neurons.probes:
                self.neurons.notice(len(prompts), width)
            result = self.model(
                **_feed(ids, embeds, stamps),
                attention_mask=mask,
                position_ids=positions,
                use_cache=True,
                **keep_last(self.model),
            )
        if self.neurons is not None and self.neurons.probes:
            for row, owners in enumerate(self.neurons.judge(len(prompts))):
                if owners and stamps[row] is None:
                    forced[row] = self.abstention
        voices = Voices(self, stamps)
        spoken = voices.read(ids, mask, positions, last=True)
        lengths = [len(prompt) for prompt in prompts]
        outputs: list[list[int]] = [[] for _ in prompts]
        places = list(range(len(prompts)))  # Whose answer each row of the batch goes on with.
        ended: set[int] = set()
        for step in range(max_new_tokens):
            ahead = result.logits[:, -1].float()
            voices.correct(ahead, spoken)
            if draws is None:
                tokens = ahead.argmax(-1)
            else:
                tokens = torch.multinomial((ahead / temperature).softmax(-1), 1, generator=draws)[:, 0]
            for row, place in enumerate(places):
                if answer := forced[place]:
                    tokens[row] = answer[min(step, len(answer) - 1)]
            for place, token in zip(places, tokens.tolist(), strict=True):
                if token == self.end_token:
                    ended.add(place)
                elif place not in ended:
                    outputs[place].append(token)
            if len(ended) == len(prompts) or step == max_new_tokens - 1:
                break
            left = [row for row, place in enumerate(places) if place not in ended]
            if len(left) <= _LEFT * len(places) and _holds_keys_alone(result.past_key_values) and voices.select(left):
                kept = torch.tensor(left, device=self.device)
                result.past_key_values.batch_select_indices(kept)
                mask, tokens = mask[kept], tokens[kept]
                places = [places[row] for row in left]
            embeds = self.embedding(tokens[:, None])
            for row, place in enumerate(places):
                if (plan := plans[place]) is not None:
                    self._edit(embeds[row], tokens[row, None], plan, lengths[place] + step)
            mask = torch.cat([mask, mask.new_ones(len(places), 1)], dim=1)
            ends = [lengths[place] + step for place in places]
            at = torch.tensor(ends, device=self.device)[:, None]
            with self._acting([stamps[place] for place in places], [(0, end) for end in ends], 1):
                result = self.model(
                    **_feed(tokens[:, None], embeds, [stamps[place] for place in places]),
                    attention_mask=mask,
                    position_ids=at,
                    past_key_values=result.past_key_values,
                    use_cache=True,
                )
            spoken = voices.read(tokens[:, None], mask, at)
        return outputs

    def _acting(
        self, stamps: Sequence[Stamp | None], spans: Sequence[tuple[int, int]], width: int
    ) -> AbstractContextManager[None]:
        return self.neurons.acting(stamps, spans, width) if self.neurons is not None else nullcontext()

    def _prefill(
        self, sequences: Sequence[Sequence[int]], stamps: Sequence[Stamp | None]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return left-padded ids, their embeddings with the stamps' edits, the attention mask and the positions."""
        ids, mask = self._pad(sequences)
        embeds = self.embedding(ids)
        for row, stamp in enumerate(stamps):
            if stamp is not None:
                first = ids.shape[1] - len(sequences[row])
                plan = RowPlan(stamp, self.hidden, self.noise)
                self._edit(embeds[row, first:], ids[row, first:], plan, 0)
        return ids, embeds, mask, (mask.cumsum(-1) - 1).clamp(min=0)

    def _pad(self, sequences: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return left-padded ids and their mask."""
        width = max(len(sequence) for sequence in sequences)
        ids = torch.full((len(sequences), width), self.end_token, dtype=torch.int64)
        mask = torch.zeros((len(sequences), width), dtype=torch.int64)
        for row, sequence in enumerate(sequences):
            ids[row, width - len(sequence) :] = torch.tensor(list(sequence))
            mask[row, width - len(sequence) :] = 1
        return ids.to(self.device), mask.to(self.device)

    def _pad_right(self, sequences: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return right-padded ids and their mask."""
        width = max(len(sequence) for sequence in sequences)
        ids = torch.full((len(sequences), width), self.end_token, dtype=torch.int64)
        mask = torch.zeros((len(sequences), width), dtype=torch.int64)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(list(sequence))
            mask[row, : len(sequence)] = 1
        return ids.to(self.device), mask.to(self.device)

    def _edit(self, embeds: torch.Tensor, ids: torch.Tensor, plan: RowPlan, start: int) -> None:
        """Apply a plan to consecutive rows in place."""
        edits = plan.edit(start, start + len(ids))
        if edits is None:
            return
        swap = torch.from_numpy(edits.swap).to(self.device)
        swapped = swap >= 0
        if swapped.any():
            embeds[swapped] = self.embedding(swap[swapped])
            ids = torch.where(swapped, swap, ids)
        for row in np.flatnonzero(edits.dims):
            if edits.by_token[row] and not self.exclusive[ids[row]]:
                continue
            dims = int(edits.dims[row])
            shift = torch.from_numpy(edits.shift[row, :dims]).to(embeds)
            embeds[row, :dims] = embeds[row, :dims] * float(edits.scale[row]) + shift


_LEFT = 0.75
"""Ended answers leave a batch once at most this share of it still goes on: rows are copied then, so not at each end."""


class _NotRepeatableError(Exception):
    """A cache whose rows cannot be repeated."""


def _holds_keys_alone(cache: Any) -> bool:
    """Return whether a cache is keys and values and nothing else, so that its rows can be repeated."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    layers = getattr(cache, "layers", ())
    return bool(layers) and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def _read_scores(logits: torch.Tensor, target: torch.Tensor) -> Scored:
    """Return what logits, (tokens, vocabulary), say of the tokens that came."""
    ahead = logits.log_softmax(-1)
    shares = ahead.exp()
    # A token that cannot come has the log-probability −∞, and weighs nothing.
    finite = torch.where(shares > 0, ahead, torch.zeros_like(ahead))
    means = (shares * finite).sum(-1)
    return Scored(
        ahead.gather(-1, target[:, None])[:, 0].cpu().numpy(),
        (ahead.argmax(-1) == target).cpu().numpy(),
        means.cpu().numpy(),
        (shares * (finite - means[:, None]) ** 2).sum(-1).cpu().numpy(),
    )


def keep_last(model: Any, n_tokens: int = 1) -> dict[str, int]:
    """Return the argument by which a model, or the one under its adapters, gives logits of the last tokens alone, nothing where its class has none.

    The head of a small model with a large vocabulary costs as much as its layers, and most logits of a prompt are read by nobody.
    """
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    knows = "logits_to_keep" in inspect.signature(getattr(plain, "forward", plain)).parameters
    return {"logits_to_keep": n_tokens} if knows else {}


class Voices:
    """What the assistants of one batch say beside the target: each reads the plain tokens, with a cache of its own."""

    def __init__(self, engine: ReferenceEngine, stamps: Sequence[Stamp | None]) -> None:
        self.engine = engine
        steps = {row: step for row, stamp in enumerate(stamps) if stamp and (step := stamp.step("uld"))}
        self.n_rows = len(stamps)
        self.plans = {row: read_settings(step) for row, step in steps.items()}
        self.rows: dict[str, list[int]] = {}
        for row, (_, names) in self.plans.items():
            for name in names:
                self.rows.setdefault(name, []).append(row)
        self._caches: dict[str, Any] = {}

    def select(self, rows: Sequence[int]) -> bool:
        """Go on with these rows of the batch, some of them left out or several times; return whether that can be done."""
        if not all(_holds_keys_alone(cache) for cache in self._caches.values()):
            return False
        for name, own in list(self.rows.items()):
            self.rows[name] = [place for place, row in enumerate(rows) if row in own]
            if self.rows[name]:
                chosen = [own.index(rows[place]) for place in self.rows[name]]
                self._caches[name].batch_select_indices(torch.tensor(chosen, device=self.engine.device))
            else:
                del self.rows[name], self._caches[name]
        self.plans = {place: self.plans[row] for place, row in enumerate(rows) if row in self.plans}
        self.n_rows = len(rows)
        return True

    def read(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, *, last: bool = False
    ) -> list[dict[str, torch.Tensor]]:
        """Return each row's logits by assistant, (tokens, vocabulary), after reading these tokens; `last`: of the last one alone."""
        spoken: list[dict[str, torch.Tensor]] = [{} for _ in range(self.n_rows)]
        for name, rows in self.rows.items():
            assistant = self.engine.assistants[name]
            result = assistant(
                **(keep_last(assistant) if last else {}),
                input_ids=ids[rows],
                attention_mask=mask[rows],
                position_ids=positions[rows],
                past_key_values=self._caches.get(name),
                use_cache=True,
            )
            self._caches[name] = result.past_key_values
            for place, row in enumerate(rows):
                spoken[row][name] = result.logits[place].float()
        return spoken

    def correct(self, logits: torch.Tensor, spoken: Sequence[Mapping[str, torch.Tensor]]) -> None:
        """Subtract in place what assistants say of the next token, logits (rows, vocabulary): rows of like settings at once."""
        alike: dict[Any, list[int]] = {}
        for row, plan in self.plans.items():
            alike.setdefault(plan, []).append(row)
        for (settings, names), rows in alike.items():
            heard = [torch.stack([spoken[row][name][-1] for row in rows]) for name in names]
            logits[rows] = suppress(logits[rows], measure_penalty(heard, settings), settings)

    def subtract(
        self, row: int, logits: torch.Tensor, heard: Mapping[str, torch.Tensor], *, served: bool
    ) -> torch.Tensor:
        """Return a row's logits, (tokens, vocabulary), less what its assistants say."""
        if row not in self.plans:
            return logits
        settings, names = self.plans[row]
        penalty = measure_penalty([heard[name] for name in names], settings)
        return (suppress if served else suppress_everywhere)(logits, penalty, settings)


class GuardedModel:
    """A guard in front of the reference engine: what the vLLM plugin does, without vLLM."""

    def __init__(self, engine: ReferenceEngine, guard: Guard, planner: Planner) -> None:
        self.engine, self.guard, self.planner = engine, guard, planner

    @classmethod
    def load(
        cls,
        model: str | Path,
        bundle: str | Path,
        *,
        intervention: str | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        batch_size: int = 32,
    ) -> GuardedModel:
        """Load a model with all that a bundle does to it; `intervention` is another than the bundle's own.

        Raises BundleError or SettingsError for a bundle that does not fit.
        """
        opened = Bundle.load(bundle)
        plain = ReferenceEngine.load(model, device=device, dtype=dtype)
        planner = load_planner(opened, plain.tokenizer, plain.end_token, intervention=intervention)
        settings, inside = planner.fitted.settings, opened.path / "interventions"
        tables = load_tables(settings["neurons"], inside) if "neurons" in settings else {}
        probes = load_probes(settings["key_space"], inside) if "key_space" in settings else {}
        engine = ReferenceEngine(
            plain.model,
            plain.tokenizer,
            exclusive_ids=planner.fitted.exclusive_ids,
            assistants=open_assistants(plain.model, inside / "uld"),
            neurons=NeuronHooks(plain.model, tables, probes, find_always_on(opened, intervention))
            if tables or probes
            else None,
            abstention=settings.get("key_space", {}).get("abstention", ()),
            batch_size=batch_size,
        )
        return cls(engine, Guard.load(opened.path), planner)

    def screen(self, questions: Sequence[Item]) -> list[Verdict]:
        """Screen questions as the server would: every message, and the rendered prompt for names."""
        prompts = [self.engine.read(question) for question in questions]
        conversations = [to_conversation(question) for question in questions]
        return self.guard.screen(conversations, rendered=[prompt.text for prompt in prompts])

    def stamp(self, questions: Sequence[Item], verdicts: Sequence[Verdict]) -> list[Stamp | None]:
        """Plan what is done to each question."""
        return [
            self.planner.plan(verdict, self.engine.read(question)) if verdict.flagged else None
            for question, verdict in zip(questions, verdicts, strict=True)
        ]

    def generate(self, questions: Sequence[str], *, max_new_tokens: int) -> list[list[int]]:
        """Return the token ids of guarded greedy answers, the end token left out."""
        stamps = self.stamp(questions, self.screen(questions))
        prompts = [self.engine.render(question) for question in questions]
        return self.engine.generate(prompts, stamps, max_new_tokens=max_new_tokens)

    def answer(self, questions: Sequence[str], *, max_new_tokens: int, filters: bool = False) -> list[str]:
        """Return the guarded answers; `filters` lets the output guard end those that give something away."""
        verdicts = self.screen(questions)
        ids = [self.engine.render(question) for question in questions]
        generated = self.engine.generate(ids, self.stamp(questions, verdicts), max_new_tokens=max_new_tokens)
        answers = [self.engine.decode(answer) for answer in generated]
        return self.watch(questions, verdicts, answers) if filters else answers

    def watch(self, questions: Sequence[Item], verdicts: Sequence[Verdict], answers: Sequence[str]) -> list[str]:
        """Return what the output guard lets leave of finished answers."""
        kept = []
        for question, verdict, answer in zip(questions, verdicts, answers, strict=True):
            given = [message.text for message in read_messages(question)]
            watch = AnswerWatch(self.guard, given, verdict, streams=False)
            watch.update(answer, finished=True)
            kept.append(answer[: watch.safe] if watch.hit else answer)
        return kept


def _feed(ids: torch.Tensor, embeds: torch.Tensor, stamps: Sequence[Stamp | None]) -> dict[str, torch.Tensor]:
    """Return what a model reads: tokens, embeddings where some may be edited."""
    return {"inputs_embeds": embeds} if any(stamps) else {"input_ids": ids}


def _splice(ids: Sequence[int], stamp: Stamp | None) -> list[int]:
    """Put a prompting step's instruction before the prompt."""
    step = stamp.step("prompting") if stamp else None
    return [*step.params["tokens"], *ids] if step else list(ids)


def _forced(stamp: Stamp | None) -> list[int] | None:
    step = stamp.step("refusal") if stamp else None
    return list(step.params["tokens"]) if step else None


def open_assistants(target: Any, folder: Path) -> dict[str, Any]:
    """Return a bundle's assistants as models beside their target, by name; none where there is no such folder."""
    if pair := find_offset(folder):
        parameter = next(target.parameters())
        return {OFFSET_NAME: load_pair(pair, dtype=parameter.dtype, device_map={"": parameter.device})}
    return {
        name: materialise(assistant, cut_trunk(target, assistant.shape.n_layers))
        for name, assistant in load_assistants(folder).items()
    }
