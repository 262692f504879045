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
        self._calibration = Calibration.fit(self._judge(encoder.encode(calibration)), alpha)

    def score(self, text: str) -> float:
        """Return the score of one text; higher is more forget-like."""
        return float(self._judge(self._encoder.encode([text]))[0])

    def flags(self, score: float) -> bool:
        """Return whether the score's split-conformal p-value is at most alpha."""
        return self._calibration.p_value(score) <= self._calibration.alpha

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
