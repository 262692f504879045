"""What a bench row measures: something that answers questions, with or without a guard."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from unlearn_guard.benchmarks.dataset import Suite
from unlearn_guard.benchmarks.editing.catalogue import list_methods, load_tuned
from unlearn_guard.benchmarks.editing.procedures import edit_weights
from unlearn_guard.benchmarks.fitted import Bundles
from unlearn_guard.guard.compose import load_planner
from unlearn_guard.guard.registry import Registry
from unlearn_guard.guard.screening import Guard
from unlearn_guard.guard.stamp import Stamp
from unlearn_guard.guard.verdict import Verdict
from unlearn_guard.serving.transformers.engine import GuardedModel, ReferenceEngine, Scored, open_assistants

RowKind = Literal["none", "retain", "guard", "weights"]


@dataclass(slots=True)
class Subject:
    """One method under test."""

    name: str
    kind: RowKind
    engine: ReferenceEngine
    guarded: GuardedModel | None = None
    fit_seconds: float = 0.0
    no_scores: str = ""
    """Why teacher-forced scores mean nothing here; empty where they do."""
    corrupted_positions: str = "none"
    always: Callable[[str], Stamp] | None = None
    """What an ungated method does to every question."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of a weight-editing method."""
    _stamps: dict[str, Stamp | None] = field(default_factory=dict)

    @property
    def no_flags(self) -> str:
        """Why nothing is flagged here; empty where a guard decides."""
        if self.guarded is not None:
            return ""
        return "always on: nothing decides" if self.always else "no guard"

    def flag(self, questions: Sequence[str]) -> list[bool] | None:
        """Return which questions are flagged, None without a guard."""
        if self.guarded is None:
            return None
        self._plan(questions)
        return [self._stamps[question] is not None for question in questions]

    def answer(self, questions: Sequence[str], *, max_new_tokens: int) -> list[str]:
        """Return greedy answers."""
        stamps = self._plan(questions)
        ids = [self.engine.render(question) for question in questions]
        return [self.engine.decode(out) for out in self.engine.generate(ids, stamps, max_new_tokens=max_new_tokens)]

    def score(self, questions: Sequence[str], answers: Sequence[str]) -> list[Scored]:
        """Return teacher-forced scores of answers, the end token included; corrupted as served."""
        tokenizer = self.engine.tokenizer
        encoded = [
            [*tokenizer(answer, add_special_tokens=False).input_ids, self.engine.end_token] for answer in answers
        ]
        return self.engine.score(
            [self.engine.render(question) for question in questions], encoded, self._plan(questions)
        )

    def _plan(self, questions: Sequence[str]) -> list[Stamp | None]:
        if self.always is not None:
            return [self.always(question) for question in questions]
        if self.guarded is None:
            return [None] * len(questions)
        missing = [question for question in dict.fromkeys(questions) if question not in self._stamps]
        if missing:
            self._stamps.update(zip(missing, self.guarded.stamp(missing, self.guarded.screen(missing)), strict=True))
        return [self._stamps[question] for question in questions]


@dataclass(frozen=True, slots=True)
class Bench:
    """What methods are built from: the suite, the two models, and bundles fitted on them."""

    suite: Suite
    full: ReferenceEngine
    retain: ReferenceEngine
    bundles: Bundles
    seed: int


Build = Callable[[Bench], Subject]
SUBJECTS: Registry[Build] = Registry("method")


def _guard(bench: Bench, name: str, intervention: str, *, kind: str = "eco", **options: Any) -> Subject:
    fitted = bench.bundles.fit(kind)
    planner = load_planner(fitted.bundle, bench.full.tokenizer, bench.full.end_token, intervention=intervention)
    engine = ReferenceEngine(bench.full.model, bench.full.tokenizer, exclusive_ids=planner.fitted.exclusive_ids)
    guarded = GuardedModel(engine, Guard.load(fitted.bundle.path), planner)
    return Subject(name, "guard", engine, guarded, fitted.seconds, **options)


@SUBJECTS.register("none")
def _none(bench: Bench) -> Subject:
    return Subject("none", "none", bench.full)


@SUBJECTS.register("retain-only")
def _retain_only(bench: Bench) -> Subject:
    return Subject("retain-only", "retain", bench.retain)


@SUBJECTS.register("name-match")
def _name_match(bench: Bench) -> Subject:
    return _guard(bench, "name-match", "refusal", kind="name-match", no_scores=_REFUSED)


_REFUSED = "a refusal replaces the answer: it has no likelihood under the served policy"


@SUBJECTS.register("refusal")
def _refusal(bench: Bench) -> Subject:
    return _guard(bench, "refusal", "refusal", no_scores=_REFUSED)


@SUBJECTS.register("prompting")
def _prompting(bench: Bench) -> Subject:
    return _guard(bench, "prompting", "prompting", corrupted_positions="none (instruction before the prompt)")


@SUBJECTS.register("eco")
def _eco(bench: Bench) -> Subject:
    mask = bench.bundles.fit("eco").bundle.manifest.interventions["eco"]["mask"]
    return _guard(bench, "eco", "eco", corrupted_positions=f"prompt ({mask})")


@SUBJECTS.register("eco-span")
def _eco_span(bench: Bench) -> Subject:
    return _guard(bench, "eco-span", "eco-span", corrupted_positions="prompt (span; all without a name)")


@SUBJECTS.register("eco-swap")
def _eco_swap(bench: Bench) -> Subject:
    return _guard(bench, "eco-swap", "swap", corrupted_positions="prompt (swapped span; all without a name)")


def _assisted(name: str, intervention: str, *, gated: bool, settings: str = "ours") -> Build:
    """Return what builds a row with assistants: behind the guard, or on every question."""

    def build(bench: Bench) -> Subject:
        fitted = bench.bundles.fit(settings)
        bundle, seconds = fitted.bundle, fitted.seconds
        planner = load_planner(bundle, bench.full.tokenizer, bench.full.end_token, intervention=intervention)
        engine = ReferenceEngine(
            bench.full.model,
            bench.full.tokenizer,
            exclusive_ids=planner.fitted.exclusive_ids,
            assistants=open_assistants(bench.full.model, bundle.path / "interventions" / "uld"),
        )
        eco = planner.fitted.settings["uld"]["eco"]
        if not gated:  # Always on, content words of every prompt would go; token ids of the forget set alone need not.
            eco["mask"] = "token-id"
        where = "prompt and answer" if eco["mask"] == "token-id" else "prompt"
        positions = f"{where} ({eco['mask']})" if "eco" in intervention else "none"
        if gated:
            guarded = GuardedModel(engine, Guard.load(bundle.path), planner)
            return Subject(name, "guard", engine, guarded, seconds, corrupted_positions=positions)
        flagged = Verdict(True, (), 0.0, 0.0, "fused")

        def stamp(question: str) -> Stamp:
            return planner.plan(flagged, engine.read(question))

        return Subject(name, "guard", engine, None, seconds, corrupted_positions=positions, always=stamp)

    return build


SUBJECTS.register("uld")(_assisted("uld", "uld", gated=False, settings="paper"))
SUBJECTS.register("uld-gated")(_assisted("uld-gated", "uld", gated=True, settings="paper"))
SUBJECTS.register("uld-advantage")(_assisted("uld-advantage", "uld", gated=False))
SUBJECTS.register("uld-each")(_assisted("uld-each", "uld", gated=False, settings="each"))
SUBJECTS.register("uld-each-max")(_assisted("uld-each-max", "uld", gated=False, settings="max"))
SUBJECTS.register("uld-upstream")(_assisted("uld-upstream", "uld", gated=False, settings="upstream"))
SUBJECTS.register("eco+uld")(_assisted("eco+uld", "eco+uld", gated=True))
SUBJECTS.register("eco+uld-each")(_assisted("eco+uld-each", "eco+uld", gated=True, settings="each"))
SUBJECTS.register("eco+uld-ungated")(_assisted("eco+uld-ungated", "eco+uld", gated=False))


def _edit(name: str) -> Build:
    def build(bench: Bench) -> Subject:
        start = time.perf_counter()
        file = load_tuned(name, bench.suite.name)
        method = file.to_method(bench.seed)
        edited = edit_weights(bench.full, method, bench.suite.forget_rows, bench.suite.retain_rows)
        settings = {"tier": file.tier, **asdict(method), "settings": dict(method.settings)}
        return Subject(name, "weights", edited, fit_seconds=time.perf_counter() - start, settings=settings)

    return build


for _name in list_methods():
    SUBJECTS.register(_name)(_edit(_name))
