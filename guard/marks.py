"""Keyed marks, cache salts and audit hashes, all derived from one secret.

The mark proves to the engine core that a request passed admission; the salt keeps the prefix cache of flagged
requests apart from every other request's. Neither depends on the engine's request id, which n > 1 and beam search
change.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from unlearn_guard.guard.errors import AdmissionError, SettingsError
from unlearn_guard.guard.stamp import Stamp, canonical_json

SECRET_VARIABLE = "UNLEARN_GUARD_SECRET"
MARK_KEY = "unlearn_guard"
"""The private key of `SamplingParams.extra_args`; whatever a client puts there is removed."""
SALT_PREFIX = "unl:"
CLEAN = "clean"
_MIN_SECRET_LENGTH = 16


def ensure_secret() -> str:
    """Return the secret, making one for this process and its children where the operator set none."""
    secret = os.environ.get(SECRET_VARIABLE, "")
    if not secret:
        secret = os.environ[SECRET_VARIABLE] = secrets.token_hex(32)
    if len(secret) < _MIN_SECRET_LENGTH:
        raise SettingsError(
            f"{SECRET_VARIABLE} is too short ({len(secret)} characters)",
            allowed=f"at least {_MIN_SECRET_LENGTH} characters",
            mend="unset it to have one made at every start",
        )
    return secret


def hash_prompt(token_ids: Sequence[int]) -> bytes:
    """Hash prompt token ids."""
    return hashlib.sha256(array("q", token_ids).tobytes()).digest()


def read_stamp(params: Any) -> Stamp | None:
    """Return the stamp that admitted sampling parameters carry, None where they are clean, unmarked, or there are none."""
    mark = (params.extra_args or {}).get(MARK_KEY) if params is not None else None
    return None if mark is None or mark["body"] == CLEAN else Stamp.from_record(mark["body"])


class Marker:
    """Sign, check and salt with keys derived from the secret; the keys differ by purpose."""

    def __init__(self, secret: str, revision: str) -> None:
        self.revision = revision
        self._mark_key = _derive(secret, "mark")
        self._salt_key = _derive(secret, "salt")
        self._audit_key = _derive(secret, "audit")

    def sign(self, stamp: Stamp | None, token_ids: Sequence[int]) -> dict[str, Any]:
        """Return the mark of an admitted request; `stamp` None means it is clean."""
        body = CLEAN if stamp is None else stamp.to_record()
        return {"revision": self.revision, "body": body, "mac": self._mac(body, token_ids)}

    def check(self, mark: object, token_ids: Sequence[int]) -> Stamp | None:
        """Return the stamp of a marked request (None: clean); raise AdmissionError without a valid mark."""
        if not isinstance(mark, Mapping) or set(mark) != {"revision", "body", "mac"}:
            raise AdmissionError("request carries no admission mark", mend="send it through a guarded front-end")
        body = mark["body"]
        try:
            expected = self._mac(body, token_ids).encode()
            given = str(mark["mac"]).encode(errors="replace")
        except (TypeError, ValueError, OverflowError, RecursionError):  # Not plain data, so nothing that we signed.
            expected = given = b""
        if not expected or mark["revision"] != self.revision or not hmac.compare_digest(given, expected):
            raise AdmissionError(
                "request carries an invalid admission mark",
                mend="front-ends and engine must share one bundle and one " + SECRET_VARIABLE,
            )
        return None if body == CLEAN else Stamp.from_record(body)

    def salt(self, stamp: Stamp, token_ids: Sequence[int], user_salt: str | None) -> str:
        """Return the cache salt of a flagged request, keyed by stamp, user salt and the prompt's own ids."""
        prompt = hash_prompt(token_ids[: stamp.prompt_length])
        message = b"\0".join((stamp.canonical(), (user_salt or "").encode(), prompt))
        return SALT_PREFIX + hmac.new(self._salt_key, message, hashlib.sha256).hexdigest()

    def audit_hash(self, token_ids: Sequence[int]) -> str:
        """Return a keyed hash of a prompt, for the audit log."""
        return hmac.new(self._audit_key, hash_prompt(token_ids), hashlib.sha256).hexdigest()[:32]

    def _mac(self, body: object, token_ids: Sequence[int]) -> str:
        message = canonical_json([self.revision, body]) + hash_prompt(token_ids)
        return hmac.new(self._mark_key, message, hashlib.sha256).hexdigest()


def _derive(secret: str, purpose: str) -> bytes:
    return hmac.new(secret.encode(), f"unlearn-guard/{purpose}".encode(), hashlib.sha256).digest()
