"""Run a suite: train or load the models, fit the guard, measure every method, write the report."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from unlearn_guard.benchmarks import metrics
from unlearn_guard.benchmarks.dataset import Item, Suite
from unlearn_guard.benchmarks.editing.trainer import DivergedError
from unlearn_guard.benchmarks.environment import describe_environment
from unlearn_guard.benchmarks.fitted import Bundles
from unlearn_guard.benchmarks.report import write_report
from unlearn_guard.benchmarks.stages import Stages, hash_content
from unlearn_guard.benchmarks.subjects import SUBJECTS, Bench, Subject
from unlearn_guard.benchmarks.tofu import load_tofu
from unlearn_guard.benchmarks.training import Recipe, make_jobs, train_models
from unlearn_guard.benchmarks.world import make_world
from unlearn_guard.classifiers.cascade import Cascade
from unlearn_guard.corruptions.fluency import find_words
from unlearn_guard.guard.errors import SettingsError, UnknownNameError
from unlearn_guard.guard.progress import report_step
from unlearn_guard.serving.transformers.engine import ReferenceEngine

SCHEMA_VERSION = 1
_SCORED = ("forget.given", "forget.unseen", "retain", "real_authors", "world_facts")
_ANSWER_SLACK = 8
_KEPT = ("world", "tofu")
"""Suites whose finished rows are kept."""


def load_profile(suite: str, profile: str) -> dict[str, Any]:
    """Return the sizes of a suite's profile; raise UnknownNameError for either name."""
    import yaml

    table: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "profiles.yaml").read_text())
    if suite not in table:
        raise UnknownNameError("suite", suite, table)
    if profile not in table[suite]:
        raise UnknownNameError("profile", profile, table[suite])
    return dict(table[suite][profile])


def load_suite(name: str, sizes: dict[str, Any], seed: int) -> Suite:
    """Build the suite that a profile describes."""
    if name == "tofu":
        return load_tofu(**sizes["authors"], seed=seed)
    return make_world(**sizes["world"], seed=seed)


def run_bench(
    *,
    suite: str,
    profile: str,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    out: Path,
    models: dict[str, Path] | None = None,
    own_rows: dict[str, Path] | None = None,
    targets: Sequence[str] | None = None,
    device: str = "cpu",
    fresh: bool = False,
) -> dict[str, Any]:
    """Measure methods and write `out` (JSON, schema 1), with Markdown and HTML beside it; return the report.

    `models` names the user's own `full` and `retain-only` models; without them both are trained. `own_rows` names the
    user's own `forget` and `clean` rows, for the suite `detection`. `targets` are what the suite `skills` forgets; it alone runs
    on another `device` than a CPU. `fresh` measures again what an earlier run has finished.
    """
    if suite != "skills" and (targets or device != "cpu"):
        raise SettingsError("--targets and --device", value=suite, allowed="with --suite skills")
    if fresh and suite not in _KEPT:
        raise SettingsError(
            "--fresh", value=suite, allowed=f"with --suite {' or '.join(_KEPT)}; the others keep nothing"
        )
    sizes = load_profile(suite, profile)
    if suite == "detection":
        return _run_detection(sizes, suite, profile, out, own_rows or {}, seeds)
    if suite == "skills":
        from unlearn_guard.benchmarks.skill_bench import run_skills

        model = (models or {}).get("full")
        return run_skills(
            profile=profile,
            sizes=sizes,
            methods=methods,
            seeds=seeds,
            out=out,
            model=model,
            targets=targets,
            device=device,
        )
    names = list(methods or SUBJECTS)
    for name in names:
        SUBJECTS[name]  # An unknown name must not surface after minutes of training.
    rows = []
    data_hashes = []
    for seed in seeds if seeds is not None else sizes["seeds"]:
        data = load_suite(suite, sizes, seed)
        data_hashes.append(data.data_hash)
        recipe = Recipe(**sizes["recipe"], seed=seed)
        rows += run_seed(data, recipe, names, seed, models, uld=sizes.get("uld"), fresh=fresh)
    report = {
        "schema_version": SCHEMA_VERSION,
        "suite": suite,
        "profile": profile,
        "environment": describe_environment(),
        "config_hash": hash_content({"sizes": sizes, "methods": names}),
        "data_hash": hash_content(data_hashes),
        "rows": rows,
    }
    write_report(report, out)
    return report


def _run_detection(
    sizes: dict[str, Any], suite: str, profile: str, out: Path, rows: dict[str, Path], seeds: Sequence[int] | None
) -> dict[str, Any]:
    from unlearn_guard.benchmarks.detection import run_detection
    from unlearn_guard.benchmarks.detection_report import write_detection

    found = run_detection(
        sizes=sizes, forget=rows.get("forget"), clean=rows.get("clean"), seed=(seeds or sizes.get("seeds") or [0])[0]
    )
    report = {"schema_version": SCHEMA_VERSION, "suite": suite, "profile": profile, **found}
    write_detection(report, out)
    return report


def run_seed(
    suite: Suite,
    recipe: Recipe,
    names: Sequence[str],
    seed: int,
    models: dict[str, Path] | None = None,
    *,
    uld: dict[str, Any] | None = None,
    fresh: bool = False,
) -> list[dict[str, Any]]:
    """Return one row per method for one seed; `uld` are the suite's settings of assistants, chosen on validation people.

    Rows that an earlier run finished come from disk, unless `fresh`; what is not needed for the others is not loaded or fitted.
    """
    import torch

    torch.set_num_threads(1)  # Two threads on a busy pair of cores are slower than one.
    stages = Stages(fresh=fresh)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        @cache
        def open_exam() -> tuple[Examiner, Bench]:
            folders = models or train_models(make_jobs(suite, recipe))
            full, retain = (ReferenceEngine.load(folders[name]) for name in ("full", "retain-only"))
            bundles = Bundles(suite, folders["full"], scratch, seed=seed, uld=uld or {})
            return Examiner(suite, Subject("retain-only", "retain", retain)), Bench(suite, full, retain, bundles, seed)

        def measure(name: str) -> dict[str, Any]:
            examiner, bench = open_exam()
            with report_step(f"measure {name}"):
                return examiner.examine_method(name, bench)

        key = [suite.name, suite.data_hash, asdict(recipe), seed, uld, _describe_models(models)]
        return [stages.run(f"{suite.name}-{name}", [*key, name], partial(measure, name)) for name in names]


def _describe_models(models: dict[str, Path] | None) -> Any:
    """Return what tells one pair of the user's own models from another: their files' names, sizes and times."""
    if models is None:
        return None
    return {
        name: [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(folder.glob("*"))]
        if folder.is_dir()
        else str(folder)
        for name, folder in models.items()
    }


class Examiner:
    """Measure subjects against one retain-only reference."""

    def __init__(self, suite: Suite, reference: Subject) -> None:
        self.suite = suite
        texts = [
            f"{item.question} {item.answer} {' '.join(item.wrong)}" for items in suite.sets.values() for item in items
        ]
        texts += [f"{' '.join(example.phrasings)} {example.answer}" for example in suite.full]
        self.vocabulary = frozenset(word for text in texts for word in find_words(text))
        longest = max(
            len(reference.engine.tokenizer(item.answer).input_ids) for items in suite.sets.values() for item in items
        )
        self.max_new_tokens = min(longest + _ANSWER_SLACK, 200)
        self.reference = reference
        self._known: dict[str, Any] = {}

    def examine_method(self, name: str, bench: Bench) -> dict[str, Any]:
        """Build and measure one method; a method that diverges is reported as diverged."""
        row: dict[str, Any] = {"name": name, "kind": "weights", "seed": bench.seed, "status": "ok", "reasons": {}}
        try:
            subject = SUBJECTS[name](bench)
        except DivergedError as error:
            return {**row, "status": "diverged", "reasons": {"sets": str(error)}, "sets": {}, "detection": {}}
        row["kind"] = subject.kind
        return clean_row({**row, **self.examine(subject)})

    def examine(self, subject: Subject) -> dict[str, Any]:
        """Return the measured part of a row."""
        reasons: dict[str, str] = {}
        sets: dict[str, dict[str, Any]] = {}
        detection: dict[str, dict[str, int]] = {}
        ratios: list[float] = []
        recalls: list[float] = []
        latencies: list[float] = []
        n_tokens = generation = 0.0
        for name, items in self.suite.sets.items():
            questions = [item.question for item in items]
            full_name = f"{self.suite.name}.{name}"
            latencies += _time_screening(subject, questions) if name == "retain" else []
            flagged = subject.flag(questions)
            start = time.perf_counter()
            outputs = subject.answer(questions, max_new_tokens=self.max_new_tokens)
            generation += time.perf_counter() - start
            n_tokens += sum(len(subject.engine.tokenizer(output).input_ids) + 1 for output in outputs)
            found, recall = metrics.measure_outputs(items, outputs, self.vocabulary)
            found["flagged"] = None if flagged is None else sum(flagged)
            if flagged is None:
                reasons[f"sets.{full_name}.flagged"] = subject.no_flags
            else:
                detection.update(count_flags(full_name, items, flagged))
            if name in _SCORED:
                scores, item_ratios = self.score(subject, name, items)
                found.update(scores)
                if name == "forget.given":
                    ratios, recalls = item_ratios, recall
            for metric in ("probability", "truth_ratio", "exact_memorisation", "extraction_strength"):
                if found.setdefault(metric, None) is None:
                    reasons[f"sets.{full_name}.{metric}"] = subject.no_scores or "not scored on this set"
            sets[full_name] = found
        reasons["cost.peak_memory_mb"] = "all methods are measured in one process"
        return {
            **({"settings": subject.settings} if subject.settings else {}),
            "sets": sets,
            "detection": detection,
            "forget_quality": self.compare(subject, ratios, recalls, reasons),
            "model_utility": self._utility(subject, sets, reasons),
            "reasons": reasons,
            "cost": {
                "fit_s": subject.fit_seconds,
                "screen_p50_ms": 1e3 * statistics.median(latencies) if latencies else None,
                "screen_p99_ms": 1e3 * float(np.quantile(latencies, 0.99)) if latencies else None,
                "encodes_per_prompt": _count_encodes(subject, [item.question for item in self.suite.sets["retain"]]),
                "decode_tokens_per_s": n_tokens / generation,
                "peak_memory_mb": None,
            },
        }

    def score(self, subject: Subject, name: str, items: Sequence[Item]) -> tuple[dict[str, Any], list[float]]:
        """Return teacher-forced metrics of a set, and the truth ratio of each item."""
        if subject.no_scores and any(subject.flag([item.question for item in items]) or []):
            return {}, []
        questions = [item.question for item in items]
        truth = subject.score(questions, [item.answer for item in items])
        paraphrase = subject.score(questions, [item.paraphrase or item.answer for item in items])
        flat = [(number, answer) for number, item in enumerate(items) for answer in item.wrong]
        wrong = subject.score([questions[number] for number, _ in flat], [answer for _, answer in flat])
        by_item: list[list[float]] = [[] for _ in items]
        for (number, _), scored in zip(flat, wrong, strict=True):
            by_item[number].append(float(scored.logprobs.mean()))
        ratios = [
            metrics.truth_ratio(float(para.logprobs.mean()), others)
            for para, others in zip(paraphrase, by_item, strict=True)
            if others
        ]
        probability = np.exp([scored.logprobs.mean() for scored in truth])
        if name in ("real_authors", "world_facts"):  # Multiple choice: normalised over the options.
            probability = np.array(
                [own / (own + np.exp(others).sum()) for own, others in zip(probability, by_item, strict=True)]
            )
        forget = name.startswith("forget")
        return {
            "probability": float(probability.mean()),
            "truth_ratio": float(
                np.mean([min(ratio, 1 / ratio) if forget else max(0.0, 1 - ratio) for ratio in ratios])
            )
            if ratios
            else None,
            "exact_memorisation": float(np.mean([scored.argmax[:-1].mean() for scored in truth])),
            "extraction_strength": float(
                np.mean([metrics.extraction_strength(scored.argmax[:-1].tolist()) for scored in truth])
            ),
        }, ratios

    def compare(
        self, subject: Subject, ratios: list[float], recalls: list[float], reasons: dict[str, str]
    ) -> dict[str, Any]:
        """Return forget quality against retain-only, and how alike the served answers' ROUGE distributions are."""
        from scipy.stats import ks_2samp

        known_ratios, known_recalls = self._reference_scores()
        quality: dict[str, Any] = {"ks_d": None, "p_value": None, "n": len(known_ratios)}
        if ratios:
            quality = metrics.forget_quality(ratios, known_ratios)
        else:
            for metric in ("ks_d", "p_value"):
                reasons[f"forget_quality.{metric}"] = subject.no_scores or "no truth ratios"
        return {
            **quality,
            "ks_rouge_p": float(ks_2samp(recalls, known_recalls).pvalue) if recalls else None,
            "corrupted_positions": subject.corrupted_positions,
            "support": "whole vocabulary",
        }

    def _reference_scores(self) -> tuple[list[float], list[float]]:
        if not self._known:
            items = self.suite.sets["forget.given"]
            outputs = self.reference.answer([item.question for item in items], max_new_tokens=self.max_new_tokens)
            _, recalls = metrics.measure_outputs(items, outputs, self.vocabulary)
            self._known = {"ratios": self.score(self.reference, "forget.given", items)[1], "recalls": recalls}
        return self._known["ratios"], self._known["recalls"]

    def _utility(self, subject: Subject, sets: dict[str, dict[str, Any]], reasons: dict[str, str]) -> float | None:
        utility = metrics.model_utility({name.split(".", 1)[1]: found for name, found in sets.items()})
        if utility is None:
            reasons["model_utility"] = subject.no_scores or "a part of it was not scored"
        return utility


def count_flags(name: str, items: Sequence[Item], flagged: Sequence[bool]) -> dict[str, dict[str, int]]:
    """Return detection counts of a set, named and nameless questions apart where it has both."""
    parts = {"": list(flagged)}
    if name.split(".", 1)[1].startswith("forget"):
        parts["+named"] = [flag for flag, item in zip(flagged, items, strict=True) if item.named]
        parts["+nameless"] = [flag for flag, item in zip(flagged, items, strict=True) if not item.named]
    return {
        name + part: {"n": len(flags), "flagged": sum(flags), "stopped": sum(flags)}
        for part, flags in parts.items()
        if flags
    }


def _time_screening(subject: Subject, questions: Sequence[str]) -> list[float]:
    if subject.guarded is None:
        return []
    guard = subject.guarded.guard
    seconds = []
    for question in questions:
        start = time.perf_counter()
        guard.screen([question])
        seconds.append(time.perf_counter() - start)
    return seconds


def _count_encodes(subject: Subject, questions: Sequence[str]) -> float | None:
    """Return how many texts the encoder reads per prompt, 0 for a classifier without one."""
    if subject.guarded is None:
        return None
    classifier = subject.guarded.guard.classifier
    if not isinstance(classifier, Cascade):
        return 0.0
    return float(np.mean([score.n_encoded for score in classifier.score(questions)]))


def clean_row(row: dict[str, Any]) -> dict[str, Any]:
    """Replace figures that are not finite by null with the reason, and round the rest to six digits."""
    reasons: dict[str, str] = row["reasons"]

    def walk(value: Any, path: str) -> Any:
        if isinstance(value, dict):
            return {key: walk(entry, f"{path}.{key}" if path else key) for key, entry in value.items()}
        if isinstance(value, float):
            if not math.isfinite(value):
                reasons[path] = "not finite"
                return None
            return float(f"{value:.6g}")
        return value

    return {key: entry if key == "reasons" else walk(entry, key) for key, entry in row.items()}


__all__ = ["SCHEMA_VERSION", "Examiner", "load_profile", "load_suite", "run_bench", "run_seed"]
