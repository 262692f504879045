"""The command line: what works, and every mistake a user makes is one line and exit code 2."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from unlearn_guard.guard import cli
from unlearn_guard.guard.errors import UnlearnGuardError


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process and return exit code, output and errors."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["unlearn-guard", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        code = caught.value.code
        return code if isinstance(code, int) else int(code is not None), captured.out, captured.err

    return call


@pytest.fixture
def rows(tmp_path: Path, world: Any) -> dict[str, Path]:
    files = {}
    for name, items in (("forget", world.forget_rows), ("retain", world.retain_rows), ("clean", world.clean_rows)):
        files[name] = tmp_path / f"{name}.jsonl"
        records = [{"question": row.prompt, "answer": row.answer, "forget_id": row.forget_id} for row in items]
        files[name].write_text("".join(json.dumps(record) + "\n" for record in records))
    return files


def fit_arguments(model: Path, rows: dict[str, Path], out: Path) -> list[str]:
    return ["fit", str(model), "--forget", str(rows["forget"]), "--retain", str(rows["retain"]), "--out", str(out)]


def test_version_and_help() -> None:
    runner = CliRunner()
    assert "unlearn-guard 0." in runner.invoke(cli.app, ["--version"]).output
    shown = runner.invoke(cli.app, ["--help"]).output
    for command in ("fit", "serve", "screen", "verify", "doctor", "demo", "bench"):
        assert command in shown


def test_fit_screen_verify(run: Any, models: Any, rows: Any, tmp_path: Path, world: Any) -> None:
    out = tmp_path / "bundle"
    code, text, _ = run(*fit_arguments(models["full"], rows, out), "--clean", str(rows["clean"]), "--json")
    assert code == 0
    assert json.loads(text)["forget_requests"] == 5
    flagged, kept = world.sets["forget.unseen"][0].question, world.sets["retain"][0].question
    code, text, _ = run("screen", flagged, kept, "--bundle", str(out), "--json")
    assert code == 0
    assert [json.loads(line)["flagged"] for line in text.splitlines()] == [True, False]
    code, text, _ = run("screen", flagged, "--bundle", str(out))
    assert "alias" in text
    code, text, _ = run("verify", str(out), "--model", str(models["full"]), "--json")
    assert code == 0
    assert json.loads(text)["model_checked"]


def spoil_line(rows: dict[str, Path]) -> None:
    lines = rows["forget"].read_text().splitlines()
    lines[6] = lines[6][:-1]
    rows["forget"].write_text("\n".join(lines))


def empty_forget(rows: dict[str, Path]) -> None:
    rows["forget"].write_text("\n")


def overlap(rows: dict[str, Path]) -> None:
    rows["retain"].write_text(rows["retain"].read_text() + rows["forget"].read_text().splitlines()[0] + "\n")


def few_rows(rows: dict[str, Path]) -> None:
    rows["retain"].write_text("".join(line + "\n" for line in rows["retain"].read_text().splitlines()[:20]))


@pytest.mark.parametrize(
    ("spoil", "extra", "said"),
    [
        (spoil_line, [], "line 7: not JSON"),
        (empty_forget, [], "no rows in file"),
        (overlap, [], "overlap"),
        (few_rows, [], "too few calibration rows"),
        (lambda rows: rows["retain"].unlink(), [], "cannot read rows"),
        (lambda rows: None, ["--intervention", "ecoo"], "did you mean 'eco'"),
        (lambda rows: None, ["--alpha", "2"], "alpha"),
        (lambda rows: None, ["--eco", "mask=everything"], "eco mask"),
        (lambda rows: None, ["--eco", "masks=all"], "eco setting"),
        (lambda rows: None, ["--encoder", "no-such-encoder"], "encoder not found"),
    ],
    ids=["malformed", "empty", "overlap", "few", "missing", "intervention", "alpha", "mask", "setting", "encoder"],
)
def test_bad_fit_is_one_line_and_leaves_nothing(
    run: Any, models: Any, rows: Any, tmp_path: Path, spoil: Any, extra: list[str], said: str
) -> None:
    spoil(rows)
    out = tmp_path / "out" / "bundle"
    code, _, errors = run(*fit_arguments(models["full"], rows, out), *extra)
    last = errors.strip().splitlines()[-1]
    assert code == 2, errors
    assert said in last
    assert last.startswith("unlearn-guard: ")
    assert not out.exists()
    assert not list(out.parent.glob(".*")) if out.parent.exists() else True


def spoil_bundle(bundle: Path, how: str) -> str:
    head = bundle / "classifier" / "head.onnx"
    if how == "truncated":
        head.write_bytes(head.read_bytes()[:-10])
        return "truncated or edited"
    if how == "edited":
        manifest = bundle / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"alpha": 0.', '"alpha": 0.1'))
        return "manifest was edited"
    if how == "unlisted":
        (bundle / "extra.bin").write_bytes(b"x")
        return "does not list"
    head.unlink()
    return "is missing"


@pytest.mark.parametrize("how", ["truncated", "edited", "unlisted", "missing"])
def test_bad_bundle_is_one_line(run: Any, bundle: Path, tmp_path: Path, how: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    said = spoil_bundle(copy, how)
    for arguments in (["verify", str(copy)], ["screen", "Who?", "--bundle", str(copy)]):
        code, _, errors = run(*arguments)
        assert code == 2
        assert said in errors
        assert len(errors.strip().splitlines()) == 1


def test_bundle_of_another_model_shows_both_fingerprints(run: Any, bundle: Path, models: Any, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(models["full"], other)
    (other / "tokenizer.json").write_text((other / "tokenizer.json").read_text() + "\n")
    code, _, errors = run("verify", str(bundle), "--model", str(other))
    assert code == 2
    assert "tokenizer" in errors
    assert "in the bundle" in errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bench", "--suite", "wordl"], "did you mean 'world'"),
        (["bench", "--profile", "smal"], "did you mean 'small'"),
        (["bench", "--methods", "none,ecco"], "did you mean 'eco'"),
        (["bench", "--seeds", "a"], "seeds"),
        (["bench", "--model", "m"], "go together"),
        (["verify", "nowhere"], "no bundle here"),
    ],
)
def test_wrong_names_list_the_known_ones(run: Any, arguments: list[str], said: str) -> None:
    code, _, errors = run(*arguments)
    assert code == 2
    assert said in errors


def test_missing_option_is_exit_code_2(run: Any) -> None:
    assert run("fit", "model")[0] == 2


def test_errors_of_ours_carry_their_exit_code(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise UnlearnGuardError("measured and failed")

    monkeypatch.setattr("unlearn_guard.guard.bundle.Bundle.load", fail)
    code, _, errors = run("verify", "x")
    assert (code, errors.strip()) == (1, "unlearn-guard: measured and failed")
