"""The prompt classifier: alias match → neighbours → logistic head → fused score → conformal p-value."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unlearn_guard.classifiers.aliases import AliasMatch, AliasMatcher
from unlearn_guard.classifiers.calibration import Calibration
from unlearn_guard.classifiers.encoder import OnnxEncoder
from unlearn_guard.classifiers.head import Head
from unlearn_guard.classifiers.index import NeighbourIndex
from unlearn_guard.guard.errors import BundleMismatchError
from unlearn_guard.guard.fingerprint import hash_bytes
from unlearn_guard.guard.verdict import Stage, TextScore

CLEAN_SCORE = -1e6
"""The lexical score of a text without an alias: below every fused score, and finite, because it may be logged."""


class Cascade:
    """Score texts with every stage; higher is more forget-like."""

    def __init__(
        self,
        encoder: OnnxEncoder,
        index: NeighbourIndex,
        matcher: AliasMatcher,
        facts: AliasMatcher,
        head: Head,
        calibration: Calibration,
    ) -> None:
        self._encoder, self._index, self._head = encoder, index, head
        self._matcher, self._facts = matcher, facts
        self.calibration = calibration
        self.alpha = calibration.alpha
        self.smallest_p = 1.0 / (len(calibration.scores) + 1)
        # What an alias alone is worth: a text that is otherwise exactly undecided.
        self._alias_score = self._score_alias()

    @classmethod
    def load(cls, folder: Path, engine: str, *, device: str = "cpu") -> Cascade:
        """Read a bundle's classifier folder; `engine` is the hash of the encoder the index was built with.

        Raises BundleMismatchError for another encoder.
        """
        from safetensors.numpy import load_file

        found = hash_bytes((folder / "encoder.onnx").read_bytes())
        if found != engine:
            raise BundleMismatchError(
                f"the index was built with another encoder ({engine[:12]} in the bundle, {found[:12]} here)",
                mend="fit again with this encoder",
            )
        record = json.loads((folder / "aliases.json").read_text(encoding="utf-8"))
        arrays = load_file(folder / "calibration.safetensors")
        alpha, requested = (float(value) for value in arrays["alpha"])
        return cls(
            OnnxEncoder(folder, device=device),
            NeighbourIndex.load(folder, record["index_labels"], device),
            AliasMatcher(record["aliases"]),
            AliasMatcher(record["facts"]),
            Head(folder / "head.onnx"),
            Calibration(np.sort(arrays["fused"]), alpha, requested),
        )

    def score(self, texts: Sequence[str]) -> list[TextScore]:
        """Return one fused score per text."""
        if not texts:
            return []
        matches = [self._matcher.find(text) for text in texts]
        vectors = self._encoder.encode(texts)
        forget, retain, nearest = self._index.search(vectors)
        facts = [self._facts.find(text) for text in texts]
        alias, fact = (np.array([bool(found) for found in column], np.float32) for column in (matches, facts))
        head, fused = self._head.run(vectors, np.stack([alias, fact, forget, retain], axis=1))
        return [
            TextScore(
                score=float(fused[row]),
                stage=_name_stage(bool(matches[row]), float(forget[row] - retain[row]), float(head[row])),
                forget_ids=_owners(matches[row]) or _owners(facts[row]) or (nearest[row],),
                spans=tuple((match.start, match.end) for match in matches[row]),
            )
            for row in range(len(texts))
        ]

    def match(self, texts: Sequence[str]) -> list[TextScore]:
        """Return the lexical opinion: an alias counts as it would in a text that is otherwise undecided."""
        scores = []
        for text in texts:
            found = self._matcher.find(text)
            spans = tuple((match.start, match.end) for match in found)
            scores.append(TextScore(self._alias_score if found else CLEAN_SCORE, "alias", _owners(found), spans))
        return scores

    def p_value(self, score: float) -> float:
        """Return the split-conformal p-value of a score."""
        return self.calibration.p_value(score)

    def split_windows(self, text: str) -> list[tuple[int, int]]:
        """Cut a text into character windows that the encoder reads whole."""
        return self._encoder.split_windows(text)

    def _score_alias(self) -> float:
        signals = np.array([[1.0, 0.0, 0.5, 0.5]], np.float32)
        _, fused = self._head.run(np.zeros((1, self._encoder.dimension), np.float32), signals)
        return float(fused[0])


def _owners(matches: Sequence[AliasMatch]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(forget_id for match in matches for forget_id in match.forget_ids))


def _name_stage(alias: bool, margin: float, head: float) -> Stage:
    if alias:
        return "alias"
    if margin > 0.0:
        return "neighbour"
    return "head" if head > 0.0 else "ood"
