"""Fitting the prompt classifier: mine → encode → index → head → fuse → triage → calibrate."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unlearn_guard.classifiers.aliases import AliasMatcher, mine_aliases
from unlearn_guard.classifiers.answers import FactIndex, mine_answers
from unlearn_guard.classifiers.calibration import MIN_ROWS, Calibration
from unlearn_guard.classifiers.cascade import Cascade, read_calibrations
from unlearn_guard.classifiers.disguises import read_views
from unlearn_guard.classifiers.encoder import OnnxEncoder, Vectors
from unlearn_guard.classifiers.facts import mine_facts
from unlearn_guard.classifiers.head import LOGIT_LIMIT, Head, HeadWeights, write_head
from unlearn_guard.classifiers.index import NeighbourIndex, search_others
from unlearn_guard.classifiers.masking import find_strangers, mask
from unlearn_guard.classifiers.passages import PassageIndex
from unlearn_guard.classifiers.questions import KeptTexts, QuestionIndex, mine_questions
from unlearn_guard.classifiers.signals import N_LEXICAL, SIGNALS, LexicalReader, make_judge, mine, own_terms, read_ranks
from unlearn_guard.classifiers.traffic import make_traffic
from unlearn_guard.classifiers.triage import Triage
from unlearn_guard.guard.bundle import write_atomic
from unlearn_guard.guard.caching import cache_folder
from unlearn_guard.guard.errors import DataError
from unlearn_guard.guard.fingerprint import hash_bytes
from unlearn_guard.guard.rows import DEFAULT_FORGET_ID, ForgetRequest, Row

Floats = npt.NDArray[np.float32]
CALIBRATION_SHARE = 0.3
"""Of kept people; up to half where alpha needs it."""
VALIDATION_SHARE = 0.2
NAME_BONUS = PASSAGE_BONUS = 40.0
"""More than all learnt evidence together: who is named, or quoted, is meant."""
PART_BONUS = 16.0
NAMESAKE_MALUS = -6.0
MISS_SHARE = 0.01
"""Share of flagged forget windows that the first stage may clear."""
ARMED_SHARE = 0.05
"""Of kept rows: whoever scores below them neither is flagged nor arms the output guard."""
_FIXED = ("name", "namesake", "part", "passage")
_LEARNT = tuple(place for place, name in enumerate(SIGNALS) if name not in _FIXED)
_PRIOR = {"fact": 2.0, "attribute": 3.0, "share": 3.0, "kept": -3.0, "other": -3.0, "forget": 4.0, "retain": -4.0}
_PRIOR_BIAS = -6.0
_TELLING_WEIGHT = 0.6
"""Attribute weight (nats / 10) from which a nameless text identifies anybody at all."""
_MIN_EXAMPLES = 24
_PRIOR_EXAMPLES = 400.0
"""How many examples the prior weights are worth: few examples overfit seven signals."""
_MOST_NEIGHBOUR_WEIGHT = 20.0
_REMEMBERED = 65_536
_MOST_VECTORS = 60_000
_LEAST_TRAFFIC, _MOST_TRAFFIC = 1_000, 3_000


@dataclass(frozen=True, slots=True)
class Split:
    """Rows by purpose. Retain and clean rows are split by person, forget rows by row."""

    forget_train: list[Row]
    forget_validation: list[Row]
    retain_train: list[Row]
    retain_validation: list[Row]
    calibration: list[Row]
    neighbours: frozenset[str] = frozenset()
    """Digests of the operator's own kept rows, against other clean traffic: what a topic must be told from."""


def split_rows(
    forget: Sequence[Row], retain: Sequence[Row], clean: Sequence[Row], seed: int, *, alpha: float = 0.001
) -> Split:
    """Split by hash: 30 % of kept people for calibration (up to half where `alpha` needs it), the rest 80/20.

    A person is a row's `forget_id`; a row without one is a person of its own. Raises DataError where nothing is left
    to learn from.
    """

    def place(key: str) -> float:
        return int(hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()[:12], 16) / 16**12

    n_kept = len(retain) + len(clean)
    for_calibration = min(0.5, max(CALIBRATION_SHARE, 1.1 / alpha / max(1, n_kept)))
    neighbours = frozenset(row.digest for row in retain) if clean else frozenset()
    split = Split([], [], [], [], [], neighbours)
    for row in forget:
        kept_back = place("forget:" + row.digest) < VALIDATION_SHARE
        (split.forget_validation if kept_back else split.forget_train).append(row)
    for row in [*retain, *clean]:
        where = place("keep:" + (row.forget_id or row.digest))
        if where < for_calibration:
            split.calibration.append(row)
        elif where < for_calibration + (1 - for_calibration) * VALIDATION_SHARE:
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
    traffic_without: Sequence[str] = (),
) -> dict[str, Any]:
    """Fit every stage and write the classifier folder of a bundle; return fit metrics.

    `traffic_without` are the kinds of built-in traffic that are not clean here. Raises DataError for fewer than 50 calibration rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if len(split.calibration) < MIN_ROWS:  # Before minutes of encoding.
        Calibration.fit(np.zeros(len(split.calibration), np.float32), alpha)
    for name in ("encoder.onnx", "tokenizer.json"):
        shutil.copy(encoder_folder / name, folder / name)
    fitter = _Fitter(
        requests, OnnxEncoder(folder, remembered=_REMEMBERED), read_ranks(folder / "tokenizer.json"), folder, seed
    )
    fitter.neighbours = split.neighbours
    fitter.every_kept = [row for part in (*_kept_parts(split), split.calibration) for row in part]
    every_row = [*(row for part in _forget_parts(split) for row in part), *fitter.every_kept]
    fitter.encode(track(every_row, "encode rows", total=len(every_row)))

    # Learnt, and measured on validation rows, before those join the index.
    trial = fitter.learn(split.forget_train, split.retain_train, alpha)
    calm = Calibration.fit(_score_all(trial, split.calibration), alpha)
    recall = _flag_rate(calm, _score_all(trial, split.forget_validation))
    false_flags = _flag_rate(calm, _score_all(trial, split.retain_validation))

    calibrating = [*split.calibration, *make_stratum(alpha, traffic_without)]
    final = fitter.assemble(_join(_forget_parts(split)), _join(_kept_parts(split)), calibrating)
    calibration_rows = leave_out_named(final, split.calibration)
    if len(calibration_rows) < MIN_ROWS:
        calibration_rows = list(split.calibration)
    strata = sorted({row.stratum for row in split.calibration if row.stratum})
    arrays = score_clean(final, calibration_rows, strata, alpha, traffic_without)
    calibration, joint = read_calibrations(arrays, strata, alpha)
    arrays["alpha"] = np.array([calibration.alpha, calibration.alpha_requested], np.float64)
    fitter.save(final, arrays, strata, traffic_without)
    return {
        "engine": hash_bytes((folder / "encoder.onnx").read_bytes()),
        "alpha": calibration.alpha,
        "n_calibration": len(calibration_rows),
        "metrics": {
            "validation_recall": recall,
            "validation_false_flags": false_flags,
            "n_forget": len(final.index.labels),
            "n_retain": sum(len(part) for part in _kept_parts(split)),
            "n_aliases": sum(len(names) for names in fitter.aliases.values()),
            "n_questions": fitter.n_questions,
            "strata": {name: len(scores) for name, scores in calibration.strata.items()},
            "n_answers": len(joint.scores),
            "n_contested": len(split.calibration) - len(calibration_rows),
            "first_stage": {
                "cleared": round(final.share_cleared([row.query for row in calibration_rows]), 4),
                "missed": fitter.triage.n_missed,
                "of": fitter.triage.n_measured,
                "miss_limit": round(fitter.triage.miss_limit, 4),
            },
        },
    }


def score_clean(
    final: Cascade, rows: Sequence[Row], strata: Sequence[str], alpha: float, traffic_without: Sequence[str] = ()
) -> dict[str, npt.NDArray[Any]]:
    """Return the calibration's arrays: scores of clean rows by prompt and with the answer (NaN without one), the place of
    each row's stratum among `strata` (-1: none), and scores of built-in traffic, `traffic_without` some kinds of it."""
    traffic = leave_out_named(final, make_stratum(alpha, traffic_without))[: _count_stratum(alpha)]
    triage, final.triage = final.triage, Triage()  # Clearing can only lower a score: calibrate without it.
    with _remember_vectors(final.encoder):
        built_in = _score_all(final, traffic), _score_answers(final, traffic)
    arrays: dict[str, npt.NDArray[Any]] = {
        "fused": _score_all(final, rows),
        "joint": _score_answers(final, rows),
        "built-in": built_in[0],
        "built-in-joint": built_in[1],
        "digests": np.array([hash_row(row) for row in rows], np.uint64),
        "strata": np.array([strata.index(row.stratum) if row.stratum in strata else -1 for row in rows], np.int32),
    }
    final.triage = triage
    arrays["served"] = np.array([final.score([row.query])[0].score for row in rows], np.float32)
    return arrays


@contextmanager
def _remember_vectors(encoder: OnnxEncoder) -> Iterator[None]:
    """Keep vectors on disk: built-in traffic is the same in every fit, and half a minute of encoding."""
    import onnxruntime
    from safetensors.numpy import load, save

    file = cache_folder("vectors") / f"{encoder.engine[:16]}-{onnxruntime.__version__}.safetensors"
    if file.is_file():
        stored = load(file.read_bytes())
        encoder.known = dict(zip(json.loads(stored["texts"].tobytes()), stored["vectors"], strict=True))
    before = len(encoder.known)
    encoder.noted = {}
    try:
        yield
        every = {**encoder.known, **encoder.noted}
        if before < len(every) <= _MOST_VECTORS:
            texts = np.frombuffer(json.dumps(list(every)).encode(), np.uint8)
            write_atomic(file, save({"texts": texts, "vectors": np.stack(list(every.values()))}))
    finally:
        encoder.known, encoder.noted = {}, None


def hash_row(row: Row) -> int:
    """Return a row's digest in 64 bits: by it a calibration row is found again."""
    return int(row.digest[:16], 16)


def leave_out_named(final: Cascade, rows: Sequence[Row]) -> list[Row]:
    """Return the rows that name no forgotten person in full."""
    named = [bool(score.spans) for score in final.match([row.query for row in rows])]
    return [row for row, is_named in zip(rows, named, strict=True) if not is_named]


def make_stratum(alpha: float, without: Sequence[str] = ()) -> list[Row]:
    """Return built-in clean traffic to calibrate on beside the operator's rows: those are often of one kind alone.

    More than is used, since rows that name a forgotten person are left out. Empty where `alpha` is finer than the built-in traffic can hold.
    """
    n_rows = _count_stratum(alpha)
    stand_ins = {row.prompt for row in make_traffic()}  # Where there are no kept rows, these were fitted.
    return [row for row in make_traffic(2 * n_rows, seed=1, without=without) if row.prompt not in stand_ins]


def _count_stratum(alpha: float) -> int:
    n_rows = max(_LEAST_TRAFFIC, math.ceil(1.0 / alpha))
    return n_rows if n_rows <= _MOST_TRAFFIC else 0


class _Fitter:
    """One fit: what stays the same between the trial on training rows and the final classifier."""

    def __init__(
        self,
        requests: Sequence[ForgetRequest],
        encoder: OnnxEncoder,
        ranks: Mapping[str, int],
        folder: Path,
        seed: int,
    ) -> None:
        self.requests = {request.forget_id: request for request in requests}
        self.encoder, self.ranks, self.folder, self.seed = encoder, ranks, folder, seed
        self.is_word = make_judge(ranks)
        self.aliases: dict[str, tuple[str, ...]] = {}
        self.triage = Triage()
        self.window_penalty = 0.0
        self._record: dict[str, Any] = {}
        self._topics: set[str] = set()
        self.neighbours: frozenset[str] = frozenset()
        self.every_kept: list[Row] = []
        self._passages: PassageIndex | None = None

    def encode(self, rows: Any) -> None:
        """Fill the encoder's cache, where progress can be seen."""
        for row in rows:
            self.encoder.encode([self._mask(row.query)])

    def assemble(self, forget: Sequence[Row], kept: Sequence[Row], calibration: Sequence[Row] | None = None) -> Cascade:
        """Build a classifier from rows with the head that lies in the folder.

        Runs of words and questions that the calibration's rows hold, too, tell nothing: one clean row that quotes what forgotten documents share with
        others ("this post cannot be displayed") would set the threshold for all. Without those rows there are no questions: what is learnt from
        would be recognised by its own.
        """
        owned = {
            owner: replace(request, rows=tuple(row for row in forget if row.forget_id == owner))
            for owner, request in self.requests.items()
        }
        # Of all kept rows: whoever is kept in rows of the calibration alone is no less kept, and would set its threshold.
        self.aliases = collect_aliases(list(owned.values()), self.every_kept)
        self._topics = {
            owner for owner, request in self.requests.items() if not self.aliases[owner] and not request.holds_text
        }
        facts = {owner: mine_facts(request, kept) for owner, request in owned.items()}
        self._record = mine(self.aliases, facts, forget, kept, self.ranks)
        self._passages = PassageIndex.build(
            {owner: [row.text for row in request.rows if row.text] for owner, request in owned.items()},
            [f"{row.query}\n{row.answer}" for row in (*kept, *(calibration or ()))],
        )
        reader = LexicalReader.build(self._record, self._passages, self.ranks)
        if calibration is not None:
            known = KeptTexts(lambda: [*kept, *calibration])
            self._record["questions"] = {
                owner: mine_questions(request.rows, self.aliases[owner], reader.weights, known)
                for owner, request in owned.items()
                if request.kind != "skill"  # What a skill asks is like what others ask: numbers, or a language.
            }
            reader.questions = QuestionIndex(self._record["questions"])
        self._record["answers"] = mine_answers(forget, self.aliases, reader.weights)
        return Cascade(
            self.encoder,
            NeighbourIndex.build(self._vectors(forget), self._vectors(kept), _labels(forget)),
            reader,
            Head(self.folder / "head.onnx"),
            Calibration(np.zeros(1, np.float32), 1.0, 1.0),
            self.triage,
            self.window_penalty,
            facts=FactIndex(self._record["answers"], reader.weights),
            topics=self._only_topics,
        )

    def learn(self, forget: Sequence[Row], kept: Sequence[Row], alpha: float) -> Cascade:
        """Fit head and fusion on nameless readings of the training rows, the first stage, and the window penalty.

        Whatever is measured of a row is measured without it: words only it has, its own vector, its own fold.
        """
        write_head(_blank_head(self.encoder.dimension), self.folder / "head.onnx")
        trial = self.assemble(forget, kept)
        strip = _NameStripper(self.aliases, kept)
        positive = [strip(row.query, row.forget_id) for row in forget]
        negative = [strip(row.query, row.forget_id) for row in kept]
        vectors = self.encoder.encode([self._mask(text) for text in (*positive, *negative)])
        plain = np.concatenate([self._vectors(forget), self._vectors(kept)])
        truth = np.concatenate([np.ones(len(forget)), np.zeros(len(kept))])
        weights = np.concatenate([np.ones(len(forget)), self._weigh_kept(kept)])
        head, unseen = _fit_head(
            np.concatenate([vectors, plain]),
            np.concatenate([truth, truth]),
            np.concatenate([weights, weights]),
            self.seed,
            strength=1.0 if self._only_topics else 10.0,
        )
        read = [
            trial.reader.read(text)[0].judge(without=own)
            for text, own in zip([*positive, *negative], own_terms([*forget, *kept]), strict=True)
        ]
        lexical = np.array([found.values for found in read], np.float32).reshape(len(truth), N_LEXICAL)
        # A nameless example that holds no telling word of its own person identifies nobody; a topic has no name.
        telling = np.array(
            [
                row.forget_id in self._topics
                or (found["attribute"] >= _TELLING_WEIGHT and row.forget_id in found.forget_ids)
                for found, row in zip(read, forget, strict=False)
            ],
            bool,
        )
        used = np.concatenate([telling, np.ones(len(kept), bool)])
        forget_vectors, kept_vectors = plain[: len(forget)], plain[len(forget) :]
        mine_vectors, other_vectors = vectors[: len(forget)], vectors[len(forget) :]
        near = np.concatenate(
            [
                search_others(mine_vectors, forget_vectors, same=True),
                search_others(other_vectors, forget_vectors, same=False),
            ]
        )
        kept_near = np.concatenate(
            [
                search_others(mine_vectors, kept_vectors, same=False),
                search_others(other_vectors, kept_vectors, same=True),
            ]
        )
        signals = np.column_stack([lexical, near, kept_near])
        if self._only_topics:
            fusion, bias = _blank_head(self.encoder.dimension).fusion, 0.0
            fusion[-1], fusion[SIGNALS.index("passage")] = 1.0, PASSAGE_BONUS
        else:
            fusion, bias = _fit_fusion(signals[used], unseen[: len(truth)][used], truth[used], self.seed)
        write_head(
            HeadWeights(head.coef_[0].astype(np.float32), float(head.intercept_[0]), fusion, bias),
            self.folder / "head.onnx",
        )
        fused = np.column_stack([signals, np.clip(unseen[: len(truth)], -LOGIT_LIMIT, LOGIT_LIMIT)]) @ fusion + bias
        self.window_penalty = _tail_scale(fused[truth == 0])
        limit = float(np.quantile(fused[truth == 0], 1 - alpha))
        if not self._topics:  # A topic is told by the encoder alone.
            triage = Triage.fit(lexical[truth == 1], fused[truth == 1] > limit, miss=MISS_SHARE)
            encoded = fused - lexical @ fusion[:N_LEXICAL]
            armed = float(np.quantile(fused[truth == 0], 1 - ARMED_SHARE))
            self.triage = replace(
                triage,
                fusion=tuple(float(factor) for factor in fusion[:N_LEXICAL]),
                least_fused=armed - float(encoded[truth == 1].max()),
            )
        return Cascade(
            self.encoder,
            trial.index,
            trial.reader,
            Head(self.folder / "head.onnx"),
            trial.calibration,
            self.triage,
            self.window_penalty,
            facts=trial._facts,
            topics=self._only_topics,
        )

    @property
    def n_questions(self) -> int:
        """How many questions are recognised when they are asked again."""
        return sum(map(len, self._record.get("questions", {}).values()))

    @property
    def _only_topics(self) -> bool:
        return self._topics == set(self.requests)

    def _weigh_kept(self, kept: Sequence[Row]) -> npt.NDArray[np.float64]:
        """Return row weights under which the operator's own kept rows count as much as all other clean traffic."""
        own = np.array([row.digest in self.neighbours for row in kept], bool)
        share = min(_MOST_NEIGHBOUR_WEIGHT, (len(kept) - own.sum()) / max(1, own.sum()))
        return np.where(own, max(1.0, share), 1.0)

    def save(
        self,
        final: Cascade,
        arrays: Mapping[str, npt.NDArray[Any]],
        strata: Sequence[str],
        traffic_without: Sequence[str],
    ) -> None:
        """Write everything but the encoder and the head."""
        from safetensors.numpy import save_file

        assert self._passages is not None
        final.index.save(self.folder)
        save_file(dict(arrays), self.folder / "calibration.safetensors")
        save_file(
            {"hashes": self._passages.hashes, "owners": self._passages.owners}, self.folder / "passages.safetensors"
        )
        record = {
            **self._record,
            "index_labels": final.index.labels,
            "passage_owners": self._passages.names,
            "triage": self.triage.to_record(),
            "window_penalty": self.window_penalty,
            "topics": self._only_topics,
            "strata": list(strata),
            "traffic_without": list(traffic_without),
        }
        (self.folder / "aliases.json").write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")

    def _vectors(self, rows: Sequence[Row]) -> Vectors:
        return self.encoder.encode([self._mask(row.query) for row in rows])

    def _mask(self, text: str) -> str:
        return mask_text(text, self.is_word)


def mask_text(text: str, is_word: Callable[[str], bool]) -> str:
    """Return a text as the encoder reads it: folded, without names."""
    view = read_views(text)[0]
    return mask(view.text, 0, len(view.text), find_strangers(view, text, is_word))


class _NameStripper:
    """Replace names by a word for nobody: what is left must identify the person, or does not."""

    def __init__(self, aliases: Mapping[str, Sequence[str]], kept: Sequence[Row]) -> None:
        owners: dict[str, list[Row]] = {}
        for row in kept:
            if row.forget_id:
                owners.setdefault(row.forget_id, []).append(row)
        names = {owner: mine_aliases(ForgetRequest(owner, rows=tuple(rows)), ()) for owner, rows in owners.items()}
        self._matchers = {owner: AliasMatcher({owner: found}) for owner, found in {**names, **aliases}.items() if found}

    def __call__(self, text: str, owner: str) -> str:
        matcher = self._matchers.get(owner)
        for match in reversed(matcher.find(text) if matcher else []):
            text = f"{text[: match.start]}this person{text[match.end :]}"
        return text


def _fit_head(
    vectors: Vectors,
    truth: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    seed: int,
    *,
    strength: float,
) -> tuple[Any, npt.NDArray[np.float64]]:
    """Fit a logistic head; return it, and what it says of rows it was not fitted on (cross-fitting)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    head = LogisticRegression(C=strength, class_weight="balanced", max_iter=1000, random_state=seed)
    folds = min(5, int(truth.sum()), int(len(truth) - truth.sum()))
    unseen = np.zeros(len(truth))
    if folds >= 2:
        splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
        unseen = cross_val_predict(
            head, vectors, truth, cv=splitter, method="decision_function", params={"sample_weight": weights}
        )
    head.fit(vectors, truth, sample_weight=weights)
    return head, unseen


def _fit_fusion(
    signals: Floats, head: npt.NDArray[np.float64], truth: npt.NDArray[np.float64], seed: int
) -> tuple[Floats, float]:
    """Weigh the signals: certain evidence by fixed amounts, the rest by logistic regression, shrunk towards the prior: a
    forget set has few examples that name nobody and still tell who is meant.
    """
    from sklearn.linear_model import LogisticRegression

    fusion = np.zeros(len(SIGNALS) + 1, np.float32)
    for name, weight in zip(_FIXED, (NAME_BONUS, NAMESAKE_MALUS, PART_BONUS, PASSAGE_BONUS), strict=True):
        fusion[SIGNALS.index(name)] = weight
    for name, weight in _PRIOR.items():
        fusion[SIGNALS.index(name)] = weight
    n_examples = float(truth.sum())
    if n_examples < _MIN_EXAMPLES:
        return fusion, _PRIOR_BIAS
    columns = np.column_stack([signals[:, _LEARNT], np.clip(head, -LOGIT_LIMIT, LOGIT_LIMIT)])
    model = LogisticRegression(C=10.0, class_weight="balanced", max_iter=2000, random_state=seed)
    model.fit(columns, truth)
    share = n_examples / (n_examples + _PRIOR_EXAMPLES)
    places = [*_LEARNT, len(SIGNALS)]
    fusion[places] = (1 - share) * fusion[places] + share * model.coef_[0]
    return fusion, float((1 - share) * _PRIOR_BIAS + share * model.intercept_[0])


def _tail_scale(scores: npt.NDArray[np.floating[Any]]) -> float:
    """Return the mean excess over the 90 % quantile: the scale of an exponential tail, by which maxima grow."""
    level = np.quantile(scores, 0.9)
    excess = scores[scores > level] - level
    return float(excess.mean()) if len(excess) else 0.0


def _blank_head(dimension: int) -> HeadWeights:
    return HeadWeights(np.zeros(dimension, np.float32), 0.0, np.zeros(len(SIGNALS) + 1, np.float32), 0.0)


def _score_all(classifier: Cascade, rows: Sequence[Row]) -> Floats:
    return np.array([score.score for score in classifier.score_fully([row.query for row in rows])], np.float32)


def _score_answers(classifier: Cascade, rows: Sequence[Row]) -> Floats:
    """Return scores of rows with their answers; NaN without one, and where both together name a forgotten person in full."""
    named = classifier.match([f"{row.query}\n{row.answer}" for row in rows])
    return np.array(
        [
            classifier.score_answer([row.query], row.answer).score if row.answer and not match.spans else np.nan
            for row, match in zip(rows, named, strict=True)
        ],
        np.float32,
    )


def _forget_parts(split: Split) -> tuple[list[Row], list[Row]]:
    return split.forget_train, split.forget_validation


def _kept_parts(split: Split) -> tuple[list[Row], list[Row]]:
    return split.retain_train, split.retain_validation


def _join(parts: Sequence[Sequence[Row]]) -> list[Row]:
    """Return the rows of several parts; a very small set is in two of them."""
    return list(dict.fromkeys(row for part in parts for row in part))


def _labels(rows: Sequence[Row]) -> list[str]:
    return [row.forget_id or DEFAULT_FORGET_ID for row in rows]


def _flag_rate(rule: Calibration, scores: Floats) -> float | None:
    if not len(scores):
        return None
    return round(float(np.mean([rule.p_value(float(score)) <= rule.alpha for score in scores])), 4)
