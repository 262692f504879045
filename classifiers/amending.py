"""Adding and removing forget requests of a fitted classifier, without fitting the rest again.

Names, titles, passages, described attributes, told facts and neighbours are kept by forget request, and come and go with
it. Head and fusion stay: they say how evidence weighs, not whose it is. Scores of clean rows change with both, so
`recalibrate` scores them again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unlearn_guard.classifiers.aliases import mine_aliases
from unlearn_guard.classifiers.answers import mine_answers
from unlearn_guard.classifiers.attributes import Weights
from unlearn_guard.classifiers.cascade import Cascade, read_calibrations
from unlearn_guard.classifiers.encoder import OnnxEncoder
from unlearn_guard.classifiers.facts import mine_facts
from unlearn_guard.classifiers.fitting import hash_row, leave_out_named, make_stratum, mask_text, score_clean
from unlearn_guard.classifiers.index import NeighbourIndex
from unlearn_guard.classifiers.names import Beside
from unlearn_guard.classifiers.passages import PassageIndex
from unlearn_guard.classifiers.questions import KeptTexts, mine_questions
from unlearn_guard.classifiers.signals import content_of, make_common, make_judge, mine_request, read_ranks
from unlearn_guard.guard.errors import DataError
from unlearn_guard.guard.rows import ForgetRequest, Row

_BY_OWNER = ("aliases", "facts", "bags", "profiles", "beside", "answers", "questions")


class Amendment:
    """A classifier folder that is being changed; nothing is written before `save`."""

    def __init__(self, folder: Path) -> None:
        """Read what a change touches; the encoder is opened only to add."""
        from safetensors.numpy import load_file

        self._folder = folder
        self._record: dict[str, Any] = json.loads((folder / "aliases.json").read_text(encoding="utf-8"))
        for name in ("questions", "beside"):  # Bundles of the release before have none.
            self._record.setdefault(name, {})
        passages = load_file(folder / "passages.safetensors")
        self._passages = PassageIndex(passages["hashes"], passages["owners"], self._record["passage_owners"])
        self._kept: tuple[Sequence[Row], KeptTexts] | None = None
        self._beside: tuple[Sequence[Row], Beside] | None = None
        self._index = NeighbourIndex.load(folder, self._record["index_labels"])

    @cached_property
    def _ranks(self) -> dict[str, int]:
        return read_ranks(self._folder / "tokenizer.json")

    @cached_property
    def _alpha(self) -> float:
        from safetensors.numpy import load_file

        return float(load_file(self._folder / "calibration.safetensors")["alpha"][1])

    @cached_property
    def _encoder(self) -> OnnxEncoder:
        return OnnxEncoder(self._folder)

    @cached_property
    def _traffic(self) -> list[Row]:
        return make_stratum(self._alpha, self._record.get("traffic_without", ()))

    def _read_kept(self, kept: Sequence[Row]) -> KeptTexts:
        """Return what kept rows hold, read once for all requests that are added."""
        if self._kept is None or self._kept[0] is not kept:
            self._kept = kept, KeptTexts(lambda: [*kept, *self._traffic])
        return self._kept[1]

    def _read_beside(self, kept: Sequence[Row]) -> Beside:
        if self._beside is None or self._beside[0] is not kept:
            self._beside = kept, Beside(map(content_of, kept), make_common(self._ranks))
        return self._beside[1]

    @property
    def labels(self) -> list[str]:
        """The forget_id of every indexed row, in order; empty where a row is gone and its place is not."""
        return self._index.labels

    def add(self, request: ForgetRequest, kept: Sequence[Row]) -> ForgetRequest:
        """Add one forget request, its names, titles and passages pruned against `kept`; return it with its aliases.

        Raises DataError for a forget_id that is there already, for a classifier of topics, and for a request without
        a name, which needs a head that was fitted for it.
        """
        owner = request.forget_id
        if owner in self._record["aliases"]:
            raise DataError(
                "forget_id is in the bundle already", value=owner, mend="remove it first, or rename the rows"
            )
        if self._record["topics"]:
            raise DataError("a classifier of topics is fitted as a whole", mend="fit again with all forget rows")
        aliases = request.aliases or mine_aliases(request, kept)
        if not aliases and not request.holds_text:
            raise DataError(
                "the rows name nobody", value=owner, mend="give aliases, or fit again: a topic needs a head of its own"
            )
        request = replace(request, aliases=tuple(aliases))
        weights = Weights(self._record["counts"], self._record["n_bags"], self._record["bag_words"], self._ranks)
        texts = [row.text for row in request.rows if row.text]
        bag, profile = mine_request(request.rows, aliases, weights)
        found = {
            "aliases": list(aliases),
            "facts": list(mine_facts(request, kept)),
            "bags": bag,
            "profiles": profile,
            "beside": self._read_beside(kept).find(aliases),
            "questions": mine_questions(request.rows, aliases, weights, self._read_kept(kept)),
            "answers": mine_answers(request.rows, {owner: aliases}, weights).get(owner, []),
        }
        for name, value in found.items():
            self._record[name][owner] = value
        self._passages = self._passages.join(
            PassageIndex.build(
                {owner: texts}, [f"{row.query}\n{row.answer}" for row in (*kept, *(self._traffic if texts else ()))]
            )
        )
        is_word = make_judge(self._ranks)
        self._index.add(self._encoder.encode([mask_text(row.query, is_word) for row in request.rows]), owner)
        return request

    def remove(self, forget_ids: Collection[str]) -> None:
        """Remove forget requests; raise DataError for one that is not there, or where none would be left."""
        known = self._record["aliases"]
        if unknown := sorted(set(forget_ids) - set(known)):
            raise DataError("no such forget request", value=unknown[0], allowed=", ".join(sorted(known)[:20]))
        if set(known) <= set(forget_ids):
            raise DataError("no forget request would be left", mend="stop serving with this bundle instead")
        for owner in forget_ids:
            for name in _BY_OWNER:
                self._record[name].pop(owner, None)
            self._index.remove(owner)
        self._passages = self._passages.without(forget_ids)

    def save(self) -> None:
        """Write what changed into the folder."""
        from safetensors.numpy import save_file

        self._index.save(self._folder)
        self._record["index_labels"] = self._index.labels
        self._record["passage_owners"] = self._passages.names
        save_file(
            {"hashes": self._passages.hashes, "owners": self._passages.owners}, self._folder / "passages.safetensors"
        )
        (self._folder / "aliases.json").write_text(json.dumps(self._record, ensure_ascii=False), encoding="utf-8")


def recalibrate(folder: Path, engine: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Score the calibration's own rows among `rows`, and built-in traffic, again; return alpha and how many were found.

    A row that is not found keeps its old score: for it the rate holds as it did before.
    """
    from safetensors.numpy import load_file, save_file

    old = load_file(folder / "calibration.safetensors")
    record = json.loads((folder / "aliases.json").read_text(encoding="utf-8"))
    strata = record["strata"]
    requested = float(old["alpha"][1])
    classifier = Cascade.load(folder, engine)
    digests = old["digests"].tolist()
    wanted = set(digests)
    found = {digest: row for row in rows if (digest := hash_row(row)) in wanted}
    used = leave_out_named(classifier, [found[digest] for digest in digests if digest in found])
    arrays = score_clean(classifier, used, strata, requested, record.get("traffic_without", ()))
    left = [place for place, digest in enumerate(digests) if digest not in found]
    for name in ("fused", "joint", "served", "digests", "strata"):
        arrays[name] = np.concatenate([arrays[name], old[name][left]])
    calibration, _ = read_calibrations(arrays, strata, requested)
    arrays["alpha"] = np.array([calibration.alpha, requested], np.float64)
    save_file(arrays, folder / "calibration.safetensors")
    return {"alpha": calibration.alpha, "n_calibration": len(arrays["fused"]), "n_scored_again": len(used)}
