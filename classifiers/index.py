"""Nearest neighbours among forget rows against nearest neighbours among retain rows (FAISS)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unlearn_guard.classifiers.encoder import Vectors
from unlearn_guard.guard.errors import DependencyError

Floats = npt.NDArray[np.float32]
_EXACT_LIMIT = 20_000
_RECALL_TARGET = 0.99


class NeighbourIndex:
    """Cosine to the nearest forget row and to the nearest retain row; their difference is the OOD score.

    Exact up to 20,000 vectors: a missed neighbour is a leak. Beyond, inverted lists whose probe count is raised
    until the measured recall reaches 0.99.
    """

    def __init__(self, forget: Any, retain: Any, labels: list[str]) -> None:
        self._forget, self._retain = forget, retain
        self.labels = labels

    @classmethod
    def build(cls, forget: Vectors, retain: Vectors, labels: list[str]) -> NeighbourIndex:
        """Index unit vectors; `labels[i]` is the forget_id of forget row i."""
        return cls(_build(forget), _build(retain), labels)

    @classmethod
    def load(cls, folder: Path, labels: list[str], device: str = "cpu") -> NeighbourIndex:
        """Read the two indices; `device` cuda moves them to the first GPU."""
        import faiss

        indices = [faiss.read_index(str(folder / name)) for name in ("index.faiss", "retain.faiss")]
        if device == "cuda":
            if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0:
                raise DependencyError("faiss sees no GPU", mend="install the extra `gpu`, or use --device cpu")
            resources = faiss.StandardGpuResources()
            indices = [faiss.index_cpu_to_gpu(resources, 0, index) for index in indices]
        return cls(indices[0], indices[1], labels)

    def save(self, folder: Path) -> None:
        """Write index.faiss (forget) and retain.faiss."""
        import faiss

        faiss.write_index(self._forget, str(folder / "index.faiss"))
        faiss.write_index(self._retain, str(folder / "retain.faiss"))

    def add(self, vectors: Vectors, label: str) -> None:
        """Add the rows of one more forget request; inverted lists are not trained again."""
        content = np.ascontiguousarray(vectors, np.float32)
        if self.probes:  # Inverted lists keep their numbers: ours go on from the last one.
            self._forget.add_with_ids(content, np.arange(len(self.labels), len(self.labels) + len(content)))
        else:
            self._forget.add(content)
        self.labels.extend([label] * len(content))

    def remove(self, label: str) -> int:
        """Remove a forget request's rows; return how many there were."""
        import faiss

        places = np.array([place for place, own in enumerate(self.labels) if own == label], np.int64)
        if len(places):
            self._forget.remove_ids(faiss.IDSelectorBatch(places))
            if isinstance(self._forget, faiss.IndexFlat):  # The rows behind move up.
                gone = set(places.tolist())
                self.labels = [own for place, own in enumerate(self.labels) if place not in gone]
            else:
                for place in places:
                    self.labels[place] = ""
        return len(places)

    @property
    def probes(self) -> int:
        """How many inverted lists are searched; 0 where the search is exact."""
        return int(getattr(self._forget, "nprobe", 0))

    def find_neighbours(self, vector: Vectors, n: int) -> list[tuple[int, str, float]]:
        """Return (place, forget_id, cosine) of the n forget rows nearest to one vector."""
        if not self._forget.ntotal:
            return []
        similarity, places = self._forget.search(vector[None], min(n, self._forget.ntotal))
        return [
            (int(place), self.labels[place], float(cosine))
            for place, cosine in zip(places[0], similarity[0], strict=True)
            if place >= 0
        ]

    def search(self, vectors: Vectors) -> tuple[Floats, Floats, list[str]]:
        """Return, per vector, the best forget cosine, the best retain cosine, and the nearest forget_id.

        One query at a time: FAISS then opens no threads. Its own switch for that, `omp_set_num_threads`, would hold for
        the whole process, and slow the model of an engine that runs beside us.
        """
        forget, retain = np.empty(len(vectors), np.float32), np.empty(len(vectors), np.float32)
        nearest = []
        for row in range(len(vectors)):
            if self._forget.ntotal:
                similarity, place = self._forget.search(vectors[row : row + 1], 1)
                forget[row] = similarity[0, 0]
                nearest.append(self.labels[place[0, 0]] if place[0, 0] >= 0 else "")
            else:
                forget[row] = -1.0
                nearest.append("")
            retain[row] = self._retain.search(vectors[row : row + 1], 1)[0][0, 0]
        return forget, retain, nearest


def _build(vectors: Vectors) -> Any:
    import faiss

    exact = faiss.IndexFlatIP(vectors.shape[1])
    exact.add(vectors)
    if len(vectors) <= _EXACT_LIMIT:
        return exact
    n_lists = int(np.sqrt(len(vectors)))
    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(vectors.shape[1]), vectors.shape[1], n_lists, faiss.METRIC_INNER_PRODUCT
    )
    index.train(vectors)
    index.add(vectors)
    probes = vectors[:: max(1, len(vectors) // 500)]
    _, truth = exact.search(probes, 2)
    index.nprobe = 4
    while index.nprobe < n_lists:
        _, found = index.search(probes, 2)
        if (found[:, 1] == truth[:, 1]).mean() >= _RECALL_TARGET:
            break
        index.nprobe *= 2
    return index


def search_others(queries: Vectors, pool: Vectors, *, same: bool) -> Floats:
    """Return the best cosine of each query to the pool; `same` leaves out the query's own row."""
    best = np.full(len(queries), -1.0, np.float32)
    for start in range(0, len(queries), 1024):
        block = queries[start : start + 1024] @ pool.T
        if same:
            rows = np.arange(len(block))
            block[rows, rows + start] = -1.0
        best[start : start + 1024] = block.max(axis=1) if pool.size else -1.0
    return best
