"""The exporter: found encoders, refused ones, and the cached result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from unlearn_guard.classifiers import export
from unlearn_guard.classifiers.encoder import OnnxEncoder
from unlearn_guard.classifiers.export import DEFAULT_ENCODER, export_encoder, locate_encoder
from unlearn_guard.guard.errors import DependencyError, SettingsError


def write_encoder(folder: Path, modules: list[str], pooling: dict[str, object]) -> Path:
    (folder / "1_Pooling").mkdir(parents=True)
    places = {"Pooling": "1_Pooling"}
    record = [{"type": f"st.models.{name}", "path": places.get(name, "")} for name in modules]
    (folder / "modules.json").write_text(json.dumps(record))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_second_export_comes_from_the_cache(encoder_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_export", lambda *args: pytest.fail("exported again"))
    assert export_encoder(DEFAULT_ENCODER) == encoder_folder
    assert {file.name for file in encoder_folder.iterdir()} >= {"encoder.onnx", "tokenizer.json"}


def test_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    assert locate_encoder(str(tmp_path)) == tmp_path


def test_missing_encoder_is_named_with_the_way_to_get_one() -> None:
    with pytest.raises(DependencyError, match=r"encoder not found: 'no-such-encoder'.*unlearn-guard\[encoder\]"):
        locate_encoder("no-such-encoder")


@pytest.mark.parametrize(
    ("modules", "pooling", "says"),
    [
        (["Transformer", "Pooling", "Dense"], {"pooling_mode_mean_tokens": True}, "encoder modules"),
        (["Transformer"], {}, "encoder modules"),
        (["Transformer", "Pooling"], {"pooling_mode_max_tokens": True}, "encoder pooling"),
        (
            ["Transformer", "Pooling"],
            {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
            "allowed: mean or cls",
        ),
    ],
)
def test_other_architectures_are_refused(
    tmp_path: Path, modules: list[str], pooling: dict[str, object], says: str
) -> None:
    with pytest.raises(SettingsError, match=says):
        export_encoder(str(write_encoder(tmp_path / "encoder", modules, pooling)))


def test_failed_export_leaves_no_half_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLEARN_GUARD_CACHE", str(tmp_path / "cache"))
    source = write_encoder(tmp_path / "encoder", ["Transformer", "Pooling"], {"pooling_mode_mean_tokens": True})

    def fail(source: Path, pooling: str, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("disk full")

    monkeypatch.setattr(export, "_export", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        export_encoder(str(source))
    left = (tmp_path / "cache" / "encoders").iterdir()
    assert [path for path in left if path.suffix != ".lock"] == []


@pytest.fixture(scope="module")
def small_encoder() -> OnnxEncoder:
    return OnnxEncoder(export_encoder(precision="int8"))


TEXTS = [
    "Where was Mirela Vantongeren born?",
    "Hello",
    "A much longer text about the herring quay of Brackwater, its lighthouse, and the price of rope in winter. " * 4,
    "Wer baute die Harfe?",
    "!",
]


def test_int8_lies_beside_the_original_and_is_made_once(encoder_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = export_encoder(precision="int8")
    assert (folder.parent, folder.name) == (encoder_folder.parent, f"{encoder_folder.name}-int8")
    monkeypatch.setattr(export, "_compare_int8", lambda *args: pytest.fail("quantised again"))
    assert export_encoder(precision="int8") == folder
    size, original = ((path / "encoder.onnx").stat().st_size for path in (folder, encoder_folder))
    assert size < original


def test_int8_is_close_to_the_original(encoder_folder: Path, small_encoder: OnnxEncoder) -> None:
    vectors = small_encoder.encode(TEXTS)
    cosines = (OnnxEncoder(encoder_folder).encode(TEXTS) * vectors).sum(axis=1)
    assert cosines.min() > 0.99
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-4)


def test_batch_mates_change_no_int8_vector(small_encoder: OnnxEncoder) -> None:
    together = small_encoder.encode(TEXTS)
    for row, text in enumerate(TEXTS):
        alone = OnnxEncoder(export_encoder(precision="int8"), remembered=0).encode([text])
        np.testing.assert_array_equal(together[row], alone[0])


def test_rows_of_one_int8_run_are_quantised_apart(small_encoder: OnnxEncoder) -> None:
    texts = ["Where was Mirela born?", "Which harp was loud?", "!!! !! ! ????"]
    ids = [small_encoder._tokenizer.encode(text).ids for text in texts]
    width = min(map(len, ids))
    batch = np.array([row[:width] for row in ids], np.int64)
    whole, *alone = (
        small_encoder._session.run(None, {"input_ids": rows, "attention_mask": np.ones_like(rows)})[0]  # type: ignore[attr-defined]
        for rows in (batch, *(batch[row : row + 1] for row in range(len(batch))))
    )
    np.testing.assert_allclose(whole, np.concatenate(alone), atol=1e-5)


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(SettingsError, match="precision: 'int4' — allowed: fp32, int8"):
        export_encoder(precision="int4")  # type: ignore[arg-type]


def test_bad_quantisation_leaves_nothing(encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "encoder"
    shutil.copytree(encoder_folder, source)
    monkeypatch.setattr(export, "_INT8_COSINE", 1.1)
    with pytest.raises(SettingsError, match=r"8-bit encoder differs.*use --precision fp32"):
        export._quantise(source)
    assert [file.name for file in tmp_path.iterdir() if file.suffix != ".lock"] == ["encoder"]
