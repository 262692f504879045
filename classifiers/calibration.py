"""Split-conformal calibration of one score (Vovk et al.; Angelopoulos & Bates 2107.07511, §1).

With n exchangeable clean scores, a clean request is flagged with probability at most alpha when it is flagged iff
(1 + #{calibration scores ≥ score}) / (n + 1) ≤ alpha.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
    strata: Mapping[str, Floats] = field(default_factory=dict)
    """Mondrian: sorted clean scores of each stratum that has enough; a p-value is then the largest over all of them,
    so that the rate holds in every stratum, whichever a request belongs to."""

    @classmethod
    def fit(cls, scores: Floats, alpha: float, strata: Mapping[str, Floats] | None = None) -> Calibration:
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
        large = {
            name: np.sort(part.astype(np.float32)) for name, part in (strata or {}).items() if len(part) >= MIN_ROWS
        }
        fewest = min(len(part) for part in (scores, *large.values()))
        return cls(np.sort(scores.astype(np.float32)), max(alpha, 1.0 / (fewest + 1)), alpha, large)

    @property
    def smallest_p(self) -> float:
        """The smallest p-value there is."""
        return max(1.0 / (len(part) + 1) for part in (self.scores, *self.strata.values()))

    def p_value(self, score: float) -> float:
        """Return (1 + #{calibration scores ≥ score}) / (n + 1), the largest over the strata where there are some."""
        return max(_p_value(scores, score) for scores in (self.scores, *self.strata.values()))

    def find_threshold(self, alpha: float) -> float:
        """Return the lowest score whose p-value is at most alpha; infinity where no score has one."""
        candidates = np.unique(np.concatenate([self.scores, *self.strata.values()]))
        after = np.nextafter(candidates, np.float32(np.inf))
        low, high = 0, len(after)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.p_value(float(after[middle])) <= alpha else (middle + 1, high)
        return float(after[low]) if low < len(after) else float("inf")


def _p_value(scores: Floats, score: float) -> float:
    at_least = len(scores) - int(np.searchsorted(scores, np.float32(score), side="left"))
    return (1 + at_least) / (len(scores) + 1)
