"""The seam probe refuses what has changed."""

from __future__ import annotations

from typing import Any

import pytest

from unlearn_guard.guard.errors import EngineError
from unlearn_guard.serving.vllm import seams
from unlearn_guard.serving.vllm.seams import SEAMS, Seam, check_seam, patch, probe_seams

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize("seam", SEAMS, ids=lambda seam: seam.symbol)
def test_seam_is_as_expected(seam: Seam) -> None:
    check_seam(seam)


def test_probe_returns_the_version() -> None:
    assert probe_seams().startswith(seams.SUPPORTED)


def test_unsupported_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seams, "find_version", lambda: "0.29.1")
    with pytest.raises(EngineError, match=r"0\.29\.1.*0\.32\.x"):
        probe_seams()


@pytest.mark.parametrize(
    ("symbol", "parameters"),
    [("EngineCore.gone", ("self",)), ("EngineCore.preprocess_add_request", ("self", "request", "gone"))],
)
def test_changed_seam_is_refused(symbol: str, parameters: tuple[str, ...]) -> None:
    with pytest.raises(EngineError, match="gone"):
        check_seam(Seam("vllm.v1.engine.core", symbol, parameters, "test"))


def test_broken_installation_is_held_against_the_first_guarded_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seams, "_BROKEN", [])
    seams.note_broken(ImportError("no such module"))
    with pytest.raises(EngineError, match="no such module"):
        probe_seams()


def test_patch_is_idempotent_and_never_silent() -> None:
    class Owner:
        def method(self) -> int:
            return 1

    def wrap(original: Any) -> Any:
        return lambda self: original(self) + 1

    patch(Owner, "method", wrap)
    patch(Owner, "method", wrap)
    assert Owner().method() == 2
    with pytest.raises(EngineError, match="gone"):
        patch(Owner, "other", wrap)
