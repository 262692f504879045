"""The logistic head and the fusion of all stages, in one small ONNX graph.

Inputs: `embedding` (n, d) and `signals` (n, 10), named in `signals.SIGNALS`. Outputs: `head` (n,), the logit of the
embedding alone, and `fused` (n,), the logit of everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from unlearn_guard.classifiers.encoder import Vectors, open_session
from unlearn_guard.classifiers.signals import SIGNALS

Floats = npt.NDArray[np.float32]
N_SIGNALS = len(SIGNALS)
LOGIT_LIMIT = 12.0
"""The head's logit is clipped here, so that one stage cannot drown the others."""


@dataclass(frozen=True, slots=True)
class HeadWeights:
    """What `fit` learns. `fusion` weighs the signals, then the head's logit."""

    embedding: Floats
    bias: float
    fusion: Floats
    fusion_bias: float


class Head:
    """Run the ONNX head."""

    def __init__(self, path: Path, device: str = "cpu") -> None:
        self._session = open_session(path, device)

    def run(self, vectors: Vectors, signals: Floats) -> tuple[Floats, Floats]:
        """Return (head, fused) logits, each of shape (n,)."""
        head, fused = self._session.run(  # type: ignore[attr-defined]
            ["head", "fused"], {"embedding": vectors, "signals": signals}
        )
        return head, fused


def write_head(weights: HeadWeights, path: Path) -> None:
    """Write head.onnx."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    dimension = len(weights.embedding)
    constants = {
        "head_weight": weights.embedding.reshape(dimension, 1).astype(np.float32),
        "head_bias": np.array([weights.bias], np.float32),
        "low": np.array(-LOGIT_LIMIT, np.float32),
        "high": np.array(LOGIT_LIMIT, np.float32),
        "fusion_weight": weights.fusion.reshape(N_SIGNALS + 1, 1).astype(np.float32),
        "fusion_bias": np.array([weights.fusion_bias], np.float32),
        "flat": np.array([-1], np.int64),
    }
    nodes = [
        helper.make_node("Gemm", ["embedding", "head_weight", "head_bias"], ["raw"]),
        helper.make_node("Clip", ["raw", "low", "high"], ["clipped"]),
        helper.make_node("Concat", ["signals", "clipped"], ["stages"], axis=1),
        helper.make_node("Gemm", ["stages", "fusion_weight", "fusion_bias"], ["fused_column"]),
        helper.make_node("Reshape", ["clipped", "flat"], ["head"]),
        helper.make_node("Reshape", ["fused_column", "flat"], ["fused"]),
    ]
    graph = helper.make_graph(
        nodes,
        "unlearn_guard_head",
        [
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", dimension]),
            helper.make_tensor_value_info("signals", TensorProto.FLOAT, ["n", N_SIGNALS]),
        ],
        [
            helper.make_tensor_value_info("head", TensorProto.FLOAT, ["n"]),
            helper.make_tensor_value_info("fused", TensorProto.FLOAT, ["n"]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
