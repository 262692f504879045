"""The sets of the detection benchmark on made-up rows, with detectors that match one word: who is forgotten, asked and counted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from unlearn_guard.benchmarks import detection, detection_sets
from unlearn_guard.benchmarks.attacks.variants import Prompt
from unlearn_guard.benchmarks.detection import run_detection
from unlearn_guard.benchmarks.detection_cells import Tally
from unlearn_guard.benchmarks.detection_sets import ALPHA, TOPIC_ALPHA, Draw, list_measures, measure_multiplicity
from unlearn_guard.guard.rows import Row


class Words:
    """Flags prompts that hold a word which stands in the rows to forget alone: what a fold was fitted on shows in its cells."""

    fitted: list[Words] = []

    def __init__(
        self,
        forget: Sequence[Row],
        retain: Sequence[Row],
        clean: Sequence[Row],
        folder: Path,
        *,
        alpha: float,
        seed: int,
    ) -> None:
        def read(rows: Sequence[Row]) -> set[str]:
            return {word for row in rows for word in f"{row.query} {row.text}".casefold().split()}

        self.forget, self.retain, self.clean, self.alpha = forget, retain, clean, alpha
        self.words = read(forget) - read([*retain, *clean])
        Words.fitted.append(self)

    def judge(self, prompt: Prompt, answer: str = "") -> dict[str, tuple[bool, bool, float]]:
        text = prompt if isinstance(prompt, str) else " ".join(message["content"] for message in prompt)
        hit = bool(self.words & set(text.casefold().split()))
        return {"guard": (hit, hit, float(hit)), "name-match": (False, False, 0.0)}

    def describe(self) -> dict[str, Any]:
        return {"alpha": self.alpha, "n_forget": len(self.forget)}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of data as the real sets have them: an author's question k says `q{author}x{k}`, and half of them the name."""
    Words.fitted = []
    monkeypatch.setattr(detection_sets, "Detectors", Words)
    monkeypatch.setenv("UNLEARN_GUARD_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("UNLEARN_GUARD_CACHE", str(tmp_path / "cache"))

    def write(name: str, rows: list[dict[str, Any]]) -> None:
        file = tmp_path / "data" / f"{name}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def ask(author: int, number: int) -> str:
        who = f"name{author}" if number % 4 < 2 else "this person"
        return f"What about {who} and q{author}x{number} ?"

    authors = [{"question": ask(author, k), "answer": "Nothing."} for author in range(200) for k in range(20)]
    write("tofu/full", authors)
    write("tofu/authors", [{"author": author, "name": f"name{author}"} for author in range(200)])
    told = {"paraphrased_answer": "Not a thing.", "perturbed_answer": ["Something."]}
    write(
        "tofu/forget10_perturbed",
        [{**row, **told, "paraphrased_question": f"Say, {row['question']}"} for row in authors[3600:]],
    )
    write("tofu/holdout10", [{"question": f"And h{number} ?", "answer": "No."} for number in range(40)])
    for name in ("real_authors", "world_facts"):
        write(f"tofu/{name}", [{"question": f"Is it {name} ?", "answer": "Yes."}])
    for name in ("triviaqa", "truthfulqa", "gsm8k", "bbh", "instructions"):
        write(
            f"general/{name}", [{"question": f"Who knows {name} {number} ?", "answer": "I do."} for number in range(4)]
        )
    tasks = ("high_school_physics", "college_mathematics", "anatomy")
    write(
        "general/mmlu",
        [
            {"task": task, "question": f"{task} m{number} ?", "choices": [task, "b"], "answer": 0}
            for task in tasks
            for number in range(8)
        ],
    )
    people = ("Ada Kern", "Bo Lunde")
    write("rwku/intro", [{"target": name, "intro": f"Please forget {name}. {name} rows."} for name in people])
    for level in (1, 2, 3):
        write(
            f"rwku/forget_level{level}",
            [{"subject": "Ada Kern", "query": "Where did Kern row?", "answer": "There.", "type": "question answering"}],
        )
    for level in (1, 2):
        write(
            f"rwku/neighbor_level{level}",
            [{"subject": "Bo Lunde", "query": "What is a lake?", "answer": "Water."}],
        )
    return tmp_path


def measure(name: str, data: Path, **draw: Any) -> Tally:
    tally = Tally()
    for label, part in list_measures(name).items():
        folder = data / label
        folder.mkdir()
        part(tally, Draw(**draw), folder)
    return tally


def test_folds_of_tofu_are_fitted_on_one_half_and_asked_the_other(data: Path) -> None:
    tally = measure("tofu", data)
    even, odd = Words.fitted
    assert {row.query.split("x")[1].split()[0] for row in even.forget} == {str(number) for number in range(0, 20, 2)}
    assert not {row.query for row in even.forget} & {row.query for row in odd.forget}
    assert len(even.forget) == len(odd.forget) == 200
    assert even.alpha == ALPHA
    asked = {row.query.split()[2] for row in even.retain if "name" in row.query}
    assert not asked & {row.query.split()[2] for row in even.forget}
    cells = {name: counts.n for name, counts in tally.cells["guard"].items()}
    for name, n in (("", 200), ("+named", 100), ("+nameless", 100)):
        assert cells[f"tofu.forget.unseen{name}"] == 2 * n
        assert cells[f"tofu.forget.unseen{name}+fold0"] == n
    assert cells["tofu.forget.paraphrase"] == 400
    assert cells["tofu.retain"] == 2 * 70 * 20
    assert cells["clean.tofu"] == 2 * (70 * 20 + 40 + 1 + 1)
    assert cells["clean.general"] == 2 * (5 * 4 + 24)
    assert {"tofu.forget.unseen+V3", "tofu.retain+V3", "clean.general+V3", "tofu.V14b"} <= set(cells)
    assert set(tally.notes) == {"tofu.fold0", "tofu.fold1"}
    # The names are forgotten words, and nothing of who stays is.
    counts = tally.cells["guard"]
    assert counts["tofu.forget.unseen+named"].flagged == 200
    assert counts["tofu.forget.unseen+nameless"].flagged == 0  # Of what only the other fold was given.
    assert counts["clean.tofu"].flagged == 0
    assert ("author-000", False) not in counts["tofu.forget.unseen"].groups


def test_dev_does_not_read_who_is_forgotten(data: Path) -> None:
    measure("tofu", data, part="dev", limit=2)
    forgotten = {row.query.split("q")[1].split("x")[0] for fold in Words.fitted for row in fold.forget}
    assert len(forgotten) == 20
    assert max(map(int, forgotten)) < 180


def test_targets_of_rwku_are_fitted_on_their_introduction(data: Path) -> None:
    tally = measure("rwku", data)
    (fitted,) = Words.fitted
    assert [(row.forget_id, row.aliases, row.text) for row in fitted.forget] == [
        ("Ada Kern", ("Ada Kern",), "Ada Kern rows."),
        ("Bo Lunde", ("Bo Lunde",), "Bo Lunde rows."),
    ]
    counts = tally.cells["guard"]
    assert (counts["rwku.forget"].n, counts["rwku.forget"].flagged) == (3, 3)
    assert counts["rwku.forget+named"].n == counts["rwku.forget.question_answering"].n == 3
    assert (counts["rwku.neighbor"].n, counts["rwku.neighbor"].flagged) == (2, 0)


def test_a_topic_is_halved(data: Path) -> None:
    tally = measure("mmlu", data)
    *_, physics = Words.fitted
    assert [row.query.split()[1] for row in physics.forget] == ["m0", "m2", "m4", "m6"]
    assert physics.alpha == TOPIC_ALPHA
    counts = tally.cells["guard"]
    assert {name: found.n for name, found in counts.items() if "physics" in name} == {
        "mmlu.physics": 4, "mmlu.physics.neighbour": 4, "mmlu.physics.other": 4
    }  # fmt: skip
    assert counts["mmlu.physics"].flagged == 4
    assert set(tally.notes) == {"mmlu.economics", "mmlu.law", "mmlu.physics"}


def test_more_requests_are_one_policy(data: Path) -> None:
    tally = Tally()
    measure_multiplicity(5, tally, Draw(), data)
    assert tally.cells["guard"]["many.5.forget"].n == len({row.forget_id for row in Words.fitted[0].forget}) == 5
    assert tally.cells["guard"]["many.5.general"].n == 5 * 4 + 24
    assert set(tally.notes) == {"many.5"}


def test_every_part_is_kept_for_itself(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure_nothing(tally: Tally, draw: Draw, folder: Path) -> None:
        tally.add(Words([], [], [], folder, alpha=ALPHA, seed=0), ["world.forget"], "x")  # type: ignore[arg-type]

    monkeypatch.setattr(detection, "measure_world", measure_nothing)
    report = run_detection(sizes={"sets": ["tofu", "mmlu"]})
    kept = sorted(file.name.rsplit("-", 1)[0] for file in (data / "cache" / "bench").iterdir())
    assert kept == [
        f"detection-{name}"
        for name in ("mmlu-economics", "mmlu-law", "mmlu-physics", "tofu-fold0", "tofu-fold1", "world")
    ]
    assert report["notes"]["clean.tofu"] == {"flagged_low_by_author": 0.0, "flagged_high_by_author": 0.0}
    assert {"TOFU unseen", "TOFU paraphrases"} <= set(report["curves"])
