"""A comparison row: the out-of-distribution detector of O3 (arXiv 2407.10223), corrected, on our encoder.

Per forget set: the encoder is tuned by contrastive entropy, then Mahalanobis distance and largest cosine to the forget rows go
into a one-class SVM (ν = 0.1). Corrected against the public code: no padding in the mean pooling, both components with their own
spread, a threshold from clean rows instead of one chosen on test files, rows described by rows other than themselves. Left out:
the masked-language part of the loss, for which a sentence encoder has no head, and all layers but the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unlearn_guard.classifiers.calibration import Calibration
from unlearn_guard.classifiers.encoder import OnnxEncoder, Vectors
from unlearn_guard.classifiers.export import DEFAULT_ENCODER, locate_encoder

_NU = 0.1
_MASKED_SHARE = 0.15
_BATCH_ROWS, _EPOCHS, _LEARNING_RATE = 8, 2, 1e-5
_RANK, _SCALE = 8, 32
_MOST_ROWS = 400
"""Rows that the encoder is tuned on; of more, the first."""
_SHRINKAGE = 0.2


def tune_by_contrastive_entropy(texts: Sequence[str], out: Path, *, seed: int = 0) -> Path:
    """Tune the default encoder on forget rows and write it to `out`; return that folder (O3, §3.2: LoRA on q, k, v).

    The loss is the entropy of each masked row's softmax similarity to the untuned encoder's vectors of the batch.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(seed)
    folder = str(locate_encoder(DEFAULT_ENCODER))
    frozen, model = (SentenceTransformer(folder, device="cpu") for _ in range(2))
    inner = model[0].auto_model
    adapted = get_peft_model(
        inner,
        LoraConfig(r=_RANK, lora_alpha=_SCALE, lora_dropout=0.0, target_modules=["query", "key", "value"]),
    )
    optimizer = torch.optim.AdamW([part for part in adapted.parameters() if part.requires_grad], lr=_LEARNING_RATE)
    tokenizer = model.tokenizer
    order = torch.Generator().manual_seed(seed)
    rows = list(texts)[:_MOST_ROWS]
    for _ in range(_EPOCHS):
        for places in torch.randperm(len(rows), generator=order).split(_BATCH_ROWS):
            batch = tokenizer(
                [rows[place] for place in places.tolist()], padding=True, truncation=True, return_tensors="pt"
            )
            with torch.no_grad():
                still = _pool(frozen[0].auto_model(**batch).last_hidden_state, batch["attention_mask"])
            masked = batch["input_ids"].clone()
            chosen = torch.rand(masked.shape, generator=order) < _MASKED_SHARE
            special = torch.isin(masked, torch.tensor(tokenizer.all_special_ids))
            masked[chosen & ~special] = tokenizer.mask_token_id
            moved = _pool(adapted(**{**batch, "input_ids": masked}).last_hidden_state, batch["attention_mask"])
            share = (moved @ still.T).log_softmax(dim=-1)
            loss = -(share.exp() * share).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    model[0].auto_model = adapted.merge_and_unload()
    model.save(str(out))
    return out


def _pool(states: Any, mask: Any) -> Any:
    """Return mean vectors without padding."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


class OodDetector:
    """Score texts by how far they are from being out of the forget set's distribution."""

    def __init__(self, encoder: OnnxEncoder, forget: Sequence[str], calibration: Sequence[str], alpha: float) -> None:
        from sklearn.svm import OneClassSVM

        self._encoder = encoder
        rows = encoder.encode(forget)
        # A Gaussian is close to the rows it was fitted on: each half is described by the other.
        halves = [(rows[::2], rows[1::2]), (rows[1::2], rows[::2])] if len(rows) > 1 else [(rows, rows)]
        described = []
        for fitted, held_out in halves:
            self._fit(fitted)
            described.append(self._describe(held_out))
        self._fit(rows)
        features = np.concatenate(described)
        self._scale = features.mean(axis=0), features.std(axis=0) + 1e-9
        self._svm: Any = OneClassSVM(nu=_NU, gamma="scale").fit((features - self._scale[0]) / self._scale[1])
        self._calibration = Calibration.fit(self._judge(encoder.encode(calibration)), alpha)

    def score(self, text: str) -> float:
        """Return the score of one text; higher is more forget-like."""
        return float(self._judge(self._encoder.encode([text]))[0])

    def flags(self, score: float) -> bool:
        """Return whether the score's split-conformal p-value is at most alpha."""
        return self._calibration.p_value(score) <= self._calibration.alpha

    def _fit(self, rows: Vectors) -> None:
        self._rows, self._mean = rows, rows.mean(axis=0)
        spread = np.cov(rows.T) if len(rows) > 1 else np.eye(rows.shape[1])
        shrunk = (1 - _SHRINKAGE) * spread + _SHRINKAGE * np.trace(spread) / len(spread) * np.eye(len(spread))
        self._precision = np.linalg.inv(shrunk)

    def _describe(self, vectors: Vectors) -> np.ndarray:
        offset = vectors - self._mean
        distance = -0.5 * np.einsum("ij,jk,ik->i", offset, self._precision, offset)
        return np.column_stack([distance, (vectors @ self._rows.T).max(axis=1)])

    def _judge(self, vectors: Vectors) -> np.ndarray:
        features = (self._describe(vectors) - self._scale[0]) / self._scale[1]
        return np.asarray(self._svm.decision_function(features), np.float32)
