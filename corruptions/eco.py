"""ECO, embedding-corrupted prompts (Liu et al., arXiv 2406.07933): the corruption family, its masks and row edits.

An embedding row e becomes, in its first k dimensions, a·e + b: Gaussian noise (a = 1, b = σ·n), zero-out (a = 0,
b = 0) or sign flip (a = −1, b = 0). σ is stated relative to the root mean square of the embedding table, because
the first layer's norm divides everything else out. Noise is a pure function of (seed, forget_id, absolute
position), so that chunked prefill, preemption, tensor parallelism and repeats reproduce it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from unlearn_guard.corruptions.prompt import Prompt, to_ranges
from unlearn_guard.guard.errors import SettingsError
from unlearn_guard.guard.stamp import Stamp, Step
from unlearn_guard.guard.verdict import Verdict

Kind = Literal["noise", "zero", "flip"]
Mask = Literal["span", "content", "all", "token-id"]
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
_SCALES = {"noise": 1.0, "zero": 0.0, "flip": -1.0}


@dataclass(frozen=True, slots=True)
class EcoSettings:
    """One member of the family.

    strength: σ over the embedding RMS, used by `noise` only. dims: how many leading dimensions, 0 for all.
    rms: of the model's embedding table.
    """

    kind: Kind = "noise"
    mask: Mask = "all"
    strength: float = 2.0
    dims: int = 0
    rms: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise SettingsError("eco kind", value=self.kind, allowed=", ".join(get_args(Kind)))
        if self.mask not in get_args(Mask):
            raise SettingsError("eco mask", value=self.mask, allowed=", ".join(get_args(Mask)))
        if self.strength <= 0 or self.dims < 0:
            raise SettingsError("eco strength and dims", value=(self.strength, self.dims), allowed="> 0 and ≥ 0")

    def to_record(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def plan_eco(settings: EcoSettings, verdict: Verdict, prompt: Prompt, common_words: frozenset[str]) -> Step:
    """Return the step that corrupts a flagged prompt.

    A question without a name falls back from `span` and `content` to `all`: then the question itself is the key. A name is corrupted
    wherever it stands: in an answer that a client made up it is read as well as in its question.
    """
    places = prompt.locate(verdict)
    params = {
        "kind": settings.kind,
        "mask": settings.mask,
        "amplitude": settings.strength * settings.rms if settings.kind == "noise" else 0.0,
        "dims": settings.dims,
    }
    if settings.mask == "token-id":
        return Step("eco", (), params)
    tokens = prompt.cover(places) if settings.mask in ("span", "content") else set()
    if settings.mask == "content" and tokens:
        rare = [(start, end) for start, end, word in prompt.words() if word not in common_words]
        tokens |= prompt.cover(rare) & prompt.open_tokens()
    if settings.mask == "all" or not tokens:
        tokens = prompt.open_tokens() | prompt.cover(places)
    return Step("eco", to_ranges(tokens), params)


@dataclass(slots=True)
class RowEdits:
    """What happens to consecutive embedding rows of one request; all arrays have one entry per row.

    A row with `dims` > 0 becomes scale·e + shift in its first `dims` dimensions. `by_token` rows are edited only
    where their token id is in the table of exclusive ids. `swap` ≥ 0 replaces the token id before look-up.
    """

    dims: npt.NDArray[np.int32]
    scale: Floats
    shift: Floats
    by_token: Flags
    swap: Integers

    @classmethod
    def blank(cls, n_rows: int, hidden: int) -> RowEdits:
        """Return edits that change nothing."""
        return cls(
            np.zeros(n_rows, np.int32),
            np.ones(n_rows, np.float32),
            np.zeros((n_rows, hidden), np.float32),
            np.zeros(n_rows, np.bool_),
            np.full(n_rows, -1, np.int64),
        )


class RowPlan:
    """The row edits of one stamped request, at any absolute positions."""

    def __init__(self, stamp: Stamp, hidden: int, noise: NoiseTable) -> None:
        self.stamp, self.hidden, self.noise = stamp, hidden, noise
        self.beyond_prompt = any(step.params.get("mask") == "token-id" for step in stamp.steps)
        self.edits_rows = any(step.method in ("eco", "swap", "refusal") for step in stamp.steps)

    def edit(self, start: int, stop: int) -> RowEdits | None:
        """Return the edits of absolute positions start to stop, or None where no row changes."""
        if not self.edits_rows or (start >= self.stamp.prompt_length and not self.beyond_prompt):
            return None
        edits = RowEdits.blank(stop - start, self.hidden)
        for step in self.stamp.steps:
            if step.method == "eco":
                self._edit_eco(step, edits, start, stop)
            elif step.method == "refusal":
                # Forced tokens say nothing, but logits and prompt logprobs would: blank what they are made from.
                for rows in _rows(((0, self.stamp.prompt_length),), start, stop):
                    edits.dims[rows], edits.scale[rows] = self.hidden, 0.0
            elif step.method == "swap":
                for (first, _), ids in zip(step.positions, step.params["tokens"], strict=True):
                    for offset, token in enumerate(ids):
                        if start <= first + offset < stop:
                            edits.swap[first + offset - start] = token
        return edits

    def _edit_eco(self, step: Step, edits: RowEdits, start: int, stop: int) -> None:
        dims = int(step.params["dims"]) or self.hidden
        by_token = step.params["mask"] == "token-id"
        where = ((start, stop),) if by_token else step.positions
        for rows in _rows(where, start, stop):
            edits.dims[rows] = dims
            edits.scale[rows] = _SCALES[step.params["kind"]]
            edits.by_token[rows] = by_token
            edits.shift[rows] = 0.0
            amplitude = float(step.params["amplitude"])
            if amplitude:
                owner = self.stamp.forget_ids[0] if self.stamp.forget_ids else ""
                table = self.noise.rows(self.stamp.seed, owner, start + rows.start, start + rows.stop)
                edits.shift[rows, :dims] = np.float32(amplitude) * table[:, :dims]


def _rows(ranges: Any, start: int, stop: int) -> list[slice]:
    """Cut absolute ranges to a window and return them as slices of it."""
    cut = [(max(left, start) - start, min(right, stop) - start) for left, right in ranges]
    return [slice(left, right) for left, right in cut if left < right]


class NoiseTable:
    """Standard normal rows by (seed, forget_id, absolute position), float32, from Philox on the host.

    Rows are made in blocks of 64 positions, each from its own counter; the last blocks used are kept, at most 64 MiB.
    """

    _BLOCK = 64
    _MAX_BYTES = 64 * 2**20

    def __init__(self, hidden: int) -> None:
        self.hidden = hidden
        self._blocks: OrderedDict[tuple[int, str, int], Floats] = OrderedDict()

    def rows(self, seed: int, forget_id: str, start: int, stop: int) -> Floats:
        """Return rows for positions start to stop, shape (stop − start, hidden)."""
        numbers = range(start // self._BLOCK, (stop - 1) // self._BLOCK + 1)
        whole = np.concatenate([self._block(seed, forget_id, number) for number in numbers])
        first = numbers[0] * self._BLOCK
        return whole[start - first : stop - first]

    def _block(self, seed: int, forget_id: str, number: int) -> Floats:
        key = (seed, forget_id, number)
        if key in self._blocks:
            self._blocks.move_to_end(key)
            return self._blocks[key]
        digest = hashlib.sha256(f"{seed}:{forget_id}".encode()).digest()
        bits = np.random.Philox(
            key=np.frombuffer(digest[:16], np.uint64), counter=np.array([0, 0, number, 0], np.uint64)
        )
        block = np.random.Generator(bits).standard_normal((self._BLOCK, self.hidden), dtype=np.float32)
        self._blocks[key] = block
        while len(self._blocks) * block.nbytes > self._MAX_BYTES and len(self._blocks) > 1:
            self._blocks.popitem(last=False)
        return block


def measure_rms(table: Any) -> float:
    """Return the root mean square of an embedding table (NumPy array, rows × dims)."""
    return float(np.sqrt(np.mean(np.square(np.asarray(table, np.float64)))))


def find_exclusive_ids(forget_ids: Mapping[int, int], clean_ids: Mapping[int, int], special: set[int]) -> list[int]:
    """Return token ids that occur in forget rows, never in clean ones, and are not special."""
    return sorted(token for token in forget_ids if token not in clean_ids and token not in special)
