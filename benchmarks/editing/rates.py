"""Learning rates of models of other widths than those that methods are tuned on."""

from __future__ import annotations

_HIDDEN = 192
"""Of the models that rates are tuned on."""


def fit_rate(learning_rate: float, hidden: int) -> float:
    """Return a learning rate for a model of this width: ∝ width^−1.5 above 192.

    From 1e-3 at 192 that is 2.9e-5 at 2048, where 150 published checkpoints of a model of a billion parameters are best between 1e-5
    and 5e-5.
    """
    return learning_rate * min(1.0, (_HIDDEN / hidden) ** 1.5)
