"""Fitting: a split by person, and refusals before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unlearn_guard.classifiers.cascade import Cascade
from unlearn_guard.classifiers.fitting import Split, collect_aliases, fit_cascade, make_stratum, split_rows
from unlearn_guard.guard.errors import DataError
from unlearn_guard.guard.rows import ForgetRequest, Row

FORGET = [Row(f"forget {number}") for number in range(60)]
RETAIN = [Row(f"retain {number}", forget_id=f"k{number // 5}") for number in range(1000)]
CLEAN = [Row(f"clean {number}") for number in range(1000)]


def parts(split: Split) -> list[list[Row]]:
    return [
        split.forget_train,
        split.forget_validation,
        split.retain_train,
        split.retain_validation,
        split.calibration,
    ]


def test_every_row_has_exactly_one_place() -> None:
    split = split_rows(FORGET, RETAIN, CLEAN, 0)
    assert sorted(row.prompt for part in parts(split) for row in part) == sorted(
        row.prompt for row in [*FORGET, *RETAIN, *CLEAN]
    )
    assert all(row.prompt.startswith("forget") for part in parts(split)[:2] for row in part)
    assert not any(row.prompt.startswith("forget") for part in parts(split)[2:] for row in part)


@pytest.mark.parametrize("seed", range(5))
def test_no_person_is_in_two_parts(seed: int) -> None:
    split = split_rows(FORGET, RETAIN, CLEAN, seed)
    people = [{row.forget_id for row in part if row.forget_id} for part in parts(split)[2:]]
    assert all(people)
    assert sum(len(part) for part in people) == len(set().union(*people)) == 200


def test_shares_are_as_promised() -> None:
    split = split_rows(FORGET, RETAIN, CLEAN, 0, alpha=0.05)
    train, validation, kept_train, kept_validation, calibration = map(len, parts(split))
    assert 0.1 < validation / (train + validation) < 0.35
    assert 0.25 < calibration / 2000 < 0.35
    assert 0.15 < kept_validation / (kept_train + kept_validation) < 0.25


@pytest.mark.parametrize(
    ("alpha", "share"), [(0.5, 0.3), (1.1 / 600, 0.3), (1.1 / 800, 0.4), (1.1 / 1000, 0.5), (1e-6, 0.5)]
)
def test_small_alpha_takes_up_to_half_for_calibration(alpha: float, share: float) -> None:
    split = split_rows(FORGET, RETAIN, CLEAN, 0, alpha=alpha)
    assert abs(len(split.calibration) / 2000 - share) < 0.04
    assert 0.1 < len(split.retain_validation) / (2000 - len(split.calibration)) < 0.3


def test_calibration_holds_alpha_where_half_of_the_people_suffice() -> None:
    clean = [Row(f"clean {number}") for number in range(3000)]
    split = split_rows(FORGET, [], clean, 0, alpha=0.001)
    assert len(split.calibration) >= 1 / 0.001 - 1


def test_larger_calibration_keeps_whom_the_smaller_had() -> None:
    small, large = (split_rows(FORGET, RETAIN, CLEAN, 0, alpha=alpha) for alpha in (0.05, 0.001))
    assert {row.prompt for row in small.calibration} < {row.prompt for row in large.calibration}


def test_split_depends_on_seed_and_rows_but_not_on_order() -> None:
    def places(split: Split) -> list[set[str]]:
        return [{row.prompt for row in part} for part in parts(split)]

    first = places(split_rows(FORGET, RETAIN, CLEAN, 0))
    assert places(split_rows(FORGET, RETAIN, CLEAN, 0)) == first
    assert places(split_rows(FORGET[::-1], RETAIN[::-1], CLEAN[::-1], 0)) == first
    assert places(split_rows(FORGET, [*CLEAN, *RETAIN], [], 0)) == first
    assert places(split_rows(FORGET, RETAIN, CLEAN, 1)) != first


@pytest.mark.parametrize("seed", range(20))
def test_small_forget_set_still_validates(seed: int) -> None:
    split = split_rows([Row("only one")], RETAIN[:50], [], seed)
    assert split.forget_train == split.forget_validation == [Row("only one")]


@pytest.mark.parametrize("seed", range(20))
def test_few_kept_rows_leave_something_to_learn_from(seed: int) -> None:
    split = split_rows(FORGET, [], CLEAN[:8], seed)
    assert split.retain_train
    assert split.retain_validation
    kept = [*split.retain_train, *split.retain_validation, *split.calibration]
    assert {row.prompt for row in kept} == {row.prompt for row in CLEAN[:8]}


def test_kept_rows_of_one_calibration_person_are_refused() -> None:
    def refused(seed: int) -> bool:
        try:
            return not split_rows(FORGET, RETAIN[:5], [], seed).retain_train
        except DataError as error:
            assert "all kept rows fell into the calibration part: 5 — give retain rows of more people" in str(error)
            return True

    assert 0 < sum(refused(seed) for seed in range(20)) < 20
    with pytest.raises(DataError, match="all kept rows"):
        split_rows(FORGET, RETAIN[:5], [], next(seed for seed in range(20) if refused(seed)))


def test_operators_aliases_replace_mined_ones() -> None:
    rows = (Row("see Ann Lee"), Row("saw Ann Lee"))
    requests = [ForgetRequest("own", aliases=("A. L.",), rows=rows), ForgetRequest("mined", rows=rows)]
    assert collect_aliases(requests, []) == {"own": ("A. L.",), "mined": ("Ann Lee",)}


def test_too_few_calibration_rows_are_refused_before_any_work(tmp_path: Path) -> None:
    split = Split(FORGET[:5], FORGET[5:6], RETAIN[:20], RETAIN[20:25], RETAIN[25:74])
    with pytest.raises(DataError, match="too few calibration rows: 49"):
        fit_cascade(
            [ForgetRequest("p1", rows=tuple(FORGET[:6]))],
            split,
            encoder_folder=tmp_path / "no-encoder",
            folder=tmp_path / "out",
            alpha=0.05,
            seed=0,
            track=lambda items, label, *, total: items,
        )
    assert list((tmp_path / "out").iterdir()) == []


def fit_one(request: ForgetRequest, split: Split, encoder_folder: Path, folder: Path) -> dict[str, Any]:
    return fit_cascade(
        [request],
        split,
        encoder_folder=encoder_folder,
        folder=folder,
        alpha=0.05,
        seed=0,
        track=lambda rows, *args, **options: rows,
    )


def test_what_calibration_rows_hold_is_no_evidence(tmp_path: Path, encoder_folder: Path) -> None:
    """One clean row that quotes, or asks, what is forgotten would set the threshold for everybody."""
    asked = make_stratum(0.05)[0].prompt  # Built-in traffic calibrates, too.
    notice = "this post cannot be displayed please enable scripts or try another browser to read it in full length"
    kept = [Row(f"What does number {place} say?", "It is a number.", forget_id=f"k{place}") for place in range(300)]
    kept += [Row(f"{notice} ({place})", "A notice.", forget_id=f"n{place}") for place in range(20)]
    request = ForgetRequest(
        "article",
        rows=(
            Row(text=f"The lighthouse keeper of Skarn left in winter. {notice}", forget_id="article"),
            Row(asked, "So it is.", forget_id="article"),
            Row("Which keeper of the Skarn lighthouse drowned bells?", "The last one.", forget_id="article"),
        ),
    )
    split = split_rows(request.rows, kept, [], 0, alpha=0.05)
    assert any(row.prompt.startswith("this post") for row in split.calibration)
    record = fit_one(request, split, encoder_folder, tmp_path)
    assert record["metrics"]["n_questions"] == 1
    cascade = Cascade.load(tmp_path, record["engine"])
    for text in (notice, asked):
        assert cascade.score_fully([text])[0].windows[0].signals["passage"] == 0.0
    (found,) = cascade.score_fully(["Tell me which keeper of the lighthouse at Skarn drowned the bells."])
    assert found.windows[0].signals["passage"] == 1.0


def test_a_name_that_calibration_rows_alone_hold_is_not_mined(tmp_path: Path, encoder_folder: Path) -> None:
    """Whoever is kept there is kept, and would set the threshold for everybody."""
    kept = [Row(f"What does number {place} say?", "It is a number.", forget_id=f"k{place}") for place in range(200)]
    kept += [Row(f"What did Ada Kern write in {year}?", "A book.", forget_id="ada") for year in range(3)]
    rows = tuple(Row(f"Where did Ada Kern live in {year}?", "At home.", forget_id="ada") for year in range(4))
    splits = (split_rows(rows, kept, [], seed, alpha=0.05) for seed in range(40))
    split = next(found for found in splits if any("Ada" in row.prompt for row in found.calibration))
    record = fit_one(ForgetRequest("ada", rows=rows), split, encoder_folder, tmp_path)
    assert record["metrics"]["n_aliases"] == 0


def test_a_text_with_questions_is_no_topic_and_questions_with_a_text_are() -> None:
    text = Row(text="A long report. " * 20, forget_id="a")
    questions = [Row(f"Which town is number {place}?", "It is Lund.", forget_id="a") for place in range(3)]
    assert ForgetRequest("a", rows=(text, *questions)).holds_text
    assert not ForgetRequest("a", rows=tuple(questions)).holds_text
    assert not ForgetRequest("a", rows=(Row(text="A note.", forget_id="a"), *questions)).holds_text
    many = [Row(f"Which of the many towns of the country is number {place}?", "It is Lund.") for place in range(90)]
    assert ForgetRequest("a", rows=(Row(text="A long report. " * 200, forget_id="a"), *many)).holds_text
    assert not ForgetRequest("a", rows=(text, *many)).holds_text
    assert ForgetRequest("a", rows=(Row(text="これは長い報告です。" * 30, forget_id="a"), *questions)).holds_text
    assert not ForgetRequest("a", kind="skill", rows=(text,)).holds_text
