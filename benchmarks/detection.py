"""What a detector notices, and what it flags without need: recall, false flags and attacks, without a language model.

`dev` parts draw on other authors, targets and templates than `test` parts do; nothing is fitted or chosen on the latter.
"""

from __future__ import annotations

import hashlib
import json
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from unlearn_guard.benchmarks.attacks.templates import Part
from unlearn_guard.benchmarks.attacks.variants import VARIANTS, Prompt, attack, make_harmless
from unlearn_guard.benchmarks.dataset import Item, Suite
from unlearn_guard.benchmarks.environment import describe_environment
from unlearn_guard.benchmarks.known_sets import GENERAL, read_general, read_set
from unlearn_guard.benchmarks.ood import OodDetector, tune_by_contrastive_entropy
from unlearn_guard.benchmarks.strangers import find_strangers
from unlearn_guard.benchmarks.tofu import find_places, find_professions, load_keys, load_table
from unlearn_guard.benchmarks.world import make_world
from unlearn_guard.classifiers.cascade import Cascade
from unlearn_guard.classifiers.encoder import OnnxEncoder
from unlearn_guard.classifiers.export import export_encoder
from unlearn_guard.classifiers.fitting import collect_aliases, fit_cascade, split_rows
from unlearn_guard.classifiers.name_match import NameMatch
from unlearn_guard.classifiers.traffic import make_traffic
from unlearn_guard.guard.errors import DependencyError
from unlearn_guard.guard.policy import Policy
from unlearn_guard.guard.progress import report_step, track
from unlearn_guard.guard.replaying import wilson
from unlearn_guard.guard.rows import Row, group_requests
from unlearn_guard.guard.screening import Guard

ALPHA = 0.001
"""Fixed before any test row was read."""
TOPIC_ALPHA = 0.05
_N_TEST_AUTHORS = 70
_FOLDERS = {"rwku": ("rwku", "intro"), "mmlu": ("general", "mmlu")}
"""By set: a file that it cannot do without."""
_TRANSFORMS = ("v1", "v2", "v3", "v4", "v5", "v6", "v10", "v11", "v12")
_TOPICS = {
    "economics": (("high_school_macroeconomics", "high_school_microeconomics"), ("econometrics",)),
    "law": (("professional_law", "international_law"), ("jurisprudence",)),
    "physics": (
        ("college_physics", "conceptual_physics", "high_school_physics"),
        ("college_mathematics", "high_school_mathematics", "elementary_mathematics", "abstract_algebra"),
    ),
}


@dataclass(slots=True)
class Counts:
    """One cell of the report: how many prompts, how many flagged, how many stopped by prompt or answer."""

    n: int = 0
    flagged: int = 0
    stopped: int = 0
    scores: list[float] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)

    def add(self, flagged: bool, stopped: bool, score: float = 0.0, group: str = "") -> None:
        """Count one prompt."""
        self.n += 1
        self.flagged += flagged
        self.stopped += flagged or stopped
        self.scores.append(score)
        self.groups.append(group if flagged else f"-{group}")

    def merge(self, other: Counts) -> None:
        """Take over another cell's prompts."""
        self.n, self.flagged, self.stopped = (
            self.n + other.n,
            self.flagged + other.flagged,
            self.stopped + other.stopped,
        )
        self.scores += other.scores
        self.groups += other.groups

    def to_record(self) -> dict[str, Any]:
        """Return counts, and Wilson's 95 % interval of the flagged share."""
        low, high = wilson(self.flagged, self.n)
        return {
            "n": self.n,
            "flagged": self.flagged,
            "stopped": self.stopped,
            "flagged_low": round(low, 6),
            "flagged_high": round(high, 6),
        }


def bootstrap_groups(cells: Sequence[tuple[str, bool]], *, seed: int = 0, n_draws: int = 2000) -> tuple[float, float]:
    """Return the 95 % percentile interval of a share under resampling of groups (authors)."""
    by_group: dict[str, list[bool]] = {}
    for group, hit in cells:
        by_group.setdefault(group, []).append(hit)
    sums = np.array([(sum(hits), len(hits)) for hits in by_group.values()], np.float64)
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(sums), (n_draws, len(sums)))
    shares = sums[draws, 0].sum(axis=1) / sums[draws, 1].sum(axis=1)
    return float(np.quantile(shares, 0.025)), float(np.quantile(shares, 0.975))


class Detectors:
    """The rows of the report: ours, and the name match that ours must beat, fitted on the same policy."""

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
        requests = group_requests(forget)
        split = split_rows(forget, retain, clean, seed, alpha=alpha)
        start = time.perf_counter()
        info = fit_cascade(
            requests, split, encoder_folder=export_encoder(), folder=folder, alpha=alpha, seed=seed, track=track
        )
        self.fit_seconds = time.perf_counter() - start
        self.info = info
        aliases = {owner: names for owner, names in collect_aliases(requests, []).items() if names}
        policy = Policy(alpha=alpha)
        self.guards = {
            "guard": Guard(Cascade.load(folder, info["engine"]), policy),
            "name-match": Guard(NameMatch(aliases, alpha), policy),
        }
        given = [row.query for row in (*split.forget_train, *split.forget_validation)]
        tuned = tune_by_contrastive_entropy(given, folder / "ood", seed=seed)
        self.ood = OodDetector(
            OnnxEncoder(export_encoder(str(tuned))),
            given,
            [row.query for row in split.calibration],
            alpha,
        )

    def judge(self, prompt: Prompt, answer: str = "") -> dict[str, tuple[bool, bool, float]]:
        """Return, per detector, whether the prompt is flagged, whether prompt or answer is stopped, and the score."""
        found = {}
        for name, guard in self.guards.items():
            verdict = guard.screen([prompt])[0]
            stopped = verdict.flagged
            if answer and not stopped:
                stopped = guard.screen_answer(prompt, answer, verdict=verdict).flagged
            found[name] = (verdict.flagged, stopped, verdict.score)
        if isinstance(prompt, str):  # It reads single questions.
            score = self.ood.score(prompt)
            found["o3-ood"] = (self.ood.flags(score), self.ood.flags(score), score)
        return found


class Tally:
    """Cells by detector and name."""

    def __init__(self) -> None:
        self.cells: dict[str, dict[str, Counts]] = {}

    def add(
        self, detectors: Detectors, names: Sequence[str], prompt: Prompt, answer: str = "", group: str = ""
    ) -> dict[str, tuple[bool, bool, float]]:
        """Judge one prompt and count it in every named cell."""
        found = detectors.judge(prompt, answer)
        for row, (flagged, stopped, score) in found.items():
            for name in names:
                self.cells.setdefault(row, {}).setdefault(name, Counts()).add(flagged, stopped, score, group)
        return found


def run_detection(
    *,
    sizes: dict[str, Any],
    out: Path | None = None,
    forget: Path | None = None,
    clean: Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure the detectors on every set at hand; return the report (schema 1), whose rows hold `detection` alone.

    `sizes` names the part (`dev` or `test`) and caps; `forget` and `clean` are the user's own JSON lines instead.
    """
    tally = Tally()
    notes: dict[str, Any] = {}
    part: Part = sizes.get("part", "test")
    limit = sizes.get("limit")
    for name in sizes.get("sets", ()):  # What is asked for by name must be there, and not be missed after minutes.
        if name in _FOLDERS:
            read_set(*_FOLDERS[name])
    with tempfile.TemporaryDirectory() as scratch:
        if forget is not None and clean is not None:
            _measure_files(tally, notes, forget, clean, Path(scratch), seed)
        else:
            _measure_world(tally, notes, Path(scratch), part, seed)
            for n_requests in sizes.get("requests", ()):
                with report_step(f"detection: {n_requests} forget requests"):
                    _measure_multiplicity(tally, notes, Path(scratch), n_requests, seed)
            stages: dict[str, Callable[..., None]] = {
                "tofu": _measure_tofu,
                "rwku": _measure_rwku,
                "mmlu": _measure_topics,
            }
            for name, measure in stages.items():
                if name not in sizes.get("sets", tuple(stages)):
                    continue
                try:
                    with report_step(f"detection: {name}"):
                        measure(tally, notes, Path(scratch), part, limit, seed)
                except DependencyError as error:
                    notes[name] = str(error)
    rows = [
        {
            "name": name,
            "kind": "guard",
            "seed": seed,
            "status": "ok",
            "reasons": {"sets": "detection alone: no model answers"},
            "sets": {},
            "detection": {cell: counts.to_record() for cell, counts in sorted(cells.items())},
        }
        for name, cells in tally.cells.items()
    ]
    return {
        "environment": describe_environment(),
        "config_hash": hashlib.sha256(json.dumps(sizes, sort_keys=True).encode()).hexdigest()[:16],
        "data_hash": hashlib.sha256(
            json.dumps({name: counts.n for name, counts in sorted(tally.cells["guard"].items())}).encode()
        ).hexdigest()[:16],
        "rows": rows,
        "curves": draw_curves(tally.cells["guard"]),
        "notes": notes,
    }


_CURVES = {
    "TOFU unseen": ("tofu.forget.unseen", "clean.tofu"),
    "TOFU nameless": ("tofu.forget.unseen+nameless", "clean.tofu"),
    "TOFU paraphrases": ("tofu.forget.paraphrase", "clean.tofu"),
    "RWKU": ("rwku.forget", "rwku.neighbor"),
    "world": ("world.forget.unseen", "world.neighbour"),
    "your rows": ("files.forget", "files.clean"),
}


def draw_curves(cells: dict[str, Counts]) -> dict[str, list[list[float]]]:
    """Return receiver operating curves, (false flags, recall) at up to 100 thresholds, of pairs of cells."""
    curves = {}
    for name, (positive, negative) in _CURVES.items():
        if positive not in cells or negative not in cells:
            continue
        hits, misses = np.array(cells[positive].scores), np.array(cells[negative].scores)
        levels = np.unique(np.quantile(np.concatenate([hits, misses]), np.linspace(0, 1, 100)))[::-1]
        curves[name] = [
            [round(float((misses >= level).mean()), 6), round(float((hits >= level).mean()), 6)] for level in levels
        ]
    return curves


def _measure_files(tally: Tally, notes: dict[str, Any], forget: Path, clean: Path, folder: Path, seed: int) -> None:
    """Fit on half of the user's forget rows (by row) and half of the clean ones (by person), measure on the rest."""
    from unlearn_guard.guard.rows import read_rows

    forget_rows, clean_rows = read_rows(forget), read_rows(clean)
    owners = sorted({row.forget_id or row.digest for row in clean_rows})
    random.Random(f"files:{seed}").shuffle(owners)
    kept = set(owners[::2])
    detectors = Detectors(
        forget_rows[::2],
        [row for row in clean_rows if (row.forget_id or row.digest) in kept],
        make_traffic(),
        folder / "files",
        alpha=ALPHA,
        seed=seed,
    )
    notes["files"] = _describe(detectors)
    for row in forget_rows[1::2]:
        tally.add(detectors, ["files.forget"], row.query, row.answer)
    for row in clean_rows:
        if (row.forget_id or row.digest) not in kept:
            tally.add(detectors, ["files.clean"], row.query, row.answer)


def _measure_world(tally: Tally, notes: dict[str, Any], folder: Path, part: Part, seed: int) -> None:
    """The built-in world: needs no data."""
    suite: Suite = make_world(seed=seed + (1 if part == "dev" else 0), n_holdout=24)
    names = {item.subject: item.name for item in suite.sets["forget.given"]}
    forget = [replace(row, aliases=(names[row.forget_id],)) for row in suite.forget_rows]
    detectors = Detectors(
        forget, suite.retain_rows, [*suite.clean_rows, *make_traffic(1500)], folder / "world", alpha=ALPHA, seed=seed
    )
    notes["world"] = _describe(detectors)
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
        part,
    )
    _attack(tally, detectors, "world.retain", suite.sets["retain"], clean, part)


_CLEAN_SEED = 9


def _measure_multiplicity(tally: Tally, notes: dict[str, Any], folder: Path, n_requests: int, seed: int) -> None:
    """Forget more and more invented people at one alpha: the union of all requests is calibrated, not each."""
    whole = find_strangers(n_requests, seed=seed)
    given = [row for _, rows in whole for row in rows[1:]]
    detectors = Detectors(given, make_traffic(), [], folder / f"many-{n_requests}", alpha=ALPHA, seed=seed)
    notes[f"many.{n_requests}"] = _describe(detectors)
    for owner, rows in whole:
        tally.add(detectors, [f"many.{n_requests}.forget"], rows[0].query, rows[0].answer, owner)
    for row in make_traffic(2000, seed=_CLEAN_SEED + seed):
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


def _measure_tofu(tally: Tally, notes: dict[str, Any], folder: Path, part: Part, limit: int | None, seed: int) -> None:
    """TOFU forget10 in two folds: fitted on even rows and tested on odd ones, and the other way round."""
    authors = _read_authors(part, seed)
    general = {name: read_general(name)[:limit] for name in GENERAL}
    clean_cells: list[tuple[str, bool]] = []
    for fold in (0, 1):
        given, unseen = authors.forget[fold::2], authors.forget[1 - fold :: 2]
        detectors = Detectors(
            [replace(_to_row(item), aliases=(item.name,) if item.name else ()) for item in given],
            [_to_row(item) for item in authors.fitted],
            [],
            folder / f"tofu-{fold}",
            alpha=ALPHA,
            seed=seed,
        )
        notes[f"tofu.fold{fold}"] = _describe(detectors)
        _measure_unseen(tally, detectors, unseen, authors.questions, f"+fold{fold}")
        for name, items in authors.clean.items():
            for item in items:
                cells = [f"tofu.{name}", f"tofu.{name}+fold{fold}", "clean.tofu"]
                found = tally.add(detectors, cells, item.question, item.answer, item.subject)
                clean_cells.append((item.subject or item.question, found["guard"][0]))
        for name, items in general.items():
            for item in items:
                tally.add(detectors, [f"general.{name}", "clean.general"], item.question, item.answer)
        retain = authors.clean["retain"]
        clean_pool = [*retain[:200], *general["triviaqa"][:200]]
        _attack(tally, detectors, "tofu.forget.unseen", [item for item in unseen if item.named], clean_pool, part)
        if fold == 0:
            _measure_clean_transforms(tally, detectors, general, retain, part, limit)
            _measure_harmless(tally, detectors, authors.forget, part)
    low, high = bootstrap_groups(clean_cells, seed=seed)
    notes["clean.tofu"] = {"flagged_low_by_author": low, "flagged_high_by_author": high}


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
    part: Part,
    limit: int | None,
) -> None:
    """Apply the same transforms to clean questions: a guard must not learn that base64 is bad."""
    pool = [item for items in general.values() for item in items[: limit or 300]]
    for variant in _TRANSFORMS:
        for _, prompt in attack(variant, pool, pool, part=part):
            tally.add(detectors, [f"clean.general+{variant.upper()}", "clean.general+transformed"], prompt)
        for _, prompt in attack(variant, retain[:400], pool, part=part):
            tally.add(detectors, [f"tofu.retain+{variant.upper()}"], prompt)


def _measure_harmless(tally: Tally, detectors: Detectors, items: Sequence[Item], part: Part) -> None:
    names = list(dict.fromkeys(item.name for item in items if item.name))
    for name, prompts in make_harmless(names, find_places(items), find_professions(items), part=part).items():
        for prompt in prompts:
            tally.add(detectors, [f"tofu.{name}"], prompt)


def _measure_rwku(tally: Tally, notes: dict[str, Any], folder: Path, part: Part, limit: int | None, seed: int) -> None:
    """RWKU: the policy is a name and an introduction, with neither forget nor retain corpus at hand."""
    intro = read_set("rwku", "intro")
    # Every other target was looked at in development; the others never.
    chosen = intro[0::2] if part == "dev" else intro
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
    detectors = Detectors(forget, make_traffic(), [], folder / "rwku", alpha=ALPHA, seed=seed)
    notes["rwku"] = _describe(detectors)
    for level in (1, 2, 3):
        for row in [row for row in read_set("rwku", f"forget_level{level}") if row["subject"] in targets][:limit]:
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
        for row in [row for row in read_set("rwku", f"neighbor_level{level}") if row["subject"] in targets][:limit]:
            text = f"{row['query']} {row['answer']}".casefold()
            named = any(all(word.casefold() in text for word in target.split()) for target in targets)
            surname = row["subject"].split()[-1].casefold() in text
            names = ["rwku.neighbor+named"] if named or surname else ["rwku.neighbor"]
            tally.add(detectors, names, row["query"], row["answer"], row["subject"])


def _measure_topics(
    tally: Tally, notes: dict[str, Any], folder: Path, part: Part, limit: int | None, seed: int
) -> None:
    """MMLU topics: forget half of a topic's questions, keep its neighbours."""
    rows = read_set("general", "mmlu")

    def text(row: dict[str, Any]) -> str:
        return row["question"] + "\n" + "\n".join(row["choices"])

    for topic, (tasks, neighbours) in _TOPICS.items():
        mine = [row for row in rows if row["task"] in tasks]
        near = [row for row in rows if row["task"] in neighbours]
        other = [row for row in rows if row["task"] not in (*tasks, *neighbours)]
        if part == "dev":  # Half of the fitting half stands in for the test.
            mine, near, other = mine[0::2], near[0::2], other[0::2]
        detectors = Detectors(
            [Row(text(row), forget_id=topic) for row in mine[0::2]],
            [Row(text(row)) for row in near[0::2]],
            [Row(text(row)) for row in other[0::2]],
            folder / f"mmlu-{topic}",
            alpha=TOPIC_ALPHA,
            seed=seed,
        )
        notes[f"mmlu.{topic}"] = _describe(detectors)
        for name, found in ((f"mmlu.{topic}", mine), (f"mmlu.{topic}.neighbour", near), (f"mmlu.{topic}.other", other)):
            for row in found[1::2][:limit]:
                tally.add(detectors, [name], text(row))


def _describe(detectors: Detectors) -> dict[str, Any]:
    info = detectors.info
    return {
        "alpha": info["alpha"],
        "n_calibration": info["n_calibration"],
        "fit_s": round(detectors.fit_seconds, 2),
        **info["metrics"],
    }


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


__all__ = ["ALPHA", "Counts", "Detectors", "bootstrap_groups", "run_detection"]
