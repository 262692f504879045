"""Encoder and index on a GPU give the CPU's verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unlearn_guard.guard.errors import DependencyError, SettingsError
from unlearn_guard.guard.screening import Guard


@pytest.mark.gpu
def test_no_verdict_flips_on_the_gpu(bundle: Path, world: Any) -> None:
    questions = [item.question for items in world.sets.values() for item in items]
    cpu, cuda = (Guard.load(bundle, device=device).screen(questions) for device in ("cpu", "cuda"))
    assert [verdict.flagged for verdict in cpu] == [verdict.flagged for verdict in cuda]
    assert [verdict.forget_ids for verdict in cpu] == [verdict.forget_ids for verdict in cuda]


def test_missing_gpu_is_an_error_not_a_fallback(bundle: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has a CUDA provider")
    with pytest.raises(DependencyError, match="--device cpu"):
        Guard.load(bundle, device="cuda")


def test_unknown_device_is_named(bundle: Path) -> None:
    with pytest.raises(SettingsError, match="'tpu'"):
        Guard.load(bundle, device="tpu")
