"""What an operator decides: enforce or only watch, and what to do when screening fails."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from unlearn_guard.guard.errors import SettingsError

Mode = Literal["enforce", "shadow", "off"]
OnError = Literal["block", "pass"]


@dataclass(frozen=True, slots=True)
class Policy:
    """How verdicts become actions.

    mode: `enforce` acts on flagged requests, `shadow` records what it would have done and changes no answer,
    `off` does not screen. on_error: what happens to a request that could not be screened. alpha: the allowed
    rate of false flags; None takes the bundle's. intervention: overrides the bundle's, None keeps it.
    max_windows: how many text windows one request may cost; more is an error, handled by `on_error`.
    """

    mode: Mode = "enforce"
    on_error: OnError = "block"
    alpha: float | None = None
    intervention: str | None = None
    max_windows: int = 512

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise SettingsError("policy mode", value=self.mode, allowed=", ".join(get_args(Mode)))
        if self.on_error not in get_args(OnError):
            raise SettingsError("policy on_error", value=self.on_error, allowed=", ".join(get_args(OnError)))
        if self.alpha is not None and not 0.0 < self.alpha < 1.0:
            raise SettingsError("policy alpha", value=self.alpha, allowed="a number between 0 and 1, exclusive")
        if self.max_windows < 1:
            raise SettingsError("policy max_windows", value=self.max_windows, allowed="1 or more")

    def with_alpha(self, alpha: float, smallest: float) -> Policy:
        """Fill in the bundle's alpha where the operator named none, and raise it to what the calibration can hold.

        `smallest` is the smallest p-value there is: below it, nothing would ever be flagged.
        """
        return replace(self, alpha=max(alpha if self.alpha is None else self.alpha, smallest))
