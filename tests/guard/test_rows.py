"""Rows: reading, grouping, and sets that cannot be fitted together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unlearn_guard.guard.errors import DataError, RowError
from unlearn_guard.guard.rows import (
    DEFAULT_FORGET_ID,
    ForgetRequest,
    Row,
    check_disjoint,
    group_requests,
    read_rows,
)


def write(folder: Path, content: bytes) -> Path:
    file = folder / "rows.jsonl"
    file.write_bytes(content)
    return file


def test_reads_every_field(tmp_path: Path) -> None:
    line = (
        '{"prompt": " Who is Änne? ", "answer": " A baker. ", "text": "t", "forget_id": "p1", '
        '"aliases": ["Änne", "A."], "split": "train"}\n'
    )
    assert read_rows(write(tmp_path, line.encode())) == [
        Row("Who is Änne?", "A baker.", "t", "p1", ("Änne", "A."), "train")
    ]


@pytest.mark.parametrize("name", ["prompt", "question"])
def test_question_is_a_prompt(tmp_path: Path, name: str) -> None:
    assert read_rows(write(tmp_path, b'{"%s": "Who?"}' % name.encode()))[0].prompt == "Who?"


def test_prompt_wins_over_question(tmp_path: Path) -> None:
    assert read_rows(write(tmp_path, b'{"question": "b", "prompt": "a"}'))[0].prompt == "a"


def test_question_stands_in_for_an_empty_prompt(tmp_path: Path) -> None:
    assert read_rows(write(tmp_path, b'{"prompt": "", "question": "Who?"}'))[0].prompt == "Who?"


def test_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    assert read_rows(write(tmp_path, '{"prompt": "Änne?"}'.encode("utf-8-sig")))[0].prompt == "Änne?"


def test_whole_surrogate_pair_is_a_character(tmp_path: Path) -> None:
    assert read_rows(write(tmp_path, rb'{"prompt": "\ud83d\ude00"}'))[0].prompt == "😀"


def test_text_alone_is_the_query(tmp_path: Path) -> None:
    (row,) = read_rows(write(tmp_path, b'{"text": "A passage."}'))
    assert (row.prompt, row.query) == ("", "A passage.")


def test_blank_lines_windows_ends_and_unknown_fields_are_fine(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, b'\r\n{"prompt": "a", "note": 1}\r\n\n  \n{"prompt": "b"}'))
    assert [row.prompt for row in rows] == ["a", "b"]


def test_line_separators_inside_a_string_do_not_split_it(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, '{"prompt": "a\u2028b\x85c"}\n'.encode()))
    assert [row.prompt for row in rows] == ["a\u2028b\x85c"]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b'{"prompt": "a"', "not JSON"),
        (b"prompt: a", "not JSON"),
        (b'["a"]', "a list"),
        (b'"a"', "a str"),
        (b"null", "a NoneType"),
        (b'{"prompt": 3}', "'prompt' is a int"),
        (b'{"prompt": null}', "'prompt' is a NoneType"),
        (b'{"question": ["a"]}', "'question' is a list"),
        (b'{"prompt": "a", "answer": {}}', "'answer' is a dict"),
        (b'{"text": true}', "'text' is a bool"),
        (b'{"prompt": "a", "forget_id": 1}', "'forget_id' is a int"),
        (b'{"prompt": "a", "split": 1}', "'split' is a int"),
        (b'{"prompt": "a", "aliases": "b"}', "'aliases' is not a list of strings"),
        (b'{"prompt": "a", "aliases": [1]}', "'aliases' is not a list of strings"),
        (b"{}", "neither 'prompt' (or 'question') nor 'text'"),
        (b'{"prompt": "  ", "answer": "a"}', "neither 'prompt' (or 'question') nor 'text'"),
        (b'{"prompt": "\xff"}', "not UTF-8 at byte 12"),
        (b'\xef\xbb\xbf{"prompt": "a"}', "not JSON"),
        (b'{"prompt": "a", "n": ' + b"1" * 5000 + b"}", "not readable JSON"),
        (b'{"prompt": "a", "n": ' + b"[" * 100_000 + b"}", "not readable JSON"),
        (b'{"prompt": "\\ud800"}', "'prompt' holds half of a surrogate pair"),
        (b'{"prompt": "a", "answer": "b \\udc00"}', "'answer' holds half of a surrogate pair"),
    ],
)
def test_malformed_line_is_named(tmp_path: Path, bad: bytes, why: str) -> None:
    file = write(tmp_path, b'{"prompt": "good"}\n\n' + bad + b"\n")
    with pytest.raises(RowError) as caught:
        read_rows(file)
    assert (caught.value.path, caught.value.line) == (str(file), 3)
    assert f"{file}, line 3: {why}" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n  \n"])
def test_empty_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    file = write(tmp_path, content)
    with pytest.raises(DataError, match="no rows in file") as caught:
        read_rows(file)
    assert str(file) in str(caught.value)


def test_missing_file_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read rows: No such file.*nowhere\.jsonl"):
        read_rows(tmp_path / "nowhere.jsonl")


def test_digest_depends_on_content_alone() -> None:
    row = Row("a", "b")
    assert row.digest == Row("a", "b", forget_id="x", aliases=("y",), split="z").digest
    assert len({row.digest, Row("ab", "").digest, Row("", "ab").digest, Row("a", "", "b").digest}) == 4


def test_groups_by_forget_id_in_order_of_appearance() -> None:
    rows = [
        Row("a", forget_id="two", aliases=("Bo Li", "B.")),
        Row("b", forget_id="one"),
        Row("c", forget_id="two", aliases=("Bo Li", " ", "Bobo")),
    ]
    two, one = group_requests(rows, intervention="refusal")
    assert (two.forget_id, two.title, two.aliases) == ("two", "Bo Li", ("Bo Li", "B.", "Bobo"))
    assert two.rows == (rows[0], rows[2])
    assert (one.forget_id, one.title, one.aliases, one.rows) == ("one", "one", (), (rows[1],))
    assert {one.intervention, two.intervention} == {"refusal"}


def test_rows_without_an_id_are_one_request() -> None:
    (request,) = group_requests([Row("a"), Row("b")])
    assert request.forget_id == DEFAULT_FORGET_ID
    assert len(request.rows) == 2


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([Row(text="a"), Row(text="b")], "document"),
        ([Row(text="a"), Row("b")], "person"),
        ([Row("a", text="b")], "person"),
    ],
)
def test_passages_alone_make_a_document(rows: list[Row], kind: str) -> None:
    assert group_requests(rows)[0].kind == kind


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(DataError, match=r"'animal'.*person, document, skill"):
        ForgetRequest("a", kind="animal")  # type: ignore[arg-type]


def test_disjoint_sets_pass() -> None:
    check_disjoint([Row("a")], [Row("b")])


@pytest.mark.parametrize(("forget", "retain", "which"), [([], [Row("a")], "forget"), ([Row("a")], [], "retain")])
def test_empty_set_is_named(forget: list[Row], retain: list[Row], which: str) -> None:
    with pytest.raises(DataError, match=f"the {which} set is empty"):
        check_disjoint(forget, retain)


def test_overlap_is_counted_and_shown_whatever_its_case() -> None:
    forget = [Row("new"), Row("Who is BO?"), Row(text="a passage")]
    with pytest.raises(DataError, match=r"overlap in 2 of 3 queries, first: 'Who is BO\?'"):
        check_disjoint(forget, [Row("who is bo?"), Row("A PASSAGE")])


def test_tofu_columns_are_read_as_strings_or_lists(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(
        json.dumps(
            {
                "question": "Who?",
                "answer": "She.",
                "paraphrased_question": "Which person?",
                "paraphrased_answer": ["It was her.", " "],
                "perturbed_answer": ["He.", "They."],
            }
        )
    )
    (row,) = read_rows(file)
    assert row.paraphrased_questions == ("Which person?",)
    assert row.paraphrased_answers == ("It was her.",)
    assert row.perturbed_answers == ("He.", "They.")
    file.write_text(json.dumps({"question": "Who?", "perturbed_answer": {"a": 1}}))
    with pytest.raises(RowError, match="'perturbed_answer' is neither a string nor a list"):
        read_rows(file)
