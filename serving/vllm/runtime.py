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
from unlearn_guard.guard.marks import Marker, ensure_secret, hash_prompt
from unlearn_guard.guard.screening import Guard, Item
from unlearn_guard.guard.verdict import Verdict
from unlearn_guard.serving.vllm.metrics import Counters
from unlearn_guard.serving.vllm.settings import GuardSettings

_REMEMBERED = 512

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


class GuardRuntime:
    """One per engine and front-end process."""

    def __init__(self, settings: GuardSettings, tokenizer: Any, end_token: int) -> None:
        self.settings = settings
        self.guard = Guard.load(settings.bundle, policy=settings.policy, device=settings.device)
        bundle = self.guard.bundle
        assert isinstance(bundle, Bundle)
        self.bundle = bundle
        self.tokenizer = tokenizer
        self.planner = load_planner(bundle, tokenizer, end_token, intervention=settings.intervention)
        self.marker = Marker(ensure_secret(), bundle.revision)
        self.pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="unlearn-guard")
        self.counters = Counters(bundle.revision)
        self.audit = AuditLog(settings.audit) if settings.audit else None
        self._decisions: OrderedDict[tuple[bytes, Messages], Decision] = OrderedDict()
        self._lock = threading.Lock()

    def decide(self, token_ids: Sequence[int], origin: Origin) -> Decision:
        """Screen a prompt; beam search asks for the same one at every step and gets the same decision."""
        ids = list(token_ids[: origin.prompt_length])
        key = (hash_prompt(ids), origin.messages)
        with self._lock:
            if key in self._decisions:
                self._decisions.move_to_end(key)
                return self._decisions[key]
        start = time.perf_counter()
        prompt = read_prompt(self.tokenizer, ids, origin.messages)
        item: Item = [{"role": role, "content": text} for role, text in origin.messages] or prompt.text
        rendered = prompt.text if origin.messages else None
        (verdict,) = self.guard.screen([item], rendered=[rendered])
        decision = Decision(key, prompt, verdict)
        self.counters.observe(verdict, time.perf_counter() - start)
        with self._lock:
            self._decisions[key] = decision
            while len(self._decisions) > _REMEMBERED:
                self._decisions.popitem(last=False)
        return decision

    def record(self, request_id: str, decision: Decision, action: str) -> None:
        """Count what really happens to a request, and write its audit row."""
        self.counters.count(action.split(":")[0], self.settings.mode)
        if self.audit is None:
            return
        verdict = decision.verdict
        self.audit.append(
            AuditRow(
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
            )
        )


_RUNTIMES: dict[str, GuardRuntime] = {}
_RUNTIMES_LOCK = threading.Lock()


def open_runtime(settings: GuardSettings, tokenizer: Any, end_token: int) -> GuardRuntime:
    """Return the runtime of these settings, built at first use in this process."""
    key = settings.model_dump_json()
    with _RUNTIMES_LOCK:
        if key not in _RUNTIMES:
            _RUNTIMES[key] = GuardRuntime(settings, tokenizer, end_token)
        return _RUNTIMES[key]
