"""The sentence encoder at serving time: ONNX Runtime and tokenizers, no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from unlearn_guard.guard.errors import DependencyError, SettingsError
from unlearn_guard.guard.fingerprint import hash_bytes

Vectors = npt.NDArray[np.float32]
_MAX_INPUT_TOKENS = 256


def open_session(path: Path, device: str = "cpu", threads: int = 1) -> object:
    """Open an ONNX Runtime session with a fixed number of threads and no spinning.

    Raises SettingsError for an unknown device, DependencyError where the GPU build is not installed.
    """
    import onnxruntime

    providers = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"]}
    if device not in providers:
        raise SettingsError("device", value=device, allowed=", ".join(providers))
    if device == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise DependencyError("onnxruntime has no CUDA provider", mend="install the extra `gpu`, or use --device cpu")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Spinning pools fight the server's own threads for cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=providers[device])


class OnnxEncoder:
    """Encode text as unit vectors.

    One text is one run: batch-mates must not change a vector, or a flag would depend on other people's traffic.
    """

    def __init__(self, folder: Path, *, device: str = "cpu", threads: int = 1, remembered: int = 4096) -> None:
        from tokenizers import Tokenizer

        self._file = folder / "encoder.onnx"
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(_MAX_INPUT_TOKENS)
        self._session = open_session(self._file, device, threads)
        self._inputs = {node.name for node in self._session.get_inputs()}  # type: ignore[attr-defined]
        self.dimension = int(self._session.get_outputs()[0].shape[-1])  # type: ignore[attr-defined]
        # Prompts repeat their system message and history; the vector of a text never changes.
        self.known: dict[str, Vectors] = {}
        """Vectors from elsewhere, by text; `noted` collects what is encoded, where somebody asked for it."""
        self.noted: dict[str, Vectors] | None = None
        self._encode_cached = lru_cache(maxsize=remembered)(self._encode_one)

    @property
    def engine(self) -> str:
        """The hash of the encoder's file."""
        return hash_bytes(self._file.read_bytes())

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return unit vectors, shape (len(texts), dimension), float32."""
        return self.encode_all(texts)

    def encode_all(self, texts: Iterable[str]) -> Vectors:
        """Return unit vectors of an iterable of texts."""
        rows = [self._encode_cached(text) for text in texts]
        return np.stack(rows) if rows else np.zeros((0, self.dimension), np.float32)

    def _encode_one(self, text: str) -> Vectors:
        row = self.known.get(text)
        if row is None:
            row = self._run(text)
        if self.noted is not None:
            self.noted[text] = row
        return row

    def _run(self, text: str) -> Vectors:
        encoding = self._tokenizer.encode(text)
        feeds = {
            "input_ids": np.array([encoding.ids], np.int64),
            "attention_mask": np.array([encoding.attention_mask], np.int64),
            "token_type_ids": np.array([encoding.type_ids], np.int64),
        }
        feeds = {name: value for name, value in feeds.items() if name in self._inputs}
        (vectors,) = self._session.run(["sentence_embedding"], feeds)  # type: ignore[attr-defined]
        row: Vectors = vectors[0]
        return row
