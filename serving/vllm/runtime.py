"""The front-end's guard: screens, plans, counts and records."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from unlearn_guard.corruptions.prompt import Prompt, read_prompt
from unlearn_guard.guard.audit import AuditLog, AuditRow
from unlearn_guard.guard.bundle import Bundle
from unlearn_guard.guard.compose import load_planner
from unlearn_guard.guard.drifting import DriftMonitor
from unlearn_guard.guard.marks import Marker, ensure_secret, hash_prompt
from unlearn_guard.guard.screening import Guard, Item
from unlearn_guard.guard.verdict import Verdict
from unlearn_guard.serving.vllm.metrics import Counters
from unlearn_guard.serving.vllm.settings import GuardSettings

_REMEMBERED_TOKENS = 262_144
"""How many prompt tokens the decisions that beam search asks for again may hold together."""
_TELLING_TOKENS = 4
"""So many tokens of the abstention are no coincidence."""
_EXPECTED_REQUESTS = 1_024
"""Admitted prompts whose answers may still be made."""

Messages = tuple[tuple[str, str], ...]
"""(role, text) of every message as the client sent it, tool descriptions and documents included."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What the renderer knew: the client's messages, and how long the prompt was before beam search grew it."""

    messages: Messages = ()
    prompt_length: int | None = None
    is_beam: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict with the prompt it was reached on."""

    key: tuple[bytes, Messages]
    prompt: Prompt
    verdict: Verdict
    is_beam: bool = False
    refused: bool = False
    """Whether a refusal answers instead of the model."""

    @property
    def given(self) -> list[str]:
        """Every text that the client supplied."""
        return [text for _, text in self.key[1]] or [self.prompt.text]


class GuardRuntime:
    """One per engine and front-end process."""

    def __init__(self, settings: GuardSettings, tokenizer: Any, end_token: int, max_length: int) -> None:
        self.settings, self.max_length, self.end_token = settings, max_length, end_token
        self.guard = Guard.load(settings.bundle, policy=settings.make_policy(max_length), device=settings.device)
        bundle = self.guard.bundle
        assert isinstance(bundle, Bundle)
        self.bundle = bundle
        self.tokenizer = tokenizer
        self.planner = load_planner(bundle, tokenizer, end_token, intervention=settings.intervention)
        self.probes = bundle.manifest.interventions.get("key_space", {}) if settings.key_space else {}
        self.marker = Marker(ensure_secret(), bundle.revision)
        self.drift = DriftMonitor(getattr(self.guard.classifier, "served", (0.0,)))
        self.pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="unlearn-guard")
        self.counters = Counters(bundle.revision)
        self.audit = AuditLog(settings.audit) if settings.audit else None
        self._decisions: OrderedDict[tuple[bytes, Messages], Decision] = OrderedDict()
        self._remembered_tokens = 0
        self._expected: OrderedDict[bytes, Decision] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def has_probes(self) -> bool:
        """Whether key-space probes may make a request abstain that screening let through."""
        return bool(self.probes)

    def decide(self, token_ids: Sequence[int], origin: Origin) -> Decision:
        """Screen a prompt; beam search asks for the same one at every step and gets the same decision."""
        ids = list(token_ids[: origin.prompt_length])
        key = (hash_prompt(ids), origin.messages)
        with self._lock:
            if key in self._decisions:
                self._decisions.move_to_end(key)
                return self._decisions[key]
        start = time.perf_counter()
        try:
            prompt = read_prompt(self.tokenizer, ids, origin.messages)
            verdict = self._screen(prompt, origin.messages)
        except Exception as error:  # Token ids that the tokenizer does not know, for example.
            prompt = Prompt(tuple(ids), "", None, (False,) * len(ids))
            flagged = self.settings.on_error == "block"
            verdict = Verdict(flagged, (), 0.0, 1.0, "error", (), (f"{type(error).__name__}: {error}",))
        decision = Decision(key, prompt, verdict)
        self.counters.observe(verdict, time.perf_counter() - start)
        if not verdict.errors:
            with self._lock:
                self.counters.set_drift(self.drift.update(verdict.score))
        if not verdict.errors:
            self._remember(decision)
        return decision

    def _screen(self, prompt: Prompt, messages: Messages) -> Verdict:
        if not messages:
            return self.guard.screen([prompt.text])[0]
        item: Item = [{"role": role, "content": text} for role, text in messages]
        rest = prompt.rest()
        if rest:  # Whatever a template renders that we did not recognise as a message is text like any other.
            item = [*item, {"role": "template", "content": rest}]
        return self.guard.screen([item], rendered=[prompt.text])[0]

    def _remember(self, decision: Decision) -> None:
        with self._lock:
            if decision.key not in self._decisions:
                self._remembered_tokens += len(decision.prompt.ids)
            self._decisions[decision.key] = decision
            while self._remembered_tokens > _REMEMBERED_TOKENS and len(self._decisions) > 1:
                _, oldest = self._decisions.popitem(last=False)
                self._remembered_tokens -= len(oldest.prompt.ids)

    def expect(self, token_ids: Sequence[int], decision: Decision) -> None:
        """Remember an admitted request's decision until its answer is made."""
        with self._lock:
            key = hash_prompt(token_ids)
            self._expected[key] = decision
            self._expected.move_to_end(key)
            while len(self._expected) > _EXPECTED_REQUESTS:
                self._expected.popitem(last=False)

    def recall(self, token_ids: Sequence[int]) -> Decision | None:
        """Return the decision on an admitted request, by its prompt."""
        with self._lock:
            return self._expected.get(hash_prompt(token_ids))

    def record_answer(self, request_id: str, decision: Decision, verdict: Verdict, action: str) -> None:
        """Count an answer that gave something away, and write its audit row."""
        self.counters.count_answer(action)
        if self.audit is not None:
            self.audit.append(self._make_row(request_id, decision, verdict, f"answer:{action}"))

    def record_abstention(self, request_id: str, decision: Decision, tokens: Sequence[int]) -> None:
        """Record that a request abstained, where its answer is the abstention, or so much of it as the client let through."""
        expected = [token for token in self.probes["abstention"] if token != self.end_token]
        said = [int(token) for token in tokens if token != self.end_token]
        if said == expected[: len(said)] and len(said) >= min(_TELLING_TOKENS, len(expected)):
            owners = tuple(self.probes["owners"].values())
            verdict = Verdict(True, owners if len(owners) == 1 else (), 0.0, self.probes["alpha"], "key_space")
            self.record_answer(request_id, decision, verdict, "abstained")

    def record(self, request_id: str, decision: Decision, action: str) -> None:
        """Count what really happens to a request, and write its audit row."""
        self.counters.count(action.split(":")[0], self.settings.mode)
        if self.audit is None:
            return
        self.audit.append(self._make_row(request_id, decision, decision.verdict, action))

    def _make_row(self, request_id: str, decision: Decision, verdict: Verdict, action: str) -> AuditRow:
        return AuditRow(
            request_id=request_id,
            prompt=self.marker.audit_hash(decision.prompt.ids),
            revision=self.bundle.revision,
            mode=self.settings.mode,
            stage=verdict.stage,
            score=round(float(verdict.score), 6),
            p_value=round(float(verdict.p_value), 6),
            forget_ids=verdict.forget_ids,
            action=action,
            errors=verdict.errors,
            fired=verdict.fired,
        )


_RUNTIMES: dict[str, GuardRuntime] = {}
_RUNTIMES_LOCK = threading.Lock()


def runtimes() -> list[GuardRuntime]:
    """Return every runtime of this process."""
    return list(_RUNTIMES.values())


def open_runtime(settings: GuardSettings, model: str, tokenizer: Any, end_token: int, max_length: int) -> GuardRuntime:
    """Return the runtime of one served model, built at first use in this process."""
    key = f"{model}\0{max_length}\0{end_token}\0{settings.model_dump_json()}"
    with _RUNTIMES_LOCK:
        if key not in _RUNTIMES:
            _RUNTIMES[key] = GuardRuntime(settings, tokenizer, end_token, max_length)
        return _RUNTIMES[key]
