"""The ONNX head says what NumPy says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from unlearn_guard.classifiers.head import LOGIT_LIMIT, N_SIGNALS, Head, HeadWeights, write_head

RNG = np.random.default_rng(3)
FUSION = RNG.standard_normal(N_SIGNALS + 1).astype(np.float32)
WEIGHTS = HeadWeights(RNG.standard_normal(6).astype(np.float32), 0.3, FUSION, -0.7)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Head:
    path: Path = tmp_path_factory.mktemp("head") / "head.onnx"
    write_head(WEIGHTS, path)
    return Head(path)


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_equals_numpy(head: Head, n: int, scale: float) -> None:
    vectors = (RNG.standard_normal((n, 6)) * scale).astype(np.float32)
    signals = RNG.standard_normal((n, N_SIGNALS)).astype(np.float32)
    logit, fused = head.run(vectors, signals)
    expected = np.clip(vectors @ WEIGHTS.embedding + WEIGHTS.bias, -LOGIT_LIMIT, LOGIT_LIMIT)
    stages = np.column_stack([signals, expected])
    assert logit.shape == fused.shape == (n,)
    np.testing.assert_allclose(logit, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(fused, stages @ WEIGHTS.fusion + WEIGHTS.fusion_bias, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_logit_of_the_embedding_is_limited(head: Head, sign: float) -> None:
    vectors = (sign * 1e4 * WEIGHTS.embedding)[None].astype(np.float32)
    logit, _ = head.run(vectors, np.zeros((1, N_SIGNALS), np.float32))
    assert logit[0] == sign * LOGIT_LIMIT


def test_every_signal_has_its_own_weight(head: Head) -> None:
    _, fused = head.run(np.zeros((N_SIGNALS, 6), np.float32), np.eye(N_SIGNALS, dtype=np.float32))
    base = WEIGHTS.fusion[-1] * WEIGHTS.bias + WEIGHTS.fusion_bias
    np.testing.assert_allclose(fused, WEIGHTS.fusion[:-1] + base, rtol=1e-4, atol=1e-5)
