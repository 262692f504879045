"""Rows that guard: ours, and the baselines that a guard must beat (Guardrail Baselines, arXiv 2403.03329; ECO; ULD)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import numpy as np

from unlearn_guard.benchmarks.attacks.variants import Prompt
from unlearn_guard.benchmarks.dataset import Suite
from unlearn_guard.benchmarks.guard_catalogue import GuardFile, list_guards, load_guard
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
from unlearn_guard.guard.registry import Registry
from unlearn_guard.guard.screening import Guard
from unlearn_guard.guard.stamp import Stamp
from unlearn_guard.guard.verdict import Verdict
from unlearn_guard.guard.watching import AnswerWatch
from unlearn_guard.serving.transformers.engine import GuardedModel, ReferenceEngine, open_assistants

Procedure = Callable[[str, GuardFile, Bench], Subject]
PROCEDURES: Registry[Procedure] = Registry("procedure of a guard row")
"""What builds the rows of a file's `procedure`, given the row's name, its file and what it is built from."""
_ALL = Verdict(True, (), 0.0, 0.0, "fused")
"""What an ungated row takes every question for."""


def _open(bench: Bench, file: GuardFile) -> tuple[Bundle, Planner, float]:
    """Return a fitted bundle, read again so that no row changes another's settings, its planner, and its fit seconds."""
    fitted = bench.bundles.fit(file.bundle)
    bundle = Bundle.load(fitted.bundle.path)
    planner = load_planner(bundle, bench.full.tokenizer, bench.full.end_token, intervention=file.intervention)
    return bundle, planner, fitted.seconds


def guard_engine(plain: ReferenceEngine, bundle: Bundle, planner: Planner) -> GuardedModel:
    """Return a model with a bundle's guard and planner before it."""
    engine = ReferenceEngine(
        plain.model, plain.tokenizer, exclusive_ids=planner.fitted.exclusive_ids, batch_size=plain.batch_size
    )
    return GuardedModel(engine, Guard.load(bundle.path), planner)


@PROCEDURES.register("plan")
def _plan(name: str, file: GuardFile, bench: Bench) -> Subject:
    """Return a row with one intervention behind a bundle's classifier."""
    bundle, planner, seconds = _open(bench, file)
    model = guard_engine(bench.full, bundle, planner)
    positions = _read_mask(bundle) if file.intervention == "eco" else file.corrupted_positions
    return Subject(name, "guard", model.engine, model, seconds, no_scores=file.no_scores, corrupted_positions=positions)


@PROCEDURES.register("joint")
def _joint(name: str, file: GuardFile, bench: Bench) -> Subject:
    """Return an intervention behind the prompt classifier, and the output guard behind every answer."""
    subject = _plan(name, file, bench)
    assert isinstance(subject.gate, GuardedModel)
    subject.release, subject.stream = watch_answers(subject.gate)
    return subject


@PROCEDURES.register("output-guard")
def _output_guard(name: str, file: GuardFile, bench: Bench) -> Subject:
    """Return our output guard alone: the prompt arms it, nothing else is done about the prompt."""
    bundle, planner, seconds = _open(bench, file)
    model = guard_engine(bench.full, bundle, planner)
    watch, follow = watch_answers(model)

    def judge(with_what: Release) -> Release:
        return lambda question, verdict, answer: with_what(question, model.screen([question])[0], answer)

    return Subject(
        name,
        "guard",
        bench.full,
        fit_seconds=seconds,
        no_scores=file.no_scores,
        release=judge(watch),
        stream=judge(follow),
    )


def _read_mask(bundle: Bundle) -> str:
    return f"prompt ({bundle.manifest.interventions['eco']['mask']})"


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


@PROCEDURES.register("prompting-always")
def _prompting_always(name: str, file: GuardFile, bench: Bench) -> Subject:
    """Return the prompt prefix of Guardrail Baselines: no classifier, an instruction that names everybody."""
    _, planner, seconds = _open(bench, file)
    everybody = replace(_ALL, forget_ids=tuple(planner.requests))

    def stamp(question: Prompt) -> Stamp:
        return planner.plan(everybody, bench.full.read(question))

    return Subject(
        name,
        "guard",
        bench.full,
        fit_seconds=seconds,
        corrupted_positions=file.corrupted_positions,
        always=stamp,
    )


class NearestRow:
    """An input filter: refuse what lies near a row to forget, by sentence embeddings.

    The threshold tells rows to forget, each beside the others, from kept and clean ones with the best balanced accuracy.
    """

    def __init__(self, suite: Suite, planner: Planner, engine: ReferenceEngine) -> None:
        self.planner, self.engine = planner, engine
        self.encoder = OnnxEncoder(export_encoder(DEFAULT_ENCODER, "fp32"))
        self.rows = self.encoder.encode([row.query for row in suite.forget_rows])
        others = self.rows @ self.rows.T
        np.fill_diagonal(others, -1.0)
        kept = self._measure([row.query for row in (*suite.retain_rows, *suite.clean_rows)])
        self.threshold = find_threshold(others.max(axis=1), kept)

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


def find_threshold(wanted: np.ndarray, kept: np.ndarray) -> float:
    """Return the score above which most wanted and fewest kept ones lie: the best balanced accuracy, of equals the highest."""
    places = np.unique(kept)
    hits = 1.0 - np.searchsorted(np.sort(wanted), places, "right") / len(wanted)
    false = 1.0 - np.searchsorted(np.sort(kept), places, "right") / len(kept)
    gains = hits - false
    return float(places[np.flatnonzero(gains == gains.max())[-1]])


@PROCEDURES.register("input-filter")
def _input_filter(name: str, file: GuardFile, bench: Bench) -> Subject:
    _, planner, _ = _open(bench, file)
    start = time.perf_counter()
    gate = NearestRow(bench.suite, planner, bench.full)
    settings = {"encoder": DEFAULT_ENCODER, "threshold": gate.threshold}
    seconds = time.perf_counter() - start
    return Subject(name, "guard", bench.full, gate, seconds, no_scores=file.no_scores, settings=settings)


@PROCEDURES.register("output-filter")
def _output_filter(name: str, file: GuardFile, bench: Bench) -> Subject:
    """Return a filter that replaces every answer in which a forgotten name stands."""
    bundle, _, seconds = _open(bench, file)
    guard = Guard.load(bundle.path)

    def release(question: Prompt, verdict: Verdict | None, answer: str) -> str:
        del question, verdict
        return DEFAULT_TEXT if guard.screen([answer])[0].flagged else answer

    return Subject(name, "guard", bench.full, None, seconds, no_scores=file.no_scores, release=release)


@PROCEDURES.register("eco-oracle")
def _eco_oracle(name: str, file: GuardFile, bench: Bench) -> Subject:
    """Return the noise of ECO (arXiv 2406.07933) and its oracle, behind our classifier: on the name, of the strength whose answers are closest to the retain-only model's."""
    start = time.perf_counter()
    bundle, planner, seconds = _open(bench, file)
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

    target = measure(bench.retain, [None] * len(prompts))

    def distance(strength: float) -> float:
        planner.fitted.settings["eco"] = asdict(EcoSettings("noise", "span", strength, 0, rms))
        return abs(measure(model.engine, model.stamp(questions, verdicts)) - target)

    chosen = min(file.settings["strengths"], key=distance)
    planner.fitted.settings["eco"] = asdict(EcoSettings("noise", "span", chosen, 0, rms))
    return Subject(
        name,
        "guard",
        model.engine,
        model,
        seconds + time.perf_counter() - start,
        corrupted_positions=file.corrupted_positions,
        settings={"oracle": "retain-only ROUGE-L", "strength": chosen, "target_rouge": target},
    )


@PROCEDURES.register("assistants")
def _assisted(name: str, file: GuardFile, bench: Bench) -> Subject:
    """Return a row with assistants: behind the guard, or on every question."""
    bundle, planner, seconds = _open(bench, file)
    engine = ReferenceEngine(
        bench.full.model,
        bench.full.tokenizer,
        exclusive_ids=planner.fitted.exclusive_ids,
        assistants=open_assistants(bench.full.model, bundle.path / "interventions" / "uld"),
        batch_size=bench.full.batch_size,
    )
    eco = planner.fitted.settings["uld"]["eco"]
    if not file.gated:  # Always on, content words of every prompt would go; token ids of the forget set alone need not.
        eco["mask"] = "token-id"
    where = "prompt and answer" if eco["mask"] == "token-id" else "prompt"
    positions = f"{where} ({eco['mask']})" if "eco" in file.intervention else "none"
    if file.gated:
        model = GuardedModel(engine, Guard.load(bundle.path), planner)
        return Subject(name, "guard", engine, model, seconds, corrupted_positions=positions)

    def stamp(question: Prompt) -> Stamp:
        return planner.plan(_ALL, engine.read(question))

    return Subject(name, "guard", engine, None, seconds, corrupted_positions=positions, always=stamp)


@PROCEDURES.register("neurons")
def _with_neurons(name: str, file: GuardFile, bench: Bench) -> Subject:
    """Return a row that shifts neurons of flagged requests, or reads keys of all others."""
    fitted = bench.bundles.fit(file.bundle)
    device = str(bench.full.device)
    model = GuardedModel.load(
        bench.bundles.model,
        fitted.bundle.path,
        intervention=file.intervention,
        device=device,
        dtype="float32" if device == "cpu" else "auto",
        batch_size=bench.full.batch_size,
    )
    model.engine.tokenizer.chat_template = bench.full.tokenizer.chat_template
    return Subject(name, "guard", model.engine, model, fitted.seconds, no_scores=file.no_scores)


def _build_from(name: str) -> Build:
    file = load_guard(name)

    def build(bench: Bench) -> Subject:
        subject = PROCEDURES[file.procedure](name, file, bench)
        fitted = bench.bundles.fit(file.bundle)
        if (subject.fit_seconds or 0.0) >= fitted.seconds:  # Else the bundle is no part of its cost.
            subject.fit_added_mb = fitted.added_mb
        return subject

    return build


for _name in list_guards():
    SUBJECTS.register(_name)(_build_from(_name))
