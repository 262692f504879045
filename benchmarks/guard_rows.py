"""Rows that guard: ours, and the baselines that a guard must beat (Guardrail Baselines, arXiv 2403.03329; ECO; ULD)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from unlearn_guard.benchmarks.attacks.variants import Prompt
from unlearn_guard.benchmarks.dataset import Suite
from unlearn_guard.benchmarks.subjects import SUBJECTS, Bench, Build, Release, Subject
from unlearn_guard.classifiers.encoder import OnnxEncoder
from unlearn_guard.classifiers.export import DEFAULT_ENCODER, export_encoder
from unlearn_guard.corruptions.eco import EcoSettings
from unlearn_guard.corruptions.fluency import rouge_l_recall
from unlearn_guard.corruptions.planning import Planner
from unlearn_guard.corruptions.refusal import DEFAULT_TEXT
from unlearn_guard.guard.bundle import Bundle
from unlearn_guard.guard.compose import load_planner
from unlearn_guard.guard.conversation import read_messages
from unlearn_guard.guard.screening import Guard
from unlearn_guard.guard.stamp import Stamp
from unlearn_guard.guard.verdict import Verdict
from unlearn_guard.guard.watching import AnswerWatch
from unlearn_guard.serving.transformers.engine import GuardedModel, ReferenceEngine, open_assistants

_REFUSED = "a refusal replaces the answer: it has no likelihood under the served policy"
_ALL = Verdict(True, (), 0.0, 0.0, "fused")
"""What an ungated row takes every question for."""


def _open(bench: Bench, kind: str, intervention: str) -> tuple[Bundle, Planner, float]:
    """Return a fitted bundle, read again so that no row changes another's settings, its planner, and its fit seconds."""
    fitted = bench.bundles.fit(kind)
    bundle = Bundle.load(fitted.bundle.path)
    planner = load_planner(bundle, bench.full.tokenizer, bench.full.end_token, intervention=intervention)
    return bundle, planner, fitted.seconds


def guard_engine(plain: ReferenceEngine, bundle: Bundle, planner: Planner) -> GuardedModel:
    """Return a model with a bundle's guard and planner before it."""
    engine = ReferenceEngine(
        plain.model, plain.tokenizer, exclusive_ids=planner.fitted.exclusive_ids, batch_size=plain.batch_size
    )
    return GuardedModel(engine, Guard.load(bundle.path), planner)


def _guard(name: str, intervention: str, *, kind: str = "eco", **options: Any) -> Build:
    """Return what builds a row with one intervention behind a bundle's classifier."""

    def build(bench: Bench) -> Subject:
        bundle, planner, seconds = _open(bench, kind, intervention)
        model = guard_engine(bench.full, bundle, planner)
        positions = options.get("corrupted_positions", "none")
        if intervention == "eco":
            positions = f"prompt ({bundle.manifest.interventions['eco']['mask']})"
        return Subject(name, "guard", model.engine, model, seconds, **{**options, "corrupted_positions": positions})

    return build


SUBJECTS.register("name-match")(_guard("name-match", "refusal", kind="name-match", no_scores=_REFUSED))
SUBJECTS.register("refusal")(_guard("refusal", "refusal", no_scores=_REFUSED))
SUBJECTS.register("prompting")(
    _guard("prompting", "prompting", corrupted_positions="none (instruction before the prompt)")
)
SUBJECTS.register("eco")(_guard("eco", "eco"))
SUBJECTS.register("eco-span")(_guard("eco-span", "eco-span", corrupted_positions="prompt (span; all without a name)"))
SUBJECTS.register("eco-swap")(
    _guard("eco-swap", "swap", corrupted_positions="prompt (swapped span; all without a name)")
)


@SUBJECTS.register("guard")
def _joint(bench: Bench) -> Subject:
    """Return ours in full: ECO behind the prompt classifier, and the output guard behind every answer."""
    bundle, planner, seconds = _open(bench, "eco", "eco")
    model = guard_engine(bench.full, bundle, planner)
    release, stream = watch_answers(model)
    positions = f"prompt ({bundle.manifest.interventions['eco']['mask']})"
    return Subject(
        "guard",
        "guard",
        model.engine,
        model,
        seconds,
        no_scores="an answer that the output guard ends has no likelihood under the served policy",
        corrupted_positions=positions,
        release=release,
        stream=stream,
    )


@SUBJECTS.register("output-guard")
def _output_guard(bench: Bench) -> Subject:
    """Return our output guard alone: the prompt arms it, nothing else is done about the prompt."""
    bundle, planner, seconds = _open(bench, "eco", "eco")
    model = guard_engine(bench.full, bundle, planner)
    watch, follow = watch_answers(model)

    def judge(with_what: Release) -> Release:
        return lambda question, verdict, answer: with_what(question, model.screen([question])[0], answer)

    return Subject(
        "output-guard",
        "guard",
        bench.full,
        fit_seconds=seconds,
        no_scores="an answer that the output guard ends has no likelihood under the served policy",
        release=judge(watch),
        stream=judge(follow),
    )


_STREAMED_CHARACTERS = 4


def watch_answers(model: GuardedModel) -> tuple[Release, Release]:
    """Return what the output guard lets leave of an answer that is judged whole, and of one that leaves while it is written."""

    def release(question: Prompt, verdict: Verdict | None, answer: str) -> str:
        assert verdict is not None
        return model.watch([question], [verdict], [answer])[0]

    def stream(question: Prompt, verdict: Verdict | None, answer: str) -> str:
        assert verdict is not None
        watch = AnswerWatch(model.guard, [message.text for message in read_messages(question)], verdict)
        for end in range(_STREAMED_CHARACTERS, len(answer), _STREAMED_CHARACTERS):
            if watch.update(answer[:end]):
                break
        else:
            watch.update(answer, finished=True)
        return answer[: watch.safe] if watch.hit else answer

    return release, stream


@SUBJECTS.register("prompting-always")
def _prompting_always(bench: Bench) -> Subject:
    """Return the prompt prefix of Guardrail Baselines: no classifier, an instruction that names everybody."""
    _, planner, seconds = _open(bench, "eco", "prompting")
    everybody = replace(_ALL, forget_ids=tuple(planner.requests))

    def stamp(question: Prompt) -> Stamp:
        return planner.plan(everybody, bench.full.read(question))

    positions = "none (instruction before the prompt)"
    return Subject(
        "prompting-always", "guard", bench.full, fit_seconds=seconds, corrupted_positions=positions, always=stamp
    )


class NearestRow:
    """An input filter: refuse what lies nearer to a row to forget than any kept or clean row does (sentence embeddings)."""

    def __init__(self, suite: Suite, planner: Planner, engine: ReferenceEngine) -> None:
        self.planner, self.engine = planner, engine
        self.encoder = OnnxEncoder(export_encoder(DEFAULT_ENCODER, "fp32"))
        self.rows = self.encoder.encode([row.query for row in suite.forget_rows])
        kept = self._measure([row.query for row in (*suite.retain_rows, *suite.clean_rows)])
        self.threshold = float(kept.max())

    def screen(self, questions: Sequence[Prompt]) -> list[Verdict]:
        """Return verdicts; what lies at the threshold passes."""
        texts = ["\n".join(message.text for message in read_messages(question)) for question in questions]
        return [
            Verdict(bool(score > self.threshold), (), float(score), 0.0 if score > self.threshold else 1.0, "neighbour")
            for score in self._measure(texts)
        ]

    def stamp(self, questions: Sequence[Prompt], verdicts: Sequence[Verdict]) -> list[Stamp | None]:
        """Refuse what was flagged."""
        return [
            self.planner.plan(verdict, self.engine.read(question)) if verdict.flagged else None
            for question, verdict in zip(questions, verdicts, strict=True)
        ]

    def _measure(self, texts: Sequence[str]) -> np.ndarray:
        return (self.encoder.encode(list(texts)) @ self.rows.T).max(axis=1)


@SUBJECTS.register("input-filter")
def _input_filter(bench: Bench) -> Subject:
    _, planner, _ = _open(bench, "eco", "refusal")
    start = time.perf_counter()
    gate = NearestRow(bench.suite, planner, bench.full)
    settings = {"encoder": DEFAULT_ENCODER, "threshold": gate.threshold}
    seconds = time.perf_counter() - start
    return Subject("input-filter", "guard", bench.full, gate, seconds, no_scores=_REFUSED, settings=settings)


@SUBJECTS.register("output-filter")
def _output_filter(bench: Bench) -> Subject:
    """Return a filter that replaces every answer in which a forgotten name stands."""
    bundle, _, seconds = _open(bench, "name-match", "refusal")
    guard = Guard.load(bundle.path)

    def release(question: Prompt, verdict: Verdict | None, answer: str) -> str:
        del question, verdict
        return DEFAULT_TEXT if guard.screen([answer])[0].flagged else answer

    reason = "an answer that the filter replaces has no likelihood under the served policy"
    return Subject("output-filter", "guard", bench.full, None, seconds, no_scores=reason, release=release)


_ORACLE_STRENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


@SUBJECTS.register("eco-oracle")
def _eco_oracle(bench: Bench) -> Subject:
    """Return ECO as published: noise on the name, of the strength whose answers are closest to the retain-only model's."""
    start = time.perf_counter()
    bundle, planner, seconds = _open(bench, "eco", "eco")
    model = guard_engine(bench.full, bundle, planner)
    items = bench.suite.sets["forget.given"]
    questions = [item.question for item in items]
    longest = max(len(bench.full.tokenizer(item.answer).input_ids) for item in items) + 8
    verdicts = model.screen(questions)
    prompts = [model.engine.read(question) for question in questions]
    rms = planner.fitted.settings["eco"]["rms"]

    def measure(engine: ReferenceEngine, stamps: Sequence[Stamp | None]) -> float:
        outputs = engine.generate([prompt.ids for prompt in prompts], stamps, max_new_tokens=longest)
        answers = [engine.decode(output) for output in outputs]
        return float(
            np.mean([rouge_l_recall(answer, item.answer) for answer, item in zip(answers, items, strict=True)])
        )

    def distance(strength: float) -> float:
        planner.fitted.settings["eco"] = asdict(EcoSettings("noise", "span", strength, 0, rms))
        return abs(measure(model.engine, model.stamp(questions, verdicts)) - target)

    target = measure(bench.retain, [None] * len(prompts))
    chosen = min(_ORACLE_STRENGTHS, key=distance)
    planner.fitted.settings["eco"] = asdict(EcoSettings("noise", "span", chosen, 0, rms))
    return Subject(
        "eco-oracle",
        "guard",
        model.engine,
        model,
        seconds + time.perf_counter() - start,
        corrupted_positions="prompt (span; all without a name)",
        settings={"oracle": "retain-only ROUGE-L", "strength": chosen, "target_rouge": target},
    )


def _assisted(name: str, intervention: str, *, gated: bool, settings: str = "ours") -> Build:
    """Return what builds a row with assistants: behind the guard, or on every question."""

    def build(bench: Bench) -> Subject:
        bundle, planner, seconds = _open(bench, settings, intervention)
        engine = ReferenceEngine(
            bench.full.model,
            bench.full.tokenizer,
            exclusive_ids=planner.fitted.exclusive_ids,
            assistants=open_assistants(bench.full.model, bundle.path / "interventions" / "uld"),
            batch_size=bench.full.batch_size,
        )
        eco = planner.fitted.settings["uld"]["eco"]
        if not gated:  # Always on, content words of every prompt would go; token ids of the forget set alone need not.
            eco["mask"] = "token-id"
        where = "prompt and answer" if eco["mask"] == "token-id" else "prompt"
        positions = f"{where} ({eco['mask']})" if "eco" in intervention else "none"
        if gated:
            model = GuardedModel(engine, Guard.load(bundle.path), planner)
            return Subject(name, "guard", engine, model, seconds, corrupted_positions=positions)

        def stamp(question: Prompt) -> Stamp:
            return planner.plan(_ALL, engine.read(question))

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


def _with_neurons(name: str, intervention: str, *, kind: str, **options: Any) -> Build:
    """Return what builds a row that shifts neurons of flagged requests, or reads keys of all others."""

    def build(bench: Bench) -> Subject:
        fitted = bench.bundles.fit(kind)
        device = str(bench.full.device)
        model = GuardedModel.load(
            bench.bundles.model,
            fitted.bundle.path,
            intervention=intervention,
            device=device,
            dtype="float32" if device == "cpu" else "auto",
            batch_size=bench.full.batch_size,
        )
        return Subject(name, "guard", model.engine, model, fitted.seconds, **options)

    return build


SUBJECTS.register("neuron-adjust")(_with_neurons("neuron-adjust", "neuron-adjust", kind="neuron-adjust"))
SUBJECTS.register("concept-ablation")(_with_neurons("concept-ablation", "concept-ablation", kind="neuron-adjust"))
SUBJECTS.register("key-space")(_with_neurons("key-space", "refusal", kind="key-space", no_scores=_REFUSED))
