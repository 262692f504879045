"""Screening, with a classifier that knows two words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from unlearn_guard.guard.policy import Policy
from unlearn_guard.guard.protocols import PromptClassifier
from unlearn_guard.guard.screening import RENDERED, Guard
from unlearn_guard.guard.verdict import TextScore, Verdict

WORTH = {"bo": (9.0, "p1"), "li": (7.0, "p2"), "maybe": (2.0, "p3")}
WINDOW = 20


class TwoWords:
    """Scores a text by its worst known word; windows of 20 characters."""

    alpha = 0.01
    smallest_p = 0.001

    def __init__(self) -> None:
        self.scored: list[str] = []

    def score(self, texts: Sequence[str]) -> list[TextScore]:
        self.scored.extend(texts)
        return [self._score(text, "head") for text in texts]

    def match(self, texts: Sequence[str]) -> list[TextScore]:
        return [self._score(text, "alias") for text in texts]

    def p_value(self, score: float) -> float:
        return 0.001 if score >= 8 else 0.01 if score >= 5 else 0.5

    def split_windows(self, text: str) -> list[tuple[int, int]]:
        return [(start, min(start + WINDOW, len(text))) for start in range(0, len(text), WINDOW)]

    def _score(self, text: str, stage: Any) -> TextScore:
        if "boom" in text:
            raise RuntimeError("the classifier broke")
        found = [match for match in re.finditer(r"\w+", text) if match.group() in WORTH]
        score = max((WORTH[match.group()][0] for match in found), default=0.0)
        owners = tuple(dict.fromkeys(WORTH[match.group()][1] for match in found))
        return TextScore(score, stage, owners, tuple(match.span() for match in found))


@pytest.fixture
def guard() -> Guard:
    return Guard(TwoWords(), Policy())


def user(text: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def test_fake_keeps_the_protocol() -> None:
    assert isinstance(TwoWords(), PromptClassifier)


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
    assert verdict == Verdict(True, ("p1",), 9.0, 0.001, "head", ((0, 7, 9),))


def test_score_below_the_line_names_nobody(guard: Guard) -> None:
    (verdict,) = guard.screen(["maybe him?"])
    assert verdict == Verdict(False, (), 2.0, 0.5, "head")


def test_flag_is_set_where_p_value_equals_alpha(guard: Guard) -> None:
    (verdict,) = guard.screen(["who is li?"])
    assert (verdict.p_value, verdict.flagged) == (guard.policy.alpha, True)


def test_operators_alpha_wins_over_the_classifiers() -> None:
    strict, loose = (Guard(TwoWords(), Policy(alpha=alpha)) for alpha in (0.005, 0.6))
    assert not strict.screen(["who is li?"])[0].flagged
    assert loose.screen(["maybe him?"])[0].flagged


def test_alpha_below_every_p_value_still_flags_the_worst() -> None:
    guard = Guard(TwoWords(), Policy(alpha=1e-9))
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


def test_worst_window_decides(guard: Guard) -> None:
    text = "maybe".ljust(WINDOW) + "li".ljust(WINDOW) + "bo".ljust(WINDOW) + "nothing"
    (verdict,) = guard.screen([text])
    assert (verdict.score, verdict.p_value) == (9.0, 0.001)
    assert verdict.forget_ids == ("p1", "p2")
    assert verdict.spans == ((0, WINDOW, WINDOW + 2), (0, 2 * WINDOW, 2 * WINDOW + 2))


def test_windows_below_the_line_add_no_spans(guard: Guard) -> None:
    (verdict,) = guard.screen(["maybe".ljust(WINDOW) + "bo"])
    assert (verdict.forget_ids, verdict.spans) == (("p1",), ((0, WINDOW, WINDOW + 2),))


def test_every_role_is_screened(guard: Guard) -> None:
    for role in ("system", "user", "assistant", "tool", "developer"):
        assert guard.screen([[{"role": role, "content": "bo"}]])[0].flagged, role


def test_rendered_prompt_is_matched_and_its_spans_are_told_apart(guard: Guard) -> None:
    (verdict,) = guard.screen([user("who?")], rendered=["<tool about bo> who?"])
    assert verdict == Verdict(True, ("p1",), 9.0, 0.001, "alias", ((RENDERED, 12, 14),))


def test_rendered_prompt_is_not_encoded(guard: Guard) -> None:
    guard.screen([user("who?")], rendered=["<s> who? " + "x" * 200])
    assert guard.classifier.scored == ["who?"]  # type: ignore[attr-defined]


def test_classifiers_own_scores_are_not_changed() -> None:
    class Frozen(TwoWords):
        def score(self, texts: Sequence[str]) -> Any:
            return tuple(super().score(texts))

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
        ("x" * (3 * WINDOW + 1), "ScreeningError: request needs more windows than the policy allows: 4"),
        (user([{"type": "image_url", "image_url": {"url": "x"}}]), "content part cannot be screened: 'image_url'"),
        (user([{"type": "text", "text": "a"}, {"type": "input_audio"}]), "cannot be screened: 'input_audio'"),
        (user([3]), "content part cannot be screened: 'int'"),
        (user(3), "message content cannot be screened: 'int'"),
        (user({"text": "a"}), "message content cannot be screened: 'dict'"),
        (["who is bo?"], "message is not a mapping: 'str'"),
    ],
)
def test_failure_becomes_an_error_that_the_policy_decides(item: Any, says: str, on_error: Any, flagged: bool) -> None:
    guard = Guard(TwoWords(), Policy(on_error=on_error, max_windows=3))
    failed, after = guard.screen([item, "bo"])
    assert (failed.flagged, failed.stage, failed.spans, failed.forget_ids) == (flagged, "error", (), ())
    assert len(failed.errors) == 1
    assert says in failed.errors[0]
    assert after.flagged
    assert after.errors == ()


def test_windows_of_all_messages_count_together() -> None:
    guard = Guard(TwoWords(), Policy(max_windows=2))
    messages = [{"role": "user", "content": "a"}] * 3
    assert guard.screen([messages[:2]])[0].errors == ()
    assert "at most 2" in guard.screen([messages])[0].errors[0]


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
