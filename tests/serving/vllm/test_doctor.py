"""The doctor's findings on this machine."""

from __future__ import annotations

from typing import Any

import pytest

from unlearn_guard.serving.vllm.doctor import examine

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def test_doctor_proves_hooks_and_identity(models: Any, bundle: Any) -> None:
    options = {"max_model_len": 256, "enforce_eager": True, "dtype": "float32"}
    findings = examine(str(models["full"]), bundle, options=options, rounds=1)
    assert findings["canary"] is True
    assert findings["unflagged_identical"] is True
    assert findings["idle_throughput_ratio"] > 0
