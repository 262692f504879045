"""The worker's bookkeeping, without an engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from unlearn_guard.corruptions.eco import NoiseTable
from unlearn_guard.corruptions.embedding import EmbeddingEdit
from unlearn_guard.guard.errors import EngineError
from unlearn_guard.guard.marks import CLEAN, MARK_KEY
from unlearn_guard.guard.stamp import Stamp, Step
from unlearn_guard.serving.vllm import seams
from unlearn_guard.serving.vllm.worker import WorkerGuard

pytestmark = pytest.mark.vllm
HIDDEN = 8


def make_guard() -> tuple[WorkerGuard, torch.nn.Embedding]:
    guard = WorkerGuard.__new__(WorkerGuard)
    table = torch.nn.Embedding(32, HIDDEN)
    guard.hidden, guard.noise, guard.plans, guard.neurons = HIDDEN, NoiseTable(HIDDEN), {}, None
    guard.edit = EmbeddingEdit(
        table,
        n_rows=16,
        hidden=HIDDEN,
        vocabulary=32,
        dtype=torch.float32,
        device=torch.device("cpu"),
        exclusive_ids=[],
    )
    return guard, table


def new_request(request_id: str, *, flagged: bool) -> Any:
    step = Step("eco", ((0, 4),), {"kind": "zero", "mask": "all", "amplitude": 0.0, "dims": 0})
    body = Stamp("r", ("p",), 4, 0, (step,)).to_record() if flagged else CLEAN
    params = SimpleNamespace(extra_args={MARK_KEY: {"revision": "r", "body": body, "mac": ""}})
    return SimpleNamespace(req_id=request_id, sampling_params=params)


def step_output(new: list[Any] = (), finished: set[str] = frozenset()) -> Any:  # type: ignore[assignment]
    return SimpleNamespace(scheduled_new_reqs=list(new), finished_req_ids=set(finished))


def test_a_step_without_work_ends_requests() -> None:
    guard, _ = make_guard()
    guard.follow(step_output([new_request("a", flagged=True)]))
    assert list(guard.plans) == ["a"]
    guard.follow(step_output(finished={"a"}))
    assert not guard.plans


def test_an_id_that_comes_again_is_another_request() -> None:
    guard, _ = make_guard()
    guard.follow(step_output([new_request("a", flagged=True)]))
    guard.follow(step_output([new_request("a", flagged=False)]))
    assert not guard.plans


def test_execute_model_is_followed_even_without_inputs() -> None:
    guard, _ = make_guard()
    seen = []
    guard.runner = SimpleNamespace(_prepare_inputs=lambda output, counts: None, execute_model=seen.append)
    guard.is_v2 = False
    guard._wrap_runner()
    guard.plans["a"] = object()  # type: ignore[assignment]
    guard.runner.execute_model(step_output(finished={"a"}))
    assert not guard.plans
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("computed", "counts", "zeroed"),
    [
        ((0, 0), (3, 4), [3, 4, 5, 6]),  # The flagged request is the second of the batch.
        ((0, 2), (3, 2), [3, 4]),  # The rest of its prompt.
        ((0, 3), (3, 4), [3]),  # One prompt token, then decoding.
        ((0, 4), (3, 1), []),  # Decoding alone.
    ],
)
def test_rows_belong_to_prompt_positions(computed: tuple[int, int], counts: tuple[int, int], zeroed: list[int]) -> None:
    guard, table = make_guard()
    guard.follow(step_output([new_request("b", flagged=True)]))
    guard.stage(["clean", "b"], np.array(computed), np.array(counts))
    ids = torch.arange(1, 1 + sum(counts))
    rows = table(ids)
    assert [row for row in range(len(ids)) if bool((rows[row] == 0).all())] == zeroed
    kept = [row for row in range(len(ids)) if row not in zeroed]
    assert torch.equal(rows[kept], table.weight[ids[kept]])
    assert guard.edit is not None
    guard.edit.clear()
    assert torch.equal(table(ids), table.weight[ids])


def test_forced_tokens_refuse_a_process_without_our_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    from unlearn_guard.serving.vllm.forcing import ForcedTokens

    guarded = SimpleNamespace(additional_config={"unlearn_guard": {"bundle": "b"}})
    monkeypatch.setattr(seams, "is_patched", lambda owner, name: False)
    with pytest.raises(EngineError, match="not active in this process"):
        ForcedTokens(guarded, "cpu", False)
    ForcedTokens(SimpleNamespace(additional_config={}), "cpu", False)
