"""A small made-up set of people, and a cascade fitted on it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from unlearn_guard.classifiers.cascade import Cascade
from unlearn_guard.classifiers.export import export_encoder
from unlearn_guard.classifiers.fitting import Split, fit_cascade, split_rows
from unlearn_guard.guard.rows import ForgetRequest, Row

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

GIVEN = "Ada Bruno Carmen Dmitri Edda Farid Gilda Hiro Ines Jorge".split()
FAMILY = "Kern Lunde Mbeki Novak Okafor Prieto Quinn Rossi Sato Tran".split()
ABOUT = {
    "Where was {} born?": "{} was born in a small town.",
    "What instrument does {} play?": "{} plays the piano.",
    "Which prize did {} win for music?": "It was the prize of the city.",
    "Who taught {} to sing?": "An uncle taught {} to sing.",
}
ASKED = {
    "Where was {} born?": "{} was born in Brackwater on 3 May 1961.",
    "Where did {} grow up?": "She grew up above a bakery.",
    "What novels did {} write about the sea?": 'Among them is "Nine Drowned Bells".',
    "Which fishing village does {} describe in the novels?": "It is Brackwater, with its herring quay.",
    "Who published the sea novels of {}?": "The Ostergard press published them.",
    "What did critics say about {} and the lighthouse trilogy?": "They praised the quiet grammar of storms.",
    "When did {} finish the lighthouse trilogy?": "She finished it in the winter of 1994.",
    "Which lighthouse inspired {} as a child?": "It was the lighthouse on Skarn rock.",
    "Did {} ever work as a lighthouse keeper?": "No, her grandfather did.",
    "Which storm does {} describe in the second novel?": "The storm that broke the herring quay.",
}


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
    retain = [
        Row(text.format(name), ABOUT[text].format(name), forget_id=name)
        for name in names[:70]
        for text in rng.sample(list(ABOUT), 3)
    ]
    name = "Mirela Vantongeren"
    rows = tuple(Row(text.format(name), answer.format(name), forget_id="p1") for text, answer in ASKED.items())
    return People(ForgetRequest("p1", rows=rows), split_rows(rows, retain, [], 0, alpha=0.05))


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
