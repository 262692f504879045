"""Edits of flagged rows alone, and the keys that are read."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from unlearn_guard.corruptions.gated_mlp import GatedMlp, find_gated_mlps
from unlearn_guard.corruptions.mlp_edit import CANARY_VALUE, AblationTable, AdjustTable, MlpEdit, hook_mlps
from unlearn_guard.corruptions.neurons import Moments, Normals, shift_posterior
from unlearn_guard.guard.errors import EngineError

WIDTH, ROWS = 6, 5
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def make_moments(mean: float, variance: float) -> Moments:
    return Moments(9, np.full((2, WIDTH), mean), np.full((2, WIDTH), variance))


def choose(*columns: int) -> Any:
    chosen = np.zeros((2, WIDTH), np.bool_)
    chosen[1, list(columns)] = True
    return chosen


def make_edit(*, first: int = 0, width: int = WIDTH, static: bool = False, kernels: bool = False) -> MlpEdit:
    mlps = [GatedMlp(f"layers.{layer}.mlp", layer, None, None, width, first, WIDTH) for layer in (0, 1)]
    tables = {
        "adjust": AdjustTable(choose(1, 4), make_moments(3.0, 1.0), make_moments(0.0, 4.0)),
        "coin": AdjustTable(choose(1, 2), make_moments(3.0, 1.0), make_moments(0.0, 4.0), "coin", seed=3),
        "ablate": AblationTable(choose(0, 5)),
    }
    edit = MlpEdit(mlps, tables, n_rows=16, device=torch.device("cpu"), read_layers=[1], n_reads=4)
    edit.is_static = static
    if kernels:
        edit.lay_out_kernels()
    return edit


@pytest.fixture(params=["flagged rows", "all rows, as in a captured graph", "kernels"])
def edit(request: Any) -> MlpEdit:
    if request.param == "kernels" and not INTERPRETED:
        pytest.skip("kernels run in a process of their own, below")
    return make_edit(static=request.param != "flagged rows", kernels=request.param == "kernels")


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
def test_kernels_do_the_same() -> None:
    """The tests of this file with kernels, on a CPU: Triton decides to interpret when it is imported."""
    pytest.importorskip("triton", reason="the interpreter comes with triton")
    command = [sys.executable, "-m", "pytest", "-q", "-k", "kernels", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "6 passed" in done.stdout


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
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.equal(found == states(), expected == states())
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


def test_more_rows_than_were_made_room_for_are_an_error() -> None:
    edit = make_edit()
    for change in (edit.edit_gate, edit.edit_key):
        with pytest.raises(EngineError, match="17 — allowed: 16 at most"):
            change(torch.zeros(17, WIDTH), 1)


@pytest.mark.skipif(not INTERPRETED, reason="kernels run in a process of their own, above")
def test_kernels_toss_the_same_coins() -> None:
    plain, kernel = make_edit(), make_edit(static=True, kernels=True)
    found = []
    for edit in (plain, kernel):
        edit.stage("coin", 2, 1_000_003, 14)
        values = torch.full((16, WIDTH), 2.2)
        edit.edit_gate(values, 1)
        found.append(values)
    assert torch.allclose(*found, atol=1e-6)
    assert 0 < (found[0] != 2.2).sum() < 28


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_captured_graph_edits_what_is_staged_when_it_runs(kind: torch.dtype) -> None:
    """Captured once, replayed under other flags: flagged rows as on a CPU, the others as without hooks, to the last bit."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": WIDTH, "num_attention_heads": 2, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=50, **shape)).cuda().to(kind).eval()  # type: ignore[arg-type]
    states = torch.randn(16, 64, device="cuda", dtype=kind) * 3

    def run() -> torch.Tensor:
        found = states
        for layer in model.model.layers:
            found = found + layer.mlp(found)
        return found

    def capture() -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream), torch.no_grad():
            run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph), torch.no_grad():
            out = run()
        return graph, out

    graph, out = capture()
    graph.replay()
    plain = out.clone()
    mlps, tables = find_gated_mlps(model), make_edit().tables
    edit = MlpEdit(mlps, tables, n_rows=16, device=torch.device("cuda"), read_layers=[1], n_reads=4)
    assert edit.kernels
    hook_mlps(edit, mlps)
    graph, out = capture()
    graph.replay()
    assert torch.equal(out, plain)
    for name in tables:
        for is_kernel in (True, False):
            kernels, edit.kernels = edit.kernels, edit.kernels if is_kernel else {}
            edit.stage(name, 3, 11, 6)
            edit.read([5, 2])
            with torch.no_grad():
                expected = run() if not is_kernel else None
            if is_kernel:
                graph.replay()
                replayed, keys = out.clone(), edit.keys[1][:2].clone()
            edit.clear()
            edit.kernels = kernels
        assert expected is not None
        assert torch.allclose(replayed, expected, atol=1e-4 if kind is torch.float32 else 0.1), name
        assert torch.equal(keys, edit.keys[1][:2]), name
        assert torch.equal(replayed[:3], plain[:3]), name
        assert torch.equal(replayed[9:], plain[9:]), name
    graph.replay()
    assert torch.equal(out, plain)


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
