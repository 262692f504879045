"""Rows and forget requests: what an operator hands over."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from unlearn_guard.guard.errors import DataError, RowError

Kind = Literal["person", "document", "skill"]
DEFAULT_FORGET_ID = "forget-0"


@dataclass(frozen=True, slots=True)
class Row:
    """One question with its answer, or one passage (`text`)."""

    prompt: str = ""
    answer: str = ""
    text: str = ""
    forget_id: str = ""
    aliases: tuple[str, ...] = ()
    split: str = ""
    stratum: str = ""
    """A kind of traffic (a language, a product) in which the rate of false flags shall hold by itself."""
    paraphrased_questions: tuple[str, ...] = ()
    paraphrased_answers: tuple[str, ...] = ()
    perturbed_answers: tuple[str, ...] = ()
    """Wrong answers of the same form; with the paraphrases, what an assistant is taught besides (TOFU's columns)."""

    @property
    def query(self) -> str:
        """The text that a request would carry."""
        return self.prompt or self.text

    @property
    def digest(self) -> str:
        """A stable hash of the row's content."""
        return hashlib.sha256(f"{self.prompt}\0{self.answer}\0{self.text}".encode()).hexdigest()


_LONG_TEXT_CHARACTERS = 2_000
"""A text of this length is known by itself, however many questions come with it."""


@dataclass(frozen=True, slots=True)
class ForgetRequest:
    """What must be gone. `forget_id` is ours; `request_id` is only ever the HTTP request's."""

    forget_id: str
    kind: Kind = "person"
    title: str = ""
    aliases: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    intervention: str = "eco"
    expires: str | None = None
    """ISO date after which the request should no longer apply; recorded, not yet enforced."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise DataError("kind of forget request", value=self.kind, allowed=", ".join(get_args(Kind)))

    @property
    def holds_text(self) -> bool:
        """Whether it is text above all, to be known by; questions about the text may come with it."""
        if self.kind != "person":
            return self.kind == "document"
        n_text = sum(len(row.text) for row in self.rows if row.text and not row.prompt)
        n_characters = sum(len(row.query) for row in self.rows)
        return n_text >= _LONG_TEXT_CHARACTERS or (n_text > 0 and 2 * n_text >= n_characters)


_FIELDS = {"prompt", "question", "answer", "text", "forget_id", "aliases", "split", "stratum"}
_COLUMNS = {
    "paraphrased_question": "paraphrased_questions",
    "paraphrased_answer": "paraphrased_answers",
    "perturbed_answer": "perturbed_answers",
}
"""TOFU's names of columns, each a string or a list of them."""


def read_rows(path: str | Path) -> list[Row]:
    """Read JSON lines into rows; raise RowError with file, line and reason for a malformed line."""
    path = Path(path)
    try:
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise DataError(f"cannot read rows: {error.strerror or error}", value=str(path)) from None
    rows = []
    for number, raw in enumerate(content.split(b"\n"), start=1):
        if raw.strip():
            rows.append(_parse(path, number, raw))
    if not rows:
        raise DataError("no rows in file", value=str(path), mend="give one JSON object per line")
    return rows


def _parse(path: Path, number: int, raw: bytes) -> Row:
    try:
        record = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RowError(path, number, f"not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise RowError(path, number, f"not JSON ({error.msg}, column {error.colno})") from None
    except (ValueError, RecursionError) as error:
        raise RowError(path, number, f"not readable JSON ({error})") from None
    if not isinstance(record, dict):
        raise RowError(path, number, f"a {type(record).__name__}", allowed="a JSON object")
    for name in ("prompt", "question", "answer", "text", "forget_id", "split", "stratum"):
        value = record.get(name, "")
        if not isinstance(value, str):
            raise RowError(path, number, f"{name!r} is a {type(value).__name__}", allowed="a string")
        _check_unicode(path, number, name, value)
    aliases = record.get("aliases", [])
    if not isinstance(aliases, list) or not all(isinstance(alias, str) for alias in aliases):
        raise RowError(path, number, "'aliases' is not a list of strings", allowed='["name", …]')
    for alias in aliases:
        _check_unicode(path, number, "aliases", alias)
    row = Row(
        prompt=str(record.get("prompt", "")).strip() or str(record.get("question", "")).strip(),
        answer=record.get("answer", "").strip(),
        text=record.get("text", "").strip(),
        forget_id=record.get("forget_id", ""),
        aliases=tuple(aliases),
        split=record.get("split", ""),
        stratum=record.get("stratum", ""),
        **{field: _read_texts(path, number, name, record.get(name, [])) for name, field in _COLUMNS.items()},
    )
    if not row.query:
        raise RowError(path, number, "neither 'prompt' (or 'question') nor 'text'", allowed=", ".join(sorted(_FIELDS)))
    return row


def _read_texts(path: Path, number: int, name: str, value: object) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise RowError(path, number, f"{name!r} is neither a string nor a list of strings")
    for text in texts:
        _check_unicode(path, number, name, text)
    return tuple(text.strip() for text in texts if text.strip())


def _check_unicode(path: Path, number: int, name: str, value: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise RowError(path, number, f"{name!r} holds half of a surrogate pair", allowed="Unicode text")


def group_requests(rows: Iterable[Row], *, intervention: str = "eco") -> list[ForgetRequest]:
    """Group rows into forget requests by `forget_id`, in order of first appearance."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.forget_id or DEFAULT_FORGET_ID, []).append(row)
    requests = []
    for forget_id, members in groups.items():
        aliases = tuple(dict.fromkeys(alias for row in members for alias in row.aliases if alias.strip()))
        kind: Kind = "document" if all(row.text and not row.prompt for row in members) else "person"
        requests.append(
            ForgetRequest(
                forget_id=forget_id,
                kind=kind,
                title=aliases[0] if aliases else forget_id,
                aliases=aliases,
                rows=tuple(members),
                intervention=intervention,
            )
        )
    return requests


def check_disjoint(forget: Sequence[Row], retain: Sequence[Row]) -> None:
    """Raise DataError where forget and retain rows share a query, or either is empty."""
    if not forget:
        raise DataError("the forget set is empty", mend="give at least one row to forget")
    if not retain:
        raise DataError("the retain set is empty", mend="give rows of what must be kept")
    kept = {row.query.casefold() for row in retain}
    shared = [row.query for row in forget if row.query.casefold() in kept]
    if shared:
        raise DataError(
            f"forget and retain rows overlap in {len(shared)} of {len(forget)} queries, first",
            value=shared[0],
            mend="remove them from one of the two sets",
        )
