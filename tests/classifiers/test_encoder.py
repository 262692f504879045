"""The encoder: unit vectors that depend on nothing but their own text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from unlearn_guard.classifiers.encoder import OnnxEncoder, open_session
from unlearn_guard.guard.errors import SettingsError

TEXTS = [
    "Where was Ann Lee born?",
    "Hi",
    "",
    "A much longer text about nothing in particular. " * 12,
    "Ünïcödé 你好 😀",
]


@pytest.fixture(scope="module")
def encoder(encoder_folder: Path) -> OnnxEncoder:
    return OnnxEncoder(encoder_folder)


def test_vectors_are_of_unit_length(encoder: OnnxEncoder) -> None:
    vectors = encoder.encode(TEXTS)
    assert (vectors.shape, vectors.dtype) == ((len(TEXTS), encoder.dimension), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_batch_mates_do_not_change_a_vector(encoder_folder: Path) -> None:
    together = OnnxEncoder(encoder_folder).encode(TEXTS)
    apart, backwards = OnnxEncoder(encoder_folder), OnnxEncoder(encoder_folder).encode(TEXTS[::-1])
    for row, text in enumerate(TEXTS):
        assert np.array_equal(apart.encode([text])[0], together[row])
    assert np.array_equal(backwards[::-1], together)


def test_repeat_gives_the_same_vector_and_no_shared_memory(encoder: OnnxEncoder) -> None:
    first = encoder.encode(["Hi"])
    expected = first.copy()
    first[:] = 0.0
    assert np.array_equal(encoder.encode(["Hi"]), expected)


def test_like_meanings_are_nearer_than_unlike_ones(encoder: OnnxEncoder) -> None:
    a, b, c = encoder.encode(["Where was she born?", "What is her birthplace?", "How do I bake bread?"])
    assert a @ b > a @ c + 0.2


def test_nothing_encodes_to_nothing(encoder: OnnxEncoder) -> None:
    assert encoder.encode([]).shape == (0, encoder.dimension)
    assert encoder.encode_all(iter(())).shape == (0, encoder.dimension)


def test_text_longer_than_the_encoder_reads_is_cut(encoder: OnnxEncoder) -> None:
    head = "nothing in particular, " * 120
    whole, more = encoder.encode([head, head + "and then something else"])
    assert np.array_equal(whole, more)


def test_unknown_device_is_refused(encoder_folder: Path) -> None:
    with pytest.raises(SettingsError, match="device: 'tpu' — allowed: cpu, cuda"):
        open_session(encoder_folder / "encoder.onnx", "tpu")
