"""The comparison row: far from the forget rows is out of distribution, and tuning moves the encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from unlearn_guard.benchmarks.ood import OodDetector, tune_by_contrastive_entropy
from unlearn_guard.classifiers.encoder import OnnxEncoder
from unlearn_guard.classifiers.export import export_encoder
from unlearn_guard.classifiers.traffic import make_traffic

FORGET = [f"Which storm broke the lighthouse of Skarn in {year}?" for year in range(1960, 1990)]


@pytest.fixture(scope="module")
def detector() -> OodDetector:
    clean = [row.query for row in make_traffic(80)]
    return OodDetector(OnnxEncoder(export_encoder()), FORGET, clean, 0.05)


def test_what_is_like_the_forget_rows_is_flagged_and_the_rest_is_not(detector: OodDetector) -> None:
    near, far = (
        detector.score("Which storm broke the lighthouse of Skarn in 1995?"),
        detector.score("How is bread baked?"),
    )
    assert near > far
    assert (detector.flags(near), detector.flags(far)) == (True, False)


def test_tuning_moves_the_encoder_a_little(tmp_path: Path) -> None:
    tuned = OnnxEncoder(export_encoder(str(tune_by_contrastive_entropy(FORGET, tmp_path / "tuned"))))
    before, after = (encoder.encode(FORGET) for encoder in (OnnxEncoder(export_encoder()), tuned))
    cosine = (before * after).sum(axis=1)
    assert np.all(cosine > 0.9)
    assert cosine.min() < 0.999999
