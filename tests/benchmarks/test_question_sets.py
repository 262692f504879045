"""KnowUnDo, PISTOL and MUSE: read from a folder in the hub's own fields; an error says where they come from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unlearn_guard.benchmarks.question_sets import Pair, find_wrong, load_knowundo, load_pistol
from unlearn_guard.benchmarks.runner import load_suite
from unlearn_guard.benchmarks.sizes import load_profile
from unlearn_guard.guard.errors import DependencyError, SettingsError


def write(folder: Path, name: str, rows: list[dict[str, object]]) -> None:
    file = folder / f"{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNLEARN_GUARD_DATA", str(tmp_path))
    return tmp_path


def test_pistol_forgets_edges_and_keeps_their_neighbours(data: Path) -> None:
    rows: list[dict[str, object]] = [
        {
            "question": f"What was the {what} of the contract between A{edge} SA and B{edge} Ltd?",
            "answer": f"{edge}{place}.",
            "edge": f"e{edge}",
        }
        for edge in range(6)
        for place, what in enumerate(("date", "price", "good", "place"))
    ]
    write(data, "pistol/pistol_data_1", rows)
    suite = load_pistol(n_forget=2, seed=0)
    gone = {item.subject for item in suite.sets["forget.given"]}
    assert gone == {"pistol-000", "pistol-003"}  # Reports show them: numbers, no names.
    assert {item.subject for item in suite.sets["forget.unseen"]} == gone
    assert not gone & {item.subject for item in suite.sets["retain"]}
    assert {row.prompt for row in suite.forget_rows} == {item.question for item in suite.sets["forget.given"]}
    assert not {row.prompt for row in suite.forget_rows} & {item.question for item in suite.sets["forget.unseen"]}
    assert len(suite.full) - len(suite.retain) == 8
    later = load_pistol(n_forget=2, seed=1)
    assert {item.subject for item in later.sets["forget.given"]} == {"pistol-001", "pistol-004"}
    with pytest.raises(SettingsError, match="edges to forget"):
        load_pistol(n_forget=6)


def test_knowundo_reads_rows_and_the_hubs_nested_splits(data: Path) -> None:
    rows: list[dict[str, object]] = [{"text": f"Secret {place}?", "labels": f"Answer {place}."} for place in range(6)]
    write(data, "knowundo/privacy_unlearn", rows)
    write(data, "knowundo/privacy_retention", [{"train": rows[:4], "val": rows[4:]}])
    suite = load_knowundo(limit=4)
    assert len(suite.sets["forget.given"]) == len(suite.sets["forget.unseen"]) == 2
    assert [item.answer for item in suite.sets["retain"]] == [f"Answer {place}." for place in range(4)]


def test_wrong_answers_are_those_to_the_most_similar_questions() -> None:
    pairs = [
        Pair("Where was Bo born?", "Graz", "a"),
        Pair("Where was Al born?", "Lviv", "b"),
        Pair("Who wrote Emma?", "Austen", "c"),
        Pair("Where was Cy born?", "Graz", "d"),
    ]
    assert find_wrong(pairs)[0] == ("Lviv", "Austen")


@pytest.mark.parametrize("suite", ["knowundo", "pistol", "muse", "tofu-01"])
def test_what_is_not_at_hand_says_where_it_comes_from(suite: str, data: Path) -> None:
    with pytest.raises(DependencyError, match=r"is not at hand.*on the hub.*go online once"):
        load_suite(suite, load_profile(suite, "small"), 0)
