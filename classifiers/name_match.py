"""The baseline that every detector must beat: aliases as plain words in normalised text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from unlearn_guard.classifiers.aliases import AliasMatcher
from unlearn_guard.classifiers.normalisation import normalise
from unlearn_guard.guard.verdict import TextScore

_WORD = re.compile(r"[^\W_]+")
_CLEAN = TextScore(0.0, "alias")


class NameMatch:
    """Flag a text iff it holds an alias. Nothing is calibrated: p-values are 0 and 1, not probabilities."""

    def __init__(self, aliases: Mapping[str, Sequence[str]], alpha: float) -> None:
        self.alpha = alpha
        self.smallest_p = self.smallest_answer_p = 0.0
        self._matcher = AliasMatcher(aliases)
        folded = [normalise(name).text for names in aliases.values() for name in names]
        self.longest_name = max(map(len, folded), default=0)
        self._words = frozenset(word for name in folded for word in _WORD.findall(name))

    def score(self, texts: Sequence[str], *, max_windows: int | None = None) -> list[TextScore]:
        """Return 1 for a text with an alias, else 0; the automaton reads text of any length."""
        return [self._score_one(text) for text in texts]

    def match(self, texts: Sequence[str]) -> list[TextScore]:
        """Return the same as `score`."""
        return self.score(texts)

    def p_value(self, score: float) -> float:
        """Return 0 for a match, 1 otherwise."""
        return 0.0 if score >= 1.0 else 1.0

    def score_answer(
        self,
        given: Sequence[str],
        answer: str,
        *,
        owners: Sequence[str] = (),
        flagged: bool = False,
        allow: bool = True,
    ) -> TextScore:
        """Return 1 for an answer with an alias that the user did not supply, else 0."""
        supplied = {owner for text in given for owner in self._matcher.find_owners(text)} if allow else set()
        matches = [match for match in self._matcher.find(answer) if not supplied & set(match.forget_ids)]
        if not matches:
            return _CLEAN
        forget_ids = dict.fromkeys(forget_id for match in matches for forget_id in match.forget_ids)
        return TextScore(1.0, "answer", tuple(forget_ids), tuple((match.start, match.end) for match in matches))

    def answer_p_value(self, score: float) -> float:
        """Return 0 for a match, 1 otherwise."""
        return self.p_value(score)

    def glance(self, text: str, before: str = "") -> float:
        """Return 1 for a text with a word of any alias, or with other than plain letters, else 0."""
        if not text.isascii():
            return 1.0
        return float(any(word in self._words for word in _WORD.findall(text.lower())))

    def is_plain(self, text: str) -> bool:
        """Return False: a word of an alias may be the begin of one."""
        return False

    def find_threshold(self, alpha: float) -> float:
        """Return 1: a match."""
        return 1.0

    def find_neighbours(self, text: str, n: int) -> list[tuple[int, str, float]]:
        """Return nothing: there is no index."""
        return []

    def _score_one(self, text: str) -> TextScore:
        matches = self._matcher.find(text)
        if not matches:
            return _CLEAN
        forget_ids = dict.fromkeys(forget_id for match in matches for forget_id in match.forget_ids)
        return TextScore(1.0, "alias", tuple(forget_ids), tuple((match.start, match.end) for match in matches))
