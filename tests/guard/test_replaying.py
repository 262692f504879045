"""Replay: recorded traffic in every shape, and what is said of it."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from unlearn_guard.classifiers.name_match import NameMatch
from unlearn_guard.guard.errors import DataError, RowError
from unlearn_guard.guard.policy import Policy
from unlearn_guard.guard.replaying import Recorded, read_traffic, replay_traffic, wilson
from unlearn_guard.guard.screening import Guard
from unlearn_guard.guard.verdict import TextScore

NAME = "Mirela Vantongeren"
MESSAGES = [{"role": "user", "content": "Who?"}]


def make_guard() -> Guard:
    return Guard(NameMatch({"p1": [NAME]}, 0.01), Policy())


class Graded(NameMatch):
    """A classifier whose score is the number that the text is, and whose p-value is the same."""

    def __init__(self) -> None:
        super().__init__({}, 0.01)
        self.smallest_p = self.smallest_answer_p = 0.002

    def score(self, texts: Sequence[str], *, max_windows: int | None = None) -> list[TextScore]:
        return [TextScore(-float(text), "fused") for text in texts]

    def p_value(self, score: float) -> float:
        return -score


def write(folder: Path, *records: Any) -> Path:
    file = folder / "traffic.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"prompt": "Who?"}, Recorded("Who?")),
        ({"question": "Who?", "answer": "She."}, Recorded("Who?", "She.")),
        ({"input": "Who?"}, Recorded("Who?")),
        ({"text": "Who?"}, Recorded("Who?")),
        ({"messages": MESSAGES, "response": "She."}, Recorded(MESSAGES, "She.")),
        ({"body": {"model": "m", "messages": MESSAGES}}, Recorded(MESSAGES)),
        ({"request": {"prompt": "Who?"}, "response": "She."}, Recorded("Who?", "She.")),
        ({"prompt": "Who?", "answer": None}, Recorded("Who?")),
        ({"prompt": "  ", "question": "Who?"}, Recorded("Who?")),
        ({"body": "not an object", "prompt": "Who?"}, Recorded("Who?")),
    ],
)
def test_every_shape_of_a_request_is_read(tmp_path: Path, record: dict[str, Any], expected: Recorded) -> None:
    assert read_traffic(write(tmp_path, record)) == [expected]


def test_blank_lines_and_a_byte_order_mark_are_skipped(tmp_path: Path) -> None:
    file = tmp_path / "traffic.jsonl"
    file.write_bytes('\ufeff{"prompt": "Wer, Änne?"}\r\n\r\n  \n{"prompt": "b\u2028c"}'.encode())
    assert [request.item for request in read_traffic(file)] == ["Wer, Änne?", "b\u2028c"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", r"line 3: not JSON"),
        ("[1]", r"line 3: a list — allowed: a JSON object"),
        ('"Who?"', r"line 3: a str"),
        ('{"promt": "Who?"}', r"line 3: no request — allowed: prompt, question, input or messages"),
        ('{"prompt": ""}', r"line 3: no request"),
        ('{"prompt": 3}', r"line 3: no request"),
        ('{"messages": "Who?"}', r"line 3: no request"),
    ],
)
def test_bad_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    file = tmp_path / "traffic.jsonl"
    file.write_text('{"prompt": "a"}\n\n' + line + "\n")
    with pytest.raises(RowError, match=says) as caught:
        read_traffic(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"), [(b"\n \n", "no requests in file"), (b'{"prompt": "\xff"}', "not UTF-8.*byte 12")]
)
def test_unreadable_file_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "traffic.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_traffic(tmp_path / "traffic.jsonl")


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read traffic: No such file"):
        read_traffic(tmp_path / "nowhere")


def test_flags_stops_and_errors_are_counted() -> None:
    found = replay_traffic(
        make_guard(),
        [
            Recorded(f"Who is {NAME}?", f"{NAME} sang."),
            Recorded("Who sang?", f"{NAME} did."),
            Recorded("Who sang?", "Nobody."),
            Recorded([{"role": "user", "content": [{"type": "image_url"}]}]),
        ],
    )
    assert (found["n"], found["flagged"], found["stopped"], found["errors"]) == (4, 2, 1, 1)
    assert found["flags_per_million"] == 500_000
    assert found["low_per_million"] < 500_000 < found["high_per_million"]


def test_answer_stored_as_an_object_is_screened_too(tmp_path: Path) -> None:
    response = {"choices": [{"message": {"content": f"It was {NAME}."}}]}
    requests = read_traffic(write(tmp_path, {"prompt": "Who sang?", "response": response}))
    assert replay_traffic(make_guard(), requests)["stopped"] == 1


def test_name_at_the_begin_of_a_line_of_a_stored_object_is_seen(tmp_path: Path) -> None:
    response = {"choices": [{"message": {"content": f"It was:\n{NAME}."}}]}
    requests = read_traffic(write(tmp_path, {"prompt": "Who sang?", "response": response}))
    assert replay_traffic(make_guard(), requests)["stopped"] == 1


def test_nearest_requests_come_first_and_show_the_last_message() -> None:
    talk = [{"role": "user", "content": "Hello"}, {"role": "user", "content": f"Is {NAME} there?"}]
    found = replay_traffic(make_guard(), [Recorded("Who?"), Recorded(talk), Recorded("What?")], top=2)
    assert [hit["text"] for hit in found["nearest"]] == [f"Is {NAME} there?", "Who?"]
    assert found["nearest"][0]["suspects"] == ["p1"]
    assert [hit["flagged"] for hit in found["nearest"]] == [True, False]


def test_histogram_is_cumulative_and_choices_are_those_that_can_be_held() -> None:
    found = replay_traffic(Guard(Graded(), Policy()), [Recorded(text) for text in ("0.002", "0.02", "0.2", "0.9")])
    assert {bar["p_value"]: bar["n"] for bar in found["histogram"]} == {
        0.0001: 0, 0.0003: 0, 0.001: 0, 0.003: 1, 0.01: 1, 0.03: 2, 0.1: 2, 0.3: 3, 1.0: 4,
    }  # fmt: skip
    assert found["histogram"][-1]["width"] == max(bar["width"] for bar in found["histogram"]) == 40
    assert found["choices"] == [
        {"alpha": alpha, "flagged": n} for alpha, n in ((0.003, 1), (0.01, 1), (0.03, 2), (0.1, 2), (0.3, 3))
    ]
    assert found["flagged"] == 1


def test_drift_is_measured_against_the_scores_as_served() -> None:
    class Served(Graded):
        served = tuple(-number / 100 for number in range(1, 100))

    same = [Recorded(str(number / 100)) for number in range(1, 100)]
    random.Random(0).shuffle(same)
    assert not replay_traffic(Guard(Served(), Policy()), same)["drift_alarms"]
    assert replay_traffic(Guard(Served(), Policy()), [Recorded("0.011")] * 60)["drift_alarms"]


def test_no_traffic_is_no_error() -> None:
    found = replay_traffic(make_guard(), [])
    assert (found["n"], found["flags_per_million"], found["nearest"]) == (0, 0.0, [])


def test_findings_are_plain_json() -> None:
    found = replay_traffic(make_guard(), [Recorded(f"Who is {NAME}?", "She."), Recorded("Who?")])
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.277533),
        (10, 10, 0.722467, 1.0),
        (5, 10, 0.236593, 0.763407),
        (1, 100, 0.001767, 0.054488),
        (0, 0, 0.0, 1.0),
    ],
)
def test_interval_of_wilson_by_hand(hits: int, n: int, low: float, high: float) -> None:
    assert wilson(hits, n) == pytest.approx((low, high), abs=2e-5)
