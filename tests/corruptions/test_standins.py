"""Stand-ins: invented names of exactly the tokens they replace, always the same ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from unlearn_guard.corruptions.prompt import Prompt, read_prompt
from unlearn_guard.corruptions.standins import Pool, build_pool, plan_swap
from unlearn_guard.guard.stamp import Step
from unlearn_guard.guard.verdict import Verdict

Chat = Callable[..., Prompt]
Name = Callable[..., Verdict]


@pytest.fixture(scope="module")
def pool(tokenizer: Any) -> Pool:
    return build_pool(tokenizer, ["Alma lived in Lindqvist House.", "She wrote winter harbour."])


def spell(tokenizer: Any, pool: Pool, kind: str) -> list[str]:
    return [tokenizer.decode(ids) for group in pool[kind].values() for ids in group]


def tokens_of(step: Step | None) -> list[list[int]]:
    assert step is not None
    return step.params["tokens"]


@pytest.mark.parametrize("kind", ["person", "person-first", "title", "title-first"])
def test_groups_hold_names_of_their_length(tokenizer: Any, pool: Pool, kind: str) -> None:
    assert pool[kind]
    for length, group in pool[kind].items():
        assert group
        assert all(len(ids) == int(length) for ids in group)
    assert all(name.startswith(" ") != kind.endswith("-first") for name in spell(tokenizer, pool, kind))


def test_known_names_are_left_out(tokenizer: Any, pool: Pool) -> None:
    people = " ".join(spell(tokenizer, pool, "person") + spell(tokenizer, pool, "person-first"))
    assert "Alma" not in people
    assert "Lindqvist" not in people
    assert "Winter Harbour" not in " ".join(spell(tokenizer, pool, "title"))
    everyone = " ".join(spell(tokenizer, build_pool(tokenizer, []), "title"))
    assert "Winter Harbour" in everyone


def test_pool_is_repeatable(tokenizer: Any, pool: Pool) -> None:
    assert build_pool(tokenizer, ["She wrote winter harbour.", "Alma lived in Lindqvist House."]) == pool


@pytest.mark.parametrize("kind", ["person", "title"])
@pytest.mark.parametrize("spaced", [True, False])
@pytest.mark.parametrize("n_tokens", range(1, 21))
def test_stand_in_has_exactly_the_tokens_of_its_span(
    tokenizer: Any, pool: Pool, kind: str, spaced: bool, n_tokens: int
) -> None:
    lead = tokenizer("x " if spaced else "").input_ids
    letter = tokenizer.convert_tokens_to_ids("q")
    prompt = read_prompt(tokenizer, [*lead, *[letter] * n_tokens, *tokenizer("?").input_ids])
    start = prompt.text.index("q")
    verdict = Verdict(True, ("p1",), 9.0, 0.0, "alias", ((0, start, start + n_tokens),))
    for seed in range(4):
        step = plan_swap(pool, kind, verdict, prompt, seed=seed)
        assert step is not None
        assert step.positions == ((len(lead), len(lead) + n_tokens),)
        assert [len(ids) for ids in tokens_of(step)] == [n_tokens]


def test_stand_in_starts_as_the_name_does(tokenizer: Any, pool: Pool, chat: Chat, name: Name) -> None:
    for text, spaced in (("Where was Ann Lee born?", True), ("Ann Lee was born where?", False)):
        prompt = chat(("user", text))
        (ids,) = tokens_of(plan_swap(pool, "person", name(prompt, "Ann Lee"), prompt, seed=0))
        assert tokenizer.decode(ids).startswith(" ") == spaced


def test_every_mention_gets_the_same_stand_in(tokenizer: Any, pool: Pool, chat: Chat, name: Name) -> None:
    first = chat(("user", "Where was Ann Lee born?"))
    both = chat(("user", "What did Ann Lee write, and where was Ann Lee born?"))
    twice = replace(name(both, "Ann Lee"), spans=((0, 9, 16), (0, 38, 45)))
    (one,) = tokens_of(plan_swap(pool, "person", name(first, "Ann Lee"), first, seed=0))
    assert tokens_of(plan_swap(pool, "person", twice, both, seed=0)) == [one, one]


def test_stand_in_depends_on_seed_and_forget_id(pool: Pool, chat: Chat, name: Name) -> None:
    prompt = chat(("user", "Where was Ann Lee born?"))

    def swap(seed: int, owner: str) -> tuple[int, ...]:
        verdict = name(prompt, "Ann Lee", forget_ids=(owner,))
        return tuple(tokens_of(plan_swap(pool, "person", verdict, prompt, seed=seed))[0])

    assert swap(0, "p1") == swap(0, "p1")
    assert len({swap(seed, "p1") for seed in range(12)}) > 1
    assert len({swap(0, f"p{number}") for number in range(12)}) > 1


def test_same_span_from_message_and_rendered_text_is_swapped_once(pool: Pool, chat: Chat, name: Name) -> None:
    prompt = chat(("user", "Where was Ann Lee born?"))
    verdict = name(prompt, "Ann Lee")
    start = prompt.text.index("Ann Lee")
    doubled = replace(verdict, spans=(*verdict.spans, (-1, start, start + 7)))
    assert plan_swap(pool, "person", doubled, prompt, seed=0) == plan_swap(pool, "person", verdict, prompt, seed=0)


def test_nothing_to_swap_is_none(tokenizer: Any, pool: Pool, chat: Chat, name: Name) -> None:
    prompt = chat(("user", "Where was Ann Lee born?"))
    verdict = name(prompt, "Ann Lee")
    assert plan_swap(pool, "person", replace(verdict, spans=()), prompt, seed=0) is None
    assert plan_swap(pool, "person", verdict, replace(prompt, offsets=None), seed=0) is None
    empty: Pool = {kind: {} for kind in pool}
    assert plan_swap(empty, "person", verdict, prompt, seed=0) is None
