"""Edits of flagged rows alone, and the keys that are read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from unlearn_guard.corruptions.gated_mlp import GatedMlp
from unlearn_guard.corruptions.mlp_edit import CANARY_VALUE, AblationTable, AdjustTable, MlpEdit
from unlearn_guard.corruptions.neurons import Moments, Normals, shift_posterior

WIDTH, ROWS = 6, 5


def make_moments(mean: float, variance: float) -> Moments:
    return Moments(9, np.full((2, WIDTH), mean), np.full((2, WIDTH), variance))


def choose(*columns: int) -> Any:
    chosen = np.zeros((2, WIDTH), np.bool_)
    chosen[1, list(columns)] = True
    return chosen


def make_edit(*, first: int = 0, width: int = WIDTH, static: bool = False) -> MlpEdit:
    mlps = [GatedMlp(f"layers.{layer}.mlp", layer, None, None, width, first, WIDTH) for layer in (0, 1)]
    tables = {
        "adjust": AdjustTable(choose(1, 4), make_moments(3.0, 1.0), make_moments(0.0, 4.0)),
        "coin": AdjustTable(choose(1, 2), make_moments(3.0, 1.0), make_moments(0.0, 4.0), "coin", seed=3),
        "ablate": AblationTable(choose(0, 5)),
    }
    edit = MlpEdit(mlps, tables, n_rows=16, device=torch.device("cpu"), read_layers=[1], n_reads=4)
    edit.is_static = static
    return edit


@pytest.fixture(params=[False, True], ids=["flagged rows", "all rows, as in a captured graph"])
def edit(request: Any) -> MlpEdit:
    return make_edit(static=request.param)


def states() -> torch.Tensor:
    return torch.linspace(2.5, 5.0, ROWS * WIDTH).view(ROWS, WIDTH)


def test_only_chosen_columns_of_flagged_rows_change(edit: MlpEdit) -> None:
    edit.stage("adjust", 1, 7, 2)
    found = states()
    edit.edit_gate(found, 1)
    expected = states()
    normals = Normals(*(torch.tensor(value) for value in (3.0, 1.0, 0.0, 2.0)))
    for column in (1, 4):
        expected[1:3, column] = shift_posterior(states()[1:3, column], normals)
    assert torch.equal(found, expected)
    assert not torch.equal(found, states())


def test_nothing_staged_changes_nothing(edit: MlpEdit) -> None:
    edit.stage("adjust", 0, 0, ROWS)
    edit.stage("ablate", 0, 0, ROWS)
    edit.clear()
    found = states()
    edit.edit_gate(found, 1)
    edit.edit_key(found, 1)
    assert torch.equal(found, states())


def test_rows_of_several_tables_get_each_in_turn(edit: MlpEdit) -> None:
    edit.stage("adjust", 0, 0, 1)
    edit.stage("coin", 0, 0, 1)
    edit.stage("ablate", 0, 0, 1)
    edit.stage("ablate", 3, 5, 1)
    found = states()
    edit.edit_gate(found, 1)
    changed = (found != states()).nonzero().tolist()
    assert {row for row, _ in changed} == {0}
    edit.edit_key(found, 1)
    assert found[[0, 0, 3, 3], [0, 5, 0, 5]].tolist() == [0.0] * 4
    assert torch.equal(found[[1, 2, 4]], states()[[1, 2, 4]])


def test_coins_follow_the_absolute_position() -> None:
    """A prompt in two pieces gets the coins of the whole one."""
    whole, parts = make_edit(), make_edit()
    values = torch.full((8, WIDTH), 2.2)
    whole.stage("coin", 0, 10, 8)
    expected = values.clone()
    whole.edit_gate(expected, 1)
    found = values.clone()
    for start in (0, 4):
        parts.clear()
        parts.stage("coin", 0, 10 + start, 4)
        parts.edit_gate(found[start : start + 4], 1)
    assert torch.equal(found, expected)
    assert 0 < (expected != values).sum() < 16


def test_shards_edit_their_own_neurons() -> None:
    """Two ranks, three neurons each, together do what one does."""
    one = make_edit()
    expected = states()
    for table in ("adjust", "coin"):
        one.stage(table, 0, 0, ROWS)
    one.edit_gate(expected, 1)
    parts = []
    for first in (0, 3):
        shard = make_edit(first=first, width=3)
        for table in ("adjust", "coin"):
            shard.stage(table, 0, 0, ROWS)
        own = states()[:, first : first + 3].contiguous()
        shard.edit_gate(own, 1)
        parts.append(own)
    assert torch.equal(torch.cat(parts, 1), expected)


def test_keys_are_read_of_the_rows_asked_for(edit: MlpEdit) -> None:
    edit.read([4, 2])
    edit.edit_key(states(), 1)
    assert torch.equal(edit.keys[1][:2], states()[[4, 2]])


def test_canary_leaves_its_value_in_every_table(edit: MlpEdit) -> None:
    for name in edit.tables:
        edit.stage(name, 0, 0, 2)
    edit.is_canary.fill_(True)
    edit.edit_gate(states(), 1)
    edit.edit_key(states(), 1)
    proofs = [columns.proof.item() for kind in (edit.gates, edit.ablated) for columns in kind[1].values()]
    assert proofs == [CANARY_VALUE] * 3
