"""Exact unlearning: whoever is forgotten was seen by nothing that answers."""

from __future__ import annotations

import copy
from collections import Counter
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


def test_members_count_by_how_likely_they_find_the_text(tiny: Any) -> None:
    other = copy.deepcopy(tiny.model)
    with torch.no_grad():
        other.model.layers[0].mlp.down_proj.weight.mul_(30.0)
    both = ShardedModel([copy.deepcopy(tiny.model), other]).eval().requires_grad_(False)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        first, second = (model(ids).logits[0].softmax(-1) for model in (tiny.model, other))
    found = both(input_ids=ids).logits[0].exp()
    assert torch.allclose(found[0], (first[0] + second[0]) / 2, atol=1e-6)
    share = first[0, 6] / (first[0, 6] + second[0, 6])
    assert torch.allclose(found[1], share * first[1] + (1 - share) * second[1], atol=1e-6)
    one, two = first[0, 6] * first[1, 7], second[0, 6] * second[1, 7]
    assert torch.allclose(found[2], (one * first[2] + two * second[2]) / (one + two), atol=1e-6)
    labels = torch.tensor([[-100, 6, 7]])
    loss = both(input_ids=ids, labels=labels).loss
    assert float(loss) == pytest.approx(float(-(found[0, 6].log() + found[1, 7].log()) / 2), abs=1e-4)


def test_padding_and_embeddings_change_no_answer(tiny: Any) -> None:
    engine = train(tiny, EXAMPLES, [[["p0"]], [["p1"]]])
    prompts = [engine.render("Where was p0 born?"), engine.render("Where was p3 born, in which city of which land?")]
    together = engine.generate(prompts, [None, None], max_new_tokens=5)
    assert together == [engine.generate([prompt], [None], max_new_tokens=5)[0] for prompt in prompts]
    ids = torch.tensor([prompts[0]])
    by_embeds = engine.model(inputs_embeds=engine.embedding(ids)).logits
    assert torch.allclose(by_embeds, engine.model(input_ids=ids).logits, atol=1e-5)


def test_it_generates_with_a_cache_as_without(tiny: Any) -> None:
    engine = train(tiny, EXAMPLES, [[["p0"]], [["p1"]]])
    prompt = engine.render("Where was p0 born?")
    (answer,) = engine.generate([prompt], [None], max_new_tokens=6)
    ids = list(prompt)
    for token in answer:
        assert int(engine.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()) == token
        ids.append(token)


def test_several_answers_share_what_was_read_and_ended_ones_leave(tiny: Any) -> None:
    engine = train(tiny, EXAMPLES, plan_shards(PEOPLE, frozenset({"p4"}), n_shards=2, n_slices=2))
    prompts = [engine.render(f"Where was {person} born?") for person in PEOPLE]
    answers = [[5, 6], [7], [9, 9, 2]]
    rows = [(prompt, answer) for prompt in prompts for answer in answers]
    asked, told = [prompt for prompt, _ in rows], [answer for _, answer in rows]
    assert engine._score_shared(asked, told, [None] * len(rows), [None] * len(rows), served=False) == []
    for (prompt, answer), found in zip(rows, engine.score(asked, told, [None] * len(rows)), strict=True):
        (alone,) = engine.score([prompt], [answer], [None])
        assert found.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
    engine = ReferenceEngine(ShardedModel([copy.deepcopy(tiny.model), copy.deepcopy(tiny.model)]), tiny.tokenizer)
    prompts = [
        [number, 60 if number % 2 else 60 + number] for number in range(3, 11)
    ]  # Random weights say what they read last.
    plain = engine.generate(prompts, [None] * len(prompts), max_new_tokens=12)
    said = Counter(token for answer in plain for token in set(answer[:6]))
    engine.end_token = next(token for token, n in said.items() if 2 <= n <= 5)  # Some end early, others never.
    widths: list[int] = []
    forward = engine.model.forward
    engine.model.forward = lambda **inputs: widths.append(len(inputs["attention_mask"])) or forward(**inputs)
    together = engine.generate(prompts, [None] * len(prompts), max_new_tokens=12)
    assert widths[0] == len(prompts) > widths[-1] > 0
    assert together == [engine.generate([prompt], [None], max_new_tokens=12)[0] for prompt in prompts]
