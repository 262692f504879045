"""Documents: cut into passages that overlap, with a title where there is one."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn_guard.classifiers.documents import PASSAGE_WORDS, cut_passages, read_document
from unlearn_guard.guard.errors import DataError


def number_words(*lengths: int) -> str:
    """Return paragraphs of so many words, no word twice."""
    first = 0
    paragraphs = []
    for length in lengths:
        paragraphs.append(" ".join(f"w{number}" for number in range(first, first + length)))
        first += length
    return "\n\n".join(paragraphs)


@given(st.lists(st.integers(0, 300), max_size=6))
def test_passages_hold_every_word_in_order_and_none_is_long(lengths: list[int]) -> None:
    text = number_words(*lengths)
    passages = cut_passages(text)
    words = [word for passage in passages for word in passage.split()]
    assert list(dict.fromkeys(words)) == text.split()
    assert all(0 < len(passage.split()) <= PASSAGE_WORDS for passage in passages)


def test_neighbouring_passages_of_a_paragraph_overlap_by_a_quarter() -> None:
    passages = [passage.split() for passage in cut_passages(number_words(500))]
    assert len(passages) > 5
    for first, second in pairwise(passages):
        assert first[-PASSAGE_WORDS // 4 :] == second[: PASSAGE_WORDS // 4]


@pytest.mark.parametrize(("n_words", "n_passages"), [(1, 1), (80, 1), (81, 2), (140, 2), (141, 3)])
def test_paragraph_is_cut_no_more_than_needed(n_words: int, n_passages: int) -> None:
    assert len(cut_passages(number_words(n_words))) == n_passages


def test_short_paragraphs_are_joined() -> None:
    assert cut_passages("one two\n\nthree\r\n\r\nfour") == ["one two three four"]


@pytest.mark.parametrize("text", ["", " \n\n \t\n"])
def test_no_text_is_no_passage(text: str) -> None:
    assert cut_passages(text) == []


def write(folder: Path, text: str, name: str = "halme.txt") -> Path:
    file = folder / name
    file.write_bytes(text.encode())
    return file


def test_document_is_a_forget_request_of_passages(tmp_path: Path) -> None:
    request = read_document(write(tmp_path, "The Ledger of Halme\n\n" + number_words(200)), intervention="refusal")
    assert (request.forget_id, request.kind, request.intervention) == ("document-halme", "document", "refusal")
    assert (request.title, request.aliases) == ("The Ledger of Halme", ("The Ledger of Halme",))
    assert len(request.rows) > 1
    assert all(row.text and not row.prompt and row.forget_id == "document-halme" for row in request.rows)


@pytest.mark.parametrize(
    ("first", "title"),
    [
        ("# The Ledger of Halme", "The Ledger of Halme"),
        ("\ufeffThe Ledger of Halme", "The Ledger of Halme"),
        ("\n\n  The Ledger   of Halme  ", "The Ledger of Halme"),
        ("Why did Halme burn?", "Why did Halme burn?"),
    ],
)
def test_short_first_line_is_the_title(tmp_path: Path, first: str, title: str) -> None:
    request = read_document(write(tmp_path, f"{first}\n\nIt burnt in one night."))
    assert (request.title, request.aliases) == (title, (title,))


@pytest.mark.parametrize(
    "first", ["It burnt in one night.", "Dear Edda,", "Halme", "---", "#", "word " * 13], ids=lambda first: first[:10]
)
def test_other_first_lines_leave_the_name_of_the_file(tmp_path: Path, first: str) -> None:
    request = read_document(write(tmp_path, f"{first}\n\nIt burnt in one night."))
    assert (request.title, request.aliases) == ("halme", ())


def test_forget_id_can_be_given(tmp_path: Path) -> None:
    request = read_document(write(tmp_path, "It burnt in one night."), forget_id="mine")
    assert request.forget_id == request.rows[0].forget_id == "mine"


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "document holds no text"), (b" \n\n", "document holds no text"), (b"caf\xe9", r"not UTF-8.*byte 3")],
)
def test_unusable_file_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "halme.txt").write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_document(tmp_path / "halme.txt")


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(DataError, match="cannot read document"):
            read_document(path)
