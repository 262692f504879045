"""The policy: only sensible settings, and the bundle's alpha where none is named."""

from __future__ import annotations

import math
from typing import Any

import pytest

from unlearn_guard.guard.errors import SettingsError
from unlearn_guard.guard.policy import Policy


def test_default_enforces_and_blocks_on_error() -> None:
    policy = Policy()
    assert (policy.mode, policy.on_error, policy.alpha, policy.intervention) == ("enforce", "block", None, None)
    assert (policy.on_answer, policy.context_policy) == ("filter", "allow")


@pytest.mark.parametrize("mode", ["enforce", "shadow", "off"])
@pytest.mark.parametrize("on_error", ["block", "pass"])
def test_known_settings_pass(mode: Any, on_error: Any) -> None:
    assert (Policy(mode, on_error).mode, Policy(mode, on_error).on_error) == (mode, on_error)


@pytest.mark.parametrize("on_answer", ["filter", "rewrite", "pass"])
@pytest.mark.parametrize("context_policy", ["allow", "redact"])
@pytest.mark.parametrize("arm_p_value", [0.0, 1.0])
def test_known_settings_of_answers_pass(on_answer: Any, context_policy: Any, arm_p_value: float) -> None:
    policy = Policy(on_answer=on_answer, context_policy=context_policy, arm_p_value=arm_p_value)
    assert (policy.on_answer, policy.context_policy, policy.arm_p_value) == (on_answer, context_policy, arm_p_value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"mode": "on"}, "policy mode: 'on' — allowed: enforce, shadow, off"),
        ({"on_error": "raise"}, "policy on_error: 'raise' — allowed: block, pass"),
        ({"alpha": 0.0}, "policy alpha: 0.0"),
        ({"alpha": 1.0}, "policy alpha: 1.0"),
        ({"alpha": -0.1}, "policy alpha: -0.1"),
        ({"alpha": math.nan}, "policy alpha: nan"),
        ({"max_windows": 0}, "policy max_windows: 0 — allowed: 1 or more"),
        ({"on_answer": "block"}, "policy on_answer: 'block' — allowed: filter, rewrite, pass"),
        ({"context_policy": "deny"}, "policy context_policy: 'deny' — allowed: allow, redact"),
        ({"arm_p_value": 1.5}, "policy arm_p_value: 1.5"),
        ({"arm_p_value": -0.1}, "policy arm_p_value: -0.1"),
        ({"arm_p_value": math.nan}, "policy arm_p_value: nan"),
    ],
)
def test_wrong_setting_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        Policy(**settings)


def test_bundles_alpha_fills_a_gap_only() -> None:
    assert Policy(mode="shadow").with_alpha(0.02, 0.0) == Policy(mode="shadow", alpha=0.02)
    assert Policy(alpha=0.5).with_alpha(0.02, 0.01).alpha == 0.5


@pytest.mark.parametrize("alpha", [None, 0.001])
def test_alpha_is_raised_to_the_smallest_p_value(alpha: float | None) -> None:
    assert Policy(alpha=alpha).with_alpha(0.01, 0.02).alpha == 0.02
