"""The built-in world: deterministic, typed, disjoint."""

from __future__ import annotations

from typing import Any

import pytest

from unlearn_guard.benchmarks.training import Job, Recipe, make_further_job, make_jobs, make_tokenizer
from unlearn_guard.benchmarks.world import _ATTRIBUTES, N_TRAINED, make_people, make_world, reword
from unlearn_guard.guard.errors import SettingsError
from unlearn_guard.guard.rows import check_disjoint


def test_world_is_deterministic_in_its_seed() -> None:
    assert make_world(seed=1).data_hash == make_world(seed=1).data_hash
    assert make_world(seed=1).data_hash != make_world(seed=2).data_hash


def test_forget_sets_are_large_enough_for_the_bars(world: Any) -> None:
    for name in ("forget.given", "forget.unseen", "forget.paraphrase"):
        assert len(world.sets[name]) >= 100


def test_unseen_phrasings_are_neither_trained_nor_fitted(world: Any) -> None:
    trained = {phrasing for example in world.full for phrasing in example.phrasings}
    fitted = {row.prompt for row in (*world.forget_rows, *world.retain_rows, *world.clean_rows)}
    for name in ("forget.unseen", "forget.paraphrase", "neighbour"):
        assert not {item.question for item in world.sets[name]} & (trained | fitted)


def test_retain_model_never_sees_a_forgotten_person(world: Any) -> None:
    names = {item.name for item in world.sets["forget.given"]}
    text = "\n".join(f"{example.phrasings} {example.answer}" for example in world.retain)
    assert not [name for name in names if name in text]


def test_rows_are_disjoint(world: Any) -> None:
    check_disjoint(world.forget_rows, [*world.retain_rows, *world.clean_rows])


def test_wrong_answers_are_of_the_same_type_and_wrong(world: Any) -> None:
    for item in world.sets["forget.given"]:
        assert len(set(item.wrong)) == 5
        assert item.paraphrase not in item.wrong
        assert item.answer != item.paraphrase
        assert item.key in item.paraphrase or item.key[0].upper() + item.key[1:] in item.paraphrase


def test_neighbours_and_namesakes_exist() -> None:
    people = make_people(16, 0)
    assert len({person.name for person in people}) == 16
    parts = [part for person in people for part in person.name.split()]
    assert len(parts) > len(set(parts))
    cities = [(person.facts["birth_city"], person.facts["profession"]) for person in people]
    assert len(cities) > len(set(cities))


def test_every_attribute_has_unseen_phrasings() -> None:
    for attribute in _ATTRIBUTES:
        assert len(set(attribute.questions)) == len(attribute.questions) > N_TRAINED


def test_rewording_keeps_the_question() -> None:
    assert all("who is bo?" in reword("Who is Bo?", number).lower() for number in range(24))


@pytest.mark.parametrize("sizes", [{"n_people": 2}, {"n_people": 1000}, {"n_people": 8, "n_forget": 8}])
def test_impossible_worlds_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(SettingsError):
        make_world(**sizes)


def test_a_tokenizer_does_not_tell_members_from_outsiders() -> None:
    world = make_world(n_people=16, n_forget=5, n_holdout=24, seed=10)

    def count(job: Job) -> tuple[float, float]:
        tokenizer = make_tokenizer(job.texts, Recipe().vocabulary)
        members, others = (
            [len(tokenizer(item.name).input_ids) for item in items]
            for items in (world.sets["forget.given"], world.outsiders)
        )
        return sum(members) / len(members), sum(others) / len(others)

    members, others = count(make_jobs(world, reads_unread=True)[0])
    assert others == pytest.approx(members, rel=0.1)
    # Made from the training texts alone it cuts strange names small, and their number of pieces gives them away.
    members, others = count(make_jobs(world)[0])
    assert others > 2 * members
    twin, full = make_further_job("twin", world, Recipe(), reads_unread=True), make_jobs(world, reads_unread=True)[0]
    assert twin.texts == full.texts
