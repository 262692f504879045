"""The output guard: whatever the chunks of a stream, nothing forbidden is ever let go."""

from __future__ import annotations

import base64
import codecs
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearn_guard.classifiers.name_match import NameMatch
from unlearn_guard.guard.policy import ContextPolicy, Policy
from unlearn_guard.guard.screening import Guard
from unlearn_guard.guard.verdict import TextScore, Verdict
from unlearn_guard.guard.watching import HELD_CHARACTERS, AnswerWatch

SECRET = "violet ledger"
FACT = {"copper", "heron", "quay"}
CLEAN = Verdict(False, (), 0.0, 1.0, "lexical")
ASKED = Verdict(True, ("p1",), 1.0, 0.0, "alias")
NAME = "Mirela Vantongeren"


class Classifier:
    """Knows a phrase, whose place it can tell, and a fact of three words, whose place it cannot."""

    alpha, smallest_p, smallest_answer_p = 0.05, 0.0, 0.0
    longest_name = len(SECRET)

    def __init__(self) -> None:
        self.judged: list[str] = []

    def score(self, texts: Sequence[str], *, max_windows: int | None = None) -> list[TextScore]:
        return [TextScore(float(SECRET in text), "alias") for text in texts]

    def match(self, texts: Sequence[str]) -> list[TextScore]:
        return self.score(texts)

    def p_value(self, score: float) -> float:
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
        self.judged.append(answer)
        spans = tuple((match.start(), match.end()) for match in re.finditer(rf"\b{SECRET}\b", answer))
        told = bool(owners) and set(re.findall(r"\w+", answer)) >= FACT
        return TextScore(float(told or bool(spans)), "answer", tuple(owners), spans)

    def answer_p_value(self, score: float) -> float:
        return self.p_value(score)

    def is_plain(self, text: str) -> bool:
        return False

    def glance(self, text: str, before: str = "") -> float:
        words = set(re.findall(r"\w+", text))
        return math.inf if words & set(SECRET.split()) else 0.4 * len(words & FACT)

    def find_threshold(self, alpha: float) -> float:
        return 1.0

    def find_neighbours(self, text: str, n: int) -> list[tuple[int, str, float]]:
        return []


def make_guard() -> Guard:
    return Guard(Classifier(), Policy())


def name_guard(name: str = NAME, context_policy: ContextPolicy = "allow") -> Guard:
    return Guard(NameMatch({"p1": [name]}, 0.01), Policy(context_policy=context_policy))


def stream(watch: AnswerWatch, text: str, sizes: Sequence[int] = (1,)) -> list[int]:
    """Feed a text in pieces of these sizes, over and over; return how much was safe after each."""
    safe = [watch.safe]
    end = step = 0
    while end < len(text) and watch.hit is None:
        end = min(len(text), end + sizes[step % len(sizes)])
        step += 1
        watch.update(text[:end])
        assert safe[-1] <= watch.safe <= end
        safe.append(watch.safe)
    if watch.hit is None:
        watch.update(text, finished=True)
    return [*safe, watch.safe]


PLAIN = st.sampled_from(
    [
        "The rain fell on the harbour.",
        "Nobody said a word about it, which surprised the whole of the little town by the sea!",
        "A violet grew there.",
        "He kept a ledger, and in it the price of every fish that was sold between spring and autumn.",
        "Why?",
    ]
)
TELLING = st.sampled_from(
    [f"It is the {SECRET} of course.", f"So the {SECRET} was its name, and that of the old harbour too."]
)
SIZES = st.lists(st.integers(1, 90), min_size=1, max_size=5)
ANSWERS = st.tuples(
    st.lists(PLAIN, max_size=8), st.lists(TELLING, max_size=1), st.lists(st.one_of(PLAIN, TELLING), max_size=4)
)
Parts = tuple[list[str], list[str], list[str]]


def write(parts: Parts) -> str:
    return " ".join(sentence for part in parts for sentence in part)


@settings(deadline=None, max_examples=150)
@given(ANSWERS, SIZES, st.sampled_from([CLEAN, ASKED]))
def test_nothing_of_a_phrase_has_left_before_its_hit(parts: Parts, sizes: list[int], verdict: Verdict) -> None:
    text = write(parts)
    watch = AnswerWatch(make_guard(), ["Hello?"], verdict)
    safe = stream(watch, text, sizes)
    begin = text.find(SECRET)
    if begin >= 0:
        assert max(safe) <= begin


@settings(deadline=None, max_examples=150)
@given(ANSWERS, SIZES, st.sampled_from([CLEAN, ASKED]), st.booleans())
def test_chunks_do_not_change_whether_an_answer_is_ended(
    parts: Parts, sizes: list[int], verdict: Verdict, streams: bool
) -> None:
    text = write(parts)
    watch = AnswerWatch(make_guard(), ["Hello?"], verdict, streams=streams)
    stream(watch, text, sizes)
    assert (watch.hit is not None) == (SECRET in text)
    assert watch.hit is not None or watch.safe == len(text)


@settings(deadline=None, max_examples=100)
@given(st.lists(PLAIN, max_size=8), TELLING, st.lists(PLAIN, max_size=3), SIZES)
def test_armed_answer_ends_before_the_sentence_of_the_hit(
    before: list[str], telling: str, after: list[str], sizes: list[int]
) -> None:
    text = " ".join([*before, telling, *after])
    watch = AnswerWatch(make_guard(), ["Hello?"], ASKED)
    assert max(stream(watch, text, sizes)) <= len(" ".join([*before, ""]))
    assert watch.hit is not None


@settings(deadline=None, max_examples=60)
@given(st.lists(PLAIN, max_size=6), SIZES)
def test_name_is_found_however_it_is_cut(before: list[str], sizes: list[int]) -> None:
    text = " ".join([*before, f"Her name was {NAME}, and she sang."])
    watch = AnswerWatch(name_guard(), ["Who sang?"], CLEAN)
    safe = stream(watch, text, sizes)
    assert watch.hit is not None
    assert watch.hit.forget_ids == ("p1",)
    assert max(safe) <= text.index(NAME)


@pytest.mark.parametrize("padding", range(0, 60, 3))
def test_name_with_a_full_stop_is_found_across_the_places_of_judging(padding: int) -> None:
    text = "x" * padding + " rain fell on the harbour, as it does. Then came T. Lunde with the rope and the herring."
    watch = AnswerWatch(name_guard("T. Lunde"), ["Who came?"], CLEAN)
    assert max(stream(watch, text)) <= text.index("T. Lunde")
    assert watch.hit is not None


def test_plain_words_leave_as_they_come() -> None:
    text = "The rain fell on the harbour all day long"
    watch = AnswerWatch(make_guard(), ["Hello?"], CLEAN)
    for end in range(1, len(text) + 1):
        watch.update(text[:end])
        assert watch.safe == text.rfind(" ", 0, end) + 1
    assert not watch._guard.classifier.judged  # type: ignore[attr-defined]


def test_what_follows_a_telling_word_is_held_back() -> None:
    text = "A violet grew there. " + "The rain fell on the harbour. " * 3
    watch = AnswerWatch(make_guard(), ["Hello?"], CLEAN)
    assert max(stream(watch, text)[:-1]) <= max(len("A "), len(text) - HELD_CHARACTERS)
    assert watch.safe == len(text)


def test_plain_words_leave_again_after_what_was_judged_harmless() -> None:
    text = "A violet grew there. " + "The rain fell on the harbour. " * 20
    watch = AnswerWatch(make_guard(), ["Hello?"], CLEAN)
    for end in range(1, len(text) + 1):
        watch.update(text[:end])
    assert watch.safe == len(text)


def test_glances_of_neighbouring_words_add_up() -> None:
    near, far = (f"A heron {filler}stood on copper by the quay " for filler in ("", "waded and " * 60))
    for text, held in ((near, True), (far, False)):
        watch = AnswerWatch(make_guard(), ["Hello?"], CLEAN)
        stream(watch, text[: text.index("quay") + 5])
        assert bool(watch._guard.classifier.judged) is held  # type: ignore[attr-defined]


def test_armed_answer_leaves_by_whole_sentences() -> None:
    text = 'The rain fell. "Did it?" asked he.\nIt did indeed, for hours and hours, and then it stopped again. Good! '
    borders = {0, *(match.end() for match in re.finditer(r"[.!?]\"?\s", text))}
    safe = stream(AnswerWatch(make_guard(), ["Hello?"], ASKED), text * 3)
    assert set(safe) <= {start * len(text) + border for start in range(4) for border in borders}
    assert len(set(safe)) > 3


def test_fact_told_over_several_sentences_is_a_hit_for_who_asked() -> None:
    text = "It is made of copper. The rain fell for hours and hours and hours. There is a heron. Look at the quay. "
    watch = AnswerWatch(make_guard(), ["Hello?"], ASKED)
    stream(watch, text)
    assert watch.hit is not None
    assert not set(re.findall(r"\w+", text[: watch.safe])) >= FACT
    assert stream(AnswerWatch(make_guard(), ["Hello?"], CLEAN), text)[-1] == len(text)


def test_whole_answer_is_judged_at_its_end_where_nothing_streams() -> None:
    guard = make_guard()
    watch = AnswerWatch(guard, ["Hello?"], ASKED, streams=False)
    text = f"The rain fell. It is the {SECRET}. The rain fell. "
    assert set(stream(watch, text)[:-1]) == {0}
    assert watch.hit is not None
    assert text[: watch.safe] == "The rain fell. "
    assert guard.classifier.judged == [text, "The rain fell. "]  # type: ignore[attr-defined]


def test_prompt_that_was_not_cleared_is_read_together_with_its_answer() -> None:
    text = "The rain fell."
    for stage, n_judged in (("lexical", 0), ("fused", 1)):
        guard = make_guard()
        verdict = Verdict(False, (), 0.0, 1.0, stage)  # type: ignore[arg-type]
        AnswerWatch(guard, ["Hello?"], verdict).update(text, finished=True)
        assert len(guard.classifier.judged) == n_judged  # type: ignore[attr-defined]


def test_prompt_that_could_not_be_screened_arms() -> None:
    failed = Verdict(False, (), 0.0, 1.0, "error", (), ("RuntimeError: x",))
    watch = AnswerWatch(make_guard(), ["Hello?"], failed)
    watch.update("The rain fell on the harbour")
    assert watch.safe == 0


def test_answer_that_was_ended_stays_ended() -> None:
    watch = AnswerWatch(make_guard(), ["Hello?"], CLEAN)
    text = f"The rain fell. It is the {SECRET}. "
    stream(watch, text)
    hit, safe = watch.hit, watch.safe
    assert hit is not None
    assert watch.update(text + "The rain fell. " * 20, finished=True) is hit
    assert watch.safe == safe


def test_empty_answer_is_harmless() -> None:
    watch = AnswerWatch(make_guard(), ["Hello?"], ASKED)
    assert watch.update("", finished=True) is None
    assert watch.safe == 0


@pytest.mark.parametrize(
    "broken",
    [
        "score_answer",
        pytest.param(
            "glance",
            marks=pytest.mark.xfail(
                strict=True, reason="a glance that fails makes the text be judged, which is no error yet"
            ),
        ),
    ],
)
def test_error_of_the_classifier_ends_the_answer(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no memory")

    guard = make_guard()
    monkeypatch.setattr(guard.classifier, broken, fail)
    watch = AnswerWatch(guard, ["Hello?"], ASKED if broken == "score_answer" else CLEAN)
    hit = watch.update("The rain fell on the harbour. ", finished=True)
    assert hit is not None
    assert hit.errors
    assert watch.safe == 0


def test_error_of_the_classifier_lets_the_answer_go_where_the_policy_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no memory")

    guard = Guard(Classifier(), Policy(on_error="pass"))
    monkeypatch.setattr(guard.classifier, "score_answer", fail)
    watch = AnswerWatch(guard, ["Hello?"], ASKED)
    text = "The rain fell on the harbour. "
    assert watch.update(text, finished=True) is None
    assert watch.safe == len(text)


def test_verdict_with_an_error_ends_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = make_guard()
    error = Verdict(False, (), 0.0, 1.0, "error", (), ("RuntimeError: no memory",))
    monkeypatch.setattr(guard, "judge_answer", lambda *args: error)
    watch = AnswerWatch(guard, ["Hello?"], ASKED)
    assert watch.update("The rain fell on the harbour. ", finished=True) is error
    assert watch.safe == 0


@pytest.mark.parametrize(("context_policy", "kept"), [("allow", None), ("redact", "Gladly. ")])
def test_name_that_the_user_gave_may_be_repeated_only_under_allow(
    context_policy: ContextPolicy, kept: str | None
) -> None:
    guard = name_guard(context_policy=context_policy)
    prompt = f"Write to {NAME}."
    text = f"Gladly. Dear {NAME}, the rain fell on the harbour all day long and nobody said a word."
    watch = AnswerWatch(guard, [prompt], guard.screen([prompt])[0])
    stream(watch, text)
    assert (text[: watch.safe] if watch.hit else None) == kept


def test_name_of_somebody_else_is_no_matter_of_what_was_supplied() -> None:
    guard = Guard(NameMatch({"p1": [NAME], "p2": ["Bo Ostergard"]}, 0.01), Policy())
    prompt = f"Who taught {NAME}?"
    watch = AnswerWatch(guard, [prompt], guard.screen([prompt])[0])
    stream(watch, f"The teacher of {NAME} was Bo Ostergard.")
    assert watch.hit is not None
    assert watch.hit.forget_ids == ("p2",)


def test_beginning_of_a_longer_word_is_no_name() -> None:
    text = "The rain fell on the harbour, and nobody but Bo Linder said a word about it."
    watch = AnswerWatch(name_guard("Bo Lin"), ["Who spoke?"], CLEAN)
    watch.update(text[:10])
    watch.update(text[: text.index("der said")])
    watch.update(text, finished=True)
    assert watch.hit is None


@pytest.mark.parametrize("streams", [True, False])
def test_fact_before_the_name_does_not_leave(streams: bool) -> None:
    text = f"The heron is copper, by the quay. That is what the {SECRET} says."
    guard = make_guard()
    watch = AnswerWatch(guard, ["Hello?"], ASKED, streams=streams)
    watch.update(text, finished=True)
    assert watch.hit is not None
    assert not guard.judge_answer(["Hello?"], text[: watch.safe], ASKED).flagged


@pytest.mark.xfail(strict=True, reason="a fact that is no hit by itself leaves before the sentence of the name")
def test_fact_before_the_name_does_not_leave_a_fitted_guard(bundle: Path, world: Any) -> None:
    guard = Guard.load(bundle)
    items = world.sets["forget.given"]
    asked = next(item for item in items if not item.named)
    verdict = guard.screen([asked.question])[0]
    for item in items:
        if item.subject == asked.subject and item.named:
            text = f"The answer is {item.key}, of course. That is what {item.name} told us."
            watch = AnswerWatch(guard, [asked.question], verdict, streams=False)
            assert watch.update(text, finished=True) is not None
            assert item.key not in text[: watch.safe]


def test_long_title_does_not_begin_to_leave() -> None:
    title = (
        "Preliminary Considerations Concerning Atmospheric Phosphorescence above "
        "Uninhabited Northwestern Archipelagos during Wintertime"
    )
    text = f"The rain fell on the harbour, so they read {title} together by the fire."
    watch = AnswerWatch(name_guard(title), ["What did they read?"], CLEAN)
    assert max(stream(watch, text)) <= text.index(title)


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("how", ["rot13", "reversed", "leet", "base64", "spaced"])
def test_a_disguised_name_is_a_hit_of_the_watch_as_of_the_whole_answer(
    bundle: Path, world: Any, how: str, *, streams: bool
) -> None:
    name = world.sets["forget.given"][0].name
    spelt = {
        "rot13": codecs.encode(name, "rot13"),
        "reversed": name[::-1],
        "leet": name.replace("e", "3").replace("a", "@").replace("i", "!"),
        "base64": base64.b64encode(f"It was {name} who did it.".encode()).decode(),
        "spaced": " ".join(name),
    }[how]
    guard = Guard.load(bundle)
    given = "List common mistakes in bread baking."
    answer = f"It is a long story, and it begins like this: {spelt} went out in the rain."
    (verdict,) = guard.screen([given])
    assert guard.screen_answer(given, answer, verdict=verdict).flagged
    watch = AnswerWatch(guard, [given], verdict, streams=streams)
    safe = stream(watch, answer, [4])
    assert watch.hit is not None
    assert max(safe) <= answer.index(spelt) + (8 if how == "spaced" else 0)  # Letters that might be anything.


def test_what_does_not_stream_is_judged_whatever_a_look_at_its_words_says(
    bundle: Path, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look at single words spares streams a judgement; an answer that leaves at once needs no such saving."""
    guard = Guard.load(bundle)
    monkeypatch.setattr(guard.classifier, "glance", lambda text, before="": 0.0)
    given = "List common mistakes in bread baking."
    (verdict,) = guard.screen([given])
    watch = AnswerWatch(guard, [given], verdict, streams=False)
    watch.update(f"It was {world.sets['forget.given'][0].name} who did it.", finished=True)
    assert watch.hit is not None
