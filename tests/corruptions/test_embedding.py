"""Hooks on the embedding: staged rows change as the formula says, all others not at all."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from unlearn_guard.corruptions.eco import RowEdits
from unlearn_guard.corruptions.embedding import EmbeddingEdit

VOCABULARY, HIDDEN, ROWS = 12, 5, 8
IDS = torch.tensor([3, 1, 4, 1, 5, 9])
RNG = np.random.default_rng(0)


@pytest.fixture
def module() -> torch.nn.Embedding:
    torch.manual_seed(0)
    return torch.nn.Embedding(VOCABULARY, HIDDEN)


@pytest.fixture
def edit(module: torch.nn.Embedding) -> Iterator[EmbeddingEdit]:
    made = attach(module)
    yield made
    made.remove()


def attach(module: torch.nn.Embedding) -> EmbeddingEdit:
    return EmbeddingEdit(
        module,
        n_rows=ROWS,
        hidden=HIDDEN,
        vocabulary=VOCABULARY,
        dtype=module.weight.dtype,
        device=torch.device("cpu"),
        exclusive_ids=[1, 9],
    )


def stage(n_rows: int = 2, *, scale: float = 0.5, dims: int = HIDDEN, shift: bool = True) -> RowEdits:
    edits = RowEdits.blank(n_rows, HIDDEN)
    edits.dims[:], edits.scale[:] = dims, scale
    if shift:
        edits.shift[:, :dims] = RNG.standard_normal((n_rows, dims))
    return edits


def run(module: torch.nn.Embedding, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.inference_mode():
        return module(ids)


def test_nothing_staged_changes_nothing(module: torch.nn.Embedding, edit: EmbeddingEdit) -> None:
    assert torch.equal(run(module), module.weight[IDS])


@pytest.mark.parametrize("dims", [2, HIDDEN])
@pytest.mark.parametrize(("scale", "shift"), [(1.0, True), (0.0, False), (-1.0, False), (0.5, True)])
def test_staged_rows_equal_the_formula(
    module: torch.nn.Embedding, edit: EmbeddingEdit, dims: int, scale: float, shift: bool
) -> None:
    edits = stage(scale=scale, dims=dims, shift=shift)
    edit.write(2, edits)
    result, plain = run(module).numpy(), module.weight[IDS].detach().numpy()
    expected = plain.copy()
    expected[2:4, :dims] = plain[2:4, :dims] * np.float32(scale) + edits.shift[:, :dims]
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-7)
    others = [0, 1, 4, 5]
    assert result[others].tobytes() == plain[others].tobytes()
    assert result[:, dims:].tobytes() == plain[:, dims:].tobytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_rows_are_bit_identical_even_when_odd(dtype: torch.dtype) -> None:
    module = torch.nn.Embedding(VOCABULARY, HIDDEN, dtype=dtype)
    with torch.no_grad():
        module.weight[3] = torch.tensor([float("nan"), float("inf"), -0.0, 6e-8, -float("inf")])
    edit = attach(module)
    edit.write(1, stage(1))
    result = run(module).view(torch.uint8).reshape(len(IDS), -1)
    plain = module.weight[IDS].detach().contiguous().view(torch.uint8).reshape(len(IDS), -1)
    others = [0, 2, 3, 4, 5]
    assert torch.equal(result[others], plain[others])
    assert not torch.equal(result[1], plain[1])


def test_swap_looks_up_another_token(module: torch.nn.Embedding, edit: EmbeddingEdit) -> None:
    edits = RowEdits.blank(3, HIDDEN)
    edits.swap[:] = [7, -1, 0]
    edit.write(1, edits)
    ids = IDS.clone()
    assert torch.equal(run(module, ids), module.weight[torch.tensor([3, 7, 4, 0, 5, 9])])
    assert torch.equal(ids, IDS)


def test_swapped_row_can_be_corrupted_too(module: torch.nn.Embedding, edit: EmbeddingEdit) -> None:
    edits = stage(1, scale=-1.0, shift=False)
    edits.swap[:] = 7
    edit.write(0, edits)
    assert torch.equal(run(module)[0], -module.weight[7])


def test_token_id_rows_change_only_where_the_token_is_listed(module: torch.nn.Embedding, edit: EmbeddingEdit) -> None:
    edits = stage(len(IDS), scale=-1.0, shift=False)
    edits.by_token[:] = True
    edit.write(0, edits)
    listed = torch.tensor([token in (1, 9) for token in IDS.tolist()])
    expected = torch.where(listed[:, None], -module.weight[IDS], module.weight[IDS])
    assert torch.equal(run(module), expected)


def test_staged_rows_lie_where_they_were_written(module: torch.nn.Embedding, edit: EmbeddingEdit) -> None:
    first, second = stage(2), stage(1)
    edit.write(0, first)
    edit.write(4, second)
    changed = (run(module) != module.weight[IDS]).any(dim=1)
    assert changed.tolist() == [True, True, False, False, True, False]


def test_clear_makes_the_next_pass_plain(module: torch.nn.Embedding, edit: EmbeddingEdit) -> None:
    edits = stage(3)
    edits.swap[:], edits.by_token[:] = 7, True
    edit.write(5, edits)
    edit.write(0, stage(1))
    edit.clear()
    ids = torch.arange(ROWS)
    assert torch.equal(run(module, ids), module.weight[ids])


def test_nothing_of_an_older_pass_comes_back(module: torch.nn.Embedding, edit: EmbeddingEdit) -> None:
    edit.write(0, stage(4))
    edit.clear()
    edit.write(0, stage(4, scale=0.0, shift=False))
    assert not run(module)[:4].any()


def test_proof_is_the_first_element_that_left(module: torch.nn.Embedding, edit: EmbeddingEdit) -> None:
    edit.write(0, stage(1))
    edited = run(module)[0, 0].item()
    assert edit.proof.item() == edited != module.weight[3, 0].item()
    edit.clear()
    run(module)
    assert edit.proof.item() == module.weight[3, 0].item()


def test_removed_hooks_do_nothing(module: torch.nn.Embedding, edit: EmbeddingEdit) -> None:
    edit.write(0, stage(4))
    edit.remove()
    assert torch.equal(run(module), module.weight[IDS])
