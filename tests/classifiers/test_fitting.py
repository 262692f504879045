"""Fitting: a split by person, and refusals before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from unlearn_guard.classifiers.fitting import Split, collect_aliases, fit_cascade, split_rows
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
