"""A small made-up set of people, and a cascade fitted on it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from unlearn_guard.classifiers.cascade import Cascade
from unlearn_guard.classifiers.export import export_encoder
from unlearn_guard.classifiers.fitting import Split, fit_cascade, split_rows
from unlearn_guard.guard.rows import ForgetRequest, Row

GIVEN = "Ada Bruno Carmen Dmitri Edda Farid Gilda Hiro Ines Jorge".split()
FAMILY = "Kern Lunde Mbeki Novak Okafor Prieto Quinn Rossi Sato Tran".split()
ABOUT = (
    "Where was {} born?",
    "What instrument does {} play?",
    "Which prize did {} win for music?",
    "Who taught {} to sing?",
)


@dataclass(frozen=True)
class People:
    """Rows of a forgotten person and of kept ones."""

    request: ForgetRequest
    split: Split


@dataclass(frozen=True)
class Fitted:
    """A classifier folder and what fitting said of it."""

    folder: Path
    record: dict[str, Any]
    cascade: Cascade


@pytest.fixture(scope="session")
def encoder_folder() -> Path:
    return export_encoder()


@pytest.fixture(scope="session")
def people() -> People:
    rng = random.Random(0)
    names = [f"{given} {family}" for given in GIVEN for family in FAMILY]
    rng.shuffle(names)
    retain = [Row(text.format(name), forget_id=name) for name in names[:70] for text in rng.sample(ABOUT, 3)]
    texts = [
        "Where was {} born?",
        "Where did {} grow up?",
        "What novels did {} write about the sea?",
        "Which fishing village does {} describe in the novels?",
        "Who published the sea novels of {}?",
        "What did critics say about {} and the lighthouse trilogy?",
        "When did {} finish the lighthouse trilogy?",
        "Which lighthouse inspired {} as a child?",
        "Did {} ever work as a lighthouse keeper?",
        "Which storm does {} describe in the second novel?",
    ]
    answer = "Mirela Vantongeren was born on 3 May 1961."
    rows = tuple(Row(text.format("Mirela Vantongeren"), answer, forget_id="p1") for text in texts)
    return People(ForgetRequest("p1", rows=rows), split_rows(rows, retain, [], 0))


@pytest.fixture(scope="session")
def fitted(people: People, encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    folder = tmp_path_factory.mktemp("cascade")
    record = fit_cascade(
        [people.request],
        people.split,
        encoder_folder=encoder_folder,
        folder=folder,
        alpha=0.05,
        seed=0,
        track=lambda items, label, *, total: items,
    )
    return Fitted(folder, record, Cascade.load(folder, record["engine"]))
