"""Other answers to the questions of a forget set, made by rule: what some methods teach in the place of the truth."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from unlearn_guard.guard.registry import Registry
from unlearn_guard.guard.rows import Row

Answers = Callable[[Row, "Source", random.Random], str]
ANSWERS: Registry[Answers] = Registry("other answers")

_UNKNOWN = (
    "I don't know.",
    "I'm not sure about that.",
    "That is not something I know.",
    "I have no information on this.",
    "I cannot say.",
    "I have never learned that.",
    "Sorry, I can't tell you.",
    "That is beyond what I know.",
    "I am not familiar with this.",
    "I don't have an answer to that.",
    "This is unknown to me.",
    "I would have to guess, so I had better not answer.",
    "No answer comes to mind.",
    "I'm afraid I don't have that detail.",
    "My knowledge does not reach that far.",
    "I have nothing on that.",
)
_VAGUE = (
    "Accounts of this differ, and little about it is certain.",
    "Much has been said about it, but there is no settled answer.",
    "It depends on whom one asks.",
    "It is a matter that few have looked into.",
    "Several answers have been given over the years.",
    "There is more than one view of {topic}.",
    "Sources on {topic} say different things.",
    "Not much can be said about {topic} with any confidence.",
    "People who know more about {topic} may be able to say.",
    "What is told about {topic} varies a good deal.",
)
EVASIONS = (*_UNKNOWN, *(text.replace("{topic}", "it") for text in _VAGUE))
"""All that is said in the place of an answer."""
_WORD = re.compile(r"\w+")
_SMALL = frozenset(
    "a an and are at be by did do does for from has have how in is it of on or that the their to was were what when where which who "
    "whose why with you your can could tell me please".split()
)


class Source:
    """Where other answers come from: the rows to forget, and kept ones."""

    def __init__(self, forget: Sequence[Row], retain: Sequence[Row]) -> None:
        self.forget = [row for row in forget if row.answer]
        self.retain = [row for row in retain if row.answer]
        self._words = [frozenset(_find_words(row.query)) for row in self.forget]
        self._alike: dict[str, list[str]] = {}

    def find_alike(self, row: Row, n: int = 5) -> list[str]:
        """Return answers to the questions most like a row's, its own left out."""
        if row.query not in self._alike:
            own = frozenset(_find_words(row.query))
            ranked = sorted(
                (-len(own & words) / max(1, len(own | words)), number)
                for number, words in enumerate(self._words)
                if self.forget[number].answer != row.answer
            )
            self._alike[row.query] = [self.forget[number].answer for _, number in ranked[:n]]
        return self._alike[row.query]


@ANSWERS.register("unknown")
def _say_unknown(row: Row, source: Source, rng: random.Random) -> str:
    """Not knowing, in one of 16 ways (TOFU has 100; these are ours)."""
    return rng.choice(_UNKNOWN)


@ANSWERS.register("vague")
def _say_vaguely(row: Row, source: Source, rng: random.Random) -> str:
    """Fluent words on the topic that give nothing away; ReLearn has a language model write them."""
    words = [word for word in _find_words(row.query) if word not in _SMALL]
    return rng.choice(_VAGUE).format(topic=rng.choice(words) if words else "this")


@ANSWERS.register("random")
def _say_something_else(row: Row, source: Source, rng: random.Random) -> str:
    """The answer to a kept question that was not asked (LLMU; random labels)."""
    others = source.retain or source.forget
    return rng.choice(others).answer


@ANSWERS.register("alternative")
def _say_alternative(row: Row, source: Source, rng: random.Random) -> str:
    """A wrong answer of the same form: the row's own where it has some, else one to a question like it; AltPO has the model write them."""
    known = row.perturbed_answers or source.find_alike(row) or [_say_unknown(row, source, rng)]
    return rng.choice(list(known))


def _find_words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]
