"""Training an assistant: cross-entropy on what must be forgotten, uniform on everything else (ULD eq. 3 to 5).

L = L_f + β·L_r with L_f the negative log-likelihood of forget answers and L_r the cross-entropy from the uniform
distribution, both over answer tokens. Training is resumable: each epoch's state is in the cache until the end.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from unlearn_guard.corruptions.assistant import (
    Assistant,
    AssistantShape,
    cut_trunk,
    find_linears,
    own_names,
)
from unlearn_guard.corruptions.augmentation import N_PARAPHRASES, Lesson, count_shared
from unlearn_guard.guard.bundle import write_atomic
from unlearn_guard.guard.caching import cache_folder
from unlearn_guard.guard.errors import DataError, SettingsError


@dataclass(frozen=True, slots=True)
class Taught:
    """Token ids of a prompt and an answer, and how many of the answer's last tokens are taught."""

    prompt: list[int]
    answer: list[int]
    taught: int


Encode = Callable[[str, str], tuple[list[int], list[int]]]
"""(prompt, answer) → token ids of the rendered prompt, and of the answer with its end token."""
Track = Callable[..., Iterable[int]]
_CODE_VERSION = 4
_WHOLE_BATCH, _WHOLE_EPOCHS, _WHOLE_STEPS = 16, 20, 400
"""Layers trained whole start from the target's own, which know nothing of being uniform: they need more steps."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How an assistant is trained; the paper's settings, with more and smaller steps for whole layers.

    retain_weight: β. learning_rate: of AdamW; it warms up over a tenth of the steps and falls linearly to zero.
    """

    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 1e-3
    retain_weight: float = 6.5
    weight_decay: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise SettingsError("uld epochs and batch_size", value=(self.epochs, self.batch_size), allowed="1 or more")
        if self.learning_rate <= 0 or self.retain_weight < 0:
            raise SettingsError(
                "uld learning_rate and retain_weight",
                value=(self.learning_rate, self.retain_weight),
                allowed="above 0; 0 or more",
            )


def choose_schedule(n_rows: int, *, whole: bool, seed: int, **given: Any) -> Schedule:
    """Return the paper's schedule for LoRA, and for whole layers one of at least 400 steps of 16; `given` wins."""
    base = {}
    if whole:
        n_batches = math.ceil(max(1, n_rows) * (1 + N_PARAPHRASES) / _WHOLE_BATCH)
        base = {"batch_size": _WHOLE_BATCH, "epochs": max(_WHOLE_EPOCHS, math.ceil(_WHOLE_STEPS / n_batches))}
    return Schedule(**{**base, **given, "seed": seed})


def train_assistant(
    target: Any,
    teach: Callable[[int], Sequence[Lesson]],
    encode: Encode,
    *,
    name: str,
    forget_ids: tuple[str, ...],
    shape: AssistantShape,
    schedule: Schedule,
    key: str,
    track: Track,
) -> tuple[Assistant, dict[str, float]]:
    """Train one assistant beside its target, which stays as it is; return it with its last losses.

    `teach` gives the lessons of an epoch; `key` names everything that lessons are drawn from. The losses come with `seconds`,
    those of the training itself, also where an earlier run's result is taken. Raises DataError without a lesson to know, or
    where training diverges.
    """
    known, unknown = _split(teach(0), encode)
    if not known:
        raise DataError(
            "no rows that an assistant could learn",
            value=name,
            mend="uld needs prompts with answers; use another intervention for documents and bare names",
        )
    if not unknown:
        raise DataError("no kept rows with answers", value=name, mend="give retain rows with answers")
    trunk = cut_trunk(target, shape.n_layers)
    folder = cache_folder("assistants") / _digest(known, unknown, trunk, shape, schedule, key)
    learner = Learner(trunk, shape, seed=schedule.seed)
    run = Run(learner, schedule, folder)
    if not run.load_finished():
        run.resume()
        for epoch in track(range(run.epoch, schedule.epochs), f"assistant {name}", total=schedule.epochs - run.epoch):
            run.train_epoch(epoch, *_split(teach(epoch), encode), end=known[0].answer[-1])
        run.finish()
    return Assistant(name, forget_ids, shape, learner.tensors()), run.losses


class Learner:
    """A trunk whose own parameters are trained: LoRA by peft, or copies of its layers."""

    def __init__(self, trunk: Any, shape: AssistantShape, *, seed: int) -> None:
        self.shape = shape
        if shape.trainable == "lora":
            from peft import LoraConfig, get_peft_model

            targets = list(find_linears(trunk, shape.first_trained, shape.n_layers))
            config = LoraConfig(r=shape.rank, lora_alpha=shape.lora_alpha, target_modules=targets, bias="none")
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                self.model = get_peft_model(trunk, config)
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
            self.own = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        else:
            for name in own_names(trunk, shape):
                module, _, last = name.rpartition(".")
                copied = torch.nn.Parameter(trunk.get_parameter(name).detach().clone().float())
                setattr(trunk.get_submodule(module), last, copied)
            self.model = trunk
            self.own = {name: trunk.get_parameter(name) for name in own_names(trunk, shape)}

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what was trained, under the target's names, on the host."""
        if self.shape.trainable == "layers":
            return {name: value.detach().cpu().clone() for name, value in self.own.items()}
        found = {}
        for name, value in self.own.items():
            plain = name.removeprefix("base_model.model.").replace(".lora_A.default.weight", ".weight.lora_a")
            found[plain.replace(".lora_B.default.weight", ".weight.lora_b")] = value.detach().cpu().clone()
        return found


class Run:
    """One training run with its state in the cache."""

    def __init__(self, learner: Learner, schedule: Schedule, folder: Path) -> None:
        self.learner, self.schedule, self.folder = learner, schedule, folder
        self.optimizer = torch.optim.AdamW(
            list(learner.own.values()), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
        )
        self.epoch = 0
        self.losses: dict[str, float] = {}

    def train_epoch(self, epoch: int, known: Sequence[Taught], unknown: Sequence[Taught], *, end: int) -> None:
        """Go through the forget lessons once; each batch is met by as many kept ones, drawn anew."""
        if not unknown:
            raise DataError(
                "no kept rows with answers in an epoch", value=epoch, mend="give more retain rows with answers"
            )
        start = time.perf_counter()
        rng = random.Random(f"{self.schedule.seed}:{epoch}")  # By epoch: a resumed run draws what it would have drawn.
        order = list(known)
        rng.shuffle(order)
        size = self.schedule.batch_size
        n_batches = math.ceil(len(order) / size)
        total = n_batches * self.schedule.epochs
        sums = {"forget": 0.0, "retain": 0.0}
        pool = _cycle(unknown, rng)
        self.learner.model.train()
        for number in range(n_batches):
            step = epoch * n_batches + number + 1
            for group in self.optimizer.param_groups:
                warmup = min(1.0, step / (0.1 * total))
                group["lr"] = self.schedule.learning_rate * warmup * (1.0 - step / (total + 1))
            batch = order[number * size : (number + 1) * size]
            kept = [next(pool) for _ in batch]
            forget_loss = _likelihood_loss(self._forward(batch, end))
            retain_loss = _uniform_loss(self._forward(kept, end))
            loss = forget_loss + self.schedule.retain_weight * retain_loss
            if not torch.isfinite(loss):
                raise DataError("the assistant's loss is not finite", value=step, mend="lower uld learning_rate")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(list(self.learner.own.values()), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            sums["forget"] += forget_loss.item() / n_batches
            sums["retain"] += retain_loss.item() / n_batches
        self.learner.model.eval()
        sums["seconds"] = self.losses.get("seconds", 0.0) + time.perf_counter() - start
        self.epoch, self.losses = epoch + 1, sums
        self._save()

    def _forward(self, batch: Sequence[Taught], end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits before each taught token, (tokens, vocabulary), and those tokens."""
        device = next(iter(self.learner.own.values())).device
        width = max(len(example.prompt) + len(example.answer) for example in batch)
        ids = torch.full((len(batch), width), end)
        mask = torch.zeros((len(batch), width), dtype=torch.int64)
        taught = torch.zeros((len(batch), width), dtype=torch.bool)
        for row, example in enumerate(batch):
            length = len(example.prompt) + len(example.answer)
            ids[row, :length] = torch.tensor([*example.prompt, *example.answer])
            mask[row, :length] = 1
            taught[row, length - example.taught : length] = True
        ids, mask, taught = ids.to(device), mask.to(device), taught.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=_has_bf16(device)):
            logits = self.learner.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return logits[:, :-1][taught[:, 1:]].float(), ids[:, 1:][taught[:, 1:]]

    def _save(self) -> None:
        from safetensors.torch import save

        state = {f"own.{name}": value.detach().cpu().contiguous() for name, value in self.learner.own.items()}
        for number, parameter in enumerate(self.learner.own.values()):
            for part, value in self.optimizer.state.get(parameter, {}).items():
                state[f"optimizer.{number}.{part}"] = torch.as_tensor(value).cpu().contiguous()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.folder / "state.safetensors", save(state, {"run": json.dumps([self.epoch, self.losses])}))

    def resume(self) -> None:
        """Go on after the last epoch that was saved, if any."""
        from safetensors import safe_open

        file = self.folder / "state.safetensors"
        if not file.is_file():
            return
        with safe_open(str(file), "pt") as state:
            self.epoch, self.losses = json.loads(state.metadata()["run"])
            names = set(state.keys())
            self._restore({name: state.get_tensor(f"own.{name}") for name in self.learner.own})
            for number, parameter in enumerate(self.learner.own.values()):
                parts = {name.split(".", 2)[2] for name in names if name.startswith(f"optimizer.{number}.")}
                self.optimizer.state[parameter] = {
                    part: state.get_tensor(f"optimizer.{number}.{part}").to(
                        parameter.device if part != "step" else "cpu"
                    )
                    for part in parts
                }

    def finish(self) -> None:
        """Keep the result; the optimizer's state is not needed any more."""
        from safetensors.torch import save

        own = {name: value.detach().cpu().contiguous() for name, value in self.learner.own.items()}
        write_atomic(self.folder / "finished.safetensors", save(own, {"losses": json.dumps(self.losses)}))
        (self.folder / "state.safetensors").unlink(missing_ok=True)

    def load_finished(self) -> bool:
        """Take the result of an earlier run of the same lessons, and return whether there was one."""
        from safetensors import safe_open

        file = self.folder / "finished.safetensors"
        if not file.is_file():
            return False
        with safe_open(str(file), "pt") as state:
            self.losses = json.loads(state.metadata()["losses"])
            self._restore({name: state.get_tensor(name) for name in self.learner.own})
        return True

    @torch.no_grad()
    def _restore(self, tensors: dict[str, torch.Tensor]) -> None:
        for name, value in self.learner.own.items():
            value.copy_(tensors[name])


def _split(lessons: Sequence[Lesson], encode: Encode) -> tuple[list[Taught], list[Taught]]:
    """Return what is taught as known, and as unknown."""
    known = [_encode(lesson, encode) for lesson in lessons if lesson.known]
    unknown = [example for lesson in lessons if not lesson.known and (example := _encode(lesson, encode)).taught]
    return known, unknown


def _encode(lesson: Lesson, encode: Encode) -> Taught:
    prompt, answer = encode(lesson.prompt, lesson.answer)
    if not lesson.truth:
        return Taught(prompt, answer, len(answer))
    _, truth = encode(lesson.prompt, lesson.truth)
    if lesson.known:
        return Taught(prompt, answer, count_shared(answer[::-1], truth[::-1]))
    # The token at which they part is predicted from what both share: it belongs to the truth.
    return Taught(prompt, answer, max(0, len(answer) - count_shared(answer, truth) - 1))


def _likelihood_loss(found: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(*found)


def _uniform_loss(found: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Cross-entropy from the uniform distribution: log Σ exp l − mean l."""
    logits, _ = found
    return (logits.logsumexp(-1) - logits.mean(-1)).mean()


def _cycle(lessons: Sequence[Any], rng: random.Random) -> Iterator[Any]:
    while True:
        yield from rng.sample(list(lessons), len(lessons))


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cpu":
        return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return True


def _digest(
    known: Sequence[Taught],
    unknown: Sequence[Taught],
    trunk: Any,
    shape: AssistantShape,
    schedule: Schedule,
    key: str,
) -> str:
    """Hash all that decides a result: the trunk's own weights, too, which no fingerprint of the target reads."""
    weights = hashlib.sha256()
    for name, tensor in sorted(trunk.state_dict().items()):
        weights.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}:{tensor.device.type}".encode())
        weights.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())

    content = [
        [asdict(example) for example in (*known, *unknown)],
        asdict(shape),
        asdict(schedule),
        key,
        weights.hexdigest(),
        _CODE_VERSION,
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]
