"""From-scratch training of small Llama-architecture models that really know a world.

One thread, bf16 autocast where the processor has it, batch 8: many small updates per second. Each epoch draws another
phrasing, a wrapper, lower case or a typo, because a model that sees one string per fact memorises the string and any
rewording "unlearns" it. Run as a module, it trains one model in a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from unlearn_guard.benchmarks.dataset import Example, Suite
from unlearn_guard.benchmarks.world import TRAINED_WRAPPERS, make_world
from unlearn_guard.guard.bundle import replace_folder
from unlearn_guard.guard.caching import cache_folder
from unlearn_guard.guard.errors import DataError, UnknownNameError, UnlearnGuardError
from unlearn_guard.guard.progress import console

USER, ASSISTANT, END = "<|user|>", "<|assistant|>", "<|end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    + ASSISTANT
    + "{{ message['content'] }}"
    + END
    + "{% else %}"
    + USER
    + "{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}" + ASSISTANT + "{% endif %}"
)
_CODE_VERSION = 1
_RECORD = "training.json"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Shape and schedule of one training run."""

    hidden: int = 128
    layers: int = 4
    heads: int = 2
    mlp: int = 352
    vocabulary: int = 2048
    epochs: int = 24
    learning_rate: float = 3e-3
    batch_size: int = 8
    wrapped: float = 0.30
    lowered: float = 0.12
    misspelt: float = 0.13
    draws: int = 2
    """How many phrasings of a fact one epoch uses."""
    experts: int = 0
    """Of a mixture in each layer, two of which read a token; 0 for one plain network."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """One model to train: its examples, and the texts its tokenizer is made from."""

    name: str
    examples: list[Example]
    texts: list[str]
    recipe: Recipe = field(default_factory=Recipe)

    @property
    def key(self) -> str:
        """A hash of everything that decides the result."""
        content = [asdict(example) for example in self.examples], self.texts, asdict(self.recipe), _CODE_VERSION
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def make_jobs(suite: Suite, recipe: Recipe | None = None, *, reads_unread: bool = False) -> list[Job]:
    """Return the two models of a suite: `full` knows everything, `retain-only` never saw the forget set.

    They share a tokenizer, so that their probabilities compare. reads_unread: make it from the suite's unread texts, too, as membership
    attacks need it.
    """
    read = [*suite.full, *suite.unread] if reads_unread else suite.full
    texts = [text for example in read for text in (*example.phrasings, example.answer)]
    recipe = recipe or Recipe()
    return [Job("full", suite.full, texts, recipe), Job("retain-only", suite.retain, texts, recipe)]


_TWIN_SEED = 500
_BASE_SEED = 300
_N_EXPERTS = 4
_N_STRANGERS = 40
FURTHER = ("twin", "upgrade", "mixture", "base")
"""Models that a row or a study needs beside the two of a suite."""


def make_further_job(name: str, suite: Suite, recipe: Recipe, *, reads_unread: bool = False) -> Job:
    """Return one of the further models of a suite, all of which share its tokenizer.

    twin, upgrade: `retain-only` and `full` of another training seed. mixture: four experts in each layer, two of which read a token, that
    know everything. base: knows other people alone, invented ones whom no world of the suite's has; and what everybody knows.
    Raises UnknownNameError for another name.
    """
    if name not in FURTHER:
        raise UnknownNameError("model", name, FURTHER)
    full, retain = make_jobs(suite, recipe, reads_unread=reads_unread)
    other = replace(recipe, seed=recipe.seed + _TWIN_SEED)
    if name == "twin":
        return replace(retain, name=name, recipe=other)
    if name == "upgrade":
        return replace(full, name=name, recipe=other)
    if name == "mixture":
        return replace(full, name=name, recipe=replace(recipe, experts=_N_EXPERTS, mlp=recipe.mlp // 2))
    names = {item.name for items in suite.sets.values() for item in items if item.name}
    strangers = make_world(n_people=_N_STRANGERS, n_forget=1, n_holdout=0, seed=recipe.seed + _BASE_SEED).full
    examples = [
        example for example in strangers if not any(known in text for known in names for text in example.phrasings)
    ]
    common = [example for example in suite.full if not example.subject]
    known = {example.phrasings for example in examples}
    return Job(
        name, [*examples, *(example for example in common if example.phrasings not in known)], full.texts, recipe
    )


def train_models(jobs: Sequence[Job], *, device: str = "cpu") -> dict[str, Path]:
    """Train models in parallel processes and return their folders by name; finished ones come from the cache.

    Another process that is training one of them is waited for. Raises UnlearnGuardError, with the end of its output, when a training
    process fails.
    """
    folders = {job.name: cache_folder("models") / job.key for job in jobs}
    with ExitStack() as stack:
        # In one order for everybody, or two processes would wait for each other.
        for folder in sorted({folder for folder in folders.values() if not _is_finished(folder)}):
            folder.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(folder.with_suffix(".lock")))
        missing = list({job.key: job for job in jobs if not _is_finished(folders[job.name])}.values())
        if missing:
            _train_all(missing, folders, device)
    return folders


def read_seconds(folder: Path) -> float | None:
    """Return how long a model was trained; None where it was not trained here."""
    record = folder / _RECORD
    return float(json.loads(record.read_text())["seconds"]) if record.is_file() else None


def _is_finished(folder: Path) -> bool:
    """Return whether a model is there; raise DataError where one of its files is not as it was written."""
    if not (folder / "config.json").is_file():
        return False
    record = folder / _RECORD
    try:
        sizes = json.loads(record.read_text()).get("bytes", {}) if record.is_file() else {}
    except ValueError:
        sizes = {_RECORD: -1}
    for name, size in sizes.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != size:
            raise DataError("a trained model is damaged", value=str(file), mend=f"delete {folder}; it is trained again")
    return True


def _train_all(missing: Sequence[Job], folders: dict[str, Path], device: str) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[loss]}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        runs = [(job, *_start(job, folders[job.name], device)) for job in missing]
        watchers = []
        for job, process, _ in runs:
            bar = progress.add_task(f"train {job.name}", total=job.recipe.epochs, loss="")
            watcher = threading.Thread(target=_watch, args=(process, progress, bar, job.name))
            watcher.start()
            watchers.append(watcher)
        for watcher in watchers:
            watcher.join()
        for job, process, log in runs:
            code = process.wait()
            log.seek(0)
            tail = log.read()[-800:]
            log.close()
            if code != 0:
                raise UnlearnGuardError(f"training {job.name} failed (exit code {code}): {tail.strip()}")


def _start(job: Job, folder: Path, device: str) -> tuple[subprocess.Popen[str], Any]:
    import tempfile

    log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed once the process is done)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "KMP_BLOCKTIME": "0", "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(
        [sys.executable, "-m", "unlearn_guard.benchmarks.training", str(folder), device],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=environment,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(job)))
    process.stdin.close()
    return process, log


def _watch(process: subprocess.Popen[str], progress: Progress, bar: Any, name: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if not line.startswith("epoch "):
            continue
        _, epoch, _, loss = line.split()
        progress.update(bar, completed=int(epoch), loss=f"loss {loss}")
        if not console.is_terminal and int(epoch) % 8 == 0:
            print(f"train {name}: epoch {epoch}, loss {loss}", file=sys.stderr, flush=True)


def train(job: Job, folder: Path, device: str = "cpu") -> None:
    """Train one model in this process and write it to `folder`, atomically."""
    import torch

    recipe, start = job.recipe, time.perf_counter()
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    rng = random.Random(f"training:{recipe.seed}")
    tokenizer = make_tokenizer(job.texts, recipe.vocabulary)
    user, assistant, end = (tokenizer.convert_tokens_to_ids(token) for token in (USER, ASSISTANT, END))
    model = _make_model(recipe, len(tokenizer), end).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True
    )
    n_batches = math.ceil(len(job.examples) * _draws(job) / recipe.batch_size)
    total = n_batches * recipe.epochs
    half = device != "cpu" or (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    step = 0
    for epoch in range(1, recipe.epochs + 1):
        model.train()
        rows = []
        for example in job.examples:
            for phrasing in rng.sample(example.phrasings, min(_draws(job), len(example.phrasings))):
                question = tokenizer(_augment(phrasing, recipe, rng), add_special_tokens=False).input_ids
                answer = tokenizer(example.answer, add_special_tokens=False).input_ids
                rows.append(([user, *question, assistant], [*answer, end]))
        # Batches of like length waste no padding; their order is random.
        rng.shuffle(rows)
        rows.sort(key=lambda row: len(row[0]) + len(row[1]) + rng.random() * 4)
        batches = [rows[start : start + recipe.batch_size] for start in range(0, len(rows), recipe.batch_size)]
        rng.shuffle(batches)
        losses = []
        for batch in batches:
            step += 1
            warmup = min(1.0, step / (0.03 * total))
            decay = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * warmup * decay
            width = max(len(question) + len(answer) for question, answer in batch)
            ids = torch.full((len(batch), width), end)
            labels = torch.full((len(batch), width), -100)
            mask = torch.zeros((len(batch), width), dtype=torch.int64)
            inputs = {"input_ids": ids, "attention_mask": mask, "labels": labels}
            for place, (question, answer) in enumerate(batch):
                length = len(question) + len(answer)
                ids[place, :length] = torch.tensor([*question, *answer])
                labels[place, len(question) : length] = torch.tensor(answer)
                mask[place, :length] = 1
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=half):
                loss = model(**{name: rows.to(device) for name, rows in inputs.items()}).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
        print(f"epoch {epoch} loss {float(sum(losses)) / len(losses):.4f}", flush=True)
    if recipe.experts:  # The balance of experts is a loss of training alone.
        model.config.output_router_logits = False
    staging = folder.parent / f".{folder.name}.{os.getpid()}"
    model.eval().cpu().save_pretrained(staging)
    tokenizer.save_pretrained(staging)
    sizes = {file.name: file.stat().st_size for file in sorted(staging.iterdir())}
    (staging / _RECORD).write_text(json.dumps({"seconds": time.perf_counter() - start, "bytes": sizes}))
    replace_folder(staging, folder)


def _make_model(recipe: Recipe, n_tokens: int, end: int) -> Any:
    """Return an untrained Llama, or a Mixtral where the recipe has experts."""
    from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

    shape = {
        "vocab_size": n_tokens,
        "hidden_size": recipe.hidden,
        "intermediate_size": recipe.mlp,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "num_key_value_heads": recipe.heads,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": end,
    }
    if not recipe.experts:
        return LlamaForCausalLM(LlamaConfig(**shape))
    mixture = {"num_local_experts": recipe.experts, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.01}
    return MixtralForCausalLM(MixtralConfig(**shape, **mixture, output_router_logits=True))


def _draws(job: Job) -> int:
    """How many phrasings of a fact one epoch uses: no more than there are."""
    return min(job.recipe.draws, max(len(example.phrasings) for example in job.examples))


def _augment(question: str, recipe: Recipe, rng: random.Random) -> str:
    text = rng.choice(TRAINED_WRAPPERS).format(question) if rng.random() < recipe.wrapped else question
    if rng.random() < recipe.lowered:
        text = text.lower()
    if rng.random() < recipe.misspelt and len(text) > 8:
        place = rng.randrange(1, len(text) - 2)
        text = text[:place] + text[place + 1] + text[place] + text[place + 2 :]
    return text


def make_tokenizer(texts: Sequence[str], vocabulary: int) -> Any:
    """Train a byte-level BPE tokenizer with the chat template `<|user|>…<|assistant|>…<|end|>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def main() -> None:
    """Read a job from standard input and train it."""
    record = json.load(sys.stdin)
    examples = [Example(tuple(item["phrasings"]), item["answer"], item["subject"]) for item in record["examples"]]
    train(Job(record["name"], examples, record["texts"], Recipe(**record["recipe"])), Path(sys.argv[1]), sys.argv[2])


if __name__ == "__main__":
    main()
