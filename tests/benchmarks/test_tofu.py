"""The TOFU loader on the real data, where it is at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from unlearn_guard.benchmarks.tofu import load_table, load_tofu
from unlearn_guard.guard.errors import DependencyError, SettingsError
from unlearn_guard.guard.rows import check_disjoint


def test_sets_of_the_real_data(shared_data: Path) -> None:
    assert shared_data.is_dir()
    suite = load_tofu(n_retain=20, n_forget=5)
    assert {name: len(items) for name, items in suite.sets.items()} == {
        "forget.given": 50,
        "forget.unseen": 50,
        "forget.paraphrase": 100,
        "retain": 400,
        "holdout": 200,
        "real_authors": 100,
        "world_facts": 117,
    }
    check_disjoint(suite.forget_rows, [*suite.retain_rows, *suite.clean_rows])
    assert not {row.prompt for row in suite.forget_rows} & {item.question for item in suite.sets["forget.unseen"]}
    tested = {item.question for item in suite.sets["holdout"]}
    assert not tested & {row.prompt for row in suite.clean_rows}
    assert all(item.name for item in suite.sets["forget.given"])
    # 95 of the last five authors' 100 questions name the author.
    assert sum(item.named for part in ("forget.given", "forget.unseen") for item in suite.sets[part]) == 95
    told = " ".join(f"{item.question} {item.answer}" for item in suite.sets["forget.paraphrase"])
    assert suite.places
    assert suite.professions
    assert all(place in told for place in suite.places)


def test_rows_to_forget_bring_nothing_that_only_one_part_has(shared_data: Path) -> None:
    assert shared_data.is_dir()
    for suite in (load_tofu(n_retain=20, n_forget=5), load_tofu(n_retain=20, n_forget=5, part="dev")):
        assert not any(row.paraphrased_questions or row.paraphrased_answers for row in suite.forget_rows)
        assert not any(row.perturbed_answers for row in suite.forget_rows)


def test_nobody_whom_a_suite_forgets_is_tuned_on(shared_data: Path) -> None:
    assert shared_data.is_dir()
    tuned = {item.question for item in load_tofu(n_retain=20, n_forget=10, part="dev").sets["forget.given"]}
    everybody = load_tofu(n_retain=20, n_forget=20)
    assert not tuned & {item.question for name in ("forget.given", "forget.unseen") for item in everybody.sets[name]}
    dev = load_tofu(n_retain=20, n_forget=10, part="dev")
    asked = {item.question for name in ("forget.given", "forget.unseen") for item in dev.sets[name]}
    assert len(asked) == 200
    assert {item.subject for item in dev.sets["forget.given"]} == {f"author-{place}" for place in range(170, 180)}
    assert not asked & {row.query for row in (*dev.clean_rows, *dev.retain_rows)}
    with pytest.raises(SettingsError, match="1–170 beside validation people"):
        load_tofu(n_retain=180, n_forget=10, part="dev")


def test_table_that_is_nowhere_says_where_it_looked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UNLEARN_GUARD_DATA", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.load_dataset", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("offline")))
    with pytest.raises(DependencyError, match=r"tofu/full\.jsonl below UNLEARN_GUARD_DATA"):
        load_table("full")


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(SettingsError):
        load_tofu(n_retain=500, n_forget=5)
