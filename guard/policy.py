"""What an operator decides: enforce or only watch, and what to do when screening fails."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from unlearn_guard.guard.errors import SettingsError

Mode = Literal["enforce", "shadow", "off"]
OnError = Literal["block", "pass"]
ContextPolicy = Literal["allow", "redact"]
OnAnswer = Literal["filter", "rewrite", "pass"]


@dataclass(frozen=True, slots=True)
class Policy:
    """How verdicts become actions.

    mode: `enforce` acts on flagged requests, `shadow` records what it would have done and changes no answer,
    `off` does not screen. on_error: what happens to a request that could not be screened. alpha: the allowed
    rate of false flags; None takes the bundle's. intervention: overrides the bundle's, None keeps it.
    max_windows: how many windows of one request the encoder may read; more is an error, handled by `on_error`; windows
    that the first stage clears cost nothing. on_answer: what happens to an answer that gives something away: `filter`
    ends it with finish_reason `content_filter`, `rewrite` ends it with `rewrite_text`, `pass` does not look.
    context_policy: whether an answer may repeat what the user's own text supplied. arm_p_value: from which p-value of
    the prompt on, told facts count.
    """

    mode: Mode = "enforce"
    on_error: OnError = "block"
    alpha: float | None = None
    intervention: str | None = None
    max_windows: int = 512
    on_answer: OnAnswer = "filter"
    context_policy: ContextPolicy = "allow"
    arm_p_value: float = 0.05
    rewrite_text: str = " I am sorry, I have nothing to say about that."

    def __post_init__(self) -> None:
        for name, kind in (
            ("mode", Mode),
            ("on_error", OnError),
            ("on_answer", OnAnswer),
            ("context_policy", ContextPolicy),
        ):
            if getattr(self, name) not in get_args(kind):
                raise SettingsError(f"policy {name}", value=getattr(self, name), allowed=", ".join(get_args(kind)))
        if not 0.0 <= self.arm_p_value <= 1.0:
            raise SettingsError("policy arm_p_value", value=self.arm_p_value, allowed="a number between 0 and 1")
        if self.alpha is not None and not 0.0 < self.alpha < 1.0:
            raise SettingsError("policy alpha", value=self.alpha, allowed="a number between 0 and 1, exclusive")
        if self.max_windows < 1:
            raise SettingsError("policy max_windows", value=self.max_windows, allowed="1 or more")

    def with_alpha(self, alpha: float, smallest: float) -> Policy:
        """Fill in the bundle's alpha where the operator named none, and raise it to what the calibration can hold.

        `smallest` is the smallest p-value there is: below it, nothing would ever be flagged.
        """
        return replace(self, alpha=max(alpha if self.alpha is None else self.alpha, smallest))
