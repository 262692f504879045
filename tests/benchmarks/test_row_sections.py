"""Sections about rows: what is counted, and what is left blank."""

from __future__ import annotations

from typing import Any

from unlearn_guard.benchmarks.row_sections import list_row_sections
from unlearn_guard.benchmarks.section import Section, count, show


def make_row(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": "guard", "seed": 20, "status": "ok", "sets": {}, "detection": {}, **more}


def find(title: str, *rows: dict[str, Any]) -> list[Section]:
    report: dict[str, Any] = {"suite": "world", "rows": list(rows)}
    before, after = list_row_sections(report)
    assert [section.title for section in after] == ["Cost"]
    return [section for section in before if section.title == title]


def test_every_set_that_stays_says_what_is_flagged_and_what_is_stopped() -> None:
    cells = {
        "world.forget.given": {"n": 9, "flagged": 9, "stopped": 9},
        "world.retain": {"n": 9, "flagged": 1, "stopped": 2},
    }
    decides = make_row("guard", detection=cells, sets={"world.retain": {"n": 9, "flagged": 1}})
    answers = make_row("output-filter", detection=cells, sets={"world.retain": {"n": 9, "flagged": None}})
    (section,) = find("What is stopped though it stays", decides, answers, make_row("npo"))
    assert section.header == ["method", "seed", "retain"]
    assert section.lines == [["guard", "20", "1, 2 of 9"], ["output-filter", "20", "–, 2 of 9"]]
    assert find("What is stopped though it stays", make_row("npo")) == []


def test_kept_questions_in_disguise_say_what_the_answer_decides() -> None:
    kept = {"v0": {"n": 4, "flagged": 1, "stopped": 3}, "v3": {"n": 4, "flagged": None, "stopped": 0}}
    (section,) = find("False flags under attack", make_row("guard", attack={"kept": kept}), make_row("npo"))
    assert section.header == ["method", "seed", "v0", "v3"]
    assert section.lines == [["guard", "20", "1, 3 of 4", "–, 0 of 4"]]


def test_what_is_missing_is_a_dash() -> None:
    assert show(None) == count(None) == count({}) == "–"
    assert show(0.25, "{:.1f}") == "0.2"
    assert count({"n": 7, "flagged": 3}) == "3/7"
