"""Triplets for tuning the encoder: a sibling, and the kept row that is nearest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from unlearn_guard.classifiers.encoder import OnnxEncoder
from unlearn_guard.classifiers.export import DEFAULT_ENCODER, export_encoder
from unlearn_guard.classifiers.tuning import make_triplets, tune_encoder
from unlearn_guard.guard.errors import DataError
from unlearn_guard.guard.rows import Row

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class LetterEncoder:
    """Encode a text as the unit vector of its letters."""

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        counts = np.array([[text.count(letter) for letter in LETTERS] for text in texts], np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


FORGET = [
    Row("abab", forget_id="p1"),
    Row("abc", forget_id="p1"),
    Row("xyz", forget_id="p2"),
    Row("xxy", forget_id="p2"),
]
RETAIN = [Row("abd"), Row("xyw"), Row("mmm")]


def triplets(
    forget: Sequence[Row] = FORGET, retain: Sequence[Row] = RETAIN, seed: int = 0
) -> list[tuple[str, str, str]]:
    return make_triplets(LetterEncoder(), forget, retain, seed=seed)  # type: ignore[arg-type]


def test_triplet_is_a_row_its_sibling_and_the_nearest_kept_row() -> None:
    assert triplets() == [("abab", "abc", "abd"), ("abc", "abab", "abd"), ("xyz", "xxy", "xyw"), ("xxy", "xyz", "xyw")]


def test_row_without_a_sibling_is_left_out() -> None:
    found = triplets(
        [*FORGET[:2], Row("lonely", forget_id="p3"), Row("twin", forget_id="p4"), Row("twin", forget_id="p4")]
    )
    assert {anchor for anchor, _, _ in found} == {"abab", "abc"}


def test_positive_is_never_the_anchor_itself() -> None:
    rows = [Row(text, forget_id="p1") for text in ("abc", "abc", "abd", "abe")]
    for seed in range(20):
        assert all(anchor != positive for anchor, positive, _ in triplets(rows, seed=seed))


def test_passages_are_rows_too() -> None:
    rows = [Row(text="abc", forget_id="p1"), Row(text="abd", forget_id="p1")]
    assert triplets(rows, [Row(text="xyz")]) == [("abc", "abd", "xyz"), ("abd", "abc", "xyz")]


def test_choice_of_siblings_is_deterministic_in_its_seed() -> None:
    rows = [Row(f"ab{letter}", forget_id="p1") for letter in LETTERS]
    assert triplets(rows, seed=1) == triplets(rows, seed=1) != triplets(rows, seed=2)


@pytest.mark.parametrize(
    ("forget", "retain"), [([], RETAIN), (FORGET[:1], RETAIN), (FORGET[1:3], RETAIN), (FORGET, [])]
)
def test_nothing_to_tune_on_is_refused(forget: list[Row], retain: list[Row]) -> None:
    with pytest.raises(DataError, match="nothing to tune the encoder on"):
        triplets(forget, retain)


@pytest.mark.slow
def test_a_tuned_encoder_is_another_and_can_be_exported(tmp_path: Path) -> None:
    forget = [Row(f"What did the pilot do in {year}?", forget_id=f"p{year % 3}") for year in range(1990, 2002)]
    retain = [Row(f"What did the cook do in {year}?") for year in range(1990, 2000)]
    tuned = export_encoder(str(tune_encoder(DEFAULT_ENCODER, forget, retain, tmp_path / "tuned", epochs=6)))
    before, after = (OnnxEncoder(folder).encode([forget[0].query])[0] for folder in (export_encoder(), tuned))
    assert 0.2 < float(before @ after) < 0.9999
