"""A comparison row: the out-of-distribution detector of O3 (arXiv 2407.10223), corrected, on our frozen encoder.

Per forget set: Mahalanobis distance and largest cosine to its rows, then a one-class SVM (ν = 0.1). Corrected against the
public code: no padding in the mean pooling, both components with their own spread, a threshold from clean rows
instead of one chosen on test files. Not reproduced: the contrastive-entropy training of the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from unlearn_guard.classifiers.calibration import Calibration
from unlearn_guard.classifiers.encoder import OnnxEncoder, Vectors
from unlearn_guard.guard.verdict import TextScore

_NU = 0.1
_SHRINKAGE = 0.2


class OodDetector:
    """Score texts by how far they are from being out of the forget set's distribution."""

    def __init__(self, encoder: OnnxEncoder, forget: Sequence[str], calibration: Sequence[str], alpha: float) -> None:
        from sklearn.svm import OneClassSVM

        self._encoder = encoder
        self._rows = encoder.encode(forget)
        self._mean = self._rows.mean(axis=0)
        spread = np.cov(self._rows.T)
        shrunk = (1 - _SHRINKAGE) * spread + _SHRINKAGE * np.trace(spread) / len(spread) * np.eye(len(spread))
        self._precision = np.linalg.inv(shrunk)
        features = self._describe(self._rows, own=True)
        self._scale = features.mean(axis=0), features.std(axis=0) + 1e-9
        self._svm: Any = OneClassSVM(nu=_NU, gamma="scale").fit((features - self._scale[0]) / self._scale[1])
        self.alpha = alpha
        self.calibration = Calibration.fit(self._judge(encoder.encode(calibration)), alpha)
        self.longest_name = 0
        self.smallest_p = 1.0 / (len(self.calibration.scores) + 1)

    def score(self, texts: Sequence[str], *, max_windows: int | None = None) -> list[TextScore]:
        """Return one score per text."""
        return [TextScore(float(score), "ood") for score in self._judge(self._encoder.encode(texts))]

    def match(self, texts: Sequence[str]) -> list[TextScore]:
        """Return nothing: this detector knows no names."""
        return [TextScore(-1e6, "ood") for _ in texts]

    def p_value(self, score: float) -> float:
        """Return the split-conformal p-value."""
        return self.calibration.p_value(score)

    def score_answer(
        self,
        given: Sequence[str],
        answer: str,
        *,
        owners: Sequence[str] = (),
        flagged: bool = False,
        allow: bool = True,
    ) -> TextScore:
        """Return the score of the answer's own text."""
        return self.score([answer])[0]

    def answer_p_value(self, score: float) -> float:
        """Return the split-conformal p-value."""
        return self.p_value(score)

    def glance(self, text: str, before: str = "") -> float:
        """Return 1: nothing is sure."""
        return 1.0

    def find_threshold(self, alpha: float) -> float:
        """Return the lowest score whose p-value is at most alpha."""
        return self.calibration.find_threshold(alpha)

    def find_neighbours(self, text: str, n: int) -> list[tuple[int, str, float]]:
        """Return nothing."""
        return []

    def _describe(self, vectors: Vectors, *, own: bool = False) -> np.ndarray:
        offset = vectors - self._mean
        distance = -0.5 * np.einsum("ij,jk,ik->i", offset, self._precision, offset)
        cosine = vectors @ self._rows.T
        if own:
            np.fill_diagonal(cosine, -1.0)
        return np.column_stack([distance, cosine.max(axis=1)])

    def _judge(self, vectors: Vectors) -> np.ndarray:
        features = (self._describe(vectors) - self._scale[0]) / self._scale[1]
        return np.asarray(self._svm.decision_function(features), np.float32)
