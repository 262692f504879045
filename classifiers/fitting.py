"""Fitting the prompt classifier: encode → index → aliases → head → fuse → calibrate."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unlearn_guard.classifiers.aliases import AliasMatcher, mine_aliases
from unlearn_guard.classifiers.calibration import Calibration
from unlearn_guard.classifiers.encoder import OnnxEncoder, Vectors
from unlearn_guard.classifiers.facts import mine_facts
from unlearn_guard.classifiers.head import LOGIT_LIMIT, Head, HeadWeights, write_head
from unlearn_guard.classifiers.index import NeighbourIndex, search_others
from unlearn_guard.guard.errors import DataError
from unlearn_guard.guard.fingerprint import hash_bytes
from unlearn_guard.guard.rows import ForgetRequest, Row

Floats = npt.NDArray[np.float32]
CALIBRATION_SHARE = 0.3
ALIAS_BONUS = np.float32(LOGIT_LIMIT)
VALIDATION_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Split:
    """Rows by purpose. Retain and clean rows are split by person, forget rows by row."""

    forget_train: list[Row]
    forget_validation: list[Row]
    retain_train: list[Row]
    retain_validation: list[Row]
    calibration: list[Row]


def split_rows(forget: Sequence[Row], retain: Sequence[Row], clean: Sequence[Row], seed: int) -> Split:
    """Split by hash: 30 % of kept people for calibration, the rest (and the forget rows) 80/20.

    A person is a row's `forget_id`; a row without one is a person of its own. Raises DataError where nothing is left
    to learn from.
    """

    def place(key: str) -> float:
        return int(hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()[:12], 16) / 16**12

    split = Split([], [], [], [], [])
    for row in forget:
        kept_back = place("forget:" + row.digest) < VALIDATION_SHARE
        (split.forget_validation if kept_back else split.forget_train).append(row)
    for row in [*retain, *clean]:
        where = place("keep:" + (row.forget_id or row.digest))
        if where < CALIBRATION_SHARE:
            split.calibration.append(row)
        elif where < CALIBRATION_SHARE + (1 - CALIBRATION_SHARE) * VALIDATION_SHARE:
            split.retain_validation.append(row)
        else:
            split.retain_train.append(row)
    # A very small set still needs something to learn from and something to validate on.
    for train, validation in (
        (split.forget_train, split.forget_validation),
        (split.retain_train, split.retain_validation),
    ):
        if not train:
            train.extend(validation)
        if not validation:
            validation.extend(train[-1:])
    if not split.retain_train:
        raise DataError(
            "all kept rows fell into the calibration part",
            value=len(split.calibration),
            mend="give retain rows of more people, or rows without forget_id",
        )
    return split


def collect_aliases(requests: Sequence[ForgetRequest], kept: Sequence[Row]) -> dict[str, tuple[str, ...]]:
    """Return forget_id → aliases: the operator's own, else names mined from the rows."""
    return {request.forget_id: request.aliases or mine_aliases(request, kept) for request in requests}


def fit_cascade(
    requests: Sequence[ForgetRequest],
    split: Split,
    *,
    encoder_folder: Path,
    folder: Path,
    alpha: float,
    seed: int,
    track: Callable[..., Any],
) -> dict[str, Any]:
    """Fit every stage and write the classifier folder of a bundle; return fit metrics.

    Raises DataError for fewer than 50 calibration rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if len(split.calibration) < 50:  # Before minutes of encoding.
        Calibration.fit(np.zeros(len(split.calibration), np.float32), alpha)
    for name in ("encoder.onnx", "tokenizer.json"):
        shutil.copy(encoder_folder / name, folder / name)
    encoder = OnnxEncoder(folder)
    kept = [*split.retain_train, *split.retain_validation]
    aliases = collect_aliases(requests, kept)
    facts = {request.forget_id: mine_facts(request, kept) for request in requests}
    matcher, fact_matcher = AliasMatcher(aliases), AliasMatcher(facts)

    parts = {
        "forget_train": split.forget_train,
        "forget_validation": split.forget_validation,
        "retain_train": split.retain_train,
        "retain_validation": split.retain_validation,
        "calibration": split.calibration,
    }
    texts = [row.query for rows in parts.values() for row in rows]
    flat = encoder.encode_all(track(texts, "encode rows", total=len(texts)))
    vectors: dict[str, Vectors] = {}
    start = 0
    for name, rows in parts.items():
        vectors[name] = flat[start : start + len(rows)]
        start += len(rows)

    weights = _fit_head(
        vectors["forget_train"],
        vectors["retain_train"],
        _find_signals((matcher, fact_matcher), [*split.forget_train, *split.retain_train]),
        seed,
    )
    write_head(weights, folder / "head.onnx")
    head = Head(folder / "head.onnx")

    def score(part: str, index: NeighbourIndex) -> tuple[Floats, Floats]:
        forget, retain, _ = index.search(vectors[part])
        found = _find_signals((matcher, fact_matcher), parts[part])
        signals = np.column_stack([found, forget, retain]).astype(np.float32)
        return signals, head.run(vectors[part], signals)[1]

    # Validation recall is measured before the validation rows join the index.
    trial = NeighbourIndex.build(vectors["forget_train"], vectors["retain_train"], _labels(split.forget_train))
    _, calibration_trial = score("calibration", trial)
    rule = Calibration.fit(calibration_trial, alpha)
    recall = _flag_rate(rule, score("forget_validation", trial)[1])
    false_flags = _flag_rate(rule, score("retain_validation", trial)[1])

    index = NeighbourIndex.build(
        np.concatenate([vectors["forget_train"], vectors["forget_validation"]]),
        np.concatenate([vectors["retain_train"], vectors["retain_validation"]]),
        _labels([*split.forget_train, *split.forget_validation]),
    )
    index.save(folder)
    signals, fused = score("calibration", index)
    calibration = Calibration.fit(fused, alpha)

    from safetensors.numpy import save_file

    save_file(
        {
            "embeddings": vectors["calibration"],
            "signals": signals,
            "fused": fused,
            "alpha": np.array([calibration.alpha, calibration.alpha_requested], np.float64),
        },
        folder / "calibration.safetensors",
    )
    (folder / "aliases.json").write_text(
        json.dumps({"aliases": aliases, "facts": facts, "index_labels": index.labels}, ensure_ascii=False, indent=1),
        encoding="utf-8",
    )
    return {
        "engine": hash_bytes((folder / "encoder.onnx").read_bytes()),
        "alpha": calibration.alpha,
        "n_calibration": len(fused),
        "metrics": {
            "validation_recall": recall,
            "validation_false_flags": false_flags,
            "n_forget": len(index.labels),
            "n_retain": len(vectors["retain_train"]) + len(vectors["retain_validation"]),
            "n_aliases": sum(len(names) for names in aliases.values()),
        },
    }


def _labels(rows: Sequence[Row]) -> list[str]:
    from unlearn_guard.guard.rows import DEFAULT_FORGET_ID

    return [row.forget_id or DEFAULT_FORGET_ID for row in rows]


def _find_signals(matchers: Sequence[AliasMatcher], rows: Sequence[Row]) -> Floats:
    """Return 0 or 1 per row and matcher, shape (rows, matchers)."""
    found = [[bool(matcher.find(row.query)) for matcher in matchers] for row in rows]
    return np.array(found, np.float32).reshape(len(rows), len(matchers))


def _flag_rate(rule: Calibration, scores: Floats) -> float | None:
    if not len(scores):
        return None
    return round(float(np.mean([rule.p_value(float(score)) <= rule.alpha for score in scores])), 4)


def _fit_head(forget: Vectors, retain: Vectors, found: Floats, seed: int) -> HeadWeights:
    """Fit the head on embeddings, then the fusion on what the head says of rows it was not fitted on."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    vectors = np.concatenate([forget, retain])
    truth = np.concatenate([np.ones(len(forget)), np.zeros(len(retain))])
    head = LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000, random_state=seed)
    folds = min(5, len(forget), len(retain))
    if folds >= 2:
        splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
        unseen = cross_val_predict(head, vectors, truth, cv=splitter, method="decision_function")
    else:
        unseen = np.zeros(len(truth))
    head.fit(vectors, truth)
    stages = np.column_stack(
        [
            found,
            np.concatenate([search_others(forget, forget, same=True), search_others(retain, forget, same=False)]),
            np.concatenate([search_others(forget, retain, same=False), search_others(retain, retain, same=True)]),
            np.clip(unseen, -LOGIT_LIMIT, LOGIT_LIMIT),
        ]
    )
    fusion = LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000, random_state=seed)
    fusion.fit(stages, truth)
    weights = fusion.coef_[0].astype(np.float32)
    # A name alone must carry: in a tool description or a long text the other stages say nothing. Calibration sees the
    # same bonus, so that a name which kept traffic uses too raises the threshold instead of the false flags.
    weights[0] += ALIAS_BONUS
    return HeadWeights(
        embedding=head.coef_[0].astype(np.float32),
        bias=float(head.intercept_[0]),
        fusion=weights,
        fusion_bias=float(fusion.intercept_[0]),
    )
