"""The few interfaces between rooms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from unlearn_guard.guard.verdict import TextScore


@runtime_checkable
class PromptClassifier(Protocol):
    """Score texts by how much they query a forget set, and answers by how much they give away."""

    alpha: float
    """The rate of false flags this classifier was calibrated for."""

    smallest_p: float
    """The smallest p-value it can give."""

    smallest_answer_p: float
    """The smallest p-value it can give to an answer: fewer calibration rows have one."""

    longest_name: int
    """Characters of the longest name it knows: an output guard holds back more than that."""

    def score(self, texts: Sequence[str], *, max_windows: int | None = None) -> list[TextScore]:
        """Return one score per text of one request, of any length; other requests must not change a score.

        Raises ScreeningError where the texts together need more than `max_windows` windows of the encoder.
        """
        ...

    def match(self, texts: Sequence[str]) -> list[TextScore]:
        """Return only the lexical opinion, at no encoder cost."""
        ...

    def p_value(self, score: float) -> float:
        """Return the split-conformal p-value of a prompt's score."""
        ...

    def score_answer(
        self,
        given: Sequence[str],
        answer: str,
        *,
        owners: Sequence[str] = (),
        flagged: bool = False,
        allow: bool = True,
    ) -> TextScore:
        """Return the score of an answer to what was `given`, armed for the forget requests `owners`."""
        ...

    def answer_p_value(self, score: float) -> float:
        """Return the split-conformal p-value of an answer's score."""
        ...

    def glance(self, text: str, before: str = "") -> float:
        """Return how telling a text's words are, by a look at each: what an output guard asks at every step.

        1 or more: it must be judged. Glances of neighbouring texts add up. `before` is what stands before the text, in which a
        verbatim run may have begun.
        """
        ...

    def is_plain(self, text: str) -> bool:
        """Return whether a text, of which no glance was infinite, is plainly clean in all of its windows."""
        ...

    def find_threshold(self, alpha: float) -> float:
        """Return the lowest score whose p-value is at most alpha."""
        ...

    def find_neighbours(self, text: str, n: int) -> list[tuple[int, str, float]]:
        """Return (place in the forget rows, forget_id, cosine) of the rows nearest to a window's encoded
        text, none without an index."""
        ...
