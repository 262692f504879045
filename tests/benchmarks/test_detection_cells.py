"""Cells of the detection report: counts, intervals, curves, and what is written down of them."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import cast

import pytest

from unlearn_guard.benchmarks.detection_cells import Counts, Tally, bootstrap_groups, draw_curves, measure_areas
from unlearn_guard.benchmarks.detectors import Detectors


def test_flagged_counts_as_stopped() -> None:
    counts = Counts()
    for flagged, stopped in ((True, False), (False, True), (False, False), (True, True)):
        counts.add(flagged, stopped, 1.0, "a")
    assert (counts.n, counts.flagged, counts.stopped) == (4, 2, 3)
    assert counts.groups == [("a", True), ("a", False), ("a", False), ("a", True)]


def test_merged_cells_are_the_sum() -> None:
    first, second, both = Counts(), Counts(), Counts()
    for counts in (first, both):
        counts.add(True, True, 2.0, "a")
    for counts in (second, both):
        counts.add(False, True, 1.0, "b")
    first.merge(second)
    assert first == both


def test_record_holds_the_interval() -> None:
    counts = Counts()
    for number in range(10):
        counts.add(number < 5, False)
    assert counts.to_record() == {
        "n": 10, "flagged": 5, "stopped": 5, "flagged_low": pytest.approx(0.236593, abs=2e-5),
        "flagged_high": pytest.approx(0.763407, abs=2e-5),
    }  # fmt: skip


@pytest.mark.parametrize(("hit", "interval"), [(True, (1.0, 1.0)), (False, (0.0, 0.0))])
def test_interval_of_what_never_varies_is_a_point(hit: bool, interval: tuple[float, float]) -> None:
    assert bootstrap_groups([(str(number % 3), hit) for number in range(30)]) == interval


def test_interval_is_wider_where_hits_come_by_group() -> None:
    spread = bootstrap_groups([(str(number % 20), number < 40) for number in range(200)])
    clustered = bootstrap_groups([(str(number % 20), number % 20 < 4) for number in range(200)])
    assert clustered[0] < spread[0] <= 0.2 <= spread[1] < clustered[1]
    assert clustered == bootstrap_groups([(str(number % 20), number % 20 < 4) for number in range(200)])


def test_one_group_tells_nothing_of_its_spread() -> None:
    assert bootstrap_groups([("a", True), ("a", False)]) == (0.5, 0.5)


def test_curve_runs_from_nothing_to_everything() -> None:
    cells = {"rwku.forget": Counts(), "rwku.neighbor": Counts()}
    for number in range(50):
        cells["rwku.forget"].add(False, False, number + 25.0)
        cells["rwku.neighbor"].add(False, False, float(number))
    (points,) = draw_curves(cells).values()
    assert points[-1] == [1.0, 1.0]
    assert points == sorted(points)
    assert max(recall for false_flags, recall in points if false_flags == 0.0) == pytest.approx(0.5, abs=0.05)
    assert draw_curves({"rwku.forget": cells["rwku.forget"]}) == {}


def test_area_is_how_often_what_is_to_be_noticed_scores_higher() -> None:
    cells = {"rwku.forget": Counts(scores=[3.0, 1.0]), "rwku.neighbor": Counts(scores=[2.0, 1.0])}
    # Of four pairs two are right, one is a tie.
    assert measure_areas(cells) == {"RWKU": 0.625}
    assert measure_areas({"rwku.forget": Counts(scores=[1.0])}) == {}


def test_tally_comes_back_from_plain_data_and_sums() -> None:
    detectors = cast(Detectors, SimpleNamespace(judge=lambda prompt, answer: {"guard": (prompt == "a", False, 0.5)}))
    whole, halves = Tally(), [Tally(), Tally()]
    for number, prompt in enumerate("abca"):
        for tally in (whole, halves[number % 2]):
            tally.add(detectors, ["x", f"x+{prompt}"], prompt, group=prompt)
            tally.notes[prompt] = number
    again = Tally()
    for tally in (halves[0], halves[1]):
        again.merge(json.loads(json.dumps(tally.to_state())))
    for cell, counts in whole.cells["guard"].items():
        found = again.cells["guard"][cell]
        assert found.to_record() == counts.to_record(), cell
        assert sorted(found.groups) == sorted(counts.groups)
    assert again.notes == whole.notes
