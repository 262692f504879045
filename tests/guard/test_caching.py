"""The cache folder: where the variables say."""

from __future__ import annotations

from pathlib import Path

import pytest

from unlearn_guard.guard.caching import CACHE_VARIABLE, cache_folder


def test_own_variable_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    folder = cache_folder("models")
    assert folder == tmp_path / "own" / "models"
    assert folder.is_dir()
    assert not (tmp_path / "xdg").exists()


@pytest.mark.parametrize("own", ["", None])
def test_xdg_comes_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str | None) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    if own is not None:
        monkeypatch.setenv(CACHE_VARIABLE, own)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("models") == tmp_path / "unlearn-guard" / "models"


@pytest.mark.parametrize("xdg", ["", None])
def test_home_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, xdg: str | None) -> None:
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if xdg is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = cache_folder("models")
    assert folder == tmp_path / ".cache" / "unlearn-guard" / "models"
    assert cache_folder("models") == folder
