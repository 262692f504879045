"""The prompt classifier: lexical signals clear plain text; the rest is encoded, compared, fused and calibrated."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unlearn_guard.classifiers.answers import ASKED_NATS, SUSPECTED_NATS, FactIndex
from unlearn_guard.classifiers.calibration import MIN_ROWS, Calibration
from unlearn_guard.classifiers.disguises import MAX_DECODED
from unlearn_guard.classifiers.encoder import OnnxEncoder
from unlearn_guard.classifiers.head import Head
from unlearn_guard.classifiers.index import NeighbourIndex
from unlearn_guard.classifiers.passages import PassageIndex
from unlearn_guard.classifiers.signals import (
    FAINT,
    N_LEXICAL,
    SIGNALS,
    Hit,
    Lexical,
    LexicalReader,
    Reading,
    read_ranks,
)
from unlearn_guard.classifiers.triage import Triage
from unlearn_guard.classifiers.windows import cut_blocks, cut_windows
from unlearn_guard.guard.errors import BundleError, BundleMismatchError, ScreeningError
from unlearn_guard.guard.fingerprint import hash_bytes
from unlearn_guard.guard.verdict import Stage, TextScore, Window

Floats = npt.NDArray[np.float32]
CLEAN_SCORE = -1e6
"""The score of a text that the first stage cleared: below every fused score, and finite, because it may be logged."""
TOLD_BONUS = 40.0
"""A fact told to who asked for it weighs like a name."""
_JOINT_CHARACTERS = 600
"""How much of the prompt's end and the answer's beginning are read together."""
_REMEMBERED_CHARACTERS = 8_000_000
_REMEMBERED_TEXTS = 8192


_NOTHING = TextScore(CLEAN_SCORE, "lexical", n_windows=0)


@dataclass(frozen=True, slots=True)
class _Piece:
    """One window of one reading."""

    reading: Reading
    start: int
    end: int
    lexical: Lexical

    @property
    def text(self) -> str:
        """What the encoder reads."""
        return self.reading.mask(self.start, self.end)


class _Supplied:
    """What the user's own text holds, and an answer may therefore repeat."""

    def __init__(self, reader: LexicalReader, text: str) -> None:
        readings = reader.read(text)
        self.terms = {term for reading in readings for _, _, term in reading.terms}
        self._text = readings[0].view.text
        self._named = {
            owner for reading in readings for hit in reading.hits for owner in hit.owners if hit.signal == "name"
        }

    def forgive(self, reading: Reading) -> None:
        """Take away hits that the user supplied."""
        reading.hits = [hit for hit in reading.hits if not self._holds(reading, hit)]

    def _holds(self, reading: Reading, hit: Hit) -> bool:
        if hit.signal in ("name", "namesake", "part"):
            return bool(self._named & set(hit.owners))
        return reading.view.text[hit.start : hit.end] in self._text


class Cascade:
    """Score texts with every stage; higher is more forget-like."""

    def __init__(
        self,
        encoder: OnnxEncoder,
        index: NeighbourIndex,
        reader: LexicalReader,
        head: Head,
        calibration: Calibration,
        triage: Triage,
        window_penalty: float = 0.0,
        *,
        facts: FactIndex | None = None,
        joint: Calibration | None = None,
        topics: bool = False,
        served: Floats | None = None,
    ) -> None:
        self.encoder, self.index, self.reader, self.head = encoder, index, reader, head
        self.calibration, self.triage = calibration, triage
        self.joint = joint or calibration
        self.served = calibration.scores if served is None else served
        """Scores of the calibration rows as served, first stage included: what a drift monitor starts from."""
        self._cut_text = cut_blocks if topics else cut_windows
        self._facts = facts or FactIndex({}, reader.weights)
        self.window_penalty = window_penalty
        self.alpha = calibration.alpha
        self.smallest_p = calibration.smallest_p
        self.smallest_answer_p = self.joint.smallest_p
        self.longest_name = reader.names.longest_name
        # What a name alone is worth: a text that is otherwise exactly undecided.
        self._name_score = self._score_name()
        # A growing answer is judged many times against one prompt.
        self._read_supplied = lru_cache(maxsize=256)(lambda text: _Supplied(self.reader, text))
        self._seen: OrderedDict[str, TextScore] = OrderedDict()
        self._seen_characters = 0

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
        passages = load_file(folder / "passages.safetensors")
        if "built-in" not in arrays:
            raise BundleError("the bundle was fitted by an older build", mend="fit again")
        calibration, joint = read_calibrations(arrays, record["strata"], float(arrays["alpha"][1]))
        reader = LexicalReader.build(
            record,
            PassageIndex(passages["hashes"], passages["owners"], record["passage_owners"]),
            read_ranks(folder / "tokenizer.json"),
        )
        return cls(
            OnnxEncoder(folder, device=device),
            NeighbourIndex.load(folder, record["index_labels"], device),
            reader,
            Head(folder / "head.onnx"),
            calibration,
            Triage.from_record(record["triage"]),
            float(record["window_penalty"]),
            facts=FactIndex(record["answers"], reader.weights),
            joint=joint,
            topics=bool(record["topics"]),
            served=arrays["served"],
        )

    def score_fully(self, texts: Sequence[str]) -> list[TextScore]:
        """Return the scores without the first stage, as calibration needs them: clearing can only lower a score."""
        scored = []
        for text in texts:
            pieces = self.cut(text)
            scored.append(self._combine(pieces, self.judge(pieces), len(pieces)) if pieces else _NOTHING)
        return scored

    def score(self, texts: Sequence[str], *, max_windows: int | None = None) -> list[TextScore]:
        """Return one fused score per text of one request: the highest of its windows, less a penalty that grows with the
        number of windows in all of them.

        Raises ScreeningError where the texts together have more than `max_windows` windows that need the encoder.
        """
        scores = []
        left = max_windows
        for text in texts:
            known = self._seen.get(text)
            if known is not None and left is not None and known.n_encoded > left:
                raise _too_many(known.n_encoded, left)
            if known is None:
                known = self._score_text(text, left)
                self._remember(text, known)
            else:
                self._seen.move_to_end(text)
            if left is not None:
                left = max(0, left - known.n_encoded)
            scores.append(known)
        total = sum(score.n_windows for score in scores)
        return [self._share_penalty(score, total) for score in scores]

    def _share_penalty(self, score: TextScore, total: int) -> TextScore:
        """Charge a text for the windows of the texts it came with: the highest of them all decides."""
        if not score.n_encoded or total == score.n_windows:
            return score
        extra = self.window_penalty * math.log(total / max(1, score.n_windows))
        return replace(score, score=score.score - extra)

    def share_cleared(self, texts: Sequence[str]) -> float:
        """Return the share of texts that the first stage clears whole."""
        cleared = [all(self.triage.clears(piece.lexical) for piece in self.cut(text)) for text in texts]
        return float(np.mean(cleared)) if cleared else 0.0

    def match(self, texts: Sequence[str]) -> list[TextScore]:
        """Return the lexical opinion: a name counts as it would in a text that is otherwise undecided."""
        return [self._match_text(text) for text in texts]

    def p_value(self, score: float) -> float:
        """Return the split-conformal p-value of a score."""
        return self.calibration.p_value(score)

    def find_threshold(self, alpha: float) -> float:
        """Return the lowest score whose p-value is at most alpha."""
        return self.calibration.find_threshold(alpha)

    def find_neighbours(self, text: str, n: int) -> list[tuple[int, str, float]]:
        """Return (place in the forget rows, forget_id, cosine) of the forget rows nearest to a text without names."""
        return self.index.find_neighbours(self.encoder.encode([text])[0], n)

    def score_answer(
        self,
        given: Sequence[str],
        answer: str,
        *,
        owners: Sequence[str] = (),
        flagged: bool = False,
        allow: bool = True,
    ) -> TextScore:
        """Return the score of an answer beside what the user gave.

        `owners` are the forget requests that the prompt is suspected of, whose facts count once they are told. With
        `allow`, names, passages and facts that the user supplied are not held against the answer. What a flagged prompt
        says counts no more: its intervention has acted on it. Raises ScreeningError for an answer with more encoded segments
        than are looked into, unless what was read names or quotes somebody.
        """
        supplied = "\n".join(given)
        said = self.reader.read(answer)
        known = self._read_supplied(supplied) if allow else None
        pieces = self._cut(said, known)
        if not flagged and supplied.strip():
            tail = supplied[-_JOINT_CHARACTERS:]
            head = answer[:_JOINT_CHARACTERS]
            pieces += self._cut(self.reader.read(f"{tail}\n{head}")[:1], known, whole=True)
        waiting = [piece for piece in pieces if not self.triage.clears(piece.lexical)]
        score = TextScore(CLEAN_SCORE, "lexical", n_windows=len(pieces))
        if waiting:
            score = self._combine(waiting, self.judge(waiting), len(pieces))
        terms = {term for reading in said for _, _, term in reading.terms}
        spans = {
            reading.view.locate(hit.start, hit.end)
            for reading in said
            for hit in reading.hits
            if hit.signal in ("name", "passage")
        }
        if not said.complete and not spans:
            raise _unread()
        score = replace(score, spans=tuple(sorted(spans)))  # Of the answer alone, not of what was read with it.
        least = ASKED_NATS if flagged else SUSPECTED_NATS
        told = self._facts.find_told(dict.fromkeys(owners), terms, known.terms if known else set(), least=least)
        if told:
            value = max(score.score, 0.0) + TOLD_BONUS
            score = replace(score, score=value, stage="answer", forget_ids=(told.forget_id,))
        return score

    def glance(self, text: str, before: str = "") -> float:
        """Return how telling a text's words are, as a share of what the first stage lets through; infinite for a name,
        a verbatim run, or what may hide something.
        """
        least = 10 * self.triage.least_weight
        return self.reader.weigh_words(text, before) / least if least else math.inf

    def is_plain(self, text: str) -> bool:
        """Return whether a text, of which no glance was infinite, is plainly clean in all of its windows."""
        described = self.reader.describe(text, self._cut_text(text))
        return described is not None and all(map(self.triage.clears, described))

    def answer_p_value(self, score: float) -> float:
        """Return the split-conformal p-value of an answer's score, calibrated on kept questions with their answers."""
        return self.joint.p_value(score)

    def _score_text(self, text: str, max_windows: int | None) -> TextScore:
        readings = self.reader.read(text)
        if not readings.complete:
            raise _unread()
        pieces = self._cut(readings, triage=self.triage)
        charge = self.window_penalty * math.log(max(1, len(pieces)))
        waiting = [piece for piece in pieces if not self.triage.clears(piece.lexical, charge)]
        if max_windows is not None and len(waiting) > max_windows:
            raise _too_many(len(waiting), max_windows)
        if not waiting:
            return TextScore(CLEAN_SCORE, "lexical", n_windows=len(pieces))
        return self._combine(waiting, self.judge(waiting), len(pieces))

    def cut(self, text: str) -> list[_Piece]:
        """Return every window of every reading of a text; windows that a disguise did not change come once."""
        return self._cut(self.reader.read(text))

    def _cut(
        self,
        readings: Sequence[Reading],
        known: _Supplied | None = None,
        *,
        whole: bool = False,
        triage: Triage | None = None,
    ) -> list[_Piece]:
        if not readings:
            return []
        plain = readings[0].view.text
        pieces = []
        for reading in readings:
            same = reading is not readings[0] and len(reading.view.text) == len(plain)
            if known is not None:
                known.forgive(reading)
            windows = [(0, len(reading.view.text))] if whole else self._cut_text(reading.view.text, reading.lines)
            for start, end in windows:
                if same and reading.view.text[start:end] == plain[start:end]:
                    continue
                faint = triage is not None and triage.clears_unread(reading, start, end)
                if faint:
                    pieces.append(_Piece(reading, start, end, FAINT))
                    continue
                # Prompt and answer together hold the words of many questions that neither asks.
                lexical = reading.judge(start, end, supplied=known.terms if known else (), asks=not whole)
                pieces.append(_Piece(reading, start, end, lexical))
        return pieces

    def judge(self, pieces: Sequence[_Piece]) -> list[dict[str, Any]]:
        """Return, per window, every stage's opinion."""
        vectors = self.encoder.encode([piece.text for piece in pieces])
        forget, retain, nearest = self.index.search(vectors)
        lexical = np.array([piece.lexical.values for piece in pieces], np.float32).reshape(len(pieces), N_LEXICAL)
        head, fused = self.head.run(vectors, np.column_stack([lexical, forget, retain]).astype(np.float32))
        return [
            {
                "fused": float(fused[row]),
                "head": float(head[row]),
                "forget": float(forget[row]),
                "retain": float(retain[row]),
                "nearest": nearest[row],
            }
            for row in range(len(pieces))
        ]

    def _combine(self, pieces: Sequence[_Piece], judged: Sequence[dict[str, Any]], n_windows: int) -> TextScore:
        penalty = self.window_penalty * math.log(n_windows)
        windows = []
        for piece, found in zip(pieces, judged, strict=True):
            view, lexical = piece.reading.view, piece.lexical
            start, end = view.locate(piece.start, piece.end)
            signals = dict(zip(SIGNALS, (*lexical.values, found["forget"], found["retain"]), strict=True))
            windows.append(
                Window(
                    start=start,
                    end=end,
                    how=view.how,
                    score=found["fused"] - penalty,
                    stage=name_stage(lexical, found),
                    forget_ids=lexical.forget_ids or (found["nearest"],),
                    signals={**signals, "head": found["head"]},
                    text=piece.reading.view.text[piece.start : piece.end],
                    encoded=piece.text,
                )
            )
        windows.sort(key=lambda window: -window.score)
        spans = [
            piece.reading.view.locate(hit.start, hit.end)
            for piece in pieces
            for hit in piece.reading.hits
            if hit.signal == "name" and hit.start < piece.end and hit.end > piece.start
        ]
        best = windows[0]
        return TextScore(
            score=best.score,
            stage=best.stage,
            forget_ids=best.forget_ids,
            spans=tuple(sorted(set(spans))),
            n_windows=n_windows,
            n_encoded=len(pieces),
            windows=tuple(windows[:8]),
        )

    def _match_text(self, text: str) -> TextScore:
        spans: list[tuple[int, int]] = []
        ids: list[str] = []
        for reading in self.reader.read(text):
            for hit in reading.hits:
                if hit.signal == "name":
                    spans.append(reading.view.locate(hit.start, hit.end))
                    ids.extend(hit.owners)
        score = self._name_score if ids else CLEAN_SCORE
        return TextScore(score, "alias", tuple(dict.fromkeys(ids)), tuple(sorted(set(spans))))

    def _remember(self, text: str, score: TextScore) -> None:
        """Keep the verdict of a chunk: conversations send their history again with every turn."""
        if len(text) > _REMEMBERED_CHARACTERS // 8:
            return
        if text not in self._seen:
            self._seen_characters += len(text)
        self._seen[text] = score
        while self._seen_characters > _REMEMBERED_CHARACTERS or len(self._seen) > _REMEMBERED_TEXTS:
            oldest, _ = self._seen.popitem(last=False)
            self._seen_characters -= len(oldest)

    def _score_name(self) -> float:
        signals = np.zeros((1, len(SIGNALS)), np.float32)
        signals[0, SIGNALS.index("name")] = 1.0
        signals[0, N_LEXICAL:] = 0.5
        _, fused = self.head.run(np.zeros((1, self.encoder.dimension), np.float32), signals)
        return float(fused[0])


def _unread() -> ScreeningError:
    return ScreeningError(
        "text holds too many encoded segments", allowed=f"at most {MAX_DECODED}", mend="send it decoded, or in parts"
    )


def _too_many(n_windows: int, allowed: int) -> ScreeningError:
    return ScreeningError(
        "request needs more windows than the policy allows",
        value=n_windows,
        allowed=f"at most {allowed} more",
        mend="raise max_windows, or send less text",
    )


BUILT_IN = "built-in traffic"


def read_calibrations(
    arrays: Mapping[str, Any], strata: Sequence[str], alpha: float
) -> tuple[Calibration, Calibration]:
    """Return the calibrations of prompts and of prompts with answers; built-in traffic is a stratum of both.

    Rows without an answer say nothing of answers. Where fewer than 50 have one, built-in traffic calibrates them alone.
    """
    found = []
    for scores, built_in in ((arrays["fused"], arrays["built-in"]), (arrays["joint"], arrays["built-in-joint"])):
        known = ~np.isnan(scores)
        parts = {name: scores[known & (arrays["strata"] == place)] for place, name in enumerate(strata)}
        own, built_in = scores[known], built_in[~np.isnan(built_in)]
        if len(own) < MIN_ROWS and len(built_in) >= MIN_ROWS and len(own) < len(scores):
            own = built_in
        found.append(Calibration.fit(own, alpha, {**parts, BUILT_IN: built_in}))
    return found[0], found[1]


def name_stage(lexical: Lexical, judged: dict[str, Any]) -> Stage:
    """Return the stage that spoke loudest for a window."""
    if lexical["name"]:
        return "alias"
    if lexical["passage"] >= 0.5:
        return "document"
    if judged["forget"] > judged["retain"]:
        return "neighbour"
    return "head" if judged["head"] > 0.0 else "ood"
