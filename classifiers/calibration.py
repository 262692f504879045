"""Split-conformal calibration of one score (Vovk et al.; Angelopoulos & Bates 2107.07511, §1).

With n exchangeable clean scores, a clean request is flagged with probability at most alpha when it is flagged iff
(1 + #{calibration scores ≥ score}) / (n + 1) ≤ alpha.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unlearn_guard.guard.errors import DataError

MIN_ROWS = 50
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Sorted clean scores and the alpha in force."""

    scores: Floats
    alpha: float
    alpha_requested: float

    @classmethod
    def fit(cls, scores: Floats, alpha: float) -> Calibration:
        """Calibrate at `alpha`, or at the smallest level that n rows can hold, 1 / (n + 1).

        Raises DataError for fewer than MIN_ROWS rows.
        """
        if len(scores) < MIN_ROWS:
            raise DataError(
                "too few calibration rows",
                value=len(scores),
                allowed=f"{MIN_ROWS} or more",
                mend="give more retain rows, or clean traffic with --clean",
            )
        return cls(np.sort(scores.astype(np.float32)), max(alpha, 1.0 / (len(scores) + 1)), alpha)

    def p_value(self, score: float) -> float:
        """Return (1 + #{calibration scores ≥ score}) / (n + 1)."""
        at_least = len(self.scores) - int(np.searchsorted(self.scores, np.float32(score), side="left"))
        return (1 + at_least) / (len(self.scores) + 1)
