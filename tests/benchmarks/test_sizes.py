"""One file per suite and profile, all of which are read whole."""

from __future__ import annotations

import pytest

from unlearn_guard.benchmarks.attacks.variants import VARIANTS
from unlearn_guard.benchmarks.methods import SUBJECTS
from unlearn_guard.benchmarks.sizes import AttackPlan, list_suites, load_profile, load_suite_file
from unlearn_guard.guard.errors import UnknownNameError

CASES = [(suite, profile) for suite in list_suites() for profile in load_suite_file(suite).profiles]


@pytest.mark.parametrize(("suite", "profile"), CASES)
def test_every_profile_of_every_suite_names_what_there_is(suite: str, profile: str) -> None:
    sizes = load_profile(suite, profile)
    plan = AttackPlan(**sizes["attack"])
    assert set(plan.variants) <= {*VARIANTS, "v14"}
    assert set(sizes["methods"]) <= set(SUBJECTS)
    assert sizes["seeds"]
    assert set(sizes.get("without", ())) <= set(SUBJECTS)


def test_profiles_are_as_large_as_they_are_said_to_be() -> None:
    small, full = (AttackPlan(**load_profile("world", profile)["attack"]) for profile in ("small", "full"))
    assert (small.n_facts, small.n_samples, small.n_queries) == (30, 8, 0)
    assert small.variants == tuple(f"v{number}" for number in range(7))
    assert full.n_samples == 32
    assert full.n_queries > 0
    assert set(full.variants) == {f"v{number}" for number in range(15)}
    assert len(load_profile("tofu", "full")["seeds"]) == 3
    # What is reported is measured on people whom nobody looked at: other seeds are for development and tuning.
    assert load_profile("world", "small")["seeds"] == [30]
    assert load_profile("world", "full")["seeds"] == [30, 31, 32]


def test_unknown_names_are_errors_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown suite: 'wrld'.*did you mean 'world'"):
        load_profile("wrld", "small")
    with pytest.raises(UnknownNameError, match=r"unknown profile: 'smal'.*did you mean 'small'"):
        load_profile("world", "smal")
