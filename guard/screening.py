"""The guard: screen requests, and their answers, with a classifier and a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from unlearn_guard.guard.bundle import Bundle
from unlearn_guard.guard.conversation import Conversation, Item, Message, Unit, make_units, read_messages
from unlearn_guard.guard.policy import Policy
from unlearn_guard.guard.protocols import PromptClassifier
from unlearn_guard.guard.verdict import Span, TextScore, Verdict

RENDERED = -1
"""The message number of spans that point into the prompt as the model sees it."""


class Guard:
    """Decide which requests query a forget set, and which answers give it away."""

    def __init__(self, classifier: PromptClassifier, policy: Policy, bundle: Bundle | None = None) -> None:
        self.classifier = classifier
        self.policy = policy.with_alpha(classifier.alpha, classifier.smallest_p)
        self.bundle = bundle

    @classmethod
    def load(cls, path: str | Path, *, policy: Policy | None = None, device: str = "cpu") -> Guard:
        """Open and verify a bundle and return its guard; `device` is where encoder and index run (cpu or cuda).

        Raises BundleError (and its kin) for a bundle that cannot be used.
        """
        from unlearn_guard.guard.compose import load_guard

        return load_guard(path, policy=policy or Policy(), device=device)

    def screen(self, items: Sequence[Item], *, rendered: Sequence[str | None] | None = None) -> list[Verdict]:
        """Return one verdict per item, each a string or a conversation (list of {"role", "content"}).

        `rendered` gives, per item, the whole prompt as the model sees it; it is matched lexically, so that a
        name in a tool description or a template is noticed too, and its spans carry the message number
        RENDERED. Raises TypeError for a bare string or a bare conversation.
        """
        if isinstance(items, (str, bytes, Mapping)) or (
            not isinstance(items, Sequence) or any(isinstance(item, Mapping) for item in items)
        ):
            raise TypeError(
                f"items must be a sequence of strings or conversations, not {_name_type(items)}; "
                "wrap a single one in a list"
            )
        whole = rendered if rendered is not None else [None] * len(items)
        return [self._screen_one(item, text) for item, text in zip(items, whole, strict=True)]

    def screen_answer(self, item: Item, answer: str, *, verdict: Verdict | None = None) -> Verdict:
        """Return the verdict on an answer given to an item; `verdict` is the item's own, where it is known already.

        The item's score arms: for the forget requests it is suspected of, a fact told in any words counts. What the
        item itself supplied counts only under `context_policy="redact"`.
        """
        try:
            if verdict is None:
                verdict = self._screen_one(item, None)
            given = [message.text for message in read_messages(item)]
            return self.judge_answer(given, answer, verdict)
        except Exception as error:
            return self._fail(error)

    def judge_answer(self, given: Sequence[str], answer: str, verdict: Verdict) -> Verdict:
        """Return the verdict on an answer to texts that were screened with `verdict`."""
        score = self.classifier.score_answer(
            given,
            answer,
            owners=self.find_suspects(verdict),
            flagged=verdict.flagged,
            allow=self.policy.context_policy == "allow",
        )
        p_value = self.classifier.answer_p_value(score.score)
        flagged = p_value <= max(self._alpha, self.classifier.smallest_answer_p)
        spans = tuple((0, start, end) for start, end in score.spans) if flagged else ()
        ids = score.forget_ids if flagged else ()
        return Verdict(flagged, ids, score.score, p_value, "answer", spans)

    def find_suspects(self, verdict: Verdict) -> tuple[str, ...]:
        """Return the forget requests that a prompt arms the output guard for."""
        if verdict.flagged:
            return verdict.forget_ids
        return verdict.suspects if verdict.p_value <= self.policy.arm_p_value else ()

    def find_threshold(self) -> float:
        """Return the lowest score that is flagged."""
        return self.classifier.find_threshold(self._alpha)

    @property
    def _alpha(self) -> float:
        assert self.policy.alpha is not None
        return self.policy.alpha

    def _screen_one(self, item: Item, rendered: str | None) -> Verdict:
        try:
            return self._decide(read_messages(item), rendered)
        except Exception as error:
            return self._fail(error)

    def _fail(self, error: Exception) -> Verdict:
        # Whatever goes wrong inside screening becomes a verdict, because the policy, not an exception in some
        # library, says whether such a request passes.
        flagged = self.policy.on_error == "block"
        return Verdict(flagged, (), 0.0, 1.0, "error", (), (f"{type(error).__name__}: {error}",))

    def _decide(self, messages: list[Message], rendered: str | None) -> Verdict:
        units = make_units(messages)
        try:
            scores = self.classifier.score([unit.text for unit in units], max_windows=self.policy.max_windows)
        except Exception:
            # Names cost no encoder: whatever failed, who is named is named.
            if (named := self._match(units, rendered)) is not None:
                return named
            raise
        places: list[Unit | None] = [*units]
        if rendered is not None:
            scores = [*scores, *self.classifier.match([rendered])]
            places.append(None)
        return self._fuse(scores, places)

    def _match(self, units: list[Unit], rendered: str | None) -> Verdict | None:
        """Return the verdict of names alone where they flag: it costs no encoder, and holds for text of any length."""
        texts = [*(unit.text for unit in units), *([rendered] if rendered is not None else [])]
        places: list[Unit | None] = [*units, None]
        verdict = self._fuse(self.classifier.match(texts), places[: len(texts)])
        return verdict if verdict.flagged else None

    def _fuse(self, scores: Sequence[TextScore], places: Sequence[Unit | None]) -> Verdict:
        if not scores:
            return Verdict(False, (), 0.0, 1.0, "fused")
        best = max(range(len(scores)), key=lambda number: scores[number].score)
        p_value = self.classifier.p_value(scores[best].score)
        flagged = p_value <= self._alpha
        spans: list[Span] = []
        forget_ids: list[str] = []
        for score, unit in zip(scores, places, strict=True):
            if flagged and self.classifier.p_value(score.score) <= self._alpha:
                forget_ids.extend(score.forget_ids)
                spans.extend(_locate(unit, start, end) for start, end in score.spans)
        window = scores[best].windows[0] if scores[best].windows else None
        return Verdict(
            flagged=flagged,
            forget_ids=tuple(dict.fromkeys((*scores[best].forget_ids, *forget_ids))) if flagged else (),
            score=scores[best].score,
            p_value=p_value,
            stage=scores[best].stage,
            spans=tuple(dict.fromkeys(spans)),
            suspects=scores[best].forget_ids,
            fired=_locate(places[best], window.start, window.end) if window else None,
        )


def _locate(unit: Unit | None, start: int, end: int) -> Span:
    return (RENDERED, start, end) if unit is None else unit.locate(start, end)


def _name_type(items: object) -> str:
    if isinstance(items, (str, bytes)):
        return "a bare string"
    if isinstance(items, Sequence):
        return "a bare conversation"
    return type(items).__name__


__all__ = ["RENDERED", "Conversation", "Guard", "Item"]
