"""The aggregate against published rows: TOFU forget10, Llama-3.2-1B (OpenUnlearning's models, re-measured by unlearning-depth-score)."""

from __future__ import annotations

from typing import Any

import pytest

from unlearn_guard.benchmarks.aggregate import aggregate_rows, measure_fluency, score_memorisation

PUBLISHED = {
    # name: 1 − ES, 1 − EM, 1 − ParaProb, 1 − TR, Mem
    "full": (0.321, 0.032, 0.895, 0.318, 0.10),
    "retain": (0.941, 0.410, 0.945, 0.433, 0.58),
    "altpo": (0.948, 0.405, 0.954, 0.486, 0.60),
    "npo": (0.938, 0.439, 0.972, 0.448, 0.61),
    "rmu": (0.960, 0.632, 0.984, 0.422, 0.67),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_memorisation_is_what_was_published(name: str) -> None:
    *left, published = PUBLISHED[name]
    assert score_memorisation(*(1.0 - value for value in left)) == pytest.approx(published, abs=0.006)


def test_fluency_is_the_product_of_both_shares() -> None:
    assert measure_fluency({"nonword_rate": 0.5, "repeated_trigrams": 0.2}) == pytest.approx(0.4)


def make_row(name: str, auc: float, utility: float = 0.8, strength: float = 0.5) -> dict[str, Any]:
    given = {
        "extraction_strength": strength, "exact_memorisation": 0.5, "paraphrased_probability": 0.5, "truth_ratio_share": 0.5,
        "nonword_rate": 0.0, "repeated_trigrams": 0.0,
    }  # fmt: skip
    privacy = dict.fromkeys(("loss", "zlib", "min_k", "min_k_plus"), auc)
    return {
        "name": name, "seed": 0, "status": "ok", "reasons": {}, "sets": {"world.forget.given": given},
        "privacy": privacy, "model_utility": utility,
    }  # fmt: skip


def test_rows_are_measured_between_their_references() -> None:
    rows = [make_row("none", 1.0), make_row("retain-only", 0.5), make_row("npo", 0.6, 0.4)]
    none, gold, npo = (row["aggregate"] for row in aggregate_rows(rows, "world"))
    assert none["privacy"] == none["overall"] == 0.0
    assert gold["privacy"] == gold["utility"] == 1.0
    assert npo["privacy"] == pytest.approx(0.8)
    # Harmonic means with a fluency of 1: (2·.4/1.4) / (2·.8/1.8).
    assert npo["utility"] == pytest.approx((0.8 / 1.4) / (1.6 / 1.8), rel=1e-5)
    assert npo["memorisation"] == pytest.approx(0.5)


def test_a_mixture_is_not_measured_between_dense_models() -> None:
    rows = [make_row("none", 1.0), make_row("retain-only", 0.5), make_row("uoe", 0.6), make_row("none-mixture", 1.0)]
    for row in rows[2:]:
        row["reasons"]["indistinguishability"] = "what would be its measure is dense"
    for row in aggregate_rows(rows, "world")[2:]:
        assert row["aggregate"] is None
        assert "dense" in row["reasons"]["aggregate"]


def test_what_means_nothing_has_a_reason() -> None:
    refusal = {**make_row("refusal", 0.5), "privacy": None}
    rows = aggregate_rows([make_row("none", 1.0), make_row("retain-only", 0.5), refusal], "world")
    assert rows[2]["aggregate"] is None
    assert rows[2]["reasons"]["aggregate"] == "a part of it means nothing here"
    unfair = aggregate_rows([make_row("none", 1.0), make_row("retain-only", 0.9), make_row("npo", 0.95)], "world")
    assert (
        "tells the groups apart in a model that was trained on neither (AUC 0.90)" in unfair[2]["reasons"]["aggregate"]
    )
    (alone,) = aggregate_rows([make_row("npo", 0.6)], "world")
    assert "needs the rows" in alone["reasons"]["aggregate"]
