"""Learning rates of models of other widths than those that methods are tuned on."""

from __future__ import annotations

BUILT_IN_WIDTH = 192
"""Of the built-in world's models, which the values in methods' files are for."""


def fit_rate(learning_rate: float, hidden: int, *, tuned_at: int = BUILT_IN_WIDTH) -> float:
    """Return a learning rate for a model of width `hidden`: as it was tuned at a width, ∝ width^−1.5 above that.

    From 1e-3 at 192 that is 2.9e-5 at 2048, where 150 published checkpoints of a model of a billion parameters are best between 1e-5
    and 5e-5.
    """
    return learning_rate * min(1.0, (tuned_at / hidden) ** 1.5)
