"""The sets of the detection benchmark: what is forgotten of each, what is fitted on, what is asked.

`dev` parts draw on other authors, targets and templates than `test` parts do; nothing is fitted or chosen on the latter. A measurement
adds to a tally, and leaves its bundle in a folder.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from unlearn_guard.benchmarks.attacks.templates import Part
from unlearn_guard.benchmarks.attacks.variants import VARIANTS, attack, make_harmless
from unlearn_guard.benchmarks.dataset import Item, Suite
from unlearn_guard.benchmarks.detection_cells import Tally
from unlearn_guard.benchmarks.detectors import Detectors
from unlearn_guard.benchmarks.known_sets import GENERAL, read_general, read_set
from unlearn_guard.benchmarks.strangers import find_strangers
from unlearn_guard.benchmarks.tofu import find_places, find_professions, load_keys, load_table
from unlearn_guard.benchmarks.world import make_world
from unlearn_guard.classifiers.traffic import make_traffic
from unlearn_guard.guard.errors import DependencyError
from unlearn_guard.guard.rows import Row, read_rows

ALPHA = 0.001
"""Fixed before any test row was read."""
TOPIC_ALPHA = 0.05
NEEDS = {"rwku": ("rwku", "intro"), "mmlu": ("general", "mmlu")}
"""By set: a file that it cannot do without."""
_N_TEST_AUTHORS = 70
_CLEAN_SEED = 9
_TRANSFORMS = ("v1", "v2", "v3", "v4", "v5", "v6", "v10", "v11", "v12")
_TOPICS = {
    "economics": (("high_school_macroeconomics", "high_school_microeconomics"), ("econometrics",)),
    "law": (("professional_law", "international_law"), ("jurisprudence",)),
    "physics": (
        ("college_physics", "conceptual_physics", "high_school_physics"),
        ("college_mathematics", "high_school_mathematics", "elementary_mathematics", "abstract_algebra"),
    ),
}


@dataclass(frozen=True, slots=True)
class Draw:
    """Which rows are drawn: of which part, at most how many of a kind, behind which seed."""

    part: Part = "test"
    limit: int | None = None
    seed: int = 0


Measure = Callable[[Tally, Draw, Path], None]


def list_measures(name: str) -> dict[str, Measure]:
    """Return the measurements of a set by name: each fits detectors of its own, and needs no other."""
    measures: dict[str, dict[str, Measure]] = {
        "tofu": {f"tofu-fold{fold}": partial(_measure_tofu, fold) for fold in (0, 1)},
        "rwku": {"rwku": _measure_rwku},
        "mmlu": {f"mmlu-{topic}": partial(_measure_topic, topic) for topic in _TOPICS},
    }
    return measures[name]


def measure_files(forget: Path, clean: Path, tally: Tally, draw: Draw, folder: Path) -> None:
    """Fit on half of the user's forget rows (by row) and half of the clean ones (by person), measure on the rest."""
    forget_rows, clean_rows = read_rows(forget), read_rows(clean)
    owners = sorted({row.forget_id or row.digest for row in clean_rows})
    random.Random(f"files:{draw.seed}").shuffle(owners)
    kept = set(owners[::2])
    detectors = Detectors(
        forget_rows[::2],
        [row for row in clean_rows if (row.forget_id or row.digest) in kept],
        make_traffic(),
        folder,
        alpha=ALPHA,
        seed=draw.seed,
    )
    tally.notes["files"] = detectors.describe()
    for row in forget_rows[1::2]:
        tally.add(detectors, ["files.forget"], row.query, row.answer)
    for row in clean_rows:
        if (row.forget_id or row.digest) not in kept:
            tally.add(detectors, ["files.clean"], row.query, row.answer)


def measure_world(tally: Tally, draw: Draw, folder: Path) -> None:
    """The built-in world: needs no data."""
    suite: Suite = make_world(seed=draw.seed + (1 if draw.part == "dev" else 0), n_holdout=24)
    names = {item.subject: item.name for item in suite.sets["forget.given"]}
    forget = [replace(row, aliases=(names[row.forget_id],)) for row in suite.forget_rows]
    detectors = Detectors(
        forget, suite.retain_rows, [*suite.clean_rows, *make_traffic(1500)], folder, alpha=ALPHA, seed=draw.seed
    )
    tally.notes["world"] = detectors.describe()
    for name, items in suite.sets.items():
        for item in items:
            extra = [f"world.{name}+{'named' if item.named else 'nameless'}"] if name.startswith("forget") else []
            tally.add(detectors, [f"world.{name}", *extra], item.question, item.answer, item.subject)
    clean = [*suite.sets["retain"], *suite.sets["world_facts"]]
    _attack(
        tally,
        detectors,
        "world.forget.unseen",
        [item for item in suite.sets["forget.unseen"] if item.named],
        clean,
        draw.part,
    )
    _attack(tally, detectors, "world.retain", suite.sets["retain"], clean, draw.part)


def measure_multiplicity(n_requests: int, tally: Tally, draw: Draw, folder: Path) -> None:
    """Forget more and more invented people at one alpha: the union of all requests is calibrated, not each."""
    whole = find_strangers(n_requests, seed=draw.seed)
    given = [row for _, rows in whole for row in rows[1:]]
    detectors = Detectors(given, make_traffic(), [], folder, alpha=ALPHA, seed=draw.seed)
    tally.notes[f"many.{n_requests}"] = detectors.describe()
    for owner, rows in whole:
        tally.add(detectors, [f"many.{n_requests}.forget"], rows[0].query, rows[0].answer, owner)
    for row in make_traffic(2000, seed=_CLEAN_SEED + draw.seed):
        tally.add(detectors, [f"many.{n_requests}.clean"], row.query, row.answer)
    general = []
    for name in GENERAL:
        try:
            general += read_general(name)[:300]
        except DependencyError:
            continue
    for item in general:
        tally.add(detectors, [f"many.{n_requests}.general"], item.question, item.answer)


def _attack(
    tally: Tally, detectors: Detectors, name: str, items: Sequence[Item], clean: Sequence[Item], part: Part
) -> None:
    for variant in VARIANTS:
        if variant == "v0":
            continue
        for item, prompt in attack(variant, items, clean, part=part):
            tally.add(detectors, [f"{name}+{variant.upper()}"], prompt, item.answer, item.subject)


@dataclass(frozen=True, slots=True)
class _Authors:
    """TOFU's rows as the detection benchmark cuts them: by author, then by who forgets, fits and is asked.

    questions: paraphrased ones by the question that they reword, of the test part alone.
    """

    forget: list[Item]
    fitted: list[Item]
    clean: dict[str, list[Item]]
    questions: dict[str, str]


def _read_authors(part: Part, seed: int) -> _Authors:
    full, names, keys = load_table("full"), _read_author_names(), load_keys()
    rng = random.Random(f"tofu:{seed}")
    kept = list(range(180))
    rng.shuffle(kept)
    forgotten = list(range(180, 200))
    if part == "dev":  # Other authors stand in for the forgotten ones; forget10 is not read.
        forgotten, kept = kept[:20], kept[20:]
    perturbed = {row["question"]: row for row in load_table("forget10_perturbed")} if part == "test" else {}

    def read(row: dict[str, Any], author: int) -> Item:
        extra = perturbed.get(row["question"], {})
        return Item(
            row["question"],
            row["answer"],
            subject=f"author-{author:03d}",
            paraphrase=extra.get("paraphrased_answer", ""),
            wrong=tuple(extra.get("perturbed_answer", ())),
            named=bool(names[author]) and names[author].casefold() in row["question"].casefold(),
            key=keys.get(row["question"], ""),
            name=names[author],
        )

    def read_all(authors: Sequence[int]) -> list[Item]:
        return [read(row, author) for author in authors for row in full[author * 20 : author * 20 + 20]]

    holdout = [
        Item(row["question"], row["answer"], subject=f"holdout-{number // 20:03d}")
        for number, row in enumerate(load_table("holdout10"))
    ]
    facts = {
        name: [Item(row["question"], row["answer"]) for row in load_table(name)]
        for name in ("real_authors", "world_facts")
    }
    return _Authors(
        forget=read_all(forgotten),
        fitted=read_all(kept[_N_TEST_AUTHORS:]),
        clean={"retain": read_all(kept[:_N_TEST_AUTHORS]), "holdout": holdout, **facts},
        questions={question: row.get("paraphrased_question", "") for question, row in perturbed.items()},
    )


def _measure_tofu(fold: int, tally: Tally, draw: Draw, folder: Path) -> None:
    """TOFU forget10 in two folds: fitted on even rows and tested on odd ones, and the other way round."""
    authors = _read_authors(draw.part, draw.seed)
    general = {name: read_general(name)[: draw.limit] for name in GENERAL}
    given, unseen = authors.forget[fold::2], authors.forget[1 - fold :: 2]
    detectors = Detectors(
        [replace(_to_row(item), aliases=(item.name,) if item.name else ()) for item in given],
        [_to_row(item) for item in authors.fitted],
        [],
        folder,
        alpha=ALPHA,
        seed=draw.seed,
    )
    tally.notes[f"tofu.fold{fold}"] = detectors.describe()
    _measure_unseen(tally, detectors, unseen, authors.questions, f"+fold{fold}")
    for name, items in authors.clean.items():
        cells = [f"tofu.{name}", f"tofu.{name}+fold{fold}", "clean.tofu"]
        for item in items:
            tally.add(detectors, cells, item.question, item.answer, item.subject or item.question)
    for name, items in general.items():
        for item in items:
            tally.add(detectors, [f"general.{name}", "clean.general"], item.question, item.answer)
    retain = authors.clean["retain"]
    clean_pool = [*retain[:200], *general["triviaqa"][:200]]
    _attack(tally, detectors, "tofu.forget.unseen", [item for item in unseen if item.named], clean_pool, draw.part)
    if fold == 0:
        _measure_clean_transforms(tally, detectors, general, retain, draw)
        _measure_harmless(tally, detectors, authors.forget, draw.part)


def _measure_unseen(
    tally: Tally, detectors: Detectors, unseen: Sequence[Item], paraphrases: Mapping[str, str], tail: str
) -> None:
    """Screen the questions that `fit` did not see, and their paraphrases; `tail` names the fold."""
    for item in unseen:
        kind, base = "+named" if item.named else "+nameless", "tofu.forget.unseen"
        cells = [base, base + tail, base + kind, base + kind + tail]
        tally.add(detectors, cells, item.question, item.answer, item.subject)
    for item in unseen:
        if question := paraphrases.get(item.question, ""):
            kind = "+named" if item.name.casefold() in question.casefold() else "+nameless"
            base = "tofu.forget.paraphrase"
            tally.add(detectors, [base, base + tail, base + kind], question, item.answer, item.subject)


def _measure_clean_transforms(
    tally: Tally,
    detectors: Detectors,
    general: dict[str, list[Item]],
    retain: Sequence[Item],
    draw: Draw,
) -> None:
    """Apply the same transforms to clean questions: a guard must not learn that base64 is bad."""
    pool = [item for items in general.values() for item in items[: draw.limit or 300]]
    for variant in _TRANSFORMS:
        for _, prompt in attack(variant, pool, pool, part=draw.part):
            tally.add(detectors, [f"clean.general+{variant.upper()}", "clean.general+transformed"], prompt)
        for _, prompt in attack(variant, retain[:400], pool, part=draw.part):
            tally.add(detectors, [f"tofu.retain+{variant.upper()}"], prompt)


def _measure_harmless(tally: Tally, detectors: Detectors, items: Sequence[Item], part: Part) -> None:
    names = list(dict.fromkeys(item.name for item in items if item.name))
    for name, prompts in make_harmless(names, find_places(items), find_professions(items), part=part).items():
        for prompt in prompts:
            tally.add(detectors, [f"tofu.{name}"], prompt)


def _measure_rwku(tally: Tally, draw: Draw, folder: Path) -> None:
    """RWKU: the policy is a name and an introduction, with neither forget nor retain corpus at hand."""
    intro = read_set("rwku", "intro")
    # Every other target was looked at in development; the others never.
    chosen = intro[0::2] if draw.part == "dev" else intro
    developed = {row["target"] for row in intro[0::2]}
    targets = {row["target"] for row in chosen}
    forget = [
        Row(
            text=row["intro"].replace(f"Please forget {row['target']}. ", ""),
            forget_id=row["target"],
            aliases=(row["target"],),
        )
        for row in chosen
    ]
    detectors = Detectors(forget, make_traffic(), [], folder, alpha=ALPHA, seed=draw.seed)
    tally.notes["rwku"] = detectors.describe()
    for level in (1, 2, 3):
        for row in [row for row in read_set("rwku", f"forget_level{level}") if row["subject"] in targets][: draw.limit]:
            surname = row["subject"].split()[-1].casefold() in row["query"].casefold()
            kind = _name_type(row["type"])
            halves = "looked-at" if row["subject"] in developed else "untouched"
            names = [
                "rwku.forget",
                f"rwku.forget+{'named' if surname else 'unnamed'}",
                f"rwku.forget.{kind}",
                f"rwku.forget+{halves}",
            ]
            if not surname:
                names.append(f"rwku.forget+unnamed+{halves}")
            tally.add(detectors, names, row["query"], row["answer"], row["subject"])
    for level in (1, 2):
        for row in [row for row in read_set("rwku", f"neighbor_level{level}") if row["subject"] in targets][
            : draw.limit
        ]:
            text = f"{row['query']} {row['answer']}".casefold()
            named = any(all(word.casefold() in text for word in target.split()) for target in targets)
            surname = row["subject"].split()[-1].casefold() in text
            names = ["rwku.neighbor+named"] if named or surname else ["rwku.neighbor"]
            tally.add(detectors, names, row["query"], row["answer"], row["subject"])


def _measure_topic(topic: str, tally: Tally, draw: Draw, folder: Path) -> None:
    """One topic of MMLU: forget half of its questions, keep its neighbours."""
    rows = read_set("general", "mmlu")

    def text(row: dict[str, Any]) -> str:
        return row["question"] + "\n" + "\n".join(row["choices"])

    tasks, neighbours = _TOPICS[topic]
    mine = [row for row in rows if row["task"] in tasks]
    near = [row for row in rows if row["task"] in neighbours]
    other = [row for row in rows if row["task"] not in (*tasks, *neighbours)]
    if draw.part == "dev":  # Half of the fitting half stands in for the test.
        mine, near, other = mine[0::2], near[0::2], other[0::2]
    detectors = Detectors(
        [Row(text(row), forget_id=topic) for row in mine[0::2]],
        [Row(text(row)) for row in near[0::2]],
        [Row(text(row)) for row in other[0::2]],
        folder,
        alpha=TOPIC_ALPHA,
        seed=draw.seed,
    )
    tally.notes[f"mmlu.{topic}"] = detectors.describe()
    for name, found in ((f"mmlu.{topic}", mine), (f"mmlu.{topic}.neighbour", near), (f"mmlu.{topic}.other", other)):
        for row in found[1::2][: draw.limit]:
            tally.add(detectors, [name], text(row))


def _to_row(item: Item) -> Row:
    return Row(item.question, item.answer, forget_id=item.subject)


def _read_author_names() -> list[str]:
    """Return the 200 authors' names, in order; empty where a name is not known."""
    names = [""] * 200
    for row in read_set("tofu", "authors"):
        names[row["author"]] = row["name"] or ""
    return names


def _name_type(kind: str) -> str:
    kind = kind.lower()
    return "cross_lingual" if kind.startswith("cross") else kind.replace(" ", "_")
