"""What screening says of one request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Stage = Literal["alias", "neighbour", "head", "ood", "fused", "document", "context", "answer", "key_space", "error"]
STAGES: tuple[str, ...] = get_args(Stage)

Span = tuple[int, int, int]
"""(message, start, end): characters of the original text of one message, half-open."""


@dataclass(frozen=True, slots=True)
class TextScore:
    """A classifier's opinion of one text: score (higher is more forget-like) and where it comes from."""

    score: float
    stage: Stage
    forget_ids: tuple[str, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision on one request.

    `p_value` is split-conformal, (1 + #{calibration scores ≥ score}) / (n + 1); a request is flagged iff
    `p_value ≤ alpha`. `spans` point into the text the client sent; empty spans on a flagged request mean that
    every prompt token of user and tool messages is meant.
    """

    flagged: bool
    forget_ids: tuple[str, ...]
    score: float
    p_value: float
    stage: Stage
    spans: tuple[Span, ...] = ()
    errors: tuple[str, ...] = ()
