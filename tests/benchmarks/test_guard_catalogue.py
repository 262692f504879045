"""Every guard row is a file, and every file a row that can be built."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from unlearn_guard.benchmarks.fitted import choose_assistants, list_bundles
from unlearn_guard.benchmarks.guard_catalogue import GuardFile, list_guards, load_guard
from unlearn_guard.benchmarks.guard_rows import PROCEDURES
from unlearn_guard.corruptions.planning import INTERVENTIONS
from unlearn_guard.guard.errors import UnknownNameError


@pytest.mark.parametrize("name", list_guards())
def test_a_file_names_what_there_is(name: str) -> None:
    file = load_guard(name)
    assert file.procedure in PROCEDURES
    assert file.bundle in list_bundles()
    assert set(file.intervention.split("+")) <= set(INTERVENTIONS)
    assert file.source
    assert not file.title.endswith(".")
    # A refusal has no likelihood, in whichever row it stands.
    assert file.intervention != "refusal" or file.scores != "served"
    assert (file.family == "always") <= (not file.gated)


def test_ours_comes_first_and_baselines_last() -> None:
    assert list_guards()[0] == "guard"
    assert load_guard(list_guards()[-1]).family == "baseline"
    assert len(list_guards()) >= 24


def test_no_procedure_is_without_a_row() -> None:
    assert set(PROCEDURES) == {load_guard(name).procedure for name in list_guards()}


def test_wrong_names_and_fields_are_errors() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown guard row: 'refusals'.*did you mean 'refusal'"):
        load_guard("refusals")
    with pytest.raises(ValidationError, match="famly"):
        GuardFile(title="a", source="b", family="ours", famly="ours")  # type: ignore[call-arg]


def test_assistants_have_the_weights_that_their_suite_was_tuned_to() -> None:
    chosen = {"weight": 2.0, "raw_weight": 1.5, "epochs": 4}
    assert choose_assistants("ours", chosen)["weight"] == 2.0
    assert choose_assistants("paper", chosen)["weight"] == 1.5
    assert choose_assistants("upstream", chosen)["weight"] == 1.0
