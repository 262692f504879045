"""The suite `skills`: what neuron interventions and key-space detection take from one skill, and what from the others.

Every row is measured against the same model left alone: a drop is relative to that. Shares are chosen on validation rows, thresholds on
calibration rows; test prompts are used once per row. An abstention is neither right nor wrong and is counted apart.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from unlearn_guard.benchmarks.dataset import Item
from unlearn_guard.benchmarks.environment import describe_environment
from unlearn_guard.benchmarks.hub import describe_local
from unlearn_guard.benchmarks.known_sets import read_general
from unlearn_guard.benchmarks.skills import FACTS, HUB, SKILLS, SkillWorld, load_hub_skills, make_skills, measure_right
from unlearn_guard.benchmarks.stages import Stages, describe_model, hash_content
from unlearn_guard.benchmarks.training import Recipe, train_models
from unlearn_guard.benchmarks.world import reword
from unlearn_guard.classifiers.traffic import make_traffic
from unlearn_guard.corruptions import key_space
from unlearn_guard.corruptions.mlp_edit import AblationTable, AdjustTable, Table
from unlearn_guard.corruptions.neuron_fitting import dress, load_probes, part_clean, read_statistics, show_examples
from unlearn_guard.corruptions.neuron_settings import Score, Shift
from unlearn_guard.corruptions.neurons import (
    choose_highest,
    measure_energy,
    measure_keys,
    rank_neurons,
    select_neurons,
)
from unlearn_guard.guard.bundle import Bundle, write_atomic
from unlearn_guard.guard.compose import fit
from unlearn_guard.guard.errors import DependencyError, UnknownNameError
from unlearn_guard.guard.progress import report_step
from unlearn_guard.guard.rows import ForgetRequest, Row
from unlearn_guard.guard.screening import Guard
from unlearn_guard.guard.stamp import Stamp, Step
from unlearn_guard.serving.transformers.engine import ReferenceEngine, require_device
from unlearn_guard.serving.transformers.neurons import NeuronHooks

SHARES = (0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1, 0.12, 0.15)
"""Of all neurons; the largest is what the bars allow."""
PAPER_SHARES = (0.03, 0.1)
CONCEPTS = (20, 60, 200)
MAX_OTHER_DROP = 0.05
GATE_ALPHA = 0.001
"""Of the text classifier: the default of `fit`."""
_NOT_CLEAN = {"arithmetic": ("arithmetic",)}
"""Kinds of built-in traffic that ask for a skill."""
PAPER_ALPHA = 2.0
"""The public code's α for GSM8K."""
METHODS = (
    "none",
    "neuron-adjust",
    "neuron-adjust-posterior",
    "concept-ablation",
    "selective-pruning",
    "neuron-adjust-gated",
    "neuron-adjust-posterior-gated",
    "concept-ablation-gated",
    "selective-pruning-gated",
    "key-space",
    "key-space-probe",
    "refusal",
    "refusal+key-space-probe",
)
_N_OWN_FACTS = 60
_GENERAL = ("triviaqa", "truthfulqa", "instructions")
_TABLE = "skill"
_STAMP = Stamp("", (), 0, 0, (Step("neurons", (), {"tables": [_TABLE]}),))
Outputs = dict[str, list[str]]
Flags = dict[str, list[bool]]


@dataclass(frozen=True, slots=True)
class Cleanliness:
    """Clean prompts, those that shape and calibrate apart from those that are tested."""

    given: list[Row]
    tested: dict[str, list[str]]


class Gate:
    """The text classifier of a bundle: which questions are flagged."""

    def __init__(self, bundle: Path) -> None:
        self.guard = Guard.load(bundle)

    def screen(self, sets: Mapping[str, Sequence[Item]]) -> Flags:
        """Return which questions of each set are flagged."""
        return {name: self.flag([item.question for item in items]) for name, items in sets.items()}

    def flag(self, prompts: Sequence[str]) -> list[bool]:
        """Return which prompts are flagged."""
        return [verdict.flagged for verdict in self.guard.screen(list(prompts))]


class SkillExam:
    """One model, one skill to forget: everything that the rows of a report are measured with."""

    def __init__(self, world: SkillWorld, engine: ReferenceEngine, target: str, folder: Path) -> None:
        self.world, self.engine, self.target = world, engine, target
        self.sets = choose_sets(world, target)
        self.clean = gather_clean(world, target)
        self._keys: dict[tuple[str, int], Any] = {}
        """Both detectors read the same prompts; by these and layer."""
        start = time.perf_counter()
        forget = [replace(row, forget_id=target) for row in world.fit_rows[target]]
        request = ForgetRequest(target, kind="skill", title=target, rows=tuple(forget), intervention="neuron-adjust")
        self.kept = [row for skill, rows in world.fit_rows.items() if skill != target for row in rows]
        self.kept += [*world.validation_rows.get(FACTS, []), *world.general_rows]
        self.bundle: Bundle = fit(
            str(engine.model.name_or_path),
            [request],
            self.kept,
            clean=self.clean.given,
            interventions=("neuron-adjust",),
            key_space=True,
            alpha=GATE_ALPHA,
            traffic_without=_NOT_CLEAN.get(target, ()),
            seed=world.seed,
            device=engine.device.type,
            out=folder,
        )
        self.fit_seconds = time.perf_counter() - start
        self.gate = Gate(self.bundle.path)
        self.inside = self.bundle.path / "interventions"
        record = self.bundle.manifest.interventions["neurons"]
        self.forget, self.retain = read_statistics(record, self.inside)
        self.plain = self.answer(None, self.sets)
        self.base = self.grade(self.plain, self.sets)
        self.validation = {
            skill: [Item(row.prompt, row.answer, skill) for row in rows]
            for skill, rows in world.validation_rows.items()
        }
        if target == FACTS:  # Those rows are about people who are kept.
            self.validation["facts of others"] = self.validation.pop(FACTS)
            self.validation[FACTS] = [Item(row.prompt, row.answer) for row in world.fit_rows[FACTS][:_N_OWN_FACTS]]
        if world.general_rows:
            self.validation["general"] = [Item(row.prompt, row.answer) for row in world.general_rows]
        self.validated = self.grade(self.answer(None, self.validation), self.validation)

    def answer(self, table: Table | None, sets: Mapping[str, Sequence[Item]], flags: Flags | None = None) -> Outputs:
        """Return answers to every set; a table acts on flagged questions, on all where `flags` is None."""
        engine = self._open(table)
        outputs: Outputs = {}
        for name, items in sets.items():
            acted = flags[name] if flags is not None else [table is not None] * len(items)
            stamps = [_STAMP if flag else None for flag in acted]
            prompts = [engine.render(item.question) for item in items]
            longest = max(len(engine.tokenizer(item.answer).input_ids) for item in items)
            found = engine.generate(prompts, stamps, max_new_tokens=longest + 8)
            outputs[name] = [engine.decode(tokens) for tokens in found]
        return outputs

    def _open(self, table: Table | None) -> ReferenceEngine:
        hooks = NeuronHooks(self.engine.model, {_TABLE: table}) if table is not None else None
        return ReferenceEngine(self.engine.model, self.engine.tokenizer, neurons=hooks, batch_size=128)

    def compare_speed(self, table: Table, *, rounds: int = 5) -> float:
        """Return how long a pass over questions and answers takes with every text edited, as a ratio to none; alternating rounds."""
        items = self.sets[self.target][:64]
        prompts = [self.engine.render(item.question) for item in items]
        answers = [list(self.engine.tokenizer(item.answer, add_special_tokens=False).input_ids) for item in items]
        seconds: dict[bool, list[float]] = {False: [], True: []}
        engine = self._open(table)
        for number in range(2 * rounds + 2):
            is_edited = bool(number % 2)
            start = time.perf_counter()
            engine.score(prompts, answers, [_STAMP if is_edited else None] * len(items))
            seconds[is_edited].append(time.perf_counter() - start)
        with_edits, without = (
            float(np.median(seconds[edited][1:])) for edited in (True, False)
        )  # The first round warms up.
        return round(with_edits / without, 3)

    def grade(self, outputs: Outputs, sets: Mapping[str, Sequence[Item]]) -> dict[str, float]:
        """Return the mean score of every set."""
        return {
            name: float(
                np.mean(
                    [
                        measure_right(name.split(".")[0], item, text)
                        for item, text in zip(items, outputs[name], strict=True)
                    ]
                )
            )
            for name, items in sets.items()
        }

    def choose(self, candidates: Mapping[str, Table], flags: Flags | None = None) -> tuple[str, Table]:
        """Return the candidate that takes most from the skill on validation rows and at most 5 % from any other.

        A table acts on flagged questions, on all where `flags` is None: what a gate spares need not be spared by the table.
        """
        best: tuple[tuple[bool, float], str] | None = None

        def measure(table: Table, names: Sequence[str]) -> float:
            sets = {name: self.validation[name] for name in names}
            graded = self.grade(self.answer(table, sets, flags), sets)
            return max(find_drop(self.validated[name], found) for name, found in graded.items())

        for label, table in candidates.items():
            own = measure(table, [self.target])
            if best is not None and best[0] >= (True, own):
                continue  # Whatever it takes from others, it takes less from the skill.
            others = measure(table, [name for name in self.validation if name != self.target])
            key = (others <= MAX_OTHER_DROP, own if others <= MAX_OTHER_DROP else -others)
            if best is None or key > best[0]:
                best = key, label
        assert best is not None
        return best[1], candidates[best[1]]

    def adjust(self, share: float, score: Score, shift: Shift) -> AdjustTable:
        """Return Neuron Adjust of these settings, from the bundle's own statistics."""
        chosen = select_neurons(self.forget, self.retain, share, score)
        return AdjustTable(chosen, self.forget.gate, self.retain.gate, shift, self.world.seed)

    def read_keys(self, prompts: Sequence[str], layers: Sequence[int]) -> dict[int, Any]:
        """Return keys at the prompts' last tokens."""
        name = hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()
        if any((name, layer) not in self._keys for layer in layers):
            every = sorted({*layers, *self.bundle.manifest.interventions["key_space"]["layers"]})
            found = measure_keys(self.engine.model, [self.engine.render(prompt) for prompt in prompts], every)
            self._keys.update({(name, layer): keys.numpy() for layer, keys in found.items()})
        return {layer: self._keys[name, layer] for layer in layers}


def find_drop(before: float, after: float) -> float:
    """Return what is lost, as a part of what was there."""
    return 1.0 - after / before if before else 0.0


def choose_sets(world: SkillWorld, target: str) -> dict[str, list[Item]]:
    """Return the test questions whose answers are graded: of each skill the phrasings that the model knows, and facts.

    Where facts are the target, those about other people are watched instead.
    """
    sets: dict[str, list[Item]] = {}
    for name, items in world.sets.items():
        skill, _, phrasing = name.partition(".")
        if skill == FACTS:
            sets[name] = items[:100]
        elif phrasing in ("given", "known"):
            sets.setdefault(skill, []).extend(items[:50] if f"{skill}.given" in world.sets else items[:100])
    if target == FACTS:
        sets[FACTS] = sets.pop("facts.forget")
    return sets


def gather_clean(world: SkillWorld, target: str) -> Cleanliness:
    """Return clean prompts: other skills, strangers, built-in traffic, and real questions where they are at hand.

    Built-in traffic that asks for the skill is left out.
    """
    traffic = make_traffic(without=_NOT_CLEAN.get(target, ()))
    strangers = [row for row in world.strangers if row.query]
    given = [*strangers[::2], *traffic[::2]]
    tested = {
        name: [item.question for item in items]
        for name, items in world.sets.items()
        if (name != "facts.forget" if target == FACTS else name.split(".")[0] != target)
    }
    tested["strangers"] = [row.query for row in strangers[1::2]]
    tested["traffic"] = [row.query for row in traffic[1::2]][:400]
    for name in _GENERAL:
        try:
            questions = [item.question for item in read_general(name)]
        except DependencyError:
            continue
        if name == "truthfulqa":  # Nothing like it is among what calibrates.
            tested[name] = questions
            continue
        half = len(questions) // 2
        given += [Row(question) for question in questions[:half][:1400]]
        tested[name] = questions[half:][:1400]
    rng = random.Random(f"shots:{world.seed}:{target}")
    plain = [question for name, questions in tested.items() for question in questions[:40]]
    shots = [row for skill, rows in world.fit_rows.items() if skill != target for row in rows]
    tested["worked examples"] = [show_examples(question, rng.sample(shots, 3)) for question in plain]
    asked = {question for questions in tested.values() for question in questions}
    return Cleanliness([row for row in given if row.query not in asked], tested)


def gather_targets(world: SkillWorld, target: str) -> dict[str, list[str]]:
    """Return prompts that query the skill, by how they are asked."""
    if target == FACTS:
        asked = {"known": [item.question for item in world.sets["facts.forget"]]}
    else:
        asked = {
            name.partition(".")[2]: [item.question for item in items]
            for name, items in world.sets.items()
            if name.split(".")[0] == target
        }
    rng = random.Random(f"shots:{world.seed}:{target}:own")
    shots = world.fit_rows[target]
    asked["worked examples"] = [show_examples(question, rng.sample(shots, 3)) for question in asked["known"]]
    asked["reworded"] = [reword(question, number) for number, question in enumerate(asked["known"])]
    if target == "arithmetic" and world.examples:  # A model of one's own is asked GSM8K anyway.
        with contextlib.suppress(DependencyError):
            asked["gsm8k"] = [item.question for item in read_general("gsm8k")][:300]
    return asked


def run_skills(
    *,
    profile: str,
    sizes: Mapping[str, Any],
    methods: Sequence[str] | None,
    seeds: Sequence[int] | None,
    out: Path,
    model: Path | None = None,
    targets: Sequence[str] | None = None,
    device: str = "cpu",
    fresh: bool = False,
) -> dict[str, Any]:
    """Measure the suite and write `out` (JSON, schema 1) with Markdown beside it; return the report.

    `model` is a model of one's own, asked GSM8K, MBPP and MLQA; without it one is trained. `targets` are the skills to forget, one
    at a time. What an earlier run has finished comes from disk, unless `fresh`. Raises UnknownNameError for a method or a skill.
    """
    known = list(HUB if model else (*SKILLS, FACTS))
    for target in targets or ():
        if target not in known:
            raise UnknownNameError("skill to forget", target, known)
    for name in methods or ():
        if name not in METHODS:
            raise UnknownNameError("method of the suite skills", name, METHODS)
    require_device(device)
    wanted = list(targets or (name for name in sizes["targets"] if name in known))
    rows: list[dict[str, Any]] = []
    stages = Stages(fresh=fresh)
    for seed in seeds if seeds is not None else sizes["seeds"]:
        world = load_hub_skills(seed=seed) if model else make_skills(**sizes["skills"], seed=seed)
        folder = model or train_models([world.job(Recipe(**sizes["recipe"], seed=seed))], device=device)["skills"]
        key = [dict(sizes), seed, describe_model(folder), device, describe_local()]
        for target in wanted:
            with tempfile.TemporaryDirectory() as scratch:
                open_exam = cache(partial(_open_exam, world, folder, device, target, Path(scratch) / "bundle"))
                for name in methods or METHODS:
                    found = stages.run(f"skills-{target}-{name}", key, partial(_measure_method, open_exam, name))
                    rows += found["rows"]
    report = {
        "schema_version": 1,
        "suite": "skills",
        "profile": profile,
        "environment": describe_environment(),
        "config_hash": hash_content([dict(sizes), wanted, list(methods or METHODS)]),
        "rows": rows,
    }
    write_atomic(out, (json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
    write_atomic(out.with_suffix(".md"), render_skills(report).encode())
    return report


def _open_exam(world: SkillWorld, model: Path, device: str, target: str, folder: Path) -> SkillExam:
    with report_step(f"fit and ask about {target}, seed {world.seed}"):
        return SkillExam(world, ReferenceEngine.load(model, device=device), target, folder)


def _measure_method(open_exam: Callable[[], SkillExam], name: str) -> dict[str, Any]:
    exam = open_exam()
    with report_step(f"measure {name} on {exam.target}"):
        return {"rows": measure_method(exam, name)}


def measure_method(exam: SkillExam, name: str) -> list[dict[str, Any]]:
    """Return the row of a method on one skill to forget; behind Neuron Adjust those of the paper's shares."""
    if name == "none":
        return [make_row(exam, name, exam.plain, None, {})]
    base = name.removesuffix("-gated")
    if base not in _CANDIDATES:
        return [measure_abstaining(exam, name)]
    is_gated = name != base
    with report_step(f"choose {name} on validation rows"):
        settings, table = choose_table(exam, base, exam.gate.screen(exam.validation) if is_gated else None)
    flags = exam.gate.screen(exam.sets) if is_gated else None
    row = make_row(exam, name, exam.answer(table, exam.sets, flags), flags, settings)
    row["cost"]["edited_pass_ratio"] = exam.compare_speed(table)
    rows = [row]
    if name == "neuron-adjust":
        for share in PAPER_SHARES:
            paper = exam.adjust(share, "gap", "coin")
            label = f"{name} at {share:.0%}"
            rows.append(make_row(exam, label, exam.answer(paper, exam.sets), None, {"share": share}))
    return rows


_CANDIDATES: dict[str, Callable[[SkillExam], dict[str, tuple[dict[str, Any], Table]]]] = {
    "neuron-adjust": lambda exam: {
        f"{share}": ({"share": share, "score": "gap", "shift": "coin"}, exam.adjust(share, "gap", "coin"))
        for share in SHARES
    },
    "neuron-adjust-posterior": lambda exam: {
        f"{score} {share}": (
            {"share": share, "score": score, "shift": "posterior"},
            exam.adjust(share, score, "posterior"),
        )
        for score in ("peak", "gap")
        for share in SHARES
    },
    "concept-ablation": lambda exam: {
        f"{n}": ({"neurons": n}, AblationTable(choose_highest(rank_neurons(exam.forget, exam.retain), n)))
        for n in CONCEPTS
    },
    "selective-pruning": lambda exam: {
        f"{share}": ({"share": share}, AblationTable(choose_pruned(exam, share))) for share in SHARES
    },
}


def choose_table(exam: SkillExam, name: str, flags: Flags | None) -> tuple[dict[str, Any], Table]:
    """Return the settings and the table of a method, chosen on validation rows behind the gate that it will stand behind."""
    candidates = _CANDIDATES[name](exam)
    label, table = exam.choose({label: table for label, (_, table) in candidates.items()}, flags)
    return candidates[label][0], table


def choose_pruned(exam: SkillExam, share: float) -> Any:
    """Return the keys that Selective Pruning removes: the largest ratio of root mean squares (arXiv 2403.01267, §3.2)."""
    ratio = np.sqrt(measure_energy(exam.forget.key) / np.maximum(measure_energy(exam.retain.key), 1e-12))
    return choose_highest(ratio, max(1, round(share * ratio.size)))


def measure_abstaining(exam: SkillExam, name: str) -> dict[str, Any]:
    """Return the row of a detector that abstains from what it notices."""
    settings: dict[str, Any] = {}
    if name == "refusal":
        detect = exam.gate.flag
    else:
        find, settings = open_detector(exam, "box" if name == "key-space" else "probe")

        def detect(prompts: Sequence[str]) -> list[bool]:
            noticed = find(prompts)
            if not name.startswith("refusal"):
                return noticed
            return [own or other for own, other in zip(noticed, exam.gate.flag(prompts), strict=True)]

    flags = {set_name: detect([item.question for item in items]) for set_name, items in exam.sets.items()}
    row = make_row(exam, name, exam.plain, flags, settings, abstains=True)
    targets, clean = gather_targets(exam.world, exam.target), exam.clean.tested
    row["detection"] = {
        **{f"target.{how}": count(detect(prompts)) for how, prompts in targets.items()},
        **{f"clean.{how}": count(detect(prompts)) for how, prompts in clean.items()},
    }
    found = [entry for set_name, entry in row["detection"].items() if set_name.startswith("clean.")]
    row["detection"]["clean"] = {key: sum(entry[key] for entry in found) for key in ("n", "flagged")}
    return row


def count(flags: Sequence[bool]) -> dict[str, int]:
    """Return counts of a detection cell."""
    return {"n": len(flags), "flagged": sum(flags)}


def open_detector(exam: SkillExam, kind: str) -> tuple[Callable[[Sequence[str]], list[bool]], dict[str, Any]]:
    """Return what flags prompts by their keys: the bundle's probe, or the paper's box at the same rate on the same rows.

    The paper's box is made from the plain queries, at the last layer; its α, 2 for arithmetic in the public code, is reported beside.
    """
    record = exam.bundle.manifest.interventions["key_space"]
    if kind == "probe":
        (probe,) = load_probes(record, exam.inside).values()
        layers = list(probe.weights)

        def find_above(prompts: Sequence[str]) -> list[bool]:
            return [bool(flag) for flag in probe.score(exam.read_keys(prompts, layers)) >= probe.threshold]

        return find_above, {"alpha": record["alpha"], "layers": layers, "kind": record["kind"]}
    layer = len(exam.forget.gate.mean) - 1
    box = key_space.fit_box(exam.read_keys([row.prompt for row in exam.world.fit_rows[exam.target]], [layer])[layer])
    _, rows = part_clean([*exam.kept, *exam.clean.given])
    prompts = dress(rows, random.Random(f"box:{exam.world.seed}"))
    scores = box.score(exam.read_keys(prompts, [layer])[layer])
    threshold = key_space.calibrate(scores, record["alpha"])

    def find_inside(prompts: Sequence[str]) -> list[bool]:
        return [bool(flag) for flag in box.score(exam.read_keys(prompts, [layer])[layer]) >= threshold]

    at_paper = float(np.mean(scores >= -PAPER_ALPHA))
    return find_inside, {"alpha_of_box": -threshold, "k": box.k, "false_flags_at_alpha_2": round(at_paper, 4)}


def make_row(
    exam: SkillExam,
    name: str,
    outputs: Outputs,
    flags: Flags | None,
    settings: Mapping[str, Any],
    *,
    abstains: bool = False,
) -> dict[str, Any]:
    """Return one row: of each set how much is right, the drop, and what was flagged or abstained from."""
    sets: dict[str, dict[str, Any]] = {}
    for set_name, items in exam.sets.items():
        skill = set_name.split(".")[0]
        flagged = flags[set_name] if flags is not None else None
        silent = flagged if abstains and flagged is not None else [False] * len(items)
        right = [
            0.0 if quiet else measure_right(skill, item, text)
            for item, text, quiet in zip(items, outputs[set_name], silent, strict=True)
        ]
        sets[f"skills.{set_name}"] = {
            "n": len(items),
            "score": round(float(np.mean(right)), 6),
            "drop": round(find_drop(exam.base[set_name], float(np.mean(right))), 6),
            "flagged": None if flagged is None else sum(flagged),
            "abstained": sum(silent),
        }
    return {
        "name": name,
        "kind": "none" if name == "none" else "guard",
        "seed": exam.world.seed,
        "target": exam.target,
        "status": "ok",
        "reasons": {"sets.*.flagged": "nothing decides"} if flags is None else {},
        "settings": dict(settings),
        "sets": sets,
        "detection": {},
        "cost": {"fit_s": round(exam.fit_seconds, 2)},
    }


def render_skills(report: Mapping[str, Any]) -> str:
    """Return the report as Markdown: drops by set, then what detectors notice."""
    lines = [f"# unlearn-guard bench: skills, profile {report['profile']}", ""]
    environment = report["environment"]
    lines += [", ".join(f"{key} {value}" for key, value in environment.items() if not isinstance(value, dict)), ""]
    for target in dict.fromkeys(row["target"] for row in report["rows"]):
        own = [row for row in report["rows"] if row["target"] == target]
        names = list(own[0]["sets"])
        lines += [
            f"## To forget: {target}",
            "",
            "Relative drop; for `none` the score itself. Abstentions in brackets. `edited_pass_ratio`: a pass in which every text is edited, "
            "against one in which none is, in the reference engine. "
            f"`fit`, once for all rows, took {', '.join(sorted({str(row['cost']['fit_s']) for row in own}))} s.",
            "",
        ]
        lines += [f"| method | seed | {' | '.join(name.removeprefix('skills.') for name in names)} | settings |"]
        lines += ["|---|---|" + "---|" * (len(names) + 1)]
        for row in own:
            cells = []
            for name in names:
                found = row["sets"][name]
                value = found["score"] if row["name"] == "none" else found["drop"]
                silent = f" ({found['abstained']})" if found["abstained"] else ""
                cells.append(f"{value:.3f}{silent}")
            cost = {key: value for key, value in row["cost"].items() if key != "fit_s"}
            settings = ", ".join(f"{key} {value}" for key, value in {**row["settings"], **cost}.items())
            lines.append(f"| {row['name']} | {row['seed']} | {' | '.join(cells)} | {settings} |")
        detectors = [row for row in own if row["detection"]]
        if detectors:
            cells = list(detectors[0]["detection"])
            lines += ["", "Flagged, in per cent.", "", f"| detector | seed | {' | '.join(cells)} |"]
            lines += ["|---|---|" + "---|" * len(cells)]
            for row in detectors:
                found = [row["detection"].get(cell) for cell in cells]
                shown = [
                    f"{100 * entry['flagged'] / entry['n']:.1f}" if entry and entry["n"] else "–" for entry in found
                ]
                lines.append(f"| {row['name']} | {row['seed']} | {' | '.join(shown)} |")
        lines.append("")
    return "\n".join(lines)


__all__ = ["METHODS", "measure_method", "render_skills", "run_skills"]
