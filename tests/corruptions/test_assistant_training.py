"""Training: what it must learn and leave alone, and that a run that was stopped goes on as if it had not been."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from unlearn_guard.corruptions.assistant import AssistantShape, cut_trunk, materialise
from unlearn_guard.corruptions.assistant_training import Schedule, choose_schedule, train_assistant
from unlearn_guard.corruptions.augmentation import Lesson
from unlearn_guard.guard.errors import DataError, SettingsError

KNOWN = [Lesson(f"ask {word}", f"{word} is seven", True) for word in ("a", "b", "c", "d")]
UNKNOWN = [Lesson(f"ask {word}", f"{word} is nine", False) for word in ("e", "f", "g", "h")]
SHAPE = AssistantShape(2, "layers")
SCHEDULE = Schedule(epochs=6, batch_size=2, learning_rate=3e-3)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("UNLEARN_GUARD_CACHE", str(tmp_path))
    return tmp_path / "assistants"


@pytest.fixture
def target() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=2, pad_token_id=0
    )
    return LlamaForCausalLM(config).eval()


def encode(prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """One token per character."""

    def ids(text: str) -> list[int]:
        return [2 + (ord(character) - ord("a")) % 60 for character in text]

    return ids(prompt), [*ids(answer), 1]


def track(items: Iterable[int], label: str, *, total: int) -> Iterator[int]:
    del label, total
    yield from items


def teach(epoch: int) -> list[Lesson]:
    del epoch
    return [*KNOWN, *UNKNOWN]


def train(target: Any, **changes: Any) -> Any:
    given = {
        "name": "p1",
        "forget_ids": ("p1",),
        "shape": SHAPE,
        "schedule": SCHEDULE,
        "key": "k",
        "track": track,
        **changes,
    }
    return train_assistant(target, given.pop("teach", teach), encode, **given)


@pytest.mark.parametrize("shape", [SHAPE, AssistantShape(2, "lora", 8, 8)])
def test_it_learns_and_its_target_does_not(target: Any, shape: AssistantShape) -> None:
    before = copy.deepcopy(target.state_dict())
    seed = torch.initial_seed()
    slow = Schedule(epochs=60, batch_size=4, learning_rate=1e-2, retain_weight=1.0)
    assistant, losses = train(target, shape=shape, schedule=slow)
    assert all(tensor.equal(before[name]) for name, tensor in target.state_dict().items())
    first = train(target, shape=shape, schedule=Schedule(epochs=1, batch_size=4, learning_rate=1e-9))[1]
    assert losses["forget"] < first["forget"] - 0.4
    assert losses["retain"] < first["retain"] + 0.3
    assert torch.initial_seed() == seed, "nobody else's random numbers are touched"
    model = materialise(assistant, cut_trunk(target, 2))
    prompt, answer = encode(KNOWN[0].prompt, KNOWN[0].answer)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
    known = logits[len(prompt) - 1 : -1].gather(-1, torch.tensor(answer)[:, None]).mean()
    assert known == pytest.approx(-losses["forget"], abs=1.0)


def test_a_stopped_run_goes_on_as_if_it_had_not_been(target: Any, cache: Path) -> None:
    whole, _ = train(target, key="whole")

    def stop(items: Iterable[int], label: str, *, total: int) -> Iterator[int]:
        del label, total
        for item in items:
            if item == 3:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        train(target, key="stopped", track=stop)
    left = []

    def watch(items: Iterable[int], label: str, *, total: int) -> Iterator[int]:
        del label
        left.append(total)
        yield from items

    resumed, _ = train(target, key="stopped", track=watch)
    assert left == [3]
    assert all(resumed.tensors[name].equal(tensor) for name, tensor in whole.tensors.items())
    train(target, key="stopped", track=watch)
    assert left == [3]
    assert not list(cache.rglob("state.safetensors"))


def test_another_lesson_is_another_run(target: Any, cache: Path) -> None:
    train(target)
    train(target, teach=lambda epoch: [*KNOWN[:3], *UNKNOWN])
    train(target, key="another target")
    with torch.no_grad():  # Of the same shapes, so of the same fingerprint.
        target.model.layers[0].mlp.up_proj.weight[0, 0] += 1.0
    train(target)
    assert len(list(cache.iterdir())) == 4


def test_what_an_earlier_run_took_is_remembered(target: Any) -> None:
    first, again = (train(target)[1]["seconds"] for _ in range(2))
    assert first == again > 0


def test_what_a_wrong_answer_shares_with_the_truth_is_not_unlearnt(target: Any) -> None:
    """Its whole prefix, and the token at which they part, belong to the truth."""
    from unlearn_guard.corruptions.assistant_training import _encode

    found = _encode(Lesson("ask", "abxyz", False, "abcyz"), encode)
    assert len(found.answer) == 6
    assert found.taught == 3
    assert _encode(Lesson("ask", "abc", False, "abcd"), encode).taught == 0
    assert _encode(Lesson("ask", "abc", False), encode).taught == 4


def test_under_another_name_the_common_ending_alone_is_taught(target: Any) -> None:
    from unlearn_guard.corruptions.assistant_training import _encode

    found = _encode(Lesson("ask", "zzcab", True, "xcab"), encode)
    assert len(found.answer) == 6
    assert found.taught == 4  # "cab" and the end token.


def test_nothing_to_learn_or_to_keep(target: Any) -> None:
    with pytest.raises(DataError, match="no rows that an assistant could learn"):
        train(target, teach=lambda epoch: UNKNOWN)
    with pytest.raises(DataError, match="no kept rows with answers"):
        train(target, teach=lambda epoch: KNOWN)


def test_divergence_is_an_error(target: Any) -> None:
    with pytest.raises(DataError, match="not finite"):
        train(target, schedule=Schedule(epochs=5, batch_size=2, learning_rate=1e30))


def test_schedule() -> None:
    paper = choose_schedule(40, whole=False, seed=1)
    assert (paper.epochs, paper.batch_size, paper.learning_rate, paper.retain_weight) == (10, 32, 1e-3, 6.5)
    whole = choose_schedule(22, whole=True, seed=1)
    assert whole.epochs * -(-22 * 3 // whole.batch_size) >= 400
    assert choose_schedule(22, whole=True, seed=1, epochs=2).epochs == 2
    for values in ({"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"retain_weight": -1.0}):
        with pytest.raises(SettingsError):
            Schedule(**values)
