"""Screening, with a classifier that knows three words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from unlearn_guard.guard.errors import ScreeningError
from unlearn_guard.guard.policy import Policy
from unlearn_guard.guard.protocols import PromptClassifier
from unlearn_guard.guard.screening import RENDERED, Guard
from unlearn_guard.guard.verdict import TextScore, Verdict, Window

WORTH = {"bo": (9.0, "p1"), "li": (7.0, "p2"), "maybe": (2.0, "p3")}
WINDOW = 20


class ThreeWords:
    """Scores a text by its worst known word; windows of 20 characters."""

    alpha = 0.01
    smallest_p = smallest_answer_p = 0.001
    longest_name = 2

    def __init__(self) -> None:
        self.scored: list[str] = []
        self.answered: list[dict[str, Any]] = []

    def score(self, texts: Sequence[str], *, max_windows: int | None = None) -> list[TextScore]:
        self.scored.extend(texts)
        n_windows = sum(-(-len(text) // WINDOW) for text in texts)
        if max_windows is not None and n_windows > max_windows:
            raise ScreeningError("too many windows", value=n_windows, allowed=f"at most {max_windows}")
        return [self._score(text, "head") for text in texts]

    def match(self, texts: Sequence[str]) -> list[TextScore]:
        return [self._score(text, "alias") for text in texts]

    def p_value(self, score: float) -> float:
        return 0.001 if score >= 8 else 0.01 if score >= 5 else 0.5

    def score_answer(self, given: Sequence[str], answer: str, **options: Any) -> TextScore:
        self.answered.append({"given": list(given), "answer": answer, **options})
        return self._score(answer, "answer")

    def answer_p_value(self, score: float) -> float:
        return 0.002 if score >= 8 else 0.02 if score >= 5 else 0.6

    def is_plain(self, text: str) -> bool:
        return False

    def glance(self, text: str, before: str = "") -> float:
        return float(bool(WORTH.keys() & set(text.split())))

    def find_threshold(self, alpha: float) -> float:
        return 5.0 if alpha >= 0.01 else 8.0

    def find_neighbours(self, text: str, n: int) -> list[tuple[int, str, float]]:
        return []

    def _score(self, text: str, stage: Any) -> TextScore:
        if "boom" in text:
            raise RuntimeError("the classifier broke")
        found = [match for match in re.finditer(r"\w+", text) if match.group() in WORTH]
        worst = max((WORTH[match.group()] for match in found), default=(0.0, ""))
        spans = tuple(match.span() for match in found if WORTH[match.group()] == worst)
        return TextScore(worst[0], stage, (worst[1],) if found else (), spans)


@pytest.fixture
def guard() -> Guard:
    return Guard(ThreeWords(), Policy())


def user(text: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def test_fake_keeps_the_protocol() -> None:
    assert isinstance(ThreeWords(), PromptClassifier)


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ("who is bo?", "a bare string"),
        (user("who is bo?"), "a bare conversation"),
        (tuple(user("who is bo?")), "a bare conversation"),
        ({"role": "user", "content": "x"}, "dict"),
        (b"who", "a bare string"),
        ((text for text in ["a"]), "generator"),
        (None, "NoneType"),
    ],
)
def test_items_that_are_no_list_of_requests_are_a_type_error(guard: Guard, items: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        guard.screen(items)


def test_strings_and_conversations_mix_and_keep_their_order(guard: Guard) -> None:
    verdicts = guard.screen(["who is bo?", user("hello"), user("who is li?"), ""])
    assert [verdict.forget_ids for verdict in verdicts] == [("p1",), (), ("p2",), ()]
    assert [verdict.flagged for verdict in verdicts] == [True, False, True, False]
    assert guard.screen([]) == []


def test_verdict_says_score_p_value_stage_and_spans(guard: Guard) -> None:
    (verdict,) = guard.screen(["who is bo?"])
    assert verdict == Verdict(True, ("p1",), 9.0, 0.001, "head", ((0, 7, 9),), suspects=("p1",))


def test_score_below_the_line_names_suspects_alone(guard: Guard) -> None:
    (verdict,) = guard.screen(["maybe him?"])
    assert verdict == Verdict(False, (), 2.0, 0.5, "head", suspects=("p3",))


def test_flag_is_set_where_p_value_equals_alpha(guard: Guard) -> None:
    (verdict,) = guard.screen(["who is li?"])
    assert (verdict.p_value, verdict.flagged) == (guard.policy.alpha, True)


def test_operators_alpha_wins_over_the_classifiers() -> None:
    strict, loose = (Guard(ThreeWords(), Policy(alpha=alpha)) for alpha in (0.005, 0.6))
    assert not strict.screen(["who is li?"])[0].flagged
    assert loose.screen(["maybe him?"])[0].flagged


@pytest.mark.parametrize(("alpha", "threshold"), [(None, 5.0), (0.005, 8.0)])
def test_threshold_is_that_of_the_alpha_in_force(alpha: float | None, threshold: float) -> None:
    assert Guard(ThreeWords(), Policy(alpha=alpha)).find_threshold() == threshold


def test_alpha_below_every_p_value_still_flags_the_worst() -> None:
    guard = Guard(ThreeWords(), Policy(alpha=1e-9))
    assert [verdict.flagged for verdict in guard.screen(["who is bo?", "who is li?"])] == [True, False]


def test_message_numbers_and_offsets_point_into_what_was_sent(guard: Guard) -> None:
    conversation = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "bo"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "x" * 25 + " bo here"},
    ]
    (verdict,) = guard.screen([conversation])
    assert verdict.spans == ((1, 0, 2), (3, 26, 28))
    assert [conversation[number]["content"][start:end] for number, start, end in verdict.spans] == ["bo", "bo"]


def test_worst_message_decides(guard: Guard) -> None:
    (verdict,) = guard.screen([[*user("maybe"), *user("li"), *user("bo"), *user("nothing")]])
    assert (verdict.score, verdict.p_value) == (9.0, 0.001)
    assert verdict.forget_ids == ("p1", "p2")
    assert verdict.spans == ((1, 0, 2), (2, 0, 2))


def test_messages_below_the_line_add_no_spans(guard: Guard) -> None:
    (verdict,) = guard.screen([[*user("maybe"), *user("bo")]])
    assert (verdict.forget_ids, verdict.spans) == (("p1",), ((1, 0, 2),))


def test_window_that_decided_is_found_in_its_message() -> None:
    class Windowed(ThreeWords):
        def _score(self, text: str, stage: Any) -> TextScore:
            start = max(0, text.find("bo"))
            window = Window(start, start + 2, "plain", 1.0, "head", ("p1",), {}, "bo")
            return TextScore(9.0 if "bo" in text else 0.0, stage, ("p1",), windows=(window,))

    conversation = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "and bo?"}]
    (verdict,) = Guard(Windowed(), Policy()).screen([conversation])
    assert (verdict.fired, verdict.spans) == ((1, 4, 6), ())


def test_what_only_two_messages_say_together_is_screened() -> None:
    class Split(ThreeWords):
        def _score(self, text: str, stage: Any) -> TextScore:
            match = re.search(r"who\s+is", text)
            return TextScore(9.0, stage, ("p1",), (match.span(),)) if match else TextScore(0.0, stage)

    (verdict,) = Guard(Split(), Policy()).screen([[*user("and who"), *user("is it?")]])
    assert (verdict.flagged, verdict.spans) == (True, ((0, 4, 7),))


def test_every_role_is_screened(guard: Guard) -> None:
    for role in ("system", "user", "assistant", "tool", "developer"):
        assert guard.screen([[{"role": role, "content": "bo"}]])[0].flagged, role


def test_rendered_prompt_is_matched_and_its_spans_are_told_apart(guard: Guard) -> None:
    (verdict,) = guard.screen([user("who?")], rendered=["<tool about bo> who?"])
    assert verdict == Verdict(True, ("p1",), 9.0, 0.001, "alias", ((RENDERED, 12, 14),), suspects=("p1",))


def test_rendered_prompt_is_not_encoded(guard: Guard) -> None:
    guard.screen([user("who?")], rendered=["<s> who? " + "x" * 200])
    assert guard.classifier.scored == ["who?"]  # type: ignore[attr-defined]


def test_classifiers_own_scores_are_not_changed() -> None:
    class Frozen(ThreeWords):
        def score(self, texts: Sequence[str], **options: Any) -> Any:
            return tuple(super().score(texts, **options))

    (verdict,) = Guard(Frozen(), Policy()).screen([user("who?")], rendered=["<tool about bo> who?"])
    assert (verdict.flagged, verdict.errors) == (True, ())


def test_rendered_prompt_belongs_to_its_own_item(guard: Guard) -> None:
    verdicts = guard.screen(["a", "b"], rendered=[None, "bo"])
    assert [verdict.flagged for verdict in verdicts] == [False, True]
    with pytest.raises(ValueError, match="zip"):
        guard.screen(["a", "b"], rendered=["bo"])


def test_blank_messages_cost_nothing(guard: Guard) -> None:
    (verdict,) = guard.screen([[{"role": "user", "content": " \n"}, {"role": "user"}]])
    assert (verdict.flagged, verdict.errors) == (False, ())
    assert guard.classifier.scored == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(("on_error", "flagged"), [("block", True), ("pass", False)])
@pytest.mark.parametrize(
    ("item", "says"),
    [
        ("boom", "RuntimeError: the classifier broke"),
        ("x" * (3 * WINDOW + 1), "ScreeningError: too many windows: 4 — allowed: at most 3"),
        (user([{"type": "image_url", "image_url": {"url": "x"}}]), "content part cannot be screened: 'image_url'"),
        (user([{"type": "text", "text": "a"}, {"type": "input_audio"}]), "cannot be screened: 'input_audio'"),
        (user([3]), "content part cannot be screened: 'int'"),
        (user(3), "message content cannot be screened: 'int'"),
        (user({"text": "a"}), "message content cannot be screened: 'dict'"),
        (["who is bo?"], "message is not a mapping: 'str'"),
    ],
)
def test_failure_becomes_an_error_that_the_policy_decides(item: Any, says: str, on_error: Any, flagged: bool) -> None:
    guard = Guard(ThreeWords(), Policy(on_error=on_error, max_windows=3))
    failed, after = guard.screen([item, "bo"])
    assert (failed.flagged, failed.stage, failed.spans, failed.forget_ids) == (flagged, "error", (), ())
    assert len(failed.errors) == 1
    assert says in failed.errors[0]
    assert after.flagged
    assert after.errors == ()


def test_windows_of_all_messages_count_together() -> None:
    guard = Guard(ThreeWords(), Policy(max_windows=3))  # Two messages, and both joined.
    messages = user("a") * 3
    assert guard.screen([messages[:2]])[0].errors == ()
    assert "at most 3" in guard.screen([messages])[0].errors[0]


@pytest.mark.parametrize("on_error", ["block", "pass"])
def test_names_flag_where_there_are_too_many_windows(on_error: Any) -> None:
    guard = Guard(ThreeWords(), Policy(on_error=on_error, max_windows=2))
    (verdict,) = guard.screen([user("x " * 100 + "bo")])
    assert verdict == Verdict(True, ("p1",), 9.0, 0.001, "alias", ((0, 200, 202),), suspects=("p1",))


def test_name_in_the_rendered_prompt_flags_where_there_are_too_many_windows() -> None:
    guard = Guard(ThreeWords(), Policy(on_error="pass", max_windows=2))
    (verdict,) = guard.screen([user("x " * 100)], rendered=["<tool about bo>"])
    assert (verdict.flagged, verdict.spans, verdict.errors) == (True, ((RENDERED, 12, 14),), ())


def test_suspicion_without_a_name_is_still_an_error_where_there_are_too_many_windows() -> None:
    guard = Guard(ThreeWords(), Policy(on_error="pass", max_windows=2))
    (verdict,) = guard.screen([user("x " * 100 + "maybe")])
    assert (verdict.flagged, verdict.stage) == (False, "error")


def test_parts_of_a_message_are_joined(guard: Guard) -> None:
    (verdict,) = guard.screen([user([{"type": "text", "text": "who is"}, "bo", {"type": "input_text", "text": "?"}])])
    assert verdict.flagged
    assert guard.classifier.scored == ["who is\nbo\n?"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("answer", "stage"), [("it is bo", "answer"), ("fine", "answer"), ("boom", "error")])
def test_answer_is_judged_by_its_own_text(guard: Guard, answer: str, stage: str) -> None:
    verdict = guard.screen_answer("who is li?", answer)
    assert verdict.stage == stage
    assert verdict.flagged == (answer != "fine")
    assert "p2" not in verdict.forget_ids
    assert bool(verdict.errors) == (stage == "error")


def test_answer_is_scored_beside_everything_that_was_given(guard: Guard) -> None:
    guard.screen_answer([*user("hello"), {"role": "tool", "content": "there"}], "it is bo")
    (asked,) = guard.classifier.answered  # type: ignore[attr-defined]
    assert (asked["given"], asked["answer"]) == (["hello", "there"], "it is bo")
    assert (asked["owners"], asked["flagged"], asked["allow"]) == ((), False, True)


def test_answer_spans_point_into_the_answer(guard: Guard) -> None:
    verdict = guard.screen_answer(user("hello"), "it is bo")
    assert verdict == Verdict(True, ("p1",), 9.0, 0.002, "answer", ((0, 6, 8),))


def test_answer_is_held_against_its_own_calibration(guard: Guard) -> None:
    assert not guard.screen_answer("hello", "it is li").flagged
    assert Guard(ThreeWords(), Policy(alpha=0.02)).screen_answer("hello", "it is li").flagged


def test_answer_below_the_line_names_nobody(guard: Guard) -> None:
    assert guard.screen_answer("hello", "maybe") == Verdict(False, (), 2.0, 0.6, "answer")


@pytest.mark.parametrize(
    ("question", "arm_p_value", "owners", "flagged"),
    [
        ("who is bo?", 0.05, ("p1",), True),
        ("maybe him?", 0.05, (), False),
        ("maybe him?", 0.5, ("p3",), False),
        ("hello", 1.0, (), False),
    ],
)
def test_prompt_arms_for_its_suspects(
    question: str, arm_p_value: float, owners: tuple[str, ...], flagged: bool
) -> None:
    guard = Guard(ThreeWords(), Policy(arm_p_value=arm_p_value))
    guard.screen_answer(question, "fine")
    (asked,) = guard.classifier.answered  # type: ignore[attr-defined]
    assert (asked["owners"], asked["flagged"]) == (owners, flagged)


@pytest.mark.parametrize(("context_policy", "allow"), [("allow", True), ("redact", False)])
def test_policy_says_whether_an_answer_may_repeat(context_policy: Any, allow: bool) -> None:
    guard = Guard(ThreeWords(), Policy(context_policy=context_policy))
    guard.screen_answer("hello", "fine")
    assert guard.classifier.answered[0]["allow"] is allow  # type: ignore[attr-defined]


def test_known_verdict_is_not_asked_for_again(guard: Guard) -> None:
    known = Verdict(False, (), 0.0, 0.04, "head", suspects=("p2",))
    guard.screen_answer("who is bo?", "fine", verdict=known)
    assert guard.classifier.scored == []  # type: ignore[attr-defined]
    assert guard.classifier.answered[0]["owners"] == ("p2",)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("on_error", "flagged"), [("block", True), ("pass", False)])
def test_item_that_cannot_be_read_fails_its_answer(on_error: Any, flagged: bool) -> None:
    guard = Guard(ThreeWords(), Policy(on_error=on_error))
    verdict = guard.screen_answer(user([{"type": "image_url"}]), "fine")
    assert (verdict.flagged, verdict.stage) == (flagged, "error")
