"""The command line: what works, and every mistake a user makes is one line and exit code 2."""

from __future__ import annotations

import io
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
    for command in ("fit", "serve", "screen", "replay", "verify", "doctor", "demo", "bench"):
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
        (["bench", "--methods", ""], "unknown method: ''"),
        (["bench", "--seeds", "a"], "seeds"),
        (["bench", "--model", "m"], "go together"),
        (["verify", "nowhere"], "no bundle here"),
    ],
)
def test_wrong_names_list_the_known_ones(run: Any, arguments: list[str], said: str) -> None:
    code, _, errors = run(*arguments)
    assert code == 2
    assert said in errors


def test_a_template_that_cannot_be_read_is_one_line(run: Any, models: Any, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Who is Bo Li?", "answer": "A pilot.", "forget_id": "bo"}\n')
    broken = tmp_path / "broken.jinja"
    broken.write_bytes(b"\xff\xfe")
    for path, said in (
        (tmp_path / "none.jinja", "No such file"),
        (broken, "no UTF-8"),
        (rows, "leaves the question out"),
    ):
        arguments = ["fit", str(models["full"]), "--forget", str(rows), "--out", str(tmp_path / "out")]
        code, _, errors = run(*arguments, "--chat-template", str(path))
        assert code == 2
        assert said in errors
        assert len(errors.strip().splitlines()) == 1


def test_missing_option_is_exit_code_2(run: Any) -> None:
    assert run("fit", "model")[0] == 2


def test_errors_of_ours_carry_their_exit_code(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise UnlearnGuardError("measured and failed")

    monkeypatch.setattr("unlearn_guard.guard.bundle.Bundle.load", fail)
    code, _, errors = run("verify", "x")
    assert (code, errors.strip()) == (1, "unlearn-guard: measured and failed")


@pytest.mark.parametrize("extra", [[], ["--classifier", "name-match"]])
def test_fit_without_anything_to_forget_says_what_to_give(run: Any, tmp_path: Path, extra: list[str]) -> None:
    code, _, errors = run("fit", "model", "--out", str(tmp_path / "bundle"), *extra)
    assert code == 2
    assert errors.strip() == "unlearn-guard: nothing to forget — give --forget ROWS, --document FILE, or both"
    assert list(tmp_path.iterdir()) == []


NAME = "Mirela Vantongeren"


@pytest.fixture
def named_rows(tmp_path: Path) -> Path:
    file = tmp_path / "named.jsonl"
    record = {"question": f"Who is {NAME}?", "answer": "A harpist.", "forget_id": "p1", "aliases": [NAME]}
    file.write_text(json.dumps(record) + "\n")
    return file


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    file = tmp_path / "ledger.txt"
    file.write_text("The Ledger of Halme\n\nRope was dear that winter, and the herring came late to the quay.\n")
    return file


QUICK = ("--classifier", "name-match", "--intervention", "refusal")


@pytest.fixture
def name_bundle(run: Any, models: Any, named_rows: Path, tmp_path: Path) -> Path:
    out = tmp_path / "name-bundle"
    code, _, errors = run("fit", str(models["full"]), "--forget", str(named_rows), "--out", str(out), *QUICK)
    assert code == 0, errors
    return out


def test_fit_of_rows_and_documents_without_kept_rows(
    run: Any, models: Any, named_rows: Path, ledger: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.txt"
    other.write_text("The Harps of Skarn\n\nNobody tuned them.\n")
    out = tmp_path / "bundle"
    given = ["--forget", str(named_rows), "--document", str(ledger), "--document", str(other)]
    code, text, errors = run("fit", str(models["full"]), *given, "--out", str(out), *QUICK, "--json")
    assert code == 0, errors
    assert json.loads(text)["forget_requests"] == 3
    code, text, _ = run(
        "screen", "Quote the ledger of Halme", "Who tuned the harps of Skarn?", f"Is {NAME} in?", "Hello",
        "--bundle", str(out), "--json",
    )  # fmt: skip
    records = [json.loads(line) for line in text.splitlines()]
    assert [record["forget_ids"] for record in records] == [["document-ledger"], ["document-other"], ["p1"], []]


@pytest.mark.slow
def test_fit_of_a_document_alone(run: Any, models: Any, ledger: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    code, text, errors = run(
        "fit", str(models["full"]), "--document", str(ledger), "--intervention", "refusal", "--out", str(out)
    )
    assert code == 0, errors
    assert "calibrated on built-in traffic" in " ".join(text.split())
    verbatim = "Continue: Rope was dear that winter, and the herring came late to the quay."
    code, text, _ = run("screen", verbatim, "What is the weather like?", "--bundle", str(out), "--json")
    assert [json.loads(line)["flagged"] for line in text.splitlines()] == [True, False]


def test_two_documents_of_one_name_are_refused(run: Any, models: Any, ledger: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    twin = shutil.copy(ledger, tmp_path / "other" / ledger.name)
    out = tmp_path / "bundle"
    documents = ["--document", str(ledger), "--document", str(twin)]
    code, _, errors = run("fit", str(models["full"]), *documents, "--out", str(out), *QUICK)
    assert code == 2
    assert "forget_id is used twice: 'document-ledger'" in errors
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot read document"), (b" \n", "holds no text"), (b"\xff\xfe", "not UTF-8")]
)
def test_bad_document_is_one_line(run: Any, models: Any, tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "document.txt"
    if content is not None:
        file.write_bytes(content)
    code, _, errors = run("fit", str(models["full"]), "--document", str(file), "--out", str(tmp_path / "b"), *QUICK)
    assert code == 2
    assert said in errors
    assert len(errors.strip().splitlines()) == 1


def test_screen_explains_a_flagged_and_a_clean_prompt(run: Any, bundle: Path, world: Any) -> None:
    item = world.sets["forget.unseen"][0]
    code, text, _ = run("screen", item.question, "Please translate this into French.", "--bundle", str(bundle))
    shown = " ".join(text.split())
    assert code == 0
    assert f"flagged for {item.subject}: {item.question}" in shown
    assert "clean: Please translate this into French." in shown
    for word in ("threshold", "p-value", "windows", "near", "alpha"):
        assert word in shown


def test_screen_record_as_json(run: Any, bundle: Path, world: Any) -> None:
    item = world.sets["forget.unseen"][0]
    _, text, _ = run("screen", item.question, "--bundle", str(bundle), "--json")
    record = json.loads(text)
    assert (record["prompt"], record["forget_ids"]) == (item.question, [item.subject])
    assert record["windows"][0]["signals"]["name"] == 1.0
    assert len(record["neighbours"]) == 3


def test_screen_reads_prompts_from_standard_input(run: Any, name_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"Is {NAME} in?\n\n  \nHello"))
    _, text, _ = run("screen", "--bundle", str(name_bundle), "--json")
    assert [json.loads(line)["flagged"] for line in text.splitlines()] == [True, False]


def test_screen_of_nothing_is_refused(run: Any, name_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(" \n"))
    code, _, errors = run("screen", "--bundle", str(name_bundle))
    assert code == 2
    assert "nothing to screen" in errors


def test_screen_shows_brackets_of_a_prompt_as_they_are(run: Any, name_bundle: Path) -> None:
    prompt = f"[red]Is[/red] [/b] {NAME} [in]?"
    code, text, _ = run("screen", prompt, "--bundle", str(name_bundle))
    assert code == 0
    assert prompt in text


@pytest.mark.parametrize("owner", ["[bold]", "[/b]"])
def test_screen_shows_brackets_of_a_forget_id_as_they_are(
    run: Any, models: Any, named_rows: Path, tmp_path: Path, owner: str
) -> None:
    named_rows.write_text(named_rows.read_text().replace('"p1"', f'"{owner}"'))
    out = tmp_path / "bundle"
    run("fit", str(models["full"]), "--forget", str(named_rows), "--out", str(out), *QUICK)
    _, text, _ = run("screen", f"Is {NAME} in?", "--bundle", str(out))
    assert f"flagged for {owner}:" in text


@pytest.fixture
def traffic(tmp_path: Path) -> Path:
    file = tmp_path / "traffic.jsonl"
    records: list[dict[str, Any]] = [{"prompt": f"Tell me about number {number}."} for number in range(17)]
    records.append({"body": {"messages": [{"role": "user", "content": f"Is {NAME} in?"}]}})
    records.append({"prompt": "Who plays the harp?", "response": f"{NAME} does."})
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def test_replay_says_what_would_have_been_flagged(run: Any, name_bundle: Path, traffic: Path) -> None:
    code, text, _ = run("replay", str(traffic), "--bundle", str(name_bundle), "--top", "2")
    shown = " ".join(text.split())
    assert code == 0
    assert "19 requests, 1 would have been flagged" in shown
    assert "1 answers stopped, 0 errors" in shown
    assert f"flagged p 0.0000 alias p1: Is {NAME} in?" in shown
    assert shown.count("passes p ") == 1


def test_replay_as_json_and_into_a_file(run: Any, name_bundle: Path, traffic: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "found.json"
    _, text, _ = run("replay", str(traffic), "--bundle", str(name_bundle), "--out", str(out), "--json")
    found = json.loads(text)
    assert (found["n"], found["flagged"], found["stopped"], found["errors"]) == (19, 1, 1, 0)
    assert json.loads(out.read_text()) == found


def test_replay_of_a_fitted_bundle(run: Any, bundle: Path, world: Any, tmp_path: Path) -> None:
    file = tmp_path / "traffic.jsonl"
    asked = [world.sets["forget.unseen"][0], *world.sets["retain"][:20]]
    file.write_text("".join(json.dumps({"question": item.question}) + "\n" for item in asked))
    _, text, _ = run("replay", str(file), "--bundle", str(bundle), "--json")
    found = json.loads(text)
    assert found["flagged"] == 1
    assert found["nearest"][0]["text"] == asked[0].question
    assert found["choices"][0]["alpha"] >= 0.001


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot read traffic"), ('{"prompt": "a"}\n[]', "line 2: a list"), ("", "no requests")]
)
def test_bad_traffic_is_one_line(run: Any, tmp_path: Path, name_bundle: Path, content: str | None, said: str) -> None:
    file = tmp_path / "bad.jsonl"
    if content is not None:
        file.write_text(content)
    code, _, errors = run("replay", str(file), "--bundle", str(name_bundle))
    assert code == 2
    assert said in errors
    assert len(errors.strip().splitlines()) == 1


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("canary", "identical", "always_on", "expected"),
    [
        (True, True, [], 0),
        (True, False, [], 1),
        (False, True, [], 1),
        (True, False, ["neuron-adjust/p1"], 0),  # Every request is edited, as `fit` was told.
        (False, False, ["neuron-adjust/p1"], 1),
    ],
)
def test_doctor_fails_where_something_is_wrong(
    run: Any, monkeypatch: pytest.MonkeyPatch, canary: bool, identical: bool, always_on: list[str], expected: int
) -> None:
    from unlearn_guard.serving.vllm import doctor

    findings = {"canary": canary, "unflagged_identical": identical, "always_on": always_on}
    monkeypatch.setattr(doctor, "examine", lambda *_, **__: findings)
    code, text, _ = run("doctor", "model", "--bundle", "bundle", "--json")
    assert (code, json.loads(text)) == (expected, findings)
