"""Starting: what the configuration says, and everything that stops a start."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unlearn_guard.guard.errors import EngineError, SettingsError
from unlearn_guard.serving.vllm.engine import check_config
from unlearn_guard.serving.vllm.server import check_environment
from unlearn_guard.serving.vllm.settings import read_settings

pytestmark = pytest.mark.vllm


def run_cli(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "unlearn_guard.guard.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **(environment or {})},
        check=False,
    )


def test_settings_come_from_additional_config_or_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("UNLEARN_GUARD_BUNDLE", raising=False)
    monkeypatch.delenv("UNLEARN_GUARD_REQUIRED", raising=False)
    assert read_settings({}) is None
    monkeypatch.setenv("UNLEARN_GUARD_BUNDLE", str(tmp_path))
    monkeypatch.setenv("UNLEARN_GUARD_MODE", "shadow")
    found = read_settings({"other": 1})
    assert found is not None
    assert (found.bundle, found.mode) == (str(tmp_path), "shadow")
    named = read_settings({"unlearn_guard": {"bundle": "elsewhere", "on_error": "pass"}})
    assert named is not None
    assert (named.on_error, named.mode) == ("pass", "enforce")


def test_required_without_bundle_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNLEARN_GUARD_BUNDLE", raising=False)
    monkeypatch.setenv("UNLEARN_GUARD_REQUIRED", "1")
    with pytest.raises(SettingsError, match="no bundle is named"):
        read_settings(None)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"bundle": "b", "mode": "enforced"}, "mode"),
        ({"bundle": "b", "typo": 1}, "typo"),
        ({"bundle": "b", "alpha": 2.0}, "alpha"),
        ({}, "bundle"),
        ("text", "additional_config"),
    ],
)
def test_malformed_section_is_one_line(section: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        read_settings({"unlearn_guard": section})
    assert "\n" not in str(caught.value)


def make_config(**changes: Any) -> Any:
    parallel = {"use_ubatching": False, "prefill_context_parallel_size": 1, "enable_batch_sharded_sampling": None}
    model = {"runner_type": "generate", "enable_prompt_embeds": False}
    top = {"speculative_config": None, "use_v2_model_runner": False, "kv_transfer_config": None}
    cache = {"kv_sharing_fast_prefill": False}
    for part in (parallel, model, top, cache):
        part.update({key: value for key, value in changes.items() if key in part})
    return SimpleNamespace(
        parallel_config=SimpleNamespace(**parallel),
        model_config=SimpleNamespace(**model),
        cache_config=SimpleNamespace(**cache),
        **top,
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"use_ubatching": True}, "dual batch"),
        ({"prefill_context_parallel_size": 2}, "prefill context"),
        ({"enable_batch_sharded_sampling": True}, "batch-sharded"),
        ({"runner_type": "pooling"}, "pooling"),
        ({"enable_prompt_embeds": True}, "prompt embeddings"),
        ({"kv_sharing_fast_prefill": True}, "fast prefill over shared KV"),
        ({"speculative_config": object()}, "speculative"),
        ({"kv_transfer_config": SimpleNamespace(kv_connector="Unknown")}, "KV connector"),
    ],
)
def test_refused_settings(changes: dict[str, Any], said: str) -> None:
    check_config(make_config())
    with pytest.raises(EngineError, match=said):
        check_config(make_config(**changes))


def test_speculative_decoding_would_skip_assistants() -> None:
    """On the V2 runner it is refused only where logits are subtracted."""
    config = make_config(speculative_config=object(), use_v2_model_runner=True)
    check_config(config)
    with pytest.raises(EngineError, match="speculative decoding with uld"):
        check_config(config, subtracts=True)


def test_rust_front_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "1")
    with pytest.raises(EngineError, match="Rust"):
        check_config(make_config())


def test_plugin_list_without_us_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "other")
    with pytest.raises(SettingsError, match=r"VLLM_PLUGINS.*add unlearn_guard"):
        check_environment()
    monkeypatch.setenv("VLLM_PLUGINS", "other,unlearn_guard")
    check_environment()


def test_serve_refuses_bad_input_in_one_line(bundle: Path, models: dict[str, Path], tmp_path: Path) -> None:
    cases: list[tuple[list[str], dict[str, str], str]] = [
        (["--bundle", str(tmp_path / "none")], {}, "no bundle here"),
        (["--bundle", str(bundle)], {"VLLM_PLUGINS": "other"}, "VLLM_PLUGINS"),
        (["--bundle", str(bundle), "--mode", "loud"], {}, "mode"),
        (["--bundle", str(bundle), "--intervention", "ecco"], {}, "did you mean 'eco'"),
        (["--bundle", str(bundle), "--audit", str(tmp_path)], {}, "directory"),
    ]
    for arguments, environment, said in cases:
        done = run_cli("serve", str(models["full"]), *arguments, environment=environment)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    other = tmp_path / "other"
    shutil.copytree(models["full"], other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-5}))
    done = run_cli("serve", str(other), "--bundle", str(bundle))
    assert done.returncode == 2
    assert "made for another model" in done.stderr


def test_guard_that_cannot_be_loaded_stops_the_start(start_engine: Any, bundle: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    aliases = broken / "classifier" / "aliases.json"
    aliases.write_text(aliases.read_text().replace("{", "{ ", 1))
    with pytest.raises(Exception, match="truncated or edited"):
        start_engine(settings={"bundle": str(broken)})


def test_without_a_bundle_the_plugin_is_inert(start_engine: Any, world: Any) -> None:
    engine = start_engine()
    assert "inert" in engine.log()
    item = world.sets["forget.given"][0]
    assert item.key in engine.chat([item.question])[0]["text"]
