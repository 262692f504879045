"""What a bench row measures: something that answers questions, with or without a guard."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from unlearn_guard.benchmarks.attacks.variants import Prompt
from unlearn_guard.benchmarks.dataset import Suite
from unlearn_guard.benchmarks.fitted import Bundles
from unlearn_guard.guard.conversation import Completion
from unlearn_guard.guard.registry import Registry
from unlearn_guard.guard.stamp import Stamp
from unlearn_guard.guard.verdict import Verdict
from unlearn_guard.serving.transformers.engine import ReferenceEngine, Scored

NO_GUARD = "no guard"
"""Why nothing is flagged where nobody decides."""
RowKind = Literal["none", "retain", "guard", "weights"]
Release = Callable[[Prompt, Verdict | None, str], str]
"""What of an answer leaves, given the question and its verdict."""


class Gate(Protocol):
    """Whatever decides which questions are intervened on, and how."""

    def screen(self, questions: Sequence[Prompt]) -> list[Verdict]:
        """Return one verdict per question."""
        ...

    def stamp(self, questions: Sequence[Prompt], verdicts: Sequence[Verdict]) -> list[Stamp | None]:
        """Return what is done to each question, None for nothing."""
        ...


@dataclass(frozen=True, slots=True)
class _Decision:
    verdict: Verdict | None
    stamp: Stamp | None


@dataclass(slots=True)
class Subject:
    """One method under test."""

    name: str
    kind: RowKind
    engine: ReferenceEngine
    gate: Gate | None = None
    fit_seconds: float | None = None
    """Of a guard or an edit, or of the training of a model that stands for one; None for what nobody makes."""
    fit_added_mb: float = 0.0
    """What fitting its bundle added to memory at most, whichever row it was fitted for; 0 where no bundle is part of its cost."""
    no_reference: str = ""
    """Why the retain-only model is not what this would ideally be; empty where it is."""
    no_scores: str = ""
    """Why teacher-forced scores mean nothing here; empty where they do."""
    corrupted_positions: str = "none"
    always: Callable[[Prompt], Stamp] | None = None
    """What an ungated method does to every question."""
    release: Release | None = None
    """What an output filter lets leave; None without one."""
    stream: Release | None = None
    """The same where the answer leaves while it is written; None where that makes no difference."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of a weight-editing method, or what a guard row was tuned to."""
    _decisions: dict[str, _Decision] = field(default_factory=dict)
    _replaced: set[str] = field(default_factory=set)

    @property
    def no_flags(self) -> str:
        """Why nothing is flagged here; empty where a guard decides."""
        if self.gate is not None:
            return ""
        if self.release is not None:
            return "the answer decides, not the prompt"
        return "always on: nothing decides" if self.always else NO_GUARD

    def flag(self, questions: Sequence[Prompt]) -> list[bool] | None:
        """Return which questions are flagged, None without a guard."""
        if self.gate is None:
            return None
        return [decision.stamp is not None for decision in self._decide(questions)]

    def stop(self, questions: Sequence[Prompt]) -> list[bool] | None:
        """Return which questions are flagged or had their greedy answer changed on its way out; None where nothing decides."""
        if self.gate is None and self.release is None:
            return None
        flagged = self.flag(questions) or [False] * len(questions)
        return [flag or _key(question) in self._replaced for flag, question in zip(flagged, questions, strict=True)]

    def answer(
        self,
        questions: Sequence[Prompt],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        streams: bool = False,
    ) -> list[str]:
        """Return greedy answers, or ones drawn at a temperature, as far as they may leave; `streams`: while they are written."""
        decisions = self._decide(questions)
        outputs = self.engine.generate(
            [self.engine.render(question) for question in questions],
            [decision.stamp for decision in decisions],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
        )
        answers = [self.engine.decode(output) for output in outputs]
        release = self.stream if streams and self.stream else self.release
        if release is None:
            return answers
        released = []
        for question, decision, answer in zip(questions, decisions, answers, strict=True):
            leaves = release(question, decision.verdict, answer)
            if leaves != answer and temperature == 0:
                self._replaced.add(_key(question))
            released.append(leaves)
        return released

    def hides(self, questions: Sequence[Prompt]) -> list[bool]:
        """Return for which questions the answer's likelihood means nothing: it is refused, or an output filter replaced it before."""
        return [
            _key(question) in self._replaced or refused
            for question, refused in zip(questions, self.refuses(questions), strict=True)
        ]

    def refuses(self, questions: Sequence[Prompt]) -> list[bool]:
        """Return which questions are refused before anything is decoded."""
        return [
            decision.stamp is not None and decision.stamp.step("refusal") is not None
            for decision in self._decide(questions)
        ]

    def leaves_alone(self, questions: Sequence[Prompt]) -> bool:
        """Return whether the model reads these questions as if nothing stood before it."""
        return self.engine.neurons is None and all(decision.stamp is None for decision in self._decide(questions))

    def score(self, questions: Sequence[Prompt], answers: Sequence[str]) -> list[Scored]:
        """Return teacher-forced scores of answers, the end token included; corrupted as served."""
        tokenizer = self.engine.tokenizer
        encoded = [
            [*tokenizer(answer, add_special_tokens=False).input_ids, self.engine.end_token] for answer in answers
        ]
        return self.engine.score(
            [self.engine.render(question) for question in questions],
            encoded,
            [decision.stamp for decision in self._decide(questions)],
        )

    def _decide(self, questions: Sequence[Prompt]) -> list[_Decision]:
        if self.gate is None and self.always is None:
            return [_Decision(None, None)] * len(questions)
        keys = [_key(question) for question in questions]
        missing = {key: place for place, key in enumerate(keys) if key not in self._decisions}
        asked = [questions[place] for place in missing.values()]
        if self.always is not None:
            self._decisions.update(
                (key, _Decision(None, self.always(question))) for key, question in zip(missing, asked, strict=True)
            )
        elif missing:
            assert self.gate is not None
            verdicts = self.gate.screen(asked)
            stamps = self.gate.stamp(asked, verdicts)
            self._decisions.update(zip(missing, map(_Decision, verdicts, stamps), strict=True))
        return [self._decisions[key] for key in keys]


def _key(question: Prompt) -> str:
    if isinstance(question, Completion):
        return f"completion: {question}"
    return question if isinstance(question, str) else json.dumps(question)


@dataclass(frozen=True, slots=True)
class Bench:
    """What methods are built from: the suite, the models by name, and bundles fitted on the full one."""

    suite: Suite
    full: ReferenceEngine
    retain: ReferenceEngine
    bundles: Bundles
    seed: int
    open_model: Callable[[str], ReferenceEngine]
    """Further models by name (`training.FURTHER`), trained when a row first asks for one."""


Build = Callable[[Bench], Subject]
SUBJECTS: Registry[Build] = Registry("method")


@SUBJECTS.register("none")
def _none(bench: Bench) -> Subject:
    return Subject("none", "none", bench.full)


@SUBJECTS.register("retain-only")
def _retain_only(bench: Bench) -> Subject:
    return Subject("retain-only", "retain", bench.retain)


@SUBJECTS.register("retain-only-twin")
def _twin(bench: Bench) -> Subject:
    return Subject("retain-only-twin", "retain", bench.open_model("twin"))
