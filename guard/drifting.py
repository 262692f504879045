"""Has traffic changed since calibration? A conformal test martingale over the scores of served requests.

Under exchangeability with the calibration scores, smoothed conformal p-values are independent and uniform, and the
martingale stays near 1; it reaches 1/δ with probability at most δ (Ville). Bets by the simple jumper of Vovk et al.,
*Retrain or not retrain* (COPA 2021): three constant slopes, and a small rate of jumping between them.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence

_SLOPES = (-1.0, 0.0, 1.0)
_JUMP = 0.01
_MOST_SCORES = 50_000
ALARM = math.log(100.0)
"""Log martingale of an alarm: under unchanged traffic it is ever reached with probability 1 %."""


class DriftMonitor:
    """Bet against exchangeability, one served score at a time."""

    def __init__(self, scores: Sequence[float], *, seed: int = 0) -> None:
        """`scores` are those of the calibration rows as served, cleared ones included."""
        self._scores = sorted(float(score) for score in scores)
        self._random = random.Random(seed)
        self._capital = [1.0 / len(_SLOPES)] * len(_SLOPES)
        self.log_martingale = 0.0
        self.n = 0

    @property
    def alarms(self) -> bool:
        """Whether the capital has grown a hundredfold."""
        return self.log_martingale >= ALARM

    def update(self, score: float) -> float:
        """Take one served score; return the log martingale."""
        p_value = self.p_value(score)
        # Ranked among all that came before, calibration and served: only then are the p-values independent.
        if len(self._scores) < _MOST_SCORES:
            insort(self._scores, score)
        total = sum(self._capital)
        shares = [(1 - _JUMP) * own + _JUMP * total / len(_SLOPES) for own in self._capital]
        grown = [share * (1 + slope * (p_value - 0.5)) for share, slope in zip(shares, _SLOPES, strict=True)]
        gain = sum(grown)
        self.log_martingale += math.log(gain / total)
        # Kept near 1, so that a long run neither overflows nor vanishes.
        self._capital = [share / gain for share in grown]
        self.n += 1
        return self.log_martingale

    def p_value(self, score: float) -> float:
        """Return the smoothed p-value: ties, of which cleared texts make many, are broken at random."""
        above = len(self._scores) - bisect_right(self._scores, score)
        ties = len(self._scores) - above - bisect_left(self._scores, score)
        return (above + self._random.random() * (ties + 1)) / (len(self._scores) + 1)
