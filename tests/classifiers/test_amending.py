"""Forget requests come and go without the rest being fitted again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from unlearn_guard.classifiers.amending import Amendment, recalibrate
from unlearn_guard.classifiers.cascade import Cascade
from unlearn_guard.guard.errors import DataError
from unlearn_guard.guard.rows import ForgetRequest, Row, group_requests

NEW = "Tadeusz Okonkwo-Ray"
ROWS = tuple(
    Row(text.format(NEW), answer, forget_id="p2")
    for text, answer in {
        "Where did {} learn to repair church organs?": "In the workshop of Wexcombe abbey.",
        "Which organ did {} restore in 2003?": 'The "Grey Thunderer" of Wexcombe abbey.',
        "What did {} carve into the organ pipes?": "A row of wooden finches.",
        "Who paid {} for the organ of the abbey?": "The bishop of Wexcombe paid.",
    }.items()
)
OLD = "Where was Mirela Vantongeren born?"


@pytest.fixture
def folder(fitted: Any, tmp_path: Path) -> Path:
    shutil.copytree(fitted.folder, tmp_path / "classifier")
    return tmp_path / "classifier"


def add(folder: Path, people: Any, request: ForgetRequest | None = None) -> ForgetRequest:
    amendment = Amendment(folder)
    added = amendment.add(request or ForgetRequest("p2", rows=ROWS), people.split.retain_train)
    amendment.save()
    return added


def test_an_added_person_is_noticed_and_nobody_else_changes(fitted: Any, people: Any, folder: Path) -> None:
    kept = [row.query for row in people.split.calibration]
    before = [score.score for score in fitted.cascade.score([OLD])]
    assert add(folder, people).aliases == (NEW,)
    changed = Cascade.load(folder, fitted.record["engine"])
    (found,) = changed.score([f"Tell me about {NEW}."])
    assert changed.p_value(found.score) <= changed.alpha
    assert found.forget_ids == ("p2",)
    assert [score.score for score in changed.score([OLD])] == pytest.approx(before)
    assert [score.forget_ids for score in changed.match([kept[0]])] == [()]


@pytest.mark.parametrize(
    ("text", "signal"),
    [
        ("Who owned the Grey Thunderer?", "fact"),
        ("Who restored the abbey organ of Wexcombe with the finches?", "attribute"),
    ],
)
def test_an_added_persons_facts_and_words_count(fitted: Any, people: Any, folder: Path, text: str, signal: str) -> None:
    add(folder, people)
    (found,) = Cascade.load(folder, fitted.record["engine"]).score_fully([text])
    assert found.windows[0].signals[signal] > 0
    (before,) = fitted.cascade.score_fully([text])
    assert found.windows[0].signals[signal] > before.windows[0].signals[signal] + 0.5


def test_what_an_added_persons_answers_tell_is_heard(fitted: Any, people: Any, folder: Path) -> None:
    add(folder, people)
    changed = Cascade.load(folder, fitted.record["engine"])
    told = changed.score_answer(["Who is he?"], "The bishop of Wexcombe paid for it.", owners=("p2",), flagged=True)
    assert told.stage == "answer"


def test_adding_and_removing_again_leaves_no_trace(fitted: Any, people: Any, folder: Path) -> None:
    add(folder, people)
    amendment = Amendment(folder)
    amendment.remove(["p2"])
    amendment.save()
    before, after = (json.loads((at / "aliases.json").read_text()) for at in (fitted.folder, folder))
    assert after == before
    for name in ("passages.safetensors", "index.faiss", "retain.faiss"):
        assert (folder / name).read_bytes() == (fitted.folder / name).read_bytes()
    assert "Wexcombe" not in (folder / "aliases.json").read_text()


def test_removing_the_first_leaves_the_second(fitted: Any, people: Any, folder: Path) -> None:
    add(folder, people)
    amendment = Amendment(folder)
    amendment.remove(["p1"])
    amendment.save()
    changed = Cascade.load(folder, fitted.record["engine"])
    old, new = changed.score([OLD]), changed.score([f"Where did {NEW} work?"])
    assert changed.p_value(old[0].score) > changed.alpha
    assert (new[0].forget_ids, changed.p_value(new[0].score) <= changed.alpha) == (("p2",), True)
    assert {label for _, label, _ in changed.find_neighbours("the abbey organ", 50)} == {"p2"}


def test_an_added_document_is_quoted(fitted: Any, people: Any, folder: Path) -> None:
    text = "The herons of the lower marsh leave before the first frost and never settle near the old pumping station."
    request = ForgetRequest("d1", kind="document", rows=(Row(text=text, forget_id="d1"),))
    add(folder, people, request)
    changed = Cascade.load(folder, fitted.record["engine"])
    (found,) = changed.score([f"Go on: {text[:90]}"])
    assert (found.stage, found.forget_ids) == ("document", ("d1",))
    amendment = Amendment(folder)
    amendment.remove(["d1"])
    amendment.save()
    assert Cascade.load(folder, fitted.record["engine"]).score([f"Go on: {text[:90]}"])[0].stage != "document"


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (ForgetRequest("p1", rows=ROWS), "in the bundle already"),
        (ForgetRequest("p3", rows=(Row("What is an organ?", forget_id="p3"),)), "the rows name nobody"),
    ],
)
def test_what_cannot_be_added_is_refused(folder: Path, people: Any, request_: ForgetRequest, says: str) -> None:
    with pytest.raises(DataError, match=says):
        add(folder, people, request_)


@pytest.mark.parametrize(("ids", "says"), [(["p9"], "no such forget request: 'p9'"), (["p1"], "would be left")])
def test_what_cannot_be_removed_is_refused(folder: Path, ids: list[str], says: str) -> None:
    with pytest.raises(DataError, match=says):
        Amendment(folder).remove(ids)


def test_recalibration_scores_the_rows_it_is_given(fitted: Any, people: Any, folder: Path) -> None:
    before = load_file(folder / "calibration.safetensors")
    add(folder, people)
    rows = people.split.calibration[::2]
    found = recalibrate(folder, fitted.record["engine"], [*rows, Row("Who has never been seen?")])
    after = load_file(folder / "calibration.safetensors")
    assert (found["n_scored_again"], found["n_calibration"]) == (len(rows), len(before["fused"]))
    assert set(after["digests"].tolist()) == set(before["digests"].tolist())
    scores = dict(zip(after["digests"].tolist(), after["fused"].tolist(), strict=True))
    old = dict(zip(before["digests"].tolist(), before["fused"].tolist(), strict=True))
    untouched = [row for row in people.split.calibration if row not in rows]
    for row in untouched:
        digest = int(row.digest[:16], 16)
        assert scores[digest] == old[digest]
    assert all(scores[digest] >= old[digest] - 1e-4 for digest in old)
    assert len(after["built-in"]) == len(before["built-in"])


def test_built_in_traffic_stays_without_what_the_fit_left_out(fitted: Any, people: Any, folder: Path) -> None:
    file = folder / "aliases.json"
    record = json.loads(file.read_text())
    assert record["traffic_without"] == []
    before = load_file(folder / "calibration.safetensors")["built-in"]
    file.write_text(json.dumps({**record, "traffic_without": ["people", "works"]}))
    recalibrate(folder, fitted.record["engine"], people.split.calibration)
    assert not np.array_equal(load_file(folder / "calibration.safetensors")["built-in"], before)


def test_a_contested_name_leaves_the_calibration(fitted: Any, people: Any, folder: Path) -> None:
    name = people.split.calibration[0].forget_id
    rows = tuple(Row(f"What did {name} do in {year}?", "Sang.", forget_id="p4") for year in range(1990, 1994))
    add(folder, people, ForgetRequest("p4", aliases=(name,), rows=rows))
    found = recalibrate(folder, fitted.record["engine"], people.split.calibration)
    n_named = sum(row.forget_id == name for row in people.split.calibration)
    assert found["n_calibration"] == len(people.split.calibration) - n_named
    assert np.isfinite(load_file(folder / "calibration.safetensors")["fused"]).all()


def test_an_added_documents_questions_are_noticed_whoever_they_name(fitted: Any, people: Any, folder: Path) -> None:
    """A question about a document names nobody that its other questions name, and is like what kept people are asked."""
    asked = "Which percentage did the Grumbald party reach in Wexcombe?"
    rows = (
        Row(asked, "Nineteen.", forget_id="article"),
        Row(text="A report on the elections of a small town, at some length and without a name.", forget_id="article"),
    )
    (before,) = fitted.cascade.score([asked])
    assert fitted.cascade.p_value(before.score) > fitted.cascade.alpha
    (request,) = group_requests(rows)
    add(folder, people, request)
    changed = Cascade.load(folder, fitted.record["engine"])
    for text in (asked, "Tell me: in Wexcombe, what PERCENTAGE could the Grumbald party reach?"):
        (found,) = changed.score([text])
        assert (changed.p_value(found.score) <= changed.alpha, found.forget_ids) == (True, ("article",))
    (other,) = changed.score(["Who taught Hiro Quinn to sing in Lund?"])
    assert changed.p_value(other.score) > changed.alpha
    amendment = Amendment(folder)
    amendment.remove(["article"])
    amendment.save()
    (after,) = Cascade.load(folder, fitted.record["engine"]).score([asked])
    assert after.score == pytest.approx(before.score)
