"""The formula of one decode step, against hand-computed cases."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from unlearn_guard.corruptions.uld import (
    UldSettings,
    find_kept,
    measure_penalty,
    plan_uld,
    read_settings,
    suppress,
    suppress_everywhere,
)
from unlearn_guard.guard.errors import SettingsError
from unlearn_guard.guard.stamp import Stamp

NARROW = {"kept_share": 0.0, "kept_tokens": 1}


def test_raw_difference_over_the_kept_tokens() -> None:
    """l = (4, 3, 0), l_a = (2, 0, 1), α = 0.5; token 2 lies more than log 0.1 below the best."""
    settings = UldSettings(weight=0.5, filter_rate=0.1, **NARROW)
    found = suppress(torch.tensor([[4.0, 3.0, 0.0]]), torch.tensor([[2.0, 0.0, 1.0]]), settings)
    assert found.tolist() == [[3.0, 3.0, -math.inf]]


def test_a_memorising_model_keeps_forty_tokens_not_one() -> None:
    """As the paper writes the filter, one token would stay, and nothing could be forgotten."""
    logits = torch.zeros(1, 1000)
    logits[0, 7] = 50.0
    assert find_kept(logits, UldSettings(**NARROW)).sum() == 1
    logits += torch.linspace(0, 1e-3, 1000)
    assert find_kept(logits, UldSettings()).sum() == 40
    assert find_kept(torch.cat([logits] * 8, dim=1) + torch.linspace(0, 1e-2, 8000), UldSettings()).sum() == 80


def test_what_decoding_keeps_is_what_the_filter_keeps() -> None:
    """Flat rows keep more than the forty best, steep ones no more than them; ties and neighbours in the batch change nothing."""
    torch.manual_seed(0)
    scale = torch.tensor([[0.1], [30.0], [0.1], [30.0]])
    logits, penalty = (scale * torch.randn(4, 900)).round(decimals=1), torch.rand(4, 900)
    kept = find_kept(logits, UldSettings())
    assert kept.sum(-1)[[1, 3]].tolist() == [40, 40]
    assert (kept.sum(-1)[[0, 2]] > 40).all()
    found = suppress(logits, penalty, UldSettings())
    assert torch.equal(found, torch.where(kept, logits - 0.75 * penalty, -math.inf))
    alone = [suppress(logits[row : row + 1], penalty[row : row + 1], UldSettings()) for row in range(4)]
    assert torch.equal(found, torch.cat(alone))


def test_what_a_grammar_masked_stays_masked() -> None:
    logits = torch.tensor([[1.0, -math.inf, 0.5, -math.inf]])
    found = suppress(logits, torch.tensor([[0.2, -30.0, 0.1, 4.0]]), UldSettings(weight=1.0))
    assert found[0, 1] == found[0, 3] == -math.inf
    assert torch.isfinite(found[0, [0, 2]]).all()


def test_advantage_over_uniform() -> None:
    """p_a = (0.7, 0.2, 0.1), V = 3: relu(log p + log 3)."""
    said = torch.log(torch.tensor([[0.7, 0.2, 0.1]])) + 5.0  # Logits have any offset.
    found = measure_penalty([said], UldSettings(penalty="advantage"))
    assert found[0].tolist() == pytest.approx([math.log(2.1), 0.0, 0.0], abs=1e-6)
    assert measure_penalty([torch.zeros(1, 9)], UldSettings(penalty="advantage")).abs().max() < 1e-6


@pytest.mark.parametrize(("combine", "expected"), [("sum", [3.0, 5.0]), ("max", [2.0, 4.0])])
def test_several_assistants(combine: Any, expected: list[float]) -> None:
    said = [torch.tensor([[1.0, 4.0]]), torch.tensor([[2.0, 1.0]])]
    assert measure_penalty(said, UldSettings(combine=combine))[0].tolist() == expected


def test_scoring_is_over_the_whole_vocabulary() -> None:
    logits, penalty = torch.tensor([[30.0, 0.0, -5.0]]), torch.tensor([[10.0, 0.0, 0.0]])
    settings = UldSettings(weight=2.0, **NARROW)
    assert suppress_everywhere(logits, penalty, settings).tolist() == [[10.0, 0.0, -5.0]]
    assert suppress(logits, penalty, settings).tolist() == [[10.0, -math.inf, -math.inf]]


def test_step_carries_plain_data_and_comes_back() -> None:
    settings = UldSettings(weight=1.5, penalty="advantage", combine="max")
    stamp = Stamp("r", ("p1",), 3, 0, (plan_uld(settings, ["p1", "p2"]),))
    step = Stamp.from_record(stamp.to_record()).step("uld")
    assert step is not None
    assert read_settings(step) == (settings, ("p1", "p2"))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"weight": 0.0}, "weight: 0.0"),
        ({"weight": 9.0}, "at most 8"),
        ({"penalty": "ratio"}, "raw, advantage"),
        ({"combine": "mean"}, "sum, max"),
        ({"filter_rate": 1.0}, "filter_rate"),
        ({"kept_tokens": 0}, "kept_tokens"),
    ],
)
def test_values_out_of_range(values: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        UldSettings(**values)
