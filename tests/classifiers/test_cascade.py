"""The cascade, end to end on made-up people."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from unlearn_guard.classifiers.cascade import CLEAN_SCORE, Cascade
from unlearn_guard.classifiers.fitting import fit_cascade
from unlearn_guard.guard.errors import BundleMismatchError
from unlearn_guard.guard.policy import Policy
from unlearn_guard.guard.protocols import PromptClassifier
from unlearn_guard.guard.screening import Guard


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
        "head.onnx",
        "calibration.safetensors",
    }
    record = json.loads((fitted.folder / "aliases.json").read_text())
    assert record["aliases"] == {"p1": ["Mirela Vantongeren"]}
    assert "1961-05-03" in record["facts"]["p1"]


def test_metrics_count_the_rows(fitted: Any, people: Any) -> None:
    metrics, split = fitted.record["metrics"], people.split
    assert fitted.record["n_calibration"] == len(split.calibration)
    assert metrics["n_forget"] == len(people.request.rows)
    assert metrics["n_retain"] == len(split.retain_train) + len(split.retain_validation)
    assert metrics["n_aliases"] == 1
    assert metrics["validation_recall"] == 1.0
    assert metrics["validation_false_flags"] <= 0.2


def test_named_question_is_flagged_at_the_name(guard: Guard) -> None:
    text = "Tell me, is MIRELA\u200b Vantongeren still alive?"
    (verdict,) = guard.screen([text])
    assert (verdict.flagged, verdict.stage, verdict.forget_ids) == (True, "alias", ("p1",))
    ((message, start, end),) = verdict.spans
    assert (message, text[start:end]) == (0, "MIRELA\u200b Vantongeren")


def test_nameless_question_is_flagged_without_spans(guard: Guard) -> None:
    (verdict,) = guard.screen(["Who wrote the lighthouse trilogy about a fishing village and the sea?"])
    assert (verdict.flagged, verdict.forget_ids, verdict.spans) == (True, ("p1",), ())
    assert verdict.stage in ("neighbour", "head")


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


def test_serving_scores_equal_the_calibrated_ones(fitted: Any, people: Any) -> None:
    scores = [score.score for score in fitted.cascade.score([row.query for row in people.split.calibration])]
    np.testing.assert_array_equal(np.float32(scores), load_file(fitted.folder / "calibration.safetensors")["fused"])


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
