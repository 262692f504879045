"""Studies beside the rows, with a guard that matches names: cheap to fit, and as well amended."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from unlearn_guard.benchmarks import studies
from unlearn_guard.benchmarks.attacks.protocol import Protocol
from unlearn_guard.benchmarks.dataset import Item, Passages, Sequel
from unlearn_guard.benchmarks.editing.catalogue import load_method
from unlearn_guard.benchmarks.examiner import Examiner
from unlearn_guard.benchmarks.fitted import Bundles
from unlearn_guard.benchmarks.sizes import AttackPlan
from unlearn_guard.benchmarks.studies import Site, find_sequels, read_study, run_study
from unlearn_guard.benchmarks.subjects import Bench, Subject
from unlearn_guard.guard.compose import amend, fit
from unlearn_guard.guard.errors import SettingsError, UnknownNameError
from unlearn_guard.serving.transformers.engine import ReferenceEngine


@pytest.fixture
def site(models: Any, world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    torch.set_num_threads(1)

    def fit_names(*arguments: Any, **options: Any) -> Any:
        if "interventions" not in options:  # What is tuned on answers is asked as it is served.
            assert options["chat_template"] == "{{ messages[-1]['content'] }}"
            del options["chat_template"]
        return fit(*arguments, **{**options, "classifier": "name-match", "interventions": ("refusal",)})

    def amend_names(*arguments: Any, **options: Any) -> Any:
        return amend(*arguments, **{**options, "intervention": "refusal"})

    quick = replace(load_method("ga").to_method(), epochs=1)
    monkeypatch.setattr(studies, "fit", fit_names)
    monkeypatch.setattr(studies, "amend", amend_names)
    monkeypatch.setattr(
        studies,
        "load_tuned",
        lambda name, suite: type("Tuned", (), {"to_method": lambda self, hidden, *, seed: quick})(),
    )
    monkeypatch.setattr(Bundles, "fit", lambda self, kind, original=Bundles.fit: original(self, "name-match"))
    full, retain = (ReferenceEngine.load(models[name]) for name in ("full", "retain-only"))
    bundles = Bundles(world, models["full"], tmp_path, seed=0, uld={}, chat_template="{{ messages[-1]['content'] }}")
    bench = Bench(world, full, retain, bundles, 0, lambda name: retain)
    protocol = Protocol(world, AttackPlan(n_facts=6, variants=("v0", "v13")), seed=0, max_new_tokens=24)
    folder = tmp_path / "study"
    folder.mkdir()
    examiner = Examiner(world, Subject("retain-only", "retain", retain))
    return Site(bench, protocol, examiner, folder, lambda: ["v0"])


def test_requests_are_counted_timed_amended_and_noticed(site: Site) -> None:
    found = run_study("requests-3", site)
    assert (found["study"], found["n_requests"]) == ("requests-3", 3)
    # A name match notices the named ones and no other.
    assert found["named"]["n"] + found["described"]["n"] == 3
    assert found["named"]["flagged"] == found["named"]["n"] > 0
    assert found["described"]["flagged"] == 0
    assert found["recall"] == found["named"]["n"] / 3
    assert found["false_flags"] == 0
    assert found["n_kept"] == len(site.bench.suite.sets["retain"])
    assert all(value > 0 for value in found["cost"].values())
    assert run_study("requests-1", replace_folder(site))["cost"]["remove_s"] is None


def replace_folder(site: Site) -> Site:
    folder = site.folder / "again"
    folder.mkdir()
    return replace(site, folder=folder)


def test_a_sequence_adds_up_and_is_revoked(site: Site) -> None:
    found = run_study("sequence-2", site)
    assert [step["n_requests"] for step in found["steps"]] == [1, 2]
    for step in found["steps"]:
        assert step["guard"]["leak"] < 0.2
        assert step["guard"]["retain_rouge"] > 0.95
        assert set(step) == {"n_requests", "guard", "npo-sequential", "npo-at-once"}
    assert found["revoked"]["leak"] > 0.7  # The nameless questions of an unrevoked guard are few.


def test_a_suite_may_have_a_sequence_of_its_own(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """MUSE has four forget sets that come one after another, and documents are asked to go on."""
    suite = site.bench.suite
    people = list(dict.fromkeys(item.subject for item in suite.sets["forget.unseen"]))[:2]
    sequels = [
        Sequel(
            [row for row in suite.forget_rows if row.forget_id == owner],
            [item for item in suite.sets["forget.given"] if item.subject == owner],
        )
        for owner in people
    ]
    shots = Passages([], [], [], [], [Item("Where was Ada Fenwick born?", "In Lund.")])
    monkeypatch.setattr(studies, "measure_knowledge", lambda subject, items, shots: len(shots) / 8)
    own = replace(site, bench=replace(site.bench, suite=replace(suite, sequels=sequels[::-1], passages=shots)))
    assert [sequel.forget_ids[0] for sequel in find_sequels(own.bench.suite)] == people[::-1]
    assert [sequel.forget_ids[0] for sequel in find_sequels(suite)][:2] == people
    found = run_study("sequence-1", own)
    assert [step["n_requests"] for step in found["steps"]] == [1]
    assert "revoked" not in found  # One request alone cannot be taken from a guard.
    told = found["steps"][0]["guard"]
    assert (told["leak"], told["retain_rouge"] > 0.95) == (0.0, True)
    assert told["retain_f1"] == 1 / 8  # Behind worked examples, where there are any.


def test_partial_knowledge_is_a_part_of_the_facts(site: Site) -> None:
    found = run_study("partial-20", replace(site, find_informative=lambda: ["v0", "v13"]))
    facts = {(row.forget_id, row.answer) for row in site.bench.suite.forget_rows}
    assert found["n_facts_known"] == round(len(facts) / 5)
    # Of the people that the operator knows anything of, the name is known: all of their facts are refused.
    assert found["guard"]["leak"] <= 1.0 - 0.8 * found["n_people_known"] / 5
    assert set(found["npo"]) == {"worst_case", "rest", "variants", "leak", "retain_rouge", "retain_f1"}
    # The worst case is at least the worst variant, and at most all of them together.
    for name in ("guard", "npo", "retain-only"):
        rates = [rate for rate in found[name]["variants"].values() if rate is not None]
        streamed = ["streamed"] if name == "guard" else []  # It has an output guard.
        assert list(found[name]["variants"]) == ["v0", "v13", *streamed]  # All can be made of every fact.
        assert 0 < found[name]["rest"]["n"] <= len(site.protocol.facts)
        assert max(rates) <= found[name]["worst_case"] <= sum(rates)


def test_an_upgrade_counts_flips(site: Site) -> None:
    found = run_study("upgrade", site)
    assert found["n"] == 6
    assert found["old"]["leak"] == found["new"]["leak"] == 0.0
    assert found["flips"] == 0


def test_a_fact_that_one_model_tells_behind_the_bundle_and_the_other_does_not_is_a_flip(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guard that lets everything pass: the old model tells what the new one, which never knew, does not."""
    guard = studies._guard

    def open_gate(bench: Any, bundle: Any, **options: Any) -> Subject:
        found = guard(bench, bundle, **options)
        return Subject("guard", "guard", found.engine)

    monkeypatch.setattr(studies, "_guard", open_gate)
    found = run_study("upgrade", site)
    assert found["flips"] == round(6 * (found["old"]["leak"] - found["new"]["leak"])) >= 4


def test_wrong_names_are_errors() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown study: 'request'.*did you mean 'requests'"):
        read_study("request-3")
    with pytest.raises(SettingsError, match="a positive whole number behind the dash"):
        read_study("requests-many")
