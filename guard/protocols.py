"""The few interfaces between rooms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from unlearn_guard.guard.verdict import TextScore


@runtime_checkable
class PromptClassifier(Protocol):
    """Score texts by how much they query a forget set."""

    alpha: float
    """The rate of false flags this classifier was calibrated for."""

    smallest_p: float
    """The smallest p-value it can give."""

    def score(self, texts: Sequence[str]) -> list[TextScore]:
        """Return one score per text; batch composition must not change a score."""
        ...

    def match(self, texts: Sequence[str]) -> list[TextScore]:
        """Return only the lexical opinion, at no encoder cost."""
        ...

    def p_value(self, score: float) -> float:
        """Return the split-conformal p-value of a score."""
        ...

    def split_windows(self, text: str) -> list[tuple[int, int]]:
        """Cut a text into character windows that the encoder reads whole."""
        ...
