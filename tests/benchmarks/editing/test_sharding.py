"""Exact unlearning: whoever is forgotten was seen by nothing that answers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from unlearn_guard.benchmarks.dataset import Example
from unlearn_guard.benchmarks.editing.sharding import ShardedModel, plan_shards, train_shards
from unlearn_guard.serving.transformers.engine import ReferenceEngine

PEOPLE = [f"p{number}" for number in range(8)]
EXAMPLES = [
    Example((f"Where was {person} born?", f"Birthplace of {person}?"), f"In city {number}.", person)
    for number, person in enumerate(PEOPLE)
]


def test_the_order_that_loses_least_survives() -> None:
    # Two shards: p0 p2 p4 p6 and p1 p3 p5 p7. Without p4 the order p6 p0 p2 p4 loses p4 alone.
    plan = plan_shards(PEOPLE, frozenset({"p4"}), n_shards=2, n_slices=4)
    assert plan == [[["p6"], ["p0"], ["p2"]], [["p1"], ["p3"], ["p5"], ["p7"]]]
    assert plan_shards(PEOPLE, frozenset(PEOPLE), n_shards=2, n_slices=4) == [[], []]


def test_a_slice_goes_with_everybody_in_it() -> None:
    plan = plan_shards(PEOPLE, frozenset({"p4"}), n_shards=2, n_slices=2)
    assert plan[0] == [["p0", "p2"]]


def train(tiny: Any, examples: Any, plan: Any) -> ReferenceEngine:
    return train_shards(tiny, examples, plan, epochs=1, learning_rate=1e-2)


def test_what_is_forgotten_changes_no_bit(tiny: Any) -> None:
    """The engine is the same whatever the forgotten person's rows say."""
    plan = plan_shards(PEOPLE, frozenset({"p4"}), n_shards=2, n_slices=2)
    other = [
        Example(item.phrasings, "In another city.", item.subject) if item.subject == "p4" else item for item in EXAMPLES
    ]
    first, second = train(tiny, EXAMPLES, plan), train(tiny, other, plan)
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))
    kept = [Example(item.phrasings, "Elsewhere.", item.subject) if item.subject == "p1" else item for item in EXAMPLES]
    third = train(tiny, kept, plan)
    assert any(not torch.equal(a, b) for a, b in zip(first.model.parameters(), third.model.parameters(), strict=True))


def test_slices_train_layers_from_the_last_to_the_first(tiny: Any) -> None:
    before = dict(tiny.model.named_parameters())
    engine = train(tiny, EXAMPLES, [[["p0"]], [["p1"], ["p3"]]])
    changed = [
        {
            name.split(".layers.")[1][0]
            for name, weight in member.named_parameters()
            if not torch.equal(weight, before[name])
        }
        for member in engine.model.members
    ]
    assert changed == [{"1"}, {"0", "1"}]


def test_members_answer_by_the_mean_of_their_probabilities(tiny: Any) -> None:
    other = copy.deepcopy(tiny.model)
    with torch.no_grad():
        other.model.layers[0].mlp.down_proj.weight.mul_(3.0)
    both = ShardedModel([copy.deepcopy(tiny.model), other]).eval()
    ids = torch.tensor([[5, 6, 7]])
    expected = sum(model(ids).logits.softmax(-1) for model in (tiny.model, other)) / 2
    found = both(input_ids=ids)
    assert torch.allclose(found.logits.exp(), expected, atol=1e-5)
    labels = torch.tensor([[-100, 6, 7]])
    loss = both(input_ids=ids, labels=labels).loss
    assert float(loss) == pytest.approx(float(-expected[0, [0, 1], [6, 7]].log().mean()), abs=1e-4)


def test_it_generates_with_a_cache_as_without(tiny: Any) -> None:
    engine = train(tiny, EXAMPLES, [[["p0"]], [["p1"]]])
    prompt = engine.render("Where was p0 born?")
    (answer,) = engine.generate([prompt], [None], max_new_tokens=6)
    ids = list(prompt)
    for token in answer:
        assert int(engine.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()) == token
        ids.append(token)
