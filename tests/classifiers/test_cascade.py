"""The cascade, end to end on made-up people."""

from __future__ import annotations

import base64
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from unlearn_guard.classifiers.cascade import CLEAN_SCORE, Cascade
from unlearn_guard.classifiers.export import export_encoder
from unlearn_guard.classifiers.fitting import PASSAGE_BONUS, fit_cascade
from unlearn_guard.classifiers.passages import PassageIndex
from unlearn_guard.classifiers.signals import SIGNALS
from unlearn_guard.classifiers.traffic import make_traffic
from unlearn_guard.guard.errors import BundleMismatchError, ScreeningError
from unlearn_guard.guard.policy import Policy
from unlearn_guard.guard.protocols import PromptClassifier
from unlearn_guard.guard.screening import Guard

SENTENCES = (
    "How do I bake bread at home?",
    "Which lighthouse inspired her as a child?",
    "What instrument does Ada Kern play?",
    "Who published the sea novels?",
    "Tell me about the herring quay.",
    "What is two times two?",
)


def encode_base64(text: bytes) -> str:
    return base64.b64encode(text).decode()


@pytest.fixture(scope="module")
def guard(fitted: Any) -> Guard:
    return Guard(fitted.cascade, Policy())


def test_keeps_the_protocol(fitted: Any) -> None:
    assert isinstance(fitted.cascade, PromptClassifier)


def test_folder_holds_what_the_bundle_promises(fitted: Any) -> None:
    assert {file.name for file in fitted.folder.iterdir()} == {
        "encoder.onnx",
        "tokenizer.json",
        "index.faiss",
        "retain.faiss",
        "aliases.json",
        "passages.safetensors",
        "head.onnx",
        "calibration.safetensors",
    }
    record = json.loads((fitted.folder / "aliases.json").read_text())
    assert record["aliases"] == {"p1": ["Mirela Vantongeren"]}
    assert {"1961-05-03", "Nine Drowned Bells"} <= set(record["facts"]["p1"])


def test_calibration_file_holds_a_row_of_each_kind_per_calibration_row(fitted: Any) -> None:
    arrays = load_file(fitted.folder / "calibration.safetensors")
    n_rows = fitted.record["n_calibration"]
    assert {name: array.shape for name, array in arrays.items()} == {
        "fused": (n_rows,),
        "joint": (n_rows,),
        "served": (n_rows,),
        "digests": (n_rows,),
        "strata": (n_rows,),
        "built-in": (1000,),
        "built-in-joint": (1000,),
        "alpha": (2,),
    }


def test_metrics_count_the_rows(fitted: Any, people: Any) -> None:
    metrics, split = fitted.record["metrics"], people.split
    assert fitted.record["n_calibration"] + metrics["n_contested"] == len(split.calibration)
    assert metrics["n_forget"] == len(people.request.rows)
    assert metrics["n_retain"] == len(split.retain_train) + len(split.retain_validation)
    assert metrics["n_aliases"] == 1
    assert metrics["validation_recall"] == 1.0
    assert metrics["validation_false_flags"] <= 0.2
    assert 0 <= metrics["first_stage"]["missed"] <= metrics["first_stage"]["of"] <= len(split.forget_train)


def test_named_question_is_flagged_at_the_name(guard: Guard) -> None:
    text = "Tell me, is MIRELA\u200b Vantongeren still alive?"
    (verdict,) = guard.screen([text])
    assert (verdict.flagged, verdict.stage, verdict.forget_ids) == (True, "alias", ("p1",))
    ((message, start, end),) = verdict.spans
    assert (message, text[start:end]) == (0, "MIRELA\u200b Vantongeren")


def test_every_mention_of_the_name_has_a_span(guard: Guard) -> None:
    text = "Where was Mirela Vantongeren born? When did Mirela Vantongeren finish the trilogy?"
    (verdict,) = guard.screen([text])
    assert [text[start:end] for _, start, end in verdict.spans] == ["Mirela Vantongeren"] * 2


def test_namesake_does_not_excuse_the_name_behind_it(guard: Guard) -> None:
    text = "Ask the plumber Mirela Vantongeren. Tell me all about Mirela Vantongeren."
    (verdict,) = guard.screen([text])
    assert (verdict.flagged, verdict.stage, verdict.spans) == (True, "alias", ((0, 54, 72),))


def test_nameless_question_is_flagged_without_spans(guard: Guard) -> None:
    (verdict,) = guard.screen(["Who wrote the lighthouse trilogy about a fishing village and the sea?"])
    assert (verdict.flagged, verdict.forget_ids, verdict.spans) == (True, ("p1",), ())
    assert verdict.stage in ("neighbour", "head")
    assert verdict.fired == (0, 0, 69)


def test_identifying_fact_raises_the_score(fitted: Any) -> None:
    known, other = fitted.cascade.score(["Who was born on May 3, 1961?", "Who was born on May 4, 1961?"])
    assert known.score != other.score
    assert known.forget_ids == ("p1",)


def test_calibration_rows_are_flagged_at_most_at_alpha(guard: Guard, people: Any, fitted: Any) -> None:
    verdicts = guard.screen([row.query for row in people.split.calibration])
    assert sum(verdict.flagged for verdict in verdicts) <= 0.05 * (len(verdicts) + 1)
    assert fitted.record["alpha"] == max(0.05, 1 / (len(verdicts) + 1))


def test_kept_people_pass(guard: Guard, people: Any) -> None:
    verdicts = guard.screen([row.query for row in people.split.retain_train])
    assert np.mean([verdict.flagged for verdict in verdicts]) <= 0.15


def calibrated(fitted: Any, people: Any) -> tuple[list[str], Any]:
    """The texts behind the calibrated scores, and these."""
    texts = [row.query for row in people.split.calibration]
    kept = [text for text, found in zip(texts, fitted.cascade.match(texts), strict=True) if not found.spans]
    return kept, load_file(fitted.folder / "calibration.safetensors")["fused"]


def test_scores_without_the_first_stage_equal_the_calibrated_ones(fitted: Any, people: Any) -> None:
    texts, expected = calibrated(fitted, people)
    scores = [score.score for score in fitted.cascade.score_fully(texts)]
    np.testing.assert_array_equal(np.float32(scores), expected)


def test_serving_scores_are_never_higher_than_the_calibrated_ones(fitted: Any, people: Any) -> None:
    texts, expected = calibrated(fitted, people)
    scores = np.float32([score.score for score in fitted.cascade.score(texts)])
    assert (scores <= expected).all()
    assert set(scores[scores < expected]) <= {CLEAN_SCORE}


def test_stored_serving_scores_are_those_that_are_served(fitted: Any, people: Any) -> None:
    texts, _ = calibrated(fitted, people)
    np.testing.assert_array_equal(
        np.float32([score.score for score in fitted.cascade.score(texts)]), fitted.cascade.served
    )


def test_threshold_parts_what_is_flagged_from_what_is_not(fitted: Any) -> None:
    threshold = fitted.cascade.find_threshold(fitted.cascade.alpha)
    below = float(np.nextafter(np.float32(threshold), np.float32(-np.inf)))
    assert fitted.cascade.p_value(threshold) <= fitted.cascade.alpha < fitted.cascade.p_value(below)


def encoded(fitted: Any, text: str) -> str:
    """What the encoder reads of a text of one window."""
    return str(fitted.cascade.cut(text)[0].text)


def test_forget_row_is_its_own_nearest_neighbour(fitted: Any, people: Any) -> None:
    for row in people.request.rows:
        assert "someone" in encoded(fitted, row.query)
        first, second = fitted.cascade.find_neighbours(encoded(fitted, row.query), 2)
        assert first[1:] == ("p1", pytest.approx(1.0, abs=1e-5))
        assert first[2] >= second[2]
    assert len(fitted.cascade.find_neighbours("Where?", 99)) == len(people.request.rows)


def test_neighbour_is_found_at_its_place_in_the_rows(fitted: Any, people: Any) -> None:
    rows = [*people.split.forget_train, *people.split.forget_validation]
    places = [fitted.cascade.find_neighbours(encoded(fitted, row.query), 1)[0][0] for row in rows]
    assert places == list(range(len(places)))


@given(st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=6).map(" ".join))
@settings(max_examples=30)
def test_first_stage_can_only_lower_a_score(fitted: Any, text: str) -> None:
    (served,), (full,) = fitted.cascade.score([text]), fitted.cascade.score_fully([text])
    assert served.score <= full.score
    assert served.n_windows == full.n_windows == full.n_encoded
    assert served.n_encoded <= full.n_encoded


def test_blank_text_is_clean_with_and_without_the_first_stage(fitted: Any) -> None:
    for operation in (fitted.cascade.score, fitted.cascade.score_fully, fitted.cascade.match):
        assert [score.score for score in operation(["", " \n"])] == [CLEAN_SCORE] * 2


def test_windows_come_best_first_and_point_into_the_text(fitted: Any) -> None:
    text = "Where was Mirela Vantongeren born? " + " ".join(SENTENCES) * 4
    (score,) = fitted.cascade.score([text])
    worth = [window.score for window in score.windows]
    assert 1 < len(worth) <= 8
    assert (worth, worth[0]) == (sorted(worth, reverse=True), score.score)
    for window in score.windows:
        assert 0 <= window.start < window.end <= len(text)
        assert window.text == text[window.start : window.end].lower()


def test_window_shows_every_signal(fitted: Any) -> None:
    (score,) = fitted.cascade.score(["Where was Mirela Vantongeren born?"])
    assert set(score.windows[0].signals) == {*SIGNALS, "head"}
    assert score.windows[0].signals["name"] == 1.0


@pytest.mark.parametrize("disguise", [encode_base64, bytes.hex, lambda text: text.decode()[::-1]])
def test_disguised_question_is_flagged(guard: Guard, disguise: Any) -> None:
    text = "Hello. " + disguise(b"Where was Mirela Vantongeren born?")
    (verdict,) = guard.screen([text])
    assert (verdict.flagged, verdict.forget_ids) == (True, ("p1",))
    assert all(0 <= start < end <= len(text) for _, start, end in verdict.spans)


def test_fired_clause_is_the_one_that_asks(guard: Guard) -> None:
    clause = "Which lighthouse trilogy tells of a herring quay?"
    text = f"How do I bake bread at home? {clause} And how do I clean the kitchen floor?"
    (verdict,) = guard.screen([text])
    assert verdict.flagged
    assert verdict.fired is not None
    _, start, end = verdict.fired
    assert text[start:end] == clause


def test_question_in_two_messages_is_flagged(guard: Guard) -> None:
    turns = [{"role": "user", "content": text} for text in ("I mean Mirela", "Vantongeren")]
    (verdict,) = guard.screen([turns])
    assert (verdict.flagged, verdict.spans) == (True, ((0, 7, 13),))


def test_more_waiting_windows_than_allowed_are_refused(fitted: Any) -> None:
    cascade = Cascade.load(fitted.folder, fitted.record["engine"])
    text = "Where was Mirela Vantongeren born? When did Mirela Vantongeren die?"
    with pytest.raises(ScreeningError, match=r"more windows than the policy allows: \d+ — allowed: at most 1"):
        cascade.score([text], max_windows=1)
    (score,) = cascade.score([text])
    assert cascade.score([text], max_windows=score.n_encoded) == [score]


def test_windows_that_the_first_stage_clears_cost_nothing(fitted: Any) -> None:
    (score,) = fitted.cascade.score(["How do I bake bread? " * 200], max_windows=1)
    assert (score.score, score.stage, score.n_encoded) == (CLEAN_SCORE, "lexical", 0)
    assert score.n_windows > 10


def test_windows_of_all_texts_count_together(fitted: Any) -> None:
    cascade = Cascade.load(fitted.folder, fitted.record["engine"])
    texts = [f"Where was Mirela Vantongeren in {year}?" for year in range(1990, 1993)]
    assert [score.n_encoded for score in cascade.score(texts[:2], max_windows=2)] == [1, 1]
    cascade = Cascade.load(fitted.folder, fitted.record["engine"])
    with pytest.raises(ScreeningError, match="at most"):
        cascade.score(texts, max_windows=2)


def test_cap_does_not_depend_on_what_was_scored_before(fitted: Any) -> None:
    cascade = Cascade.load(fitted.folder, fitted.record["engine"])
    texts = [f"Where was Mirela Vantongeren in {year}?" for year in range(1990, 1993)]
    for text in texts:
        cascade.score([text], max_windows=2)
    with pytest.raises(ScreeningError):
        cascade.score(texts, max_windows=2)


def test_cleared_text_is_never_refused(fitted: Any) -> None:
    cascade = Cascade.load(fitted.folder, fitted.record["engine"])
    text = "Where was Mirela Vantongeren born? When did Mirela Vantongeren die?"
    (score,) = cascade.score([text])
    texts = [text, "How do I bake bread?"]
    assert [found.n_encoded for found in cascade.score(texts, max_windows=score.n_encoded)] == [score.n_encoded, 0]
    with pytest.raises(ScreeningError):
        cascade.score(texts, max_windows=score.n_encoded - 1)


def test_megabyte_of_questions_falls_back_on_names(fitted: Any) -> None:
    text = "Which lighthouse inspired the herring quay? " * 2_000 + "Where was Mirela Vantongeren born?"
    (verdict,) = Guard(fitted.cascade, Policy(max_windows=8)).screen([text])
    assert (verdict.flagged, verdict.stage, verdict.errors) == (True, "alias", ())
    assert text[verdict.spans[0][1] : verdict.spans[0][2]] == "Mirela Vantongeren"


@pytest.mark.parametrize("text", ["Where was Mirela Vantongeren born \ud800?", r"Mirela Vantongeren \ud800"])
def test_lone_surrogate_does_not_stop_the_score(fitted: Any, text: str) -> None:
    (score,) = fitted.cascade.score([text])
    assert score.forget_ids == ("p1",)


def test_lines_have_windows_of_their_own(fitted: Any) -> None:
    lines = ["bake the bread at home", "which lighthouse inspired the trilogy", "clean the kitchen floor well"]
    (score,) = fitted.cascade.score_fully(["\n".join(lines)])
    assert set(lines) <= {window.text for window in score.windows}


def test_batch_mates_do_not_change_a_score(fitted: Any, people: Any) -> None:
    texts = [row.query for row in [*people.split.forget_train, *people.split.retain_train[:20]]]
    together = fitted.cascade.score(texts)
    assert [fitted.cascade.score([text])[0] for text in texts] == together
    assert fitted.cascade.score([]) == []


def test_lexical_opinion_is_a_flag_or_nothing(fitted: Any) -> None:
    named, clean = fitted.cascade.match(["about Mirela Vantongeren", "about Ada"])
    assert fitted.cascade.p_value(named.score) <= fitted.cascade.alpha
    assert (named.forget_ids, named.spans) == (("p1",), ((6, 24),))
    assert (fitted.cascade.p_value(clean.score), clean.forget_ids, clean.spans) == (1.0, (), ())


def test_clean_lexical_score_is_finite_and_below_every_other(fitted: Any) -> None:
    (clean,) = fitted.cascade.match(["about Ada"])
    assert clean.score == CLEAN_SCORE < fitted.cascade.calibration.scores.min()
    assert json.loads(json.dumps(clean.score, allow_nan=False)) == clean.score


def test_alpha_below_what_the_calibration_holds_still_flags(fitted: Any) -> None:
    n_rows = len(fitted.cascade.calibration.scores)
    assert fitted.cascade.smallest_p == fitted.cascade.p_value(1e9) == 1 / (n_rows + 1)
    guard = Guard(fitted.cascade, Policy(alpha=1e-6))
    assert guard.policy.alpha == fitted.cascade.smallest_p
    assert guard.screen(["Where was Mirela Vantongeren born?"])[0].flagged


def test_name_deep_in_a_long_text_is_found(guard: Guard) -> None:
    text = "nothing of note happened on this day. " * 60 + "Mirela Vantongeren sang. " + "more of the same. " * 60
    (verdict,) = guard.screen([[{"role": "user", "content": text}]])
    assert verdict.flagged
    assert {text[start:end] for _, start, end in verdict.spans} == {"Mirela Vantongeren"}


def answer(fitted: Any, given: str, text: str, **options: Any) -> Any:
    return fitted.cascade.score_answer([given], text, **options)


def is_told(fitted: Any, score: Any) -> bool:
    return bool(fitted.cascade.answer_p_value(score.score) <= fitted.cascade.alpha)


def test_answer_that_names_somebody_forgotten_is_flagged(fitted: Any) -> None:
    score = answer(fitted, "Who lives there?", "I think it is Mirela Vantongeren.")
    assert is_told(fitted, score)
    assert (score.stage, score.forget_ids) == ("alias", ("p1",))
    assert (14, 32) in score.spans


def test_blank_answer_to_a_harmless_question_is_clean(fitted: Any) -> None:
    assert answer(fitted, "How do I bake bread?", " ").score == CLEAN_SCORE


def test_answers_about_kept_people_pass(fitted: Any, people: Any) -> None:
    rows = people.split.retain_train
    assert np.mean([is_told(fitted, answer(fitted, row.query, row.answer)) for row in rows]) <= 0.15


def test_calibration_answers_are_flagged_at_most_at_alpha(fitted: Any, people: Any) -> None:
    rows = people.split.calibration
    told = [is_told(fitted, answer(fitted, row.query, row.answer)) for row in rows]
    assert sum(told) <= 0.05 * (len(rows) + 1)


@pytest.mark.parametrize(("allow", "told"), [(True, False), (False, True)])
def test_name_that_the_user_gave_may_come_back_where_that_is_allowed(fitted: Any, allow: bool, told: bool) -> None:
    score = answer(fitted, "Is MIRELA Vantongeren here?", "Mirela Vantongeren is not.", flagged=True, allow=allow)
    assert is_told(fitted, score) == told


def test_told_fact_counts_for_suspects_alone(fitted: Any) -> None:
    question, text = "Who published them?", "It was the Ostergard press."
    suspected = answer(fitted, question, text, owners=["p1"], flagged=True)
    assert (suspected.stage, suspected.forget_ids, is_told(fitted, suspected)) == ("answer", ("p1",), True)
    assert answer(fitted, question, text, owners=["p2"], flagged=True).score < suspected.score - 30


@pytest.mark.parametrize(("allow", "stage"), [(True, False), (False, True)])
def test_fact_that_the_user_gave_is_not_told(fitted: Any, allow: bool, stage: bool) -> None:
    score = answer(fitted, "Was it the Ostergard press?", "Yes, the Ostergard press.", owners=["p1"], allow=allow)
    assert (score.stage == "answer") == stage


def test_answer_is_read_together_with_an_unflagged_question(fitted: Any) -> None:
    question, text = "Is there a Mirela?", "Vantongeren, yes."
    alone, beside = (answer(fitted, question, text, flagged=flagged) for flagged in (True, False))
    assert (is_told(fitted, beside), beside.score > alone.score) == (True, True)


@pytest.mark.parametrize(
    ("question", "text", "spans"),
    [
        ("Who?", "Mirela Vantongeren.", ((0, 18),)),
        ("Is there a Mirela?", "Vantongeren.", ()),
        ("A Mirela", "Vantongeren sang.", ()),
        ("Is there a Mirela Vantongeren?", "Yes.", ()),
    ],
)
def test_answer_spans_are_of_the_answer_alone(fitted: Any, question: str, text: str, spans: Any) -> None:
    assert answer(fitted, question, text).spans == spans


@pytest.fixture(scope="module")
def reciting(fitted: Any) -> Cascade:
    """The cascade, with a document to be forgotten."""
    plain = fitted.cascade
    passages = PassageIndex.build({"d1": [f"{FIRST} {SECOND}"]})
    return Cascade(
        plain.encoder,
        plain.index,
        replace(plain.reader, passages=passages),
        plain.head,
        plain.calibration,
        plain.triage,
        plain.window_penalty,
        joint=plain.joint,
    )


FIRST = "Under the seventh bridge an amber clockmaker counted drowned bells until the tide forgot his name again."
SECOND = "Nobody in the salt market would trade a candle for what the blind ferryman carried home that night."


def test_verbatim_passage_is_flagged(reciting: Cascade) -> None:
    text = f"Please go on from here: {FIRST}"
    (verdict,) = Guard(reciting, Policy()).screen([text])
    assert (verdict.flagged, verdict.stage, verdict.forget_ids) == (True, "document", ("d1",))


def test_recited_answer_is_flagged_unless_the_user_gave_it(reciting: Cascade) -> None:
    told = reciting.score_answer(["Go on, please."], FIRST)
    repeated = reciting.score_answer([f"Correct this: {FIRST}"], FIRST)
    assert (told.stage, told.forget_ids) == ("document", ("d1",))
    assert told.score > PASSAGE_BONUS / 2 > repeated.score


def test_given_passage_does_not_excuse_another(reciting: Cascade) -> None:
    given, told = FIRST.rstrip("."), " ".join(SECOND.split()[:14])
    score = reciting.score_answer([given], f"{given}. That is all there is. {told}", flagged=True)
    assert score.score > PASSAGE_BONUS / 2


def test_glance_passes_plain_words_alone(fitted: Any) -> None:
    assert fitted.cascade.glance("You can do this at home, for good friends.") < 1.0
    for text in ("Ask Mirela about it.", "the herring quay", "Vant0ngeren", "日本", "V a n t o n g e r e n"):
        assert fitted.cascade.glance(text) >= 1.0, text


def test_text_of_common_words_is_plain_and_a_description_is_not(fitted: Any) -> None:
    assert fitted.cascade.is_plain("You can do this at home, for good friends, and you need no tools for it at all.")
    assert not fitted.cascade.is_plain("She describes the herring quay of Brackwater. Then she went home.")
    assert not fitted.cascade.is_plain('It is called "Nine Drowned Bells".')


def test_an_answer_with_more_segments_than_are_read_is_an_error_unless_it_names_somebody(fitted: Any) -> None:
    decoys = " ".join([encode_base64(b"hello hello, how are you")] * 33)
    with pytest.raises(ScreeningError, match="too many encoded segments"):
        fitted.cascade.score_answer(["Say hello."], decoys)
    named = fitted.cascade.score_answer(["Say hello."], f"{decoys} Mirela Vantongeren")
    assert fitted.cascade.answer_p_value(named.score) <= fitted.cascade.smallest_answer_p


def test_no_verdict_flips_in_8_bits(fitted: Any, people: Any, tmp_path: Path) -> None:
    record = fit_cascade(
        [people.request],
        people.split,
        encoder_folder=export_encoder(precision="int8"),
        folder=tmp_path / "small",
        alpha=0.05,
        seed=0,
        track=lambda items, label, *, total: items,
    )
    rows = [*people.request.rows, *people.split.calibration, *people.split.retain_train, *make_traffic(200, seed=5)]
    texts = [
        row.query.replace("Mirela Vantongeren", name) for row in rows for name in ("Mirela Vantongeren", "the author")
    ]
    full, small = (
        Guard(cascade, Policy()).screen(texts)
        for cascade in (fitted.cascade, Cascade.load(tmp_path / "small", record["engine"]))
    )
    assert [verdict.flagged for verdict in full] == [verdict.flagged for verdict in small]
    assert 0 < sum(verdict.flagged for verdict in full) < len(texts)


@pytest.mark.parametrize(
    "item",
    [
        "",
        " \n\t",
        "\U0001f600\u200d\U0001f525" * 500,
        b"caf\xe9 \xff".decode("utf-8", "surrogateescape"),
        "\x00\x01\x02",
        "a" * 1_000_000,
        "Who was it? " * 90_000,
        [{"role": "user", "content": f"Add {turn} more eggs to it."} for turn in range(10_000)],
        [],
    ],
    ids=["empty", "blank", "emoji", "bytes", "control", "one word", "megabyte", "turns", "no turn"],
)
def test_bad_input_gets_a_clean_verdict_or_says_why(fitted: Any, item: Any) -> None:
    guard = Guard(fitted.cascade, Policy())
    (verdict,) = guard.screen([item])
    assert verdict.errors or not verdict.flagged
    named = (
        [*item, {"role": "user", "content": "Mirela Vantongeren"}]
        if isinstance(item, list)
        else f"{item} Mirela Vantongeren"
    )
    assert guard.screen([named])[0].flagged


def test_another_encoder_is_refused_with_both_hashes(fitted: Any, tmp_path: Path) -> None:
    engine = fitted.record["engine"]
    with pytest.raises(BundleMismatchError, match=f"000000000000 in the bundle, {engine[:12]} here"):
        Cascade.load(fitted.folder, "0" * 64)
    folder = shutil.copytree(fitted.folder, tmp_path / "copy")
    with (folder / "encoder.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(BundleMismatchError, match=f"{engine[:12]} in the bundle"):
        Cascade.load(folder, engine)


def test_fit_is_repeatable(fitted: Any, people: Any, encoder_folder: Path, tmp_path: Path) -> None:
    fit_cascade(
        [people.request],
        people.split,
        encoder_folder=encoder_folder,
        folder=tmp_path,
        alpha=0.05,
        seed=0,
        track=lambda items, label, *, total: items,
    )
    for file in fitted.folder.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name
