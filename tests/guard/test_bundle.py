"""The bundle: written whole or not at all, and refused when anything in it changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unlearn_guard.guard.bundle import (
    MANIFEST,
    Bundle,
    BundleWriter,
    Manifest,
    replace_folder,
    request_record,
    write_atomic,
    write_bundle,
)
from unlearn_guard.guard.errors import BundleError, BundleIntegrityError, BundleMismatchError, SettingsError
from unlearn_guard.guard.fingerprint import fingerprint_model
from unlearn_guard.guard.rows import ForgetRequest, Row

REQUEST = ForgetRequest(
    "p1", "document", "Bö", ("Bö Li", "B."), (Row("Who is Bö?"),), intervention="swap", expires="2030-01-01"
)


def commit(writer: BundleWriter, **changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "model": "tiny",
        "fingerprint": {"config": "c", "tokenizer": "t", "weights": "w"},
        "classifier": "name-match",
        "encoder": None,
        "seed": 3,
        "alpha": 0.02,
        "alpha_requested": 0.001,
        "n_calibration": 49,
        "intervention": "eco",
        "interventions": {"eco": {"strength": 2.0}},
        "metrics": {"recall": 1.0},
    }
    return writer.commit(**{**fields, **changes})


def make(out: Path, *, title: str = "Bö", overwrite: bool = False, **changes: Any) -> Path:
    with write_bundle(out, overwrite=overwrite) as writer:
        writer.write_lines("requests.jsonl", [{**request_record(REQUEST), "title": title}])
        writer.path("classifier/aliases.json").write_text('{"aliases": {}}')
        commit(writer, **changes)
    return out


def edit_manifest(bundle: Path, **changes: Any) -> None:
    record = json.loads((bundle / MANIFEST).read_text())
    (bundle / MANIFEST).write_text(json.dumps({**record, **changes}))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_round_trip(tmp_path: Path) -> None:
    bundle = Bundle.load(str(make(tmp_path / "deep" / "b")))
    (request,) = bundle.requests
    assert request == ForgetRequest("p1", "document", "Bö", ("Bö Li", "B."), (), "swap", "2030-01-01")
    manifest = bundle.manifest
    assert (manifest.model, manifest.seed, manifest.alpha, manifest.alpha_requested) == ("tiny", 3, 0.02, 0.001)
    assert manifest.interventions == {"eco": {"strength": 2.0}}
    assert manifest.metrics == {"recall": 1.0}
    assert set(manifest.files) == {"requests.jsonl", "classifier/aliases.json"}
    assert bundle.revision == manifest.revision
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["b"]


def test_line_separators_in_a_title_do_not_split_it(tmp_path: Path) -> None:
    title = "a\u2028b\u2029c\x85d\x1ce"
    (request,) = Bundle.load(make(tmp_path / "b", title=title)).requests
    assert request.title == title


def test_bundle_without_requests_is_refused(tmp_path: Path) -> None:
    with write_bundle(tmp_path / "b") as writer:
        writer.path("classifier/aliases.json").write_text('{"aliases": {}}')
        commit(writer)
    with pytest.raises(BundleIntegrityError, match=r"missing: 'requests\.jsonl'"):
        Bundle.load(tmp_path / "b")


def test_revision_names_the_content(tmp_path: Path) -> None:
    def revise(name: str, **changes: Any) -> str:
        return Bundle.load(make(tmp_path / name, **changes)).revision

    same = revise("a")
    assert revise("b") == same
    assert revise("c", metrics={"recall": 0.5}) == same
    assert len({same, revise("d", title="other"), revise("e", seed=4), revise("f", alpha=0.03)}) == 4


def truncate(bundle: Path) -> None:
    file = bundle / "requests.jsonl"
    file.write_bytes(file.read_bytes()[:-1])


def edit(bundle: Path) -> None:
    file = bundle / "requests.jsonl"
    file.write_bytes(file.read_bytes().replace(b"p1", b"p2"))


def truncate_manifest(bundle: Path) -> None:
    file = bundle / MANIFEST
    file.write_bytes(file.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (truncate, "truncated or edited: 'requests.jsonl'"),
        (edit, "truncated or edited: 'requests.jsonl'"),
        (lambda bundle: (bundle / "classifier" / "aliases.json").unlink(), "missing: 'classifier/aliases.json'"),
        (lambda bundle: (bundle / "classifier" / "extra.bin").touch(), "does not list: 'classifier/extra.bin'"),
        (lambda bundle: (bundle / ".hidden").touch(), r"does not list: '\.hidden'"),
        (lambda bundle: edit_manifest(bundle, alpha=0.5), "manifest was edited"),
        (lambda bundle: edit_manifest(bundle, intervention="prompting"), "manifest was edited"),
        (lambda bundle: edit_manifest(bundle, revision="0" * 16), "manifest was edited"),
        (lambda bundle: edit_manifest(bundle, unheard_of=1), "field 'unheard_of'"),
        (lambda bundle: edit_manifest(bundle, alpha="much"), "field 'alpha'"),
        (truncate_manifest, "truncated or not JSON"),
        (lambda bundle: (bundle / MANIFEST).write_bytes(b"\xff\xfe"), "truncated or not JSON"),
    ],
)
def test_damage_is_refused_and_named(tmp_path: Path, damage: Callable[[Path], object], says: str) -> None:
    bundle = make(tmp_path / "b")
    Bundle.load(bundle)
    damage(bundle)
    with pytest.raises(BundleIntegrityError, match=says):
        Bundle.load(bundle)


def test_consistently_forged_file_list_still_changes_the_revision(tmp_path: Path) -> None:
    bundle = make(tmp_path / "b")
    (bundle / "classifier" / "aliases.json").unlink()
    files = json.loads((bundle / MANIFEST).read_text())["files"]
    edit_manifest(bundle, files={"requests.jsonl": files["requests.jsonl"]})
    with pytest.raises(BundleIntegrityError, match="manifest was edited"):
        Bundle.load(bundle)


@pytest.mark.parametrize("version", [1, 3, 0, "2"])
def test_other_schema_version_says_so(tmp_path: Path, version: object) -> None:
    bundle = make(tmp_path / "b")
    edit_manifest(bundle, schema_version=version)
    with pytest.raises(BundleError, match=f"bundle schema version: {version!r} — allowed: 2") as caught:
        Bundle.load(bundle)
    assert not isinstance(caught.value, BundleIntegrityError)


@pytest.mark.parametrize("content", ["[]", "null", "{}"])
def test_manifest_that_is_no_manifest_is_refused(tmp_path: Path, content: str) -> None:
    bundle = make(tmp_path / "b")
    (bundle / MANIFEST).write_text(content)
    with pytest.raises(BundleError, match="schema version"):
        Bundle.load(bundle)


def test_no_bundle_is_said_with_the_way_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no bundle here: '.*nowhere'.*unlearn-guard fit"):
        Bundle.load(tmp_path / "nowhere")


def test_nothing_appears_when_the_block_raises(tmp_path: Path) -> None:
    def fail() -> None:
        with write_bundle(tmp_path / "b") as writer:
            writer.write_lines("requests.jsonl", [])
            commit(writer)
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_nothing_appears_without_a_commit(tmp_path: Path) -> None:
    with write_bundle(tmp_path / "b") as writer:
        writer.write_lines("requests.jsonl", [])
    assert list(tmp_path.iterdir()) == []


def test_nothing_appears_at_the_target_before_the_block_ends(tmp_path: Path) -> None:
    with write_bundle(tmp_path / "b") as writer:
        writer.write_lines("requests.jsonl", [])
        commit(writer)
        assert not (tmp_path / "b").exists()
    assert (tmp_path / "b" / MANIFEST).is_file()


@pytest.mark.parametrize("raises", [True, False])
def test_unfinished_overwrite_keeps_the_old_bundle(tmp_path: Path, raises: bool) -> None:
    bundle = make(tmp_path / "b")
    before = snapshot(tmp_path)

    def overwrite() -> None:
        with write_bundle(bundle, overwrite=True) as writer:
            writer.write_lines("requests.jsonl", [])
            if raises:
                raise RuntimeError("disk full")

    if raises:
        with pytest.raises(RuntimeError, match="disk full"):
            overwrite()
    else:
        overwrite()
    assert snapshot(tmp_path) == before


def test_overwrite_replaces_the_whole_bundle(tmp_path: Path) -> None:
    bundle = make(tmp_path / "b")
    with write_bundle(bundle, overwrite=True) as writer:
        writer.write_lines("requests.jsonl", [])
        commit(writer)
    assert Bundle.load(bundle).requests == ()
    assert {file.name for file in bundle.iterdir()} == {"requests.jsonl", MANIFEST}
    assert [file.name for file in tmp_path.iterdir()] == ["b"]


def test_old_bundle_returns_when_the_new_one_cannot_be_moved_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, new = make(tmp_path / "b"), make(tmp_path / "new", title="other")
    before, rename = snapshot(bundle), Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path == new:
            raise OSError("no space")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no space"):
        replace_folder(new, bundle)
    assert snapshot(bundle) == before
    assert {path.name for path in tmp_path.iterdir()} == {"b", "new"}


def test_bundle_is_not_overwritten_unasked(tmp_path: Path) -> None:
    bundle = make(tmp_path / "b")
    before = snapshot(tmp_path)
    with pytest.raises(SettingsError, match=r"output exists: '.*b'.*--overwrite"):
        make(bundle)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("as_file", [True, False])
def test_what_is_no_bundle_is_never_overwritten(tmp_path: Path, as_file: bool) -> None:
    out = tmp_path / "b"
    if as_file:
        out.write_text("precious")
    else:
        out.mkdir()
        (out / "thesis.txt").write_text("precious")
    before = snapshot(tmp_path)
    with pytest.raises(SettingsError, match="output exists") as caught:
        make(out, overwrite=True)
    assert "--overwrite" not in str(caught.value)
    assert snapshot(tmp_path) == before


def test_empty_folder_is_written_into(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    assert Bundle.load(make(tmp_path / "b")).manifest.seed == 3


def test_model_is_checked_against_the_fingerprint(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"layers": 2}')
    bundle = Bundle.load(make(tmp_path / "b", fingerprint=fingerprint_model(model)))
    bundle.check_model(model)
    (model / "config.json").write_text('{"layers": 3}')
    with pytest.raises(BundleMismatchError):
        bundle.check_model(model)


def test_write_atomic_makes_folders_and_replaces(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b.bin"
    write_atomic(file, b"old")
    write_atomic(file, b"new")
    assert file.read_bytes() == b"new"
    assert [path.name for path in file.parent.iterdir()] == ["b.bin"]


def test_failed_write_leaves_the_old_content_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "b.bin"
    write_atomic(file, b"old")

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(file, b"new")
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["b.bin"]
