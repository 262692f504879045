"""Tuning: every method of a tier has a grid of the same size, on people that no report measures; the first tier six trials, the second three rates.

A trial's score is the harmonic mean of what is forgotten and what is kept: 1 − (f − g) / (1 − g), within 0 and 1, f the ROUGE-L recall on
forget questions in phrasings that the method did not see and g that of the retain-only model; and retain ROUGE-L and model utility, each as a
part of the unedited model's. Utility is among them since most edits keep what they are trained to keep, and lose what nobody asked for. Of trials whose scores are the same but for a word or two, the one whose weights still hold least of the true answers wins, by
extraction strength: else the weakest of many that seem perfect would. To forget below the retain-only level earns nothing, by either measure.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from unlearn_guard.benchmarks.dataset import Item, Suite
from unlearn_guard.benchmarks.editing.catalogue import TUNED_FOLDER, MethodFile, list_methods, load_method
from unlearn_guard.benchmarks.editing.procedures import edit_weights
from unlearn_guard.benchmarks.editing.trainer import DivergedError
from unlearn_guard.benchmarks.examiner import Examiner
from unlearn_guard.benchmarks.metrics import UTILITY_SETS, extraction_strength, harmonic_mean, model_utility
from unlearn_guard.benchmarks.subjects import Subject
from unlearn_guard.benchmarks.threats import find_excess
from unlearn_guard.benchmarks.training import Recipe, make_further_job, make_jobs, train_models
from unlearn_guard.corruptions.fluency import rouge_l_recall
from unlearn_guard.guard.bundle import write_atomic
from unlearn_guard.guard.progress import report_step
from unlearn_guard.serving.transformers.engine import ReferenceEngine

VALIDATION_SEED = 101
"""Of the world of validation people; reports use small seeds."""
_MAX_ITEMS = 80
_SAME = 0.005
"""Scores that differ by no more than this are the same."""
_HEAD = """\
# Written by `unlearn-guard bench tune --suite {suite} --profile {profile}`; not edited by hand.
# Score: harmonic mean of forgetting (to the retain-only level, unseen phrasings), retain ROUGE-L and model utility, on validation people; of like scores, the least extraction strength.
# Trials that name no utility are of before it counted.
"""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a model keeps: ROUGE-L recall on retain, and model utility, None for a suite that has not all of its sets."""

    retain: float
    utility: float | None

    def compare(self, unedited: Kept) -> list[float]:
        """Return each as a part of the unedited model's, at most 1."""
        pairs = [(self.retain, unedited.retain), (self.utility, unedited.utility)]
        return [min(1.0, own / max(1e-6, whole)) for own, whole in pairs if own is not None and whole is not None]


def list_trials(file: MethodFile) -> list[dict[str, float]]:
    """Return the trials of a method: every combination of what its file offers."""
    return [dict(zip(file.trials, values, strict=True)) for values in product(*file.trials.values())]


def run_tuning(
    suite: Suite,
    sizes: Mapping[str, Any],
    *,
    name: str,
    profile: str,
    methods: Sequence[str] | None = None,
    folder: Path = TUNED_FOLDER,
) -> dict[str, Any]:
    """Try every trial of the methods, all that have any where none are named, and write the best ones' values; return the record.

    What the file holds of other methods stays. Raises UnknownNameError for an unknown method.
    """
    import torch

    torch.set_num_threads(1)
    chosen = list(methods or (method for method in list_methods() if load_method(method).trials))
    files = {method: load_method(method) for method in chosen}
    recipe = Recipe(**sizes["recipe"], seed=VALIDATION_SEED)
    needs_mixture = any(file.procedure == "one-expert" for file in files.values())
    more = [make_further_job("mixture", suite, recipe, reads_unread=True)] if needs_mixture else []
    models = train_models([*make_jobs(suite, recipe, reads_unread=True), *more])
    retain_only = ReferenceEngine.load(models.pop("retain-only"))
    chance = _measure(retain_only, suite.sets["forget.unseen"])
    strength = _measure_strength(retain_only, suite.sets["forget.unseen"])
    unedited = {name: ReferenceEngine.load(place) for name, place in models.items()}
    examiner = Examiner(suite, Subject("retain-only", "retain", retain_only))
    kept = {name: _measure_kept(engine, suite, examiner) for name, engine in unedited.items()}
    path = folder / f"{suite.name}.yaml"
    before = yaml.safe_load(path.read_text(encoding="utf-8"))["methods"] if path.is_file() else {}
    found: dict[str, Any] = {}
    for method, file in files.items():
        start = "mixture" if file.procedure == "one-expert" else "full"
        with report_step(f"tune {method}"):
            own = file.with_values({"tuned_at": unedited[start].hidden})
            trials = [
                _try(unedited[start], suite, own, trial, chance, kept[start], examiner) for trial in list_trials(file)
            ]
        best = choose_trial(trials, strength=strength)
        found[method] = {
            "values": dict(best["values"]),
            "tuned_at": unedited[start].hidden,
            "score": best["score"],
            **(_name_unedited(kept[start]) if start != "full" else {}),
            "trials": trials,
            "earlier": list_earlier(before.get(method, {}), trials),
        }
    record = {
        "suite": suite.name,
        "profile": profile,
        "seed": VALIDATION_SEED,
        "retain_only_rouge": round(chance, 4),
        "retain_only_strength": round(strength, 4),
        **_name_unedited(kept["full"]),
        "methods": {**before, **found},
    }
    text = _HEAD.format(suite=name, profile=profile) + yaml.safe_dump(record, sort_keys=False, width=140)
    write_atomic(path, text.encode())
    return record


def _name_unedited(kept: Kept) -> dict[str, float | None]:
    utility = None if kept.utility is None else round(kept.utility, 4)
    return {"unedited_retain_rouge": round(kept.retain, 4), "unedited_utility": utility}


def list_earlier(before: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the trials of a method's record whose values are not tried any more: those of a grid that was moved."""
    tried = [trial["values"] for trial in trials]
    return [trial for trial in (*before.get("trials", ()), *before.get("earlier", ())) if trial["values"] not in tried]


def choose_trial(trials: Sequence[Mapping[str, Any]], *, strength: float) -> Mapping[str, Any]:
    """Return the trial of the best score; of those that are as good, the one with the least extraction strength; `strength` is the retain-only model's."""
    best = max(trial["score"] for trial in trials)
    equals = [trial for trial in trials if trial["score"] >= best - _SAME]
    return min(equals, key=lambda trial: (max(strength, trial.get("extraction_strength", 1.0)), -trial["score"]))


def _try(
    engine: ReferenceEngine,
    suite: Suite,
    file: MethodFile,
    trial: Mapping[str, float],
    chance: float,
    unedited: Kept,
    examiner: Examiner,
) -> dict[str, Any]:
    method = file.with_values(trial).to_method(engine.hidden)
    start = time.perf_counter()
    result: dict[str, Any] = {"values": dict(trial)}
    try:
        edited = edit_weights(engine, method, suite.forget_rows, suite.retain_rows)
    except DivergedError as error:
        return {**result, "score": 0.0, "diverged": str(error)}
    forget, kept = _measure(edited, suite.sets["forget.unseen"]), _measure_kept(edited, suite, examiner)
    return {
        **result,
        "score": round(score_trial(forget, kept, chance=chance, unedited=unedited), 4),
        "forget_rouge": round(forget, 4),
        "retain_rouge": round(kept.retain, 4),
        "utility": None if kept.utility is None else round(kept.utility, 4),
        "extraction_strength": round(_measure_strength(edited, suite.sets["forget.unseen"]), 4),
        "seconds": round(time.perf_counter() - start, 1),
    }


def score_trial(forget: float, kept: Kept, *, chance: float, unedited: Kept) -> float:
    """Return the score of a trial from the ROUGE-L recall of what is to be forgotten, and what is kept; `chance` is the retain-only model's recall."""
    forgotten = 1.0 - min(1.0, find_excess(forget, chance))
    return harmonic_mean([forgotten, *kept.compare(unedited)])


def _measure_kept(engine: ReferenceEngine, suite: Suite, examiner: Examiner) -> Kept:
    subject = Subject("trial", "weights", engine)
    sets: dict[str, dict[str, Any]] = {}
    for name in UTILITY_SETS:
        if name in suite.sets:
            items = _take(suite.sets[name])
            scores, _, _ = examiner.score(subject, name, items)
            sets[name] = {**scores, "rouge_l_recall": _measure(engine, items)}
    return Kept(sets["retain"]["rouge_l_recall"], model_utility(sets))


def _measure_strength(engine: ReferenceEngine, items: Sequence[Item]) -> float:
    part = _take(items)
    tokenizer, end = engine.tokenizer, engine.end_token
    answers = [[*tokenizer(item.answer, add_special_tokens=False).input_ids, end] for item in part]
    scored = engine.score([engine.render(item.question) for item in part], answers, [None] * len(part))
    return float(np.mean([extraction_strength(found.argmax[:-1].tolist()) for found in scored]))


def _take(items: Sequence[Item]) -> Sequence[Item]:
    return items[:: max(1, len(items) // _MAX_ITEMS)]


def _measure(engine: ReferenceEngine, items: Sequence[Item]) -> float:
    part = _take(items)
    longest = max(len(engine.tokenizer(item.answer).input_ids) for item in part)
    outputs = engine.generate(
        [engine.render(item.question) for item in part], [None] * len(part), max_new_tokens=longest + 4
    )
    return float(
        np.mean(
            [rouge_l_recall(engine.decode(output), item.answer) for output, item in zip(outputs, part, strict=True)]
        )
    )
