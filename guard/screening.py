"""The guard: screen requests with a classifier and a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unlearn_guard.guard.bundle import Bundle
from unlearn_guard.guard.errors import ScreeningError
from unlearn_guard.guard.policy import Policy
from unlearn_guard.guard.protocols import PromptClassifier
from unlearn_guard.guard.verdict import Span, TextScore, Verdict

RENDERED = -1
"""The message number of spans that point into the prompt as the model sees it."""

Conversation = Sequence[Mapping[str, Any]]
Item = str | Conversation


class Guard:
    """Decide which requests query a forget set."""

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

    def screen_answer(self, item: Item, answer: str) -> Verdict:
        """Return the verdict on an answer given to an item: the answer's own text is what is scored."""
        del item  # The answer decides; the prompt's score arms it once an output guard holds text back.
        verdict = self._screen_one(answer, None)
        return Verdict(
            flagged=verdict.flagged,
            forget_ids=verdict.forget_ids,
            score=verdict.score,
            p_value=verdict.p_value,
            stage="error" if verdict.errors else "answer",
            spans=verdict.spans,
            errors=verdict.errors,
        )

    def _screen_one(self, item: Item, rendered: str | None) -> Verdict:
        try:
            return self._decide(_read_messages(item), rendered)
        except Exception as error:
            # Whatever goes wrong inside screening becomes a verdict, because the policy, not an exception in some
            # library, says whether such a request passes.
            flagged = self.policy.on_error == "block"
            return Verdict(flagged, (), 0.0, 1.0, "error", (), (f"{type(error).__name__}: {error}",))

    def _decide(self, messages: list[str], rendered: str | None) -> Verdict:
        windows = [
            (number, start, end)
            for number, text in enumerate(messages)
            if text.strip()
            for start, end in self.classifier.split_windows(text)
        ]
        if len(windows) > self.policy.max_windows:
            if (named := self._match(messages, rendered)) is not None:
                return named
            raise ScreeningError(
                "request needs more windows than the policy allows",
                value=len(windows),
                allowed=f"at most {self.policy.max_windows}",
                mend="raise max_windows, or send less text",
            )
        scores = self.classifier.score([messages[number][start:end] for number, start, end in windows])
        places: list[tuple[int, int]] = [(number, start) for number, start, _ in windows]
        if rendered is not None:
            scores = [*scores, *self.classifier.match([rendered])]
            places.append((RENDERED, 0))
        return self._fuse(scores, places)

    def _match(self, messages: list[str], rendered: str | None) -> Verdict | None:
        """Return the verdict of names alone where they flag: it costs no encoder, and holds for text of any length."""
        texts = [*messages, *([rendered] if rendered is not None else [])]
        places = [(number, 0) for number in range(len(messages))] + [(RENDERED, 0)]
        verdict = self._fuse(self.classifier.match(texts), places[: len(texts)])
        return verdict if verdict.flagged else None

    def _fuse(self, scores: list[TextScore], places: list[tuple[int, int]]) -> Verdict:
        if not scores:
            return Verdict(False, (), 0.0, 1.0, "fused")
        best = max(range(len(scores)), key=lambda number: scores[number].score)
        p_value = self.classifier.p_value(scores[best].score)
        assert self.policy.alpha is not None
        flagged = p_value <= self.policy.alpha
        spans: list[Span] = []
        forget_ids: list[str] = []
        for score, (message, offset) in zip(scores, places, strict=True):
            if flagged and self.classifier.p_value(score.score) <= self.policy.alpha:
                forget_ids.extend(score.forget_ids)
                spans.extend((message, offset + start, offset + end) for start, end in score.spans)
        ids = scores[best].forget_ids if flagged else ()
        return Verdict(
            flagged=flagged,
            forget_ids=tuple(dict.fromkeys((*ids, *forget_ids))),
            score=scores[best].score,
            p_value=p_value,
            stage=scores[best].stage,
            spans=tuple(dict.fromkeys(spans)),
        )


def _read_messages(item: Item) -> list[str]:
    """Return the text of each message; content parts of a multi-part message are joined by newlines."""
    if isinstance(item, str):
        return [item]
    texts = []
    for message in item:
        if not isinstance(message, Mapping):
            raise ScreeningError("message is not a mapping", value=type(message).__name__, allowed="role and content")
        texts.append(_read_content(message.get("content")))
    return texts


def _read_content(content: object) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        parts = []
        for part in content:
            if isinstance(part, str):
                parts.append(part)
            elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
                parts.append(part["text"])
            else:
                kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
                raise ScreeningError("content part cannot be screened", value=kind, allowed="text")
        return "\n".join(parts)
    raise ScreeningError("message content cannot be screened", value=type(content).__name__, allowed="text")


def _name_type(items: object) -> str:
    if isinstance(items, (str, bytes)):
        return "a bare string"
    if isinstance(items, Sequence):
        return "a bare conversation"
    return type(items).__name__
