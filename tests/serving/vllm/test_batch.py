"""The follower of the batch: whose entry lies at which row, in both runners, and what is given back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.vllm


def make_follower(*rest: Any) -> Any:
    from unlearn_guard.serving.vllm.batch import BatchFollower

    class Follower(BatchFollower[str]):
        closed: list[str] = []

        def open_row(self, params: Any, prompt: Any, output: Any) -> str | None:
            return params

        def close_row(self, entry: str) -> None:
            self.closed.append(entry)

        def apply(self, logits: Any) -> Any:
            return logits

    follower = Follower(SimpleNamespace(additional_config={}), *rest)
    follower.closed = []
    return follower


def update(follower: Any, *, added: Any = (), removed: Any = (), moved: Any = ()) -> None:
    from vllm.v1.sample.logits_processor.interface import BatchUpdate

    follower.update_state(
        BatchUpdate(4, list(removed), [(row, params, None, []) for row, params in added], list(moved))
    )


def test_rows_are_added_swapped_moved_and_replaced() -> None:
    from vllm.v1.sample.logits_processor.interface import MoveDirectionality

    follower = make_follower("cpu", False)
    follower.update_state(None)
    update(follower, added=[(0, "a"), (1, None), (2, "b")])
    assert follower._rows == {0: "a", 2: "b"}
    update(follower, moved=[(0, 2, MoveDirectionality.SWAP), (2, 1, MoveDirectionality.SWAP)])
    assert follower._rows == {0: "b", 1: "a"}
    update(follower, moved=[(0, 1, MoveDirectionality.UNIDIRECTIONAL)])
    assert (follower._rows, follower.closed) == ({1: "b"}, ["a"])
    update(follower, added=[(1, None)])
    assert (follower._rows, follower.closed) == ({}, ["a", "b"])
    update(follower, added=[(3, "c")])
    update(follower, removed=[3, 0])
    assert (follower._rows, follower.closed) == ({}, ["a", "b", "c"])


def test_slots_are_taken_over() -> None:
    follower = make_follower(SimpleNamespace())
    assert follower.add_request(5, "a")
    assert follower.add_request(5, "b")
    assert not follower.add_request(5, None)
    assert (follower._rows, follower.closed) == ({}, ["a", "b"])


@pytest.mark.parametrize("states", [None, SimpleNamespace(device="cpu")])
def test_refused_rows_say_their_tokens_one_by_one(states: Any) -> None:
    import numpy as np
    import torch

    from unlearn_guard.guard.marks import MARK_KEY
    from unlearn_guard.guard.stamp import Stamp, Step
    from unlearn_guard.serving.vllm.forcing import ForcedTokens

    body = Stamp("r", ("p1",), 3, 0, (Step("refusal", (), {"tokens": [4, 6]}),)).to_record()
    params = SimpleNamespace(extra_args={MARK_KEY: {"revision": "r", "body": body, "mac": ""}})
    config = SimpleNamespace(additional_config={})
    output: list[int] = []
    if states is None:
        processor = ForcedTokens(config, "cpu", False)
        from vllm.v1.sample.logits_processor.interface import BatchUpdate

        processor.update_state(BatchUpdate(2, [], [(1, params, [1, 2, 3], output)], []))
    else:
        processor = ForcedTokens(config, states)
        assert processor.add_request(7, params)
    for step, token in enumerate((4, 6, 6)):
        context = None
        if states is not None:
            slots = np.array([3, 7])
            context = SimpleNamespace(
                idx_mapping_np=slots, expanded_idx_mapping=torch.tensor(slots), pos=torch.tensor([9, 2 + step])
            )
        found = processor.apply(torch.zeros(2, 10), context)
        assert found[0].tolist() == [0.0] * 10
        assert found[1].isfinite().nonzero().flatten().tolist() == [token]
        output.append(token)
