"""The output guard: follow one answer as it grows, and say how much of it may leave.

Plain words, of which no forget request knows any, leave as they come. From the first other word on, text is held back
until it is judged: a window of characters, or, where the prompt armed the guard, up to the end of the sentence. A hit
ends the answer at the last border before it, so that nothing forbidden has left.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Sequence

from unlearn_guard.guard.screening import Guard
from unlearn_guard.guard.verdict import Verdict

HELD_CHARACTERS = 96
"""Longer than a name, or than the words in order that make a verbatim run."""
_SLACK_CHARACTERS = 16
_STEP_CHARACTERS = 72
_LOOK_BACK_CHARACTERS = 400
_LOOK_BACK_WORDS = 4
_WINDOW_CHARACTERS = 400
_LOOKED_AT = 0.5
"""What a window that was looked at, and is clean, still weighs."""
_SENTENCE_END = re.compile(r"[.!?。！？][\"'”’)\]]*\s|\n")


class AnswerWatch:
    """Judge one growing answer; `safe` characters of it may leave."""

    def __init__(self, guard: Guard, given: Sequence[str], verdict: Verdict, *, streams: bool = True) -> None:
        """Watch the answer to `given` texts, which were screened with `verdict`.

        `streams`: whether anything leaves before the end; else the answer is judged once, when it is finished.
        """
        self._guard, self._given, self._verdict = guard, list(given), verdict
        self._streams = streams
        self._armed = bool(guard.find_suspects(verdict)) or bool(verdict.errors)
        self._plain = 0
        """So far the text is plain words."""
        self._judged = 0
        self._tainted = False
        self._glances: deque[tuple[int, float]] = deque()
        """(border, weight) of what was let pass in the last window."""
        self._sum = 0.0
        self._is_looked_at = False
        """Whether some of the text that left weighed something, and was looked at."""
        self.safe = 0
        self.hit: Verdict | None = None

    def update(self, text: str, *, finished: bool = False) -> Verdict | None:
        """Judge what is new; return the verdict that ends the answer, None while it is harmless."""
        if self.hit is not None or not text or not (finished or self._streams):
            return self.hit
        # What leaves only when it is finished can be read whole, in every view.
        if not self._armed and self._streams and self._passes(text, finished=finished):
            return None
        if not finished and len(text) - self._judged < _STEP_CHARACTERS:
            return None
        # A fact may be told over several sentences to who asked for it; anything else is a matter of one window.
        start = 0 if self._armed else _find_sentence(text, max(0, self._judged - _LOOK_BACK_CHARACTERS))
        # The last word may go on: "Bo Lin" is not yet "Bo Linder".
        end = len(text) if finished else max(text.rfind(" "), text.rfind("\n")) + 1
        verdict = self._judge(text[start:end])
        self._judged = len(text)
        if verdict.flagged or verdict.errors:
            self.hit = verdict
            self.safe = max(self.safe, self._find_cut(text, start, verdict))
            return verdict
        if finished:
            self.safe = len(text)
        elif self._armed:
            self.safe = max(self.safe, _find_border(text[:end]))
        else:
            held = max(HELD_CHARACTERS, self._guard.classifier.longest_name + _SLACK_CHARACTERS)
            self.safe = max(self.safe, min(end, len(text) - held))
            if self.safe > self._plain + held:
                self._plain, self._tainted = self.safe, False
        return None

    def _judge(self, text: str) -> Verdict:
        try:
            return self._guard.judge_answer(self._given, text, self._verdict)
        except Exception as error:  # The policy says what an answer that cannot be judged is worth.
            blocks = self._guard.policy.on_error == "block"
            return Verdict(blocks, (), 0.0, 1.0, "error", (), (f"{type(error).__name__}: {error}",) if blocks else ())

    def _glance(self, text: str, before: str) -> float:
        try:
            return self._guard.classifier.glance(text, before)
        except Exception:  # Whether it can be judged at all is found out by judging it.
            return 1.0

    def _is_plain(self, text: str) -> bool:
        """Return whether what many small weights make suspicious is plainly clean, window by window."""
        start = _find_sentence(text, max(0, len(text) - _WINDOW_CHARACTERS))
        try:
            return not math.isinf(self._sum) and self._guard.classifier.is_plain(text[start:])
        except Exception:  # Whether it can be judged at all is found out by judging it.
            return False

    def _find_cut(self, text: str, start: int, verdict: Verdict) -> int:
        """Return where a hit's answer ends: before the sentence of its first span, if what comes before is harmless."""
        first = min((begin for _, begin, _ in verdict.spans), default=None)
        if first is None:  # The evidence lies in what was not yet judged harmless.
            return 0
        cut = _find_sentence(text, start + first)
        before = text[start:cut]
        return cut if not before.strip() or not self._judge(before).flagged else 0

    def _passes(self, text: str, *, finished: bool) -> bool:
        """Return whether all that is new is plain words, which may leave unjudged."""
        if self._tainted:
            return False
        border = len(text) if finished else max(text.rfind(" "), text.rfind("\n")) + 1
        if border <= self._plain and not finished:
            return True
        if border > self._plain:
            start = self._plain
            for _ in range(_LOOK_BACK_WORDS):
                start = text.rfind(" ", 0, max(0, start - 1)) + 1
            weight = self._glance(text[self._plain : border], text[start : self._plain])
            self._glances.append((border, weight))
            self._sum += weight
            while self._glances[0][0] < border - _WINDOW_CHARACTERS:
                self._sum -= self._glances.popleft()[1]
            if self._sum >= 1.0 or (finished and self._is_looked_at):
                if not self._is_plain(text[:border]):
                    self._sum = 0.0
                    self._tainted = True
                    self._glances.clear()
                    return False
                self._is_looked_at = True
                self._glances = deque([(border, _LOOKED_AT)])
                self._sum = _LOOKED_AT
        # What the first stage did not clear in the prompt is read together with the answer.
        if finished and self._verdict.stage != "lexical":
            return False
        self._plain = self.safe = max(self.safe, border)
        return True


def _find_border(text: str) -> int:
    """Return where the last whole sentence ends."""
    return max((match.end() for match in _SENTENCE_END.finditer(text)), default=0)


def _find_sentence(text: str, place: int) -> int:
    """Return the begin of the sentence that holds a place."""
    return max((match.end() for match in _SENTENCE_END.finditer(text, 0, place)), default=0)
