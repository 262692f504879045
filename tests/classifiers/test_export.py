"""The exporter: found encoders, refused ones, and the cached result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unlearn_guard.classifiers import export
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
    assert list((tmp_path / "cache" / "encoders").iterdir()) == []
