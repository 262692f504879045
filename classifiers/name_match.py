"""The baseline that every detector must beat: aliases as plain words in normalised text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unlearn_guard.classifiers.aliases import AliasMatcher
from unlearn_guard.guard.verdict import TextScore

_CLEAN = TextScore(0.0, "alias")


class NameMatch:
    """Flag a text iff it holds an alias. Nothing is calibrated: p-values are 0 and 1, not probabilities."""

    def __init__(self, aliases: Mapping[str, Sequence[str]], alpha: float) -> None:
        self.alpha = alpha
        self.smallest_p = 0.0
        self._matcher = AliasMatcher(aliases)

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

    def find_threshold(self, alpha: float) -> float:
        """Return 1: a match."""
        return 1.0

    def find_neighbours(self, text: str, n: int) -> list[tuple[int, str, float]]:
        """Return nothing: there is no index."""
        return []

    def glance(self, text: str, before: str = "") -> float:
        """Return 1 for every text: an automaton costs no more than a glance."""
        return 1.0

    def _score_one(self, text: str) -> TextScore:
        matches = self._matcher.find(text)
        if not matches:
            return _CLEAN
        forget_ids = dict.fromkeys(forget_id for match in matches for forget_id in match.forget_ids)
        return TextScore(1.0, "alias", tuple(forget_ids), tuple((match.start, match.end) for match in matches))
