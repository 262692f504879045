"""Documents as forget requests: a file cut into passages that overlap, each a row of its own."""

from __future__ import annotations

import re
from pathlib import Path

from unlearn_guard.guard.errors import DataError
from unlearn_guard.guard.rows import ForgetRequest, Row

PASSAGE_WORDS = 80
_OVERLAP_WORDS = 20
_HEADING = re.compile(r"^\s*#*\s*(.+?)\s*$")
_MAX_TITLE_WORDS = 12


def read_document(path: str | Path, *, intervention: str = "eco", forget_id: str = "") -> ForgetRequest:
    """Return a document as a forget request; its title is the first line where that is short, else the file's name.

    Raises DataError for a file that is not UTF-8 text, or holds none.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read document: {error.strerror or error}", value=str(path)) from None
    except UnicodeDecodeError as error:
        raise DataError(
            "document is not UTF-8 text", value=str(path), mend=f"convert it first (byte {error.start})"
        ) from None
    passages = cut_passages(text)
    if not passages:
        raise DataError("document holds no text", value=str(path))
    first = next(line for line in text.splitlines() if line.strip())
    heading = _HEADING.fullmatch(first)
    words = heading.group(1).split() if heading else []
    is_title = 2 <= len(words) <= _MAX_TITLE_WORDS and not words[-1].endswith((".", ",", ";"))
    title = " ".join(words) if is_title else path.stem
    owner = forget_id or f"document-{path.stem}"
    return ForgetRequest(
        forget_id=owner,
        kind="document",
        title=title,
        aliases=(title,) if is_title else (),
        rows=tuple(Row(text=passage, forget_id=owner) for passage in passages),
        intervention=intervention,
    )


def cut_passages(text: str) -> list[str]:
    """Return passages of about 80 words, cut at paragraphs where they are longer, overlapping by a quarter."""
    passages: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        words = paragraph.split()
        if not words:
            continue
        if passages and len(words) + len(passages[-1].split()) <= PASSAGE_WORDS:
            passages[-1] += " " + " ".join(words)
            continue
        for start in range(0, max(1, len(words) - _OVERLAP_WORDS), PASSAGE_WORDS - _OVERLAP_WORDS):
            passages.append(" ".join(words[start : start + PASSAGE_WORDS]))
    return passages
