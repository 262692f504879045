"""The logit-difference processor without an engine: whose rows it follows, and that it touches no others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unlearn_guard.guard.errors import EngineError
from unlearn_guard.guard.marks import CLEAN, MARK_KEY
from unlearn_guard.guard.stamp import Stamp

pytestmark = pytest.mark.vllm
VOCABULARY = 60


class FakeChorus:
    """Says that the last token of a request is what must not follow."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.open_contexts: list[Any] = []

    def open(self, assistant: str, read: Any) -> Any:
        context = SimpleNamespace(assistant=assistant, read=read)
        self.open_contexts.append(context)
        return context

    def close(self, context: Any) -> None:
        self.open_contexts.remove(context)

    def listen(self, contexts: list[Any]) -> torch.Tensor:
        said = torch.zeros(len(contexts), VOCABULARY)
        for row, context in enumerate(contexts):
            said[row, context.read(0)[-1]] = 100.0
        return said


def make_processor(states: Any = None) -> Any:
    from unlearn_guard.serving.vllm.subtraction import LogitDifference

    config = SimpleNamespace(additional_config={})
    processor = LogitDifference(config, states) if states is not None else LogitDifference(config, "cpu", False)
    processor.attach(FakeChorus())
    return processor


def make_params(assistants: tuple[str, ...] = ("a",), *, weight: float = 1.0) -> Any:
    from unlearn_guard.corruptions.uld import UldSettings, plan_uld

    step = plan_uld(UldSettings(weight=weight), assistants)
    body = Stamp("r", ("p1",), 2, 0, (step,)).to_record()
    return SimpleNamespace(extra_args={MARK_KEY: {"revision": "r", "body": body, "mac": ""}})


CLEAN_PARAMS = SimpleNamespace(extra_args={MARK_KEY: {"revision": "r", "body": CLEAN, "mac": ""}})


def update(processor: Any, *, added: Any = (), removed: Any = (), moved: Any = (), size: int = 4) -> None:
    from vllm.v1.sample.logits_processor.interface import BatchUpdate

    processor.update_state(BatchUpdate(size, list(removed), list(added), list(moved)))


def make_logits(n_rows: int = 4) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(n_rows, VOCABULARY)


def find_changed(processor: Any, logits: torch.Tensor) -> list[int]:
    found = processor.begin(logits.clone())
    processor.apply(found)
    return [row for row in range(len(logits)) if not found[row].equal(logits[row])]


def test_flagged_rows_alone_change() -> None:
    processor, logits = make_processor(), make_logits()
    update(processor, added=[(0, CLEAN_PARAMS, [1], []), (1, make_params(), [1, 2], [7]), (2, None, [1], [])])
    found = processor.begin(logits)
    for row in (0, 2, 3):
        assert found[row].equal(logits[row])
    assert found[1, 7] < logits[1, 7] - 50 or found[1, 7] == -torch.inf
    assert torch.isfinite(found[1]).sum() >= 40
    assert found.dtype == torch.float32
    assert logits.equal(make_logits())


def test_without_flagged_rows_nothing_is_copied() -> None:
    processor, logits = make_processor(), make_logits()
    update(processor, added=[(0, CLEAN_PARAMS, [1], [])])
    assert processor.begin(logits) is logits
    assert processor.apply(logits) is logits


def test_apply_does_what_begin_did_not() -> None:
    """A sampler that is called in some other way must not let a flagged row through."""
    processor, logits = make_processor(), make_logits()
    update(processor, added=[(1, make_params(), [1, 2], [])])
    begun = processor.begin(logits)
    assert processor.apply(begun) is begun
    assert processor.apply(logits)[1].equal(begun[1])


def test_rows_follow_moves_swaps_and_removals() -> None:
    from vllm.v1.sample.logits_processor.interface import MoveDirectionality

    processor, logits = make_processor(), make_logits()
    update(processor, added=[(0, make_params(), [1], []), (3, make_params(("a", "b")), [2], [])])
    assert find_changed(processor, logits) == [0, 3]
    assert len(processor._chorus.open_contexts) == 3
    update(processor, moved=[(0, 1, MoveDirectionality.SWAP)])
    assert find_changed(processor, logits) == [1, 3]
    update(processor, removed=[1], moved=[(3, 1, MoveDirectionality.UNIDIRECTIONAL)])
    assert find_changed(processor, logits) == [1]
    assert [context.assistant for context in processor._chorus.open_contexts] == ["a", "b"]
    update(processor, added=[(1, CLEAN_PARAMS, [4], [])])
    assert find_changed(processor, logits) == []
    assert processor._chorus.open_contexts == []


def test_output_is_read_as_it_grows() -> None:
    processor, logits, output = make_processor(), torch.zeros(1, VOCABULARY), []
    update(processor, added=[(0, make_params(), [1, 2], output)])
    for token in (2, 9, 11):
        found = processor.begin(logits)
        processor.apply(found)
        assert found[0].isneginf().nonzero().flatten().tolist() == [] or found[0, token] <= found[0].max()
        assert int(found[0].nan_to_num(neginf=-1e9).argmin()) == (token if token != 2 else 2)
        output.append(9 if token == 2 else 11)


def test_v2_slots_are_recycled_and_read_from_the_device() -> None:
    tokens = torch.zeros(4, 8, dtype=torch.int32)
    tokens[2, :3] = torch.tensor([5, 6, 7])
    states = SimpleNamespace(
        all_token_ids=SimpleNamespace(gpu=tokens), total_len=SimpleNamespace(gpu=torch.tensor([0, 0, 3, 0]))
    )
    processor, logits = make_processor(states), torch.zeros(2, VOCABULARY)
    assert processor.add_request(2, make_params())
    assert not processor.add_request(0, CLEAN_PARAMS)
    found = processor.begin(logits, [0, 2])
    assert found[0].equal(logits[0])
    assert int(found[1].argmin()) == 7
    assert processor.begin(logits, [0]) is logits
    assert not processor.add_request(2, CLEAN_PARAMS)
    assert processor.begin(logits, [0, 2]) is logits


def test_no_assistants_is_an_error_not_a_leak() -> None:
    processor = make_processor()
    processor.attach(None)
    update(processor, added=[(0, make_params(), [1], [])])
    with pytest.raises(EngineError, match="none are loaded"):
        processor.begin(make_logits())


def test_rows_of_other_settings_and_assistants_are_what_they_are_alone() -> None:
    """Rows alike go through one pass of the formula; each must get what its own assistants said."""
    rows = [
        (0, make_params(("a", "b")), [1], [5]),
        (1, make_params(weight=0.02), [1], [6]),
        (2, make_params(("a", "b")), [1], [7]),
        (3, make_params(), [1], [8]),
    ]
    logits = make_logits()
    together = make_processor()
    update(together, added=rows)
    found = together.begin(logits)
    for row in rows:
        alone = make_processor()
        update(alone, added=[row])
        assert found[row[0]].equal(alone.begin(logits)[row[0]])
    assert not found[0].equal(found[2])


def test_the_canary_hears_an_assistant_that_says_nothing() -> None:
    processor = make_processor()
    assert processor.prove(["a", "b"], VOCABULARY)
    assert processor._chorus.open_contexts == []
    processor._chorus.listen = lambda contexts: torch.zeros(len(contexts), VOCABULARY)
    assert not processor.prove(["a"], VOCABULARY)


def test_other_ranks_take_what_the_first_decides() -> None:
    class Group:
        world_size, rank_in_group = 2, 1

        def broadcast(self, tensor: torch.Tensor, src: int) -> torch.Tensor:
            assert src == 0
            return torch.full_like(tensor, 3.0)

    processor, logits = make_processor(), make_logits()
    processor.attach(None, Group())
    update(processor, added=[(2, make_params(), [1], [])])
    found = processor.begin(logits)
    assert found[2].eq(3.0).all()
    assert found[1].equal(logits[1])
