"""Optional: contrastive fine-tuning of the sentence encoder on forget and retain rows, with hard negatives.

Anchors and positives are rows of one forget request; the hard negative of an anchor is the kept row that the untuned encoder
finds nearest (Karpukhin et al. 2004.04906, §3.2). It learns from rows as it will read them: without names. The tuned encoder is
exported like any other, and index, head and calibration are fitted on it as on any other.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from unlearn_guard.classifiers.encoder import OnnxEncoder
from unlearn_guard.classifiers.export import export_encoder, locate_encoder
from unlearn_guard.classifiers.fitting import mask_text
from unlearn_guard.classifiers.signals import make_judge, read_ranks
from unlearn_guard.guard.errors import DataError
from unlearn_guard.guard.rows import Row


def tune_encoder(
    name: str, forget: Sequence[Row], retain: Sequence[Row], out: Path, *, epochs: int = 1, seed: int = 0
) -> Path:
    """Fine-tune an encoder and write it to `out`; return that folder, which `fit --encoder` takes.

    Raises DataError where no forget request has two rows.
    """
    import torch
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from transformers.utils import logging

    folder = export_encoder(name)
    is_word = make_judge(read_ranks(folder / "tokenizer.json"))
    masked = [
        [replace(row, prompt="", text=mask_text(row.query, is_word)) for row in rows] for rows in (forget, retain)
    ]
    triplets = make_triplets(OnnxEncoder(folder), *masked, seed=seed)
    logging.disable_progress_bar()
    torch.manual_seed(seed)
    model = SentenceTransformer(str(locate_encoder(name)), device="cpu")
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(out.with_suffix(".steps")),
            num_train_epochs=epochs,
            per_device_train_batch_size=16,
            learning_rate=2e-5,
            warmup_steps=0.1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=seed,
            use_cpu=True,
        ),
        train_dataset=Dataset.from_dict(
            {
                name: list(column)
                for name, column in zip(("anchor", "positive", "negative"), zip(*triplets, strict=True), strict=True)
            }
        ),
        loss=MultipleNegativesRankingLoss(model),
    )
    trainer.train()
    model.save(str(out))
    return out


def make_triplets(
    encoder: OnnxEncoder, forget: Sequence[Row], retain: Sequence[Row], *, seed: int = 0
) -> list[tuple[str, str, str]]:
    """Return (anchor, positive, hard negative) of every forget row that has a sibling."""
    rng = random.Random(f"triplets:{seed}")
    siblings: dict[str, list[str]] = {}
    for row in forget:
        siblings.setdefault(row.forget_id, []).append(row.query)
    kept = [row.query for row in retain]
    anchors = [(row.query, row.forget_id) for row in forget if len(set(siblings[row.forget_id])) > 1]
    if not anchors or not kept:
        raise DataError(
            "nothing to tune the encoder on", mend="give two rows and more of a forget request, and kept rows"
        )
    nearest = (encoder.encode([text for text, _ in anchors]) @ encoder.encode(kept).T).argmax(axis=1)
    triplets = []
    for (text, owner), place in zip(anchors, np.asarray(nearest).tolist(), strict=True):
        positive = rng.choice([other for other in siblings[owner] if other != text])
        triplets.append((text, positive, kept[place]))
    return triplets
