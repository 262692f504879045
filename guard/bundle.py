"""The bundle: an immutable folder that holds everything a guard needs.

manifest.json     schema version, revision, fingerprints, encoder, seed, alpha, sha256 of every other file
requests.jsonl    forget requests without their rows
examples.jsonl    rows as text, or as keyed hashes
classifier/       encoder.onnx, tokenizer.json, index.faiss, retain.faiss, aliases.json, passages.safetensors, head.onnx,
                  calibration.safetensors
interventions/    eco.safetensors, …
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unlearn_guard.guard.errors import BundleError, BundleIntegrityError, SettingsError
from unlearn_guard.guard.fingerprint import Fingerprint, check_fingerprint, hash_bytes
from unlearn_guard.guard.rows import ForgetRequest
from unlearn_guard.guard.stamp import canonical_json

MANIFEST = "manifest.json"
SCHEMA_VERSION = 2


class EncoderRecord(BaseModel):
    """Which encoder the index was built with."""

    model_config = ConfigDict(extra="forbid")

    name: str
    engine: str
    """Hash of encoder.onnx: the index is only valid for the very engine that built it."""
    precision: Literal["fp32", "int8"] = "fp32"


class Manifest(BaseModel):
    """The bundle's table of contents (schema 2; keys are only ever added)."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[2] = 2
    revision: str
    created_with: str
    model: str
    fingerprint: dict[str, str]
    classifier: Literal["cascade", "name-match"]
    encoder: EncoderRecord | None = None
    seed: int
    alpha: float
    alpha_requested: float
    n_calibration: int
    intervention: str
    interventions: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Parameters of each fitted intervention, by name; arrays lie under interventions/."""
    metrics: dict[str, Any] = Field(default_factory=dict)
    """What `fit` measured; not part of the revision, because timings differ where content does not."""
    files: dict[str, str]
    """sha256 of every other file, by relative path."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle on disk."""

    path: Path
    manifest: Manifest
    requests: tuple[ForgetRequest, ...]

    @property
    def revision(self) -> str:
        """The content hash that names this bundle."""
        return self.manifest.revision

    @classmethod
    def load(cls, path: str | Path) -> Bundle:
        """Open a bundle and verify every file.

        Raises BundleError where there is none, BundleIntegrityError for a missing, truncated, edited or
        unlisted file.
        """
        path = Path(path)
        manifest = _read_manifest(path)
        found = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()} - {MANIFEST}
        for name in sorted(found - set(manifest.files)):
            raise BundleIntegrityError(
                "bundle holds a file that its manifest does not list", value=name, mend="remove it or fit again"
            )
        for name, expected in manifest.files.items():
            file = path / name
            if not file.is_file():
                raise BundleIntegrityError("bundle file is missing", value=name, mend="copy it again or fit again")
            if hash_bytes(file.read_bytes()) != expected:
                raise BundleIntegrityError(
                    "bundle file was truncated or edited", value=name, mend="copy it again or fit again"
                )
        if manifest.revision != _revise(manifest):
            raise BundleIntegrityError("bundle manifest was edited", value=str(path / MANIFEST), mend="fit again")
        return cls(path, manifest, _read_requests(path / "requests.jsonl"))

    def check_model(self, model: str | Path) -> None:
        """Raise BundleMismatchError unless this bundle was made for that model."""
        check_fingerprint(self.manifest.fingerprint, model)


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    if not file.is_file():
        raise BundleError("no bundle here", value=str(path), mend="make one with `unlearn-guard fit`")
    try:
        record = json.loads(file.read_bytes())
    except ValueError:
        raise BundleIntegrityError("bundle manifest is truncated or not JSON", value=str(file)) from None
    version = record.get("schema_version") if isinstance(record, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleError(
            "bundle schema version",
            value=version,
            allowed=str(SCHEMA_VERSION),
            mend="upgrade unlearn-guard or fit again",
        )
    try:
        return Manifest.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BundleIntegrityError(f"bundle manifest field {place!r}: {first['msg']}", value=str(file)) from None


def _read_requests(file: Path) -> tuple[ForgetRequest, ...]:
    if not file.is_file():
        raise BundleIntegrityError("bundle file is missing", value=file.name, mend="copy it again or fit again")
    return tuple(ForgetRequest(**{**record, "aliases": tuple(record["aliases"])}) for record in read_lines(file))


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Return the JSON lines of a bundle's file."""
    # Not splitlines: titles may hold Unicode's other line separators.
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def request_record(request: ForgetRequest) -> dict[str, Any]:
    """Return a forget request as the plain record that requests.jsonl holds (rows live in examples.jsonl)."""
    return {
        "forget_id": request.forget_id,
        "kind": request.kind,
        "title": request.title,
        "aliases": list(request.aliases),
        "intervention": request.intervention,
        "expires": request.expires,
    }


def _revise(manifest: Manifest) -> str:
    record = manifest.model_dump(mode="json")
    record.pop("revision")
    record.pop("metrics")
    return hash_bytes(canonical_json(record))[:16]


@contextmanager
def write_bundle(out: str | Path, *, overwrite: bool = False) -> Iterator[BundleWriter]:
    """Write a bundle atomically: into a temporary folder, flushed to disk, then renamed.

    Nothing appears at `out` unless the block ends well and `commit` was called. Raises SettingsError where
    `out` exists and is not a bundle that may be overwritten.
    """
    out = Path(out)
    if out.exists():
        is_bundle = (out / MANIFEST).is_file()
        if not (is_bundle and overwrite) and (not out.is_dir() or any(out.iterdir())):
            raise SettingsError(
                "output exists",
                value=str(out),
                mend="name another folder" + (", or overwrite this bundle with --overwrite" if is_bundle else ""),
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = out.parent / f".{out.name}.{secrets.token_hex(4)}"
    staging.mkdir()
    try:
        writer = BundleWriter(staging)
        yield writer
        if writer.committed:
            replace_folder(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


class BundleWriter:
    """Collect a bundle's files in a staging folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.committed = False

    def path(self, name: str) -> Path:
        """Return where to write a file, with its folder made."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def write_lines(self, name: str, records: list[dict[str, Any]]) -> None:
        """Write JSON lines."""
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        self.path(name).write_text(lines, encoding="utf-8")

    def commit(
        self,
        *,
        model: str,
        fingerprint: Fingerprint,
        classifier: Literal["cascade", "name-match"],
        encoder: EncoderRecord | None,
        seed: int,
        alpha: float,
        alpha_requested: float,
        n_calibration: int,
        intervention: str,
        interventions: dict[str, dict[str, Any]],
        metrics: dict[str, Any],
    ) -> Manifest:
        """Hash every file, write the manifest last, and flush all of it to disk."""
        from unlearn_guard import __version__

        files = {
            str(file.relative_to(self.folder)): hash_bytes(file.read_bytes())
            for file in sorted(self.folder.rglob("*"))
            if file.is_file()
        }
        manifest = Manifest(
            revision="",
            created_with=f"unlearn-guard {__version__}",
            model=model,
            fingerprint=fingerprint,
            classifier=classifier,
            encoder=encoder,
            seed=seed,
            alpha=alpha,
            alpha_requested=alpha_requested,
            n_calibration=n_calibration,
            intervention=intervention,
            interventions=interventions,
            metrics=metrics,
            files=files,
        )
        manifest = manifest.model_copy(update={"revision": _revise(manifest)})
        write_atomic(self.folder / MANIFEST, manifest.model_dump_json(indent=2).encode())
        for name in files:
            _flush(self.folder / name)
        self.committed = True
        return manifest


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old or the new content, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_folder(source: Path, target: Path) -> None:
    """Move a finished folder into place, over an older one if there is one."""
    _flush(source)
    old = target.parent / f".{target.name}.old.{secrets.token_hex(4)}"
    if target.exists():
        target.rename(old)
    try:
        source.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
    _flush(target.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
