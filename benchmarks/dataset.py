"""What a benchmark suite is made of, whichever data it comes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from unlearn_guard.guard.rows import Row


@dataclass(frozen=True, slots=True)
class Item:
    """One question of a set: its answer, a paraphrase of the answer, and wrong answers of the same type."""

    question: str
    answer: str
    subject: str = ""
    paraphrase: str = ""
    wrong: tuple[str, ...] = ()
    named: bool = True
    key: str = ""
    """The part of the answer that gives the fact away; empty where only a rule can tell."""
    name: str = ""
    """The subject's name, where there is one."""
    reasked: tuple[str, ...] = ()
    retold: tuple[str, ...] = ()
    retold_wrong: tuple[str, ...] = ()
    """What an operator hands over beside rows to forget: further questions, answers and wrong answers, not this set's own."""

    def with_question(self, question: str) -> Item:
        """Return the same fact asked in other words."""
        return replace(self, question=question)


@dataclass(frozen=True, slots=True)
class Example:
    """One training example; each epoch draws one of the phrasings."""

    phrasings: tuple[str, ...]
    answer: str
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Passages:
    """Documents beside the questions about them: what is asked of their text.

    asked: beginnings of documents to forget, and how they go on. members, outsiders: such documents, and ones of no training, to
    tell apart. forget_shots, retain_shots: worked examples that stand before a question about either.
    """

    asked: list[Item]
    members: list[Item]
    outsiders: list[Item]
    forget_shots: list[Item] = field(default_factory=list)
    retain_shots: list[Item] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Sequel:
    """What a suite forgets next, where it forgets one thing after another: rows of one forget request or several, and what is asked of them."""

    rows: list[Row]
    asked: list[Item]

    @property
    def forget_ids(self) -> list[str]:
        """The forget requests of the rows, in order."""
        return list(dict.fromkeys(row.forget_id for row in self.rows))


@dataclass(frozen=True, slots=True)
class Suite:
    """Sets of questions by name, and what models and guards may see.

    `sets` holds test questions (`forget.given`, `forget.unseen`, …); `forget_rows`, `retain_rows` and
    `clean_rows` are what `fit` sees; `full` and `retain` are what the two models are trained on.
    """

    name: str
    sets: dict[str, list[Item]]
    forget_rows: list[Row]
    retain_rows: list[Row]
    clean_rows: list[Row]
    full: list[Example]
    retain: list[Example]
    outsiders: list[Item] = field(default_factory=list)
    """Items of the suite's kind that no model was trained on, where the suite has no set `holdout`."""
    unread: list[Example] = field(default_factory=list)
    """Texts of no training that tokenizers are made from, too: else names of people in no training are cut into more pieces than those of
    people in it, and the number of pieces alone tells them apart."""
    passages: Passages | None = None
    sequels: list[Sequel] = field(default_factory=list)
    """Forget requests beside `forget_rows`, for studies of more and more requests; empty where the people to forget are taken one by one."""
    places: tuple[str, ...] = ()
    professions: tuple[str, ...] = ()
    """What the people to forget share with others: harmless questions name it."""
    is_built_in: bool = False
    """Whether this project invented the texts, so that reports may show them."""

    def show(self, text: str) -> str:
        """Return what a report shows of a question or prompt: all of it of a built-in suite, the first 12 hex digits of its SHA-256 of others.

        Reports are there to be published, and not every public set may be published again.
        """
        return text if self.is_built_in or not text else hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def data_hash(self) -> str:
        """A hash of everything in the suite."""
        content: dict[str, Any] = {
            "sets": {name: [asdict(item) for item in items] for name, items in self.sets.items()},
            "rows": [asdict(row) for row in (*self.forget_rows, *self.retain_rows, *self.clean_rows)],
            "training": [asdict(example) for example in (*self.full, *self.retain)],
            "outsiders": [*map(asdict, self.outsiders), *map(asdict, self.unread)],
        }
        if self.passages is not None:
            content["passages"] = asdict(self.passages)
        if self.sequels:
            content["sequels"] = [asdict(sequel) for sequel in self.sequels]
        if self.places or self.professions:
            content["shared"] = [self.places, self.professions]
        return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=True).encode()).hexdigest()[:16]


def to_rows(items: Sequence[Item]) -> list[Row]:
    """Return items as the rows that `fit` takes."""
    return [
        Row(
            prompt=item.question,
            answer=item.answer,
            forget_id=item.subject,
            paraphrased_questions=item.reasked,
            paraphrased_answers=item.retold,
            perturbed_answers=item.retold_wrong,
        )
        for item in items
    ]
