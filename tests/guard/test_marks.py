"""Marks, salts and audit hashes: keyed, bound to the prompt, not to be forged."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any

import pytest

from unlearn_guard.guard.errors import AdmissionError, SettingsError
from unlearn_guard.guard.marks import CLEAN, SALT_PREFIX, SECRET_VARIABLE, Marker, ensure_secret, hash_prompt
from unlearn_guard.guard.stamp import Stamp, Step

SECRET = "0123456789abcdef"
IDS = [5, 6, 7, 8]
STAMP = Stamp("rev", ("p1",), 4, 0, (Step("eco", ((1, 3),), {"kind": "noise", "amplitude": 0.5}),))


@pytest.fixture
def marker() -> Marker:
    return Marker(SECRET, "rev")


@pytest.mark.parametrize("stamp", [STAMP, None])
def test_signed_mark_passes(marker: Marker, stamp: Stamp | None) -> None:
    wire = json.loads(json.dumps(marker.sign(stamp, IDS)))
    assert Marker(SECRET, "rev").check(wire, tuple(IDS)) == stamp


@pytest.mark.parametrize("ids", [[5, 6, 7], [5, 6, 7, 9], [6, 5, 7, 8], [5, 6, 7, 8, 0], []])
@pytest.mark.parametrize("stamp", [STAMP, None])
def test_mark_is_bound_to_its_prompt(marker: Marker, stamp: Stamp | None, ids: list[int]) -> None:
    with pytest.raises(AdmissionError, match="invalid admission mark"):
        marker.check(marker.sign(stamp, IDS), ids)


@pytest.mark.parametrize(
    "changes",
    [
        {"body": CLEAN},
        {"body": replace(STAMP, seed=1).to_record()},
        {"body": replace(STAMP, steps=()).to_record()},
        {"body": replace(STAMP, forget_ids=()).to_record()},
        {"body": None},
        {"mac": "0" * 64},
        {"mac": ""},
        {"mac": None},
        {"revision": "other"},
        {"body": object()},
        {"body": {1, 2}},
        {"body": {"a": 1, 2: 3}},
        {"body": "\ud800"},
        {"mac": "\u00e9" * 64},
        {"mac": "\ud800" * 64},
        {"mac": b"0" * 64},
    ],
)
def test_edited_mark_is_refused(marker: Marker, changes: dict[str, Any]) -> None:
    with pytest.raises(AdmissionError, match="invalid admission mark"):
        marker.check({**marker.sign(STAMP, IDS), **changes}, IDS)


def test_clean_mark_cannot_carry_a_flagged_mac(marker: Marker) -> None:
    clean = marker.sign(None, IDS)
    with pytest.raises(AdmissionError):
        marker.check({**marker.sign(STAMP, IDS), "mac": clean["mac"]}, IDS)


@pytest.mark.parametrize("other", [Marker("another-secret-of-length", "rev"), Marker(SECRET, "other")])
def test_other_secret_or_revision_is_refused(marker: Marker, other: Marker) -> None:
    with pytest.raises(AdmissionError, match="invalid admission mark"):
        other.check(marker.sign(STAMP, IDS), IDS)


def test_mark_relabelled_with_the_expected_revision_is_refused(marker: Marker) -> None:
    mark = Marker(SECRET, "old").sign(None, IDS)
    with pytest.raises(AdmissionError, match="invalid admission mark"):
        marker.check({**mark, "revision": "rev"}, IDS)


@pytest.mark.parametrize(
    "mark", [None, "clean", [], {}, {"mac": "x"}, {"revision": "rev", "body": CLEAN, "mac": "x", "more": 1}]
)
def test_no_mark_is_refused(marker: Marker, mark: object) -> None:
    with pytest.raises(AdmissionError, match="carries no admission mark"):
        marker.check(mark, IDS)


def test_salt_is_prefixed_and_repeatable(marker: Marker) -> None:
    salt = marker.salt(STAMP, IDS, None)
    assert salt.startswith(SALT_PREFIX)
    assert salt == Marker(SECRET, "rev").salt(Stamp.from_record(STAMP.to_record()), IDS, None)


@pytest.mark.parametrize(
    "stamp",
    [
        replace(STAMP, revision="other"),
        replace(STAMP, forget_ids=("p2",)),
        replace(STAMP, seed=1),
        replace(STAMP, steps=()),
        replace(STAMP, steps=(replace(STAMP.steps[0], positions=((1, 4),)),)),
        replace(STAMP, steps=(replace(STAMP.steps[0], params={"kind": "noise", "amplitude": 0.6}),)),
    ],
)
def test_salt_depends_on_the_stamp(marker: Marker, stamp: Stamp) -> None:
    assert marker.salt(stamp, IDS, None) != marker.salt(STAMP, IDS, None)


def test_salt_depends_on_user_salt_prompt_and_secret(marker: Marker) -> None:
    salts = {
        marker.salt(STAMP, IDS, None),
        marker.salt(STAMP, IDS, "a"),
        marker.salt(STAMP, IDS, "b"),
        marker.salt(STAMP, [5, 6, 7, 9], None),
        Marker("another-secret-of-length", "rev").salt(STAMP, IDS, None),
    }
    assert len(salts) == 5


def test_salt_reads_prompt_ids_up_to_the_prompt_length(marker: Marker) -> None:
    assert marker.salt(STAMP, [*IDS, 1, 2], None) == marker.salt(STAMP, IDS, None)
    short = replace(STAMP, prompt_length=2)
    assert marker.salt(short, [5, 6, 0, 0], None) == marker.salt(short, IDS, None)
    assert marker.salt(short, [5, 0, 7, 8], None) != marker.salt(short, IDS, None)


def test_audit_hash_is_keyed_and_shares_nothing_with_the_salt(marker: Marker) -> None:
    assert marker.audit_hash(IDS) == Marker(SECRET, "other").audit_hash(IDS)
    assert marker.audit_hash(IDS) != Marker("another-secret-of-length", "rev").audit_hash(IDS)
    assert marker.audit_hash(IDS) != marker.audit_hash([5, 6, 7])
    assert marker.audit_hash(IDS) not in hash_prompt(IDS).hex()


def test_prompt_hash_keeps_ids_apart() -> None:
    prompts = [[1, 23], [12, 3], [123], [1, 2, 3], [0, 1, 23], []]
    assert len({hash_prompt(ids) for ids in prompts}) == len(prompts)
    assert hash_prompt((1, 2)) == hash_prompt([1, 2])


def test_secret_is_made_once_and_handed_to_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, "")
    secret = ensure_secret()
    assert len(secret) >= 32
    assert os.environ[SECRET_VARIABLE] == secret
    assert ensure_secret() == secret
    monkeypatch.setenv(SECRET_VARIABLE, "")
    assert ensure_secret() != secret


def test_operators_secret_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, SECRET)
    assert ensure_secret() == SECRET


def test_short_secret_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, SECRET[:-1])
    with pytest.raises(SettingsError, match=r"too short \(15 characters\).*at least 16") as caught:
        ensure_secret()
    assert SECRET[:-1] not in str(caught.value)
