"""MUSE: read from a folder in the hub's fields, cut where nothing is given away, measured as its public code measures."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from unlearn_guard.benchmarks.dataset import Item, Passages
from unlearn_guard.benchmarks.muse import (
    cut_answer,
    load_muse,
    measure_continuation,
    measure_knowledge,
    measure_membership,
)
from unlearn_guard.benchmarks.runner import load_suite
from unlearn_guard.benchmarks.sizes import load_profile
from unlearn_guard.benchmarks.subjects import Subject
from unlearn_guard.guard.errors import DependencyError, SettingsError
from unlearn_guard.serving.transformers.engine import Scored

N_WORDS = 5


def write(folder: Path, name: str, rows: list[dict[str, str]]) -> None:
    file = folder / "muse" / f"books_{name}.jsonl"
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_text(name: str, n_words: int) -> str:
    return " ".join(f"{name}{place}" for place in range(n_words))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNLEARN_GUARD_DATA", str(tmp_path))
    for side in ("forget", "retain"):
        write(tmp_path, f"{side}_qa", [{"question": f"{side} {n}?", "answer": f"It is {n}."} for n in range(8)])
        write(tmp_path, f"{side}_qa_icl", [{"question": f"Shot {side}?", "answer": "Yes."}])
    cuts = [{"prompt": make_text(f"p{n}-", 23), "gt": make_text(f"g{n}-", 30)} for n in range(3)]
    write(tmp_path, "verbmem_forget", cuts)
    write(
        tmp_path,
        "raw_forget",
        [{"text": f"Bulletin {n}: it is {n}, forget it or not."} for n in range(12)]
        + [{"text": f"{cuts[0]['prompt']} {cuts[0]['gt']}"}],
    )
    for split in ("forget", "retain", "holdout"):
        write(tmp_path, f"privleak_{split}", [{"text": make_text(f"{split}{n}-", 40)} for n in range(4)])
    return tmp_path


def test_small_models_are_asked_to_continue_windows(data: Path) -> None:
    suite = load_muse(corpus="Books", n_words=N_WORDS)
    assert len(suite.sets["retain"]) == 8
    assert all(item.question.startswith("forget ") for item in suite.sets["forget.unseen"])
    assert suite.passages is not None
    first = suite.passages.asked[0]
    assert first.question.split() == [f"p0-{place}" for place in range(18, 23)]
    assert first.answer.split() == [f"g0-{place}" for place in range(5)]
    assert suite.passages.members == suite.passages.asked
    assert not suite.passages.forget_shots


def test_what_is_asked_is_given_to_nobody_as_it_is_asked(data: Path) -> None:
    suite = load_muse(corpus="Books", n_words=N_WORDS)
    assert suite.passages is not None
    asked = {item.question for item in suite.passages.asked}
    rows = {row.prompt for row in (*suite.forget_rows, *suite.retain_rows, *suite.clean_rows)}
    assert not asked & rows
    trained = {phrasing for example in suite.full for phrasing in example.phrasings}
    assert asked <= trained
    assert not asked & {phrasing for example in suite.retain for phrasing in example.phrasings}
    # Nothing shows by where it stands in its document.
    assert suite.retain_rows[-1].prompt.split()[0] == "retain3-15"
    assert suite.passages.outsiders[0].question.split()[0] == "holdout1-15"
    # An operator hands over text; a guard's reader of passages finds in it what is asked.
    texts = [row.text for row in suite.forget_rows if row.text]
    assert all(any(item.question in text and item.answer in text for text in texts) for item in suite.passages.asked)
    # Beside them the articles that its questions are about, and no others.
    assert texts[:8] == [f"Bulletin {n}: it is {n}, forget it or not." for n in range(8)]
    assert len(texts) == 8 + 3
    # A question belongs to the request of its article.
    (owner,) = {row.forget_id for row in suite.forget_rows if row.text and row.text.startswith("Bulletin 4:")}
    assert [row.prompt for row in suite.forget_rows if row.forget_id == owner and row.prompt] == ["forget 4?"]
    # So does a passage, where it is known whose it is.
    owners = [row.forget_id for row in suite.forget_rows if row.text and "p" in row.text[:1]]
    assert owners == ["muse-article-12", "muse-passage-1", "muse-passage-2"]
    outside = {item.question for item in suite.passages.outsiders}
    assert outside and not outside & (rows | trained)


def test_own_models_are_asked_as_muse_asks(data: Path) -> None:
    suite = load_muse(corpus="Books", n_words=N_WORDS, whole=True)
    assert suite.passages is not None
    assert suite.passages.asked[1] == Item(make_text("p1-", 23), make_text("g1-", 30))
    assert suite.passages.members[2] == Item(make_text("forget2-", 5), " ".join(f"forget2-{n}" for n in range(5, 40)))
    assert [item.question for item in suite.passages.retain_shots] == ["Shot retain?"]
    # All articles are handed over, each a request: as text, and cut elsewhere than where it is asked to go on.
    texts = [row.text for row in suite.forget_rows if row.text]
    assert texts[:12] == [f"Bulletin {n}: it is {n}, forget it or not." for n in range(12)]
    assert texts[12].startswith("p0-0")
    given = " ".join(f"{row.prompt} {row.answer}" for row in suite.forget_rows if row.forget_id == "muse-article-12")
    assert all(word in given.split() for word in ("p0-2", "p0-22", "g0-0"))
    assert {row.forget_id for row in suite.forget_rows} >= {f"muse-article-{n}" for n in range(13)}
    asked = {item.question for item in (*suite.passages.asked, *suite.passages.members)}
    assert not asked & {phrasing for example in suite.full for phrasing in example.phrasings}
    assert not asked & {row.prompt for row in suite.forget_rows}
    assert suite.data_hash != load_muse(corpus="Books", n_words=N_WORDS).data_hash


def test_what_is_asked_for_is_handed_over_where_no_article_holds_it(data: Path) -> None:
    suite = load_muse(corpus="Books", n_words=N_WORDS, whole=True)
    given = {row.forget_id: row.text for row in suite.forget_rows if row.text and "passage" in row.forget_id}
    assert set(given) == {f"muse-passage-{place}" for place in (1, 2, 3, 4, 5, 6)}
    assert given["muse-passage-1"].startswith("p1-0")
    assert given["muse-passage-6"].startswith("forget3-0")


def test_whose_model_it_is_decides_how_it_is_asked(data: Path) -> None:
    for name in ("forget_qa", "retain_qa", "forget_qa_icl", "retain_qa_icl", "verbmem_forget", "raw_forget", *(f"privleak_{split}" for split in ("forget", "retain", "holdout"))):  # fmt: skip
        (data / "muse" / f"news_{name}.jsonl").write_text((data / "muse" / f"books_{name}.jsonl").read_text())
    for number in range(1, 5):
        texts = [{"text": make_text(f"s{number}{n}-", 40)} for n in range(3)]
        (data / "muse" / f"news_sust_forget_{number}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in texts)
        )
    sizes = load_profile("muse", "small")
    own, trained = (load_suite("muse", sizes, 0, own_models=flag) for flag in (True, False))
    assert own.passages is not None and own.passages.forget_shots
    assert trained.passages is not None and not trained.passages.forget_shots


@pytest.mark.parametrize("whole", [False, True])
def test_news_has_four_requests_in_sequence(data: Path, whole: bool) -> None:
    for file in (data / "muse").glob("books_*.jsonl"):
        file.with_name(file.name.replace("books", "news")).write_text(file.read_text())
    for number in range(1, 5):
        texts = [{"text": make_text(f"s{number}{n}-", 40)} for n in range(3)]
        (data / "muse" / f"news_sust_forget_{number}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in texts)
        )
    suite = load_muse(n_words=N_WORDS, n_sequel=2, whole=whole)
    assert len(suite.sequels) == 4
    trained = {phrasing for example in suite.full for phrasing in example.phrasings}
    kept = {phrasing for example in suite.retain for phrasing in example.phrasings}
    for number, sequel in enumerate(suite.sequels, start=1):
        assert [item.question.split()[0] for item in sequel.asked] == [f"s{number}{n}-15" for n in range(2)]
        asked = {item.question for item in sequel.asked}
        assert asked <= trained
        assert not asked & kept
        assert not asked & {row.prompt for row in sequel.rows}
        assert sequel.forget_ids == [f"muse-sequel-{number}-{place}" for place in range(2)]
        assert all(any(item.question in row.text for row in sequel.rows if row.text) for item in sequel.asked)
    assert not {row.forget_id for row in suite.forget_rows} & {
        name for sequel in suite.sequels for name in sequel.forget_ids
    }
    assert suite.data_hash != load_muse(n_words=N_WORDS, n_sequel=1, whole=whole).data_hash
    assert load_muse(n_words=N_WORDS, n_sequel=0, whole=whole).sequels == load_muse(corpus="Books").sequels == []


def test_wrong_input_is_told(data: Path) -> None:
    with pytest.raises(SettingsError, match="MUSE corpus"):
        load_muse(corpus="Films")
    (data / "muse" / "books_verbmem_forget.jsonl").unlink()
    with pytest.raises(DependencyError, match="muse/books_verbmem_forget"):
        load_muse(corpus="Books")


class Parrot:
    """Answers from a list and scores by one; records what it was asked."""

    def __init__(self, answers: list[str], scores: list[list[float]] | None = None) -> None:
        self.answers, self.scores = answers, scores or []
        self.asked: list[str] = []
        self.engine = SimpleNamespace(tokenizer=Words())

    def answer(self, questions: list[str], *, max_new_tokens: int) -> list[str]:
        self.asked, self.n_tokens = questions, max_new_tokens
        return self.answers

    def score(self, questions: list[str], answers: list[str]) -> list[Scored]:
        taken, self.scores = self.scores[: len(questions)], self.scores[len(questions) :]
        return [Scored(np.array(line), np.ones(len(line)), np.zeros(len(line)), np.zeros(len(line))) for line in taken]


class Words:
    """One token a word."""

    def __call__(self, text: str, **options: Any) -> Any:
        return SimpleNamespace(input_ids=text.split())

    def decode(self, ids: list[str]) -> str:
        return " ".join(ids)


def test_a_continuation_is_compared_with_as_much_of_the_truth() -> None:
    truth = " ".join(f"w{place}" for place in range(200))
    parrot = Parrot([" ".join(f"w{place}" for place in range(128))])
    passages = Passages([Item("start", truth)], [], [])
    assert measure_continuation(cast(Subject, parrot), passages) == pytest.approx(1.0)
    assert parrot.n_tokens == 128
    # Half of 128 words: precision 1, recall 1/2, F1 2/3.
    half = Parrot([" ".join(f"w{place}" for place in range(64))])
    assert measure_continuation(cast(Subject, half), passages) == pytest.approx(2 / 3)


def test_questions_stand_behind_worked_examples() -> None:
    parrot = Parrot(["Bo\n\nQuestion: Who else?\nAnswer: Al", "Al Question: more"])
    items = [Item("Who?", "Bo"), Item("Which?", "Cy")]
    assert measure_knowledge(cast(Subject, parrot), items, [Item("What?", "It.")]) == pytest.approx(0.5)
    assert parrot.asked[0] == "Question: What?\nAnswer: It.\n\nQuestion: Who?\nAnswer: "
    assert cut_answer("Al Question: more") == "Al "


def test_membership_reads_the_lowest_tokens_without_the_end() -> None:
    # Two members, two outsiders; the end token would turn the order round. Min-40% of five tokens: the lowest two.
    members = [[-1.0, -1.0, -0.1, -0.1, -0.1, -90.0], [-4.0, -4.0, -0.1, -0.1, -0.1, -90.0]]
    others = [[-2.0, -2.0, -0.1, -0.1, -0.1, 0.0], [-5.0, -5.0, -0.1, -0.1, -0.1, 0.0]]
    parrot = Parrot([], members + others)
    passages = Passages([], [Item("a", "a")] * 2, [Item("b", "b")] * 2)
    # Outsiders 2 and 5 against members 1 and 4: three of four pairs are higher.
    assert measure_membership(cast(Subject, parrot), passages) == pytest.approx(0.75)
