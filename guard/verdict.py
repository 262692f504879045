"""What screening says of one request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Stage = Literal[
    "lexical", "alias", "neighbour", "head", "ood", "fused", "document", "context", "answer", "key_space", "error"
]
STAGES: tuple[str, ...] = get_args(Stage)

Span = tuple[int, int, int]
"""(message, start, end): characters of the original text of one message, half-open."""


@dataclass(frozen=True, slots=True)
class Window:
    """One judged piece of a text: characters of the original text, and what every stage said of it."""

    start: int
    end: int
    how: str
    """`plain`, or the disguise through which it was read."""
    score: float
    stage: Stage
    forget_ids: tuple[str, ...]
    signals: Mapping[str, float]
    text: str
    """As it was judged: folded, decoded."""
    encoded: str = ""
    """As the encoder read it, without names."""


@dataclass(frozen=True, slots=True)
class TextScore:
    """A classifier's opinion of one text: score (higher is more forget-like) and where it comes from."""

    score: float
    stage: Stage
    forget_ids: tuple[str, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()
    n_windows: int = 1
    n_encoded: int = 0
    windows: tuple[Window, ...] = ()
    """The highest windows that the first stage did not clear, best first."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision on one request.

    `p_value` is split-conformal, (1 + #{calibration scores ≥ score}) / (n + 1); a request is flagged iff
    `p_value ≤ alpha`. `spans` point into the text the client sent; empty spans on a flagged request mean that
    every prompt token of user and tool messages, and of the beginning of an answer, is meant.
    """

    flagged: bool
    forget_ids: tuple[str, ...]
    score: float
    p_value: float
    stage: Stage
    spans: tuple[Span, ...] = ()
    errors: tuple[str, ...] = ()
    suspects: tuple[str, ...] = ()
    """Whom the highest window is nearest to, flagged or not: what an output guard is armed for."""
    fired: Span | None = None
    """The window that decided: the clause to look at."""
