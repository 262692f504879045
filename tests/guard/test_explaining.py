"""Explanations: one decision as plain JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from unlearn_guard.classifiers.name_match import NameMatch
from unlearn_guard.guard.explaining import explain
from unlearn_guard.guard.policy import Policy
from unlearn_guard.guard.screening import Guard
from unlearn_guard.guard.verdict import TextScore

NAME = "Mirela Vantongeren"


def name_guard() -> Guard:
    return Guard(NameMatch({"p1": [NAME]}, 0.01), Policy())


def test_record_of_a_name_match() -> None:
    prompt = f"Who is {NAME}?"
    assert explain(name_guard(), prompt) == {
        "prompt": prompt,
        "flagged": True,
        "forget_ids": ["p1"],
        "score": 1.0,
        "threshold": 1.0,
        "p_value": 0.0,
        "stage": "alias",
        "spans": [[0, 7, 25]],
        "fired": None,
        "errors": [],
        "n_windows": 1,
        "n_encoded": 0,
        "windows": [],
        "neighbours": [],
    }


@pytest.mark.parametrize("prompt", ["", " \n", "Who?", "\x00", "é" * 5000])
def test_clean_prompt_has_no_owner_and_no_span(prompt: str) -> None:
    record = explain(name_guard(), prompt)
    assert (record["flagged"], record["forget_ids"], record["spans"]) == (False, [], [])


def test_error_is_explained_not_raised() -> None:
    class Broken(NameMatch):
        def score(self, texts: Sequence[str], *, max_windows: int | None = None) -> list[TextScore]:
            raise RuntimeError("no memory")

    record = explain(Guard(Broken({"p1": [NAME]}, 0.01), Policy()), "Who?")
    assert record["errors"] == ["RuntimeError: no memory"]
    assert (record["stage"], record["windows"], record["neighbours"]) == ("error", [], [])


@pytest.fixture(scope="module")
def guard(bundle: Path) -> Guard:
    return Guard.load(bundle)


@pytest.fixture(scope="module")
def flagged(guard: Guard, world: Any) -> dict[str, Any]:
    return explain(guard, world.sets["forget.unseen"][0].question)


def test_flagged_prompt_shows_the_window_that_decided(flagged: dict[str, Any]) -> None:
    assert flagged["flagged"]
    best = flagged["windows"][0]
    assert flagged["score"] == best["score"] >= flagged["threshold"]
    assert flagged["fired"] == [0, best["start"], best["end"]]
    assert [window["score"] for window in flagged["windows"]] == sorted(
        (window["score"] for window in flagged["windows"]), reverse=True
    )
    assert 1 <= flagged["n_encoded"] <= flagged["n_windows"]


def test_spans_are_the_name(flagged: dict[str, Any], world: Any) -> None:
    name = world.sets["forget.unseen"][0].name
    assert [flagged["prompt"][start:end] for _, start, end in flagged["spans"]] == [name]


def test_neighbours_are_rows_of_their_owner_nearest_first(flagged: dict[str, Any], world: Any) -> None:
    owners = {row.prompt: row.forget_id for row in world.forget_rows}
    assert len(flagged["neighbours"]) == 3
    for neighbour in flagged["neighbours"]:
        assert owners[neighbour["text"]] == neighbour["forget_id"]
    cosines = [neighbour["cosine"] for neighbour in flagged["neighbours"]]
    assert cosines == sorted(cosines, reverse=True)


def test_nearest_neighbour_is_as_near_as_the_window_says(guard: Guard, world: Any) -> None:
    for row in world.forget_rows[::9]:
        record = explain(guard, row.prompt)
        best = record["windows"][0]["signals"]["forget"]
        assert record["neighbours"][0]["cosine"] == pytest.approx(best, abs=1e-3), row.prompt


def test_cleared_prompt_has_no_windows(guard: Guard) -> None:
    record = explain(guard, "Please translate this sentence into French.")
    assert not record["flagged"]
    assert record["score"] < record["threshold"]
    assert (record["windows"], record["neighbours"], record["n_encoded"]) == ([], [], 0)


def test_explanation_agrees_with_the_verdict(guard: Guard, world: Any) -> None:
    for item in (*world.sets["forget.given"][:4], *world.sets["retain"][:4]):
        (verdict,) = guard.screen([item.question])
        record = explain(guard, item.question)
        assert (record["flagged"], record["p_value"]) == (verdict.flagged, verdict.p_value)
        assert record["flagged"] == (record["score"] >= record["threshold"])


def test_explanation_is_plain_json(flagged: dict[str, Any]) -> None:
    assert json.loads(json.dumps(flagged, allow_nan=False)) == flagged
