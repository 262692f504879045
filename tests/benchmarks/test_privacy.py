"""Membership inference against cases computed by hand."""

from __future__ import annotations

import math
import zlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from unlearn_guard.benchmarks import privacy
from unlearn_guard.benchmarks.dataset import Item
from unlearn_guard.serving.transformers.engine import ReferenceEngine, Scored


def scored(*logprobs: float, means: float = -2.0, variances: float = 4.0) -> Scored:
    n = len(logprobs)
    return Scored(np.array(logprobs), np.zeros(n, dtype=bool), np.full(n, means), np.full(n, variances))


def test_scores_of_one_answer() -> None:
    answer = scored(-1.0, -3.0, -0.5, -5.0, -0.5)
    assert privacy.measure_loss(answer) == pytest.approx(2.0)
    assert privacy.measure_zlib(answer, "abc") == pytest.approx(2.0 / len(zlib.compress(b"abc")))
    # Two of five tokens are the lowest 40 %: (5 + 3) / 2, and standardised ((5 − 2) + (3 − 2)) / 2 / 2.
    assert privacy.measure_min_k(answer) == pytest.approx(4.0)
    assert privacy.measure_min_k_plus(answer) == pytest.approx(1.0)


def test_a_distribution_without_spread_divides_by_the_floor() -> None:
    answer = scored(-1.0, means=-1.5, variances=0.0)
    assert privacy.measure_min_k_plus(answer) == pytest.approx(-0.5 / math.sqrt(1e-6))


@pytest.mark.parametrize(
    ("members", "others", "auc"),
    [([1, 2], [3, 4], 1.0), ([3, 4], [1, 2], 0.0), ([1, 3], [2, 4], 0.75), ([1, 1], [1, 1], 0.5)],
)
def test_auc_is_the_chance_that_an_outsider_scores_higher(members: Any, others: Any, auc: float) -> None:
    assert privacy.measure_auc(members, others) == auc


def test_privacy_leak_and_its_score() -> None:
    assert privacy.measure_privacy_leak(0.5, 0.5) == 0.0
    assert privacy.measure_privacy_leak(1.0, 0.5) == -100.0
    assert privacy.measure_privacy_leak(0.25, 0.5) == 50.0
    assert privacy.measure_privacy_leak(0.5, 1.0) is None
    assert privacy.score_privacy(0.5, 0.5, 1.0) == 1.0
    assert privacy.score_privacy(1.0, 0.5, 1.0) == 0.0
    assert privacy.score_privacy(0.6, 0.5, 1.0) == pytest.approx(0.8)
    assert privacy.score_privacy(0.5, 0.5, 0.5) is None


def test_attacks_compare_members_with_outsiders() -> None:
    member, other = Item("q1", "aa"), Item("q2", "aa")
    found = privacy.attack_membership([(member, scored(-1.0))], [(other, scored(-2.0))], {"q1": 5.0, "q2": 1.0})
    assert set(found) == set(privacy.ATTACKS)
    assert found == dict.fromkeys(privacy.ATTACKS, 1.0)


class Constant(torch.nn.Module):
    """Logits that no token decides: two biases, and a weight that only the first one has."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(2))
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.unread = torch.nn.Parameter(torch.zeros(3))

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> SimpleNamespace:
        assert input_ids.shape == labels.shape
        logits = self.bias + torch.cat([self.weight, torch.zeros(1)])
        read = labels[labels != -100]
        return SimpleNamespace(loss=torch.nn.functional.cross_entropy(logits.expand(len(read), 2), read))


@pytest.mark.parametrize(
    # Of two like logits each has the probability ½. The answer 1, 1 pulls both biases by ½: a norm of √½; the weight by ½. Of 0, 1 the
    # pulls cancel each other.
    ("answer", "norm"),
    [([1], (math.sqrt(0.5) + 0.5) / 2), ([0], 0.0)],
)
def test_gradient_norm_is_the_mean_over_tensors_of_the_answers_own(answer: list[int], norm: float) -> None:
    model = Constant()
    engine: Any = SimpleNamespace(
        model=model,
        device="cpu",
        end_token=1,
        render=lambda question: [0, 0, 0],
        tokenizer=lambda text, add_special_tokens: SimpleNamespace(input_ids=answer),
    )
    assert privacy.measure_gradient(engine, Item("q", "a")) == pytest.approx(norm, abs=1e-7)
    assert model.bias.grad is None


def test_gradients_are_small_where_an_answer_is_known(models: Any, world: Any) -> None:
    engine = ReferenceEngine.load(models["full"])
    wanted = [weight.requires_grad for weight in engine.model.parameters()]
    item = world.sets["forget.given"][0]
    known, unknown = (
        privacy.measure_gradient(engine, item),
        privacy.measure_gradient(engine, Item(item.question, item.wrong[0])),
    )
    assert known < unknown
    assert [weight.requires_grad for weight in engine.model.parameters()] == wanted
    outsiders = privacy.find_outsiders(world, 6)
    assert len(outsiders) == 6
    assert not {item.question for item in outsiders} & {item.question for item in world.sets["forget.given"]}
    assert privacy.attack_gradients(engine, world.sets["forget.given"][:6], outsiders) > 0.8


def test_moments_of_scores_are_those_of_the_distribution(models: Any, world: Any) -> None:
    engine = ReferenceEngine.load(models["full"])
    prompt, answer = engine.render(world.sets["retain"][0].question), [7, 9]
    (found,) = engine.score([prompt], [answer], [None])
    logits = engine.model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
    means = (logits.exp() * logits).sum(-1)
    np.testing.assert_allclose(found.means, means.detach().numpy(), rtol=1e-4)
    spread = (logits.exp() * (logits - means[:, None]) ** 2).sum(-1)
    np.testing.assert_allclose(found.variances, spread.detach().numpy(), rtol=1e-3)
