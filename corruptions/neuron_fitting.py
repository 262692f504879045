"""From forget requests to neuron tables and key-space probes: what is measured, how it lies in a bundle, how it is read again."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from unlearn_guard.corruptions import key_space
from unlearn_guard.corruptions.augmentation import reframe
from unlearn_guard.corruptions.gated_mlp import find_gated_mlps
from unlearn_guard.corruptions.key_space import Floats, Probe
from unlearn_guard.corruptions.mlp_edit import AblationTable, AdjustTable, Table
from unlearn_guard.corruptions.neuron_settings import ABLATE, ADJUST, Counted, NeuronOptions
from unlearn_guard.corruptions.neurons import (
    Moments,
    NeuronStatistics,
    Peaks,
    Text,
    choose_highest,
    measure_keys,
    measure_neurons,
    rank_neurons,
    select_neurons,
)
from unlearn_guard.guard.bundle import write_atomic
from unlearn_guard.guard.errors import BundleError, DataError, SettingsError
from unlearn_guard.guard.rows import ForgetRequest, Row

FILE = "neurons.safetensors"
PROBES_FILE = "key_space.safetensors"
_FIELDS = ("mean", "variance")
_SHOTS = 3
Encode = Callable[[str, str], tuple[list[int], list[int]]]
"""Prompt and answer to their token ids, the prompt as it is served."""


def mark_text(prompt: Sequence[int], answer: Sequence[int], counted: Counted) -> Text:
    """Return prompt and answer as one text of which the chosen tokens count."""
    length = len(prompt) + len(answer)
    if counted == "all":
        return Text((*prompt, *answer), 0, length)
    # A token's neurons decide about the next one: the prompt's last token predicts the answer's first.
    stop = len(prompt) if counted == "last" else max(len(prompt), length - 1)
    return Text((*prompt, *answer), len(prompt) - 1, stop)


def fit_tables(
    model: Any,
    encode: Encode,
    requests: Sequence[ForgetRequest],
    kept: Sequence[Row],
    options: NeuronOptions,
    *,
    seed: int,
    folder: Path,
    concepts: Mapping[str, Sequence[tuple[int, int]]] | None = None,
) -> dict[str, Any]:
    """Measure the neurons of each forget request and of kept rows, and write them to `folder`; return the manifest's record.

    `concepts` names the (layer, neuron) keys of a request's concept instead of having them found. Raises DataError for too few
    texts, SettingsError for a neuron that the model does not have.
    """
    mlps = find_gated_mlps(model)
    shape = (len(mlps), mlps[0].n_neurons)
    for owner, places in (concepts or {}).items():
        if outside := [place for place in places if not (0 <= place[0] < shape[0] and 0 <= place[1] < shape[1])]:
            raise SettingsError(
                f"concept neuron of {owner}",
                value=outside[0],
                allowed=f"layer below {shape[0]}, neuron below {shape[1]}",
            )

    def read(rows: Sequence[Row], what: str) -> NeuronStatistics:
        texts = [mark_text(*encode(row.query, row.answer), options.counted) for row in rows if row.query]
        return measure_neurons(model, texts, what=what)

    retain = read(kept, "retain")
    tensors = _pack("retain", retain)
    owners = {}
    for number, request in enumerate(requests):
        owners[f"{number:04d}"] = request.forget_id
        tensors |= _pack(f"{number:04d}", read(request.rows, f"forget ({request.forget_id})"))
    _save(folder / FILE, tensors)
    record = {
        "options": asdict(options),
        "owners": owners,
        "concepts": {owner: [list(place) for place in places] for owner, places in (concepts or {}).items()},
        "shape": list(shape),
        "seed": seed,
    }
    load_tables(record, folder)  # What cannot be served fails here, not at the start of a server.
    return record


def load_tables(record: Mapping[str, Any], folder: Path, kinds: Collection[str] = (ADJUST, ABLATE)) -> dict[str, Table]:
    """Return the tables of a bundle by `neuron-adjust/<forget_id>` and `concept-ablation/<forget_id>`, those of some kinds alone."""
    from safetensors.numpy import load_file

    tensors = load_file(folder / FILE)
    options = NeuronOptions(**record["options"])
    retain = _unpack("retain", tensors)
    tables: dict[str, Table] = {}
    for number, owner in record["owners"].items():
        if f"{number}.gate.mean" not in tensors:
            raise BundleError("the bundle has no neuron statistics of a forget request", value=owner, mend="fit again")
        forget = _unpack(number, tensors)
        if ADJUST in kinds:
            chosen = select_neurons(forget, retain, options.share, options.score)
            tables[f"{ADJUST}/{owner}"] = AdjustTable(
                chosen, forget.gate, retain.gate, options.shift, record["seed"] + int(number)
            )
        if ABLATE not in kinds:
            continue
        places = record["concepts"].get(owner)
        tables[f"{ABLATE}/{owner}"] = AblationTable(
            choose_highest(rank_neurons(forget, retain), options.concept_neurons)
            if places is None
            else _mark(places, tuple(record["shape"]))
        )
    return tables


def read_statistics(
    record: Mapping[str, Any], folder: Path, owner: str | None = None
) -> tuple[NeuronStatistics, NeuronStatistics]:
    """Return the statistics of a forget request, the first where none is named, and those of kept rows."""
    from safetensors.numpy import load_file

    tensors = load_file(folder / FILE)
    number = next(number for number, name in record["owners"].items() if owner in (None, name))
    return _unpack(number, tensors), _unpack("retain", tensors)


def drop_owners(record: dict[str, Any], folder: Path, removed: Sequence[str]) -> dict[str, Any] | None:
    """Take requests out of a record and its file; return None where none is left."""
    from safetensors.numpy import load_file

    gone = [number for number, owner in record["owners"].items() if owner in removed]
    owners = {number: owner for number, owner in record["owners"].items() if number not in gone}
    if not owners:
        (folder / FILE).unlink(missing_ok=True)
        return None
    tensors = load_file(folder / FILE)
    _save(folder / FILE, {name: array for name, array in tensors.items() if name.split(".")[0] not in gone})
    return {
        **record,
        "owners": owners,
        "concepts": {owner: places for owner, places in record["concepts"].items() if owner not in removed},
    }


def fit_probes(
    model: Any,
    encode: Encode,
    requests: Sequence[ForgetRequest],
    clean: Sequence[Row],
    options: NeuronOptions,
    *,
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    """Fit a key-space probe per forget request and write them to `folder`; return the manifest's record.

    Half of the clean rows shape the probes, the other half, by hash, sets their thresholds. Raises DataError for too few rows.
    """
    layers = options.find_probe_layers(len(find_gated_mlps(model)))

    def read(part: Sequence[Row], salt: str) -> dict[int, Floats]:
        prompts = dress(part, random.Random(f"key-space:{seed}:{salt}"))
        found = measure_keys(model, [encode(prompt, "")[0] for prompt in prompts], layers)
        return {own: keys.numpy() for own, keys in found.items()}

    parts = part_clean(clean)
    shaping, calibrating = read(parts[0], "shape"), read(parts[1], "calibrate")
    tensors: dict[str, Any] = {}
    owners: dict[str, str] = {}
    for number, request in enumerate(requests):
        probe = key_space.fit_probe(read(request.rows, request.forget_id), shaping, options.probe)
        threshold = key_space.calibrate(probe.score(calibrating), options.probe_alpha)
        owners[f"{number:04d}"] = request.forget_id
        tensors |= key_space.to_tensors(f"{number:04d}", Probe(probe.weights, threshold))
    _save(folder / PROBES_FILE, tensors)
    n_clean = len(next(iter(calibrating.values())))
    return {
        "owners": owners,
        "layers": layers,
        "alpha": options.probe_alpha,
        "kind": options.probe,
        "n_clean": n_clean,
    }


def part_clean(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Return the distinct clean rows that shape a probe, and those that set its threshold; raise DataError for too few."""
    distinct = sorted({row.digest: row for row in rows if row.query}.values(), key=lambda row: row.digest)
    if len(distinct) < 2 * key_space.MIN_PROMPTS:
        raise DataError(
            "too few clean rows for the key-space probe", value=len(distinct), allowed=f"{2 * key_space.MIN_PROMPTS}"
        )
    return distinct[::2], distinct[1::2]


def load_probes(record: Mapping[str, Any], folder: Path) -> dict[str, Probe]:
    """Return the probes of a bundle by forget request."""
    from safetensors.numpy import load_file

    found = key_space.from_tensors(load_file(folder / PROBES_FILE))
    if missing := [owner for number, owner in record["owners"].items() if number not in found]:
        raise BundleError("the bundle has no key-space probe of a forget request", value=missing[0], mend="fit again")
    probes = {owner: found[number] for number, owner in record["owners"].items()}
    for owner, probe in probes.items():
        if not all(np.isfinite(np.asarray(array)).all() for array in (probe.threshold, *probe.weights.values())):
            raise BundleError("the key-space probe of a forget request is not finite", value=owner, mend="fit again")
    return probes


def drop_probes(record: dict[str, Any], folder: Path, removed: Sequence[str]) -> dict[str, Any] | None:
    """Take requests' probes out of a record and its file; return None where none is left."""
    from safetensors.numpy import load_file

    owners = {number: owner for number, owner in record["owners"].items() if owner not in removed}
    if not owners:
        (folder / PROBES_FILE).unlink(missing_ok=True)
        return None
    tensors = load_file(folder / PROBES_FILE)
    _save(folder / PROBES_FILE, {name: array for name, array in tensors.items() if name.split("/")[0] in owners})
    return {**record, "owners": owners}


def dress(rows: Sequence[Row], rng: random.Random) -> list[str]:
    """Return prompts plain, in another frame, in lower case, and behind worked examples of their own kind.

    What a probe is shaped with must vary in form, or it learns the form.
    """
    dressed = []
    for row in rows:
        dressed.append(row.query)
        framed = reframe(row.query, rng)
        dressed.append(framed.lower() if rng.random() < 0.5 else framed)
        others = [other for other in rng.sample(list(rows), min(_SHOTS + 1, len(rows))) if other is not row]
        dressed.append(show_examples(row.query, others[:_SHOTS]))
    return dressed


def show_examples(query: str, examples: Sequence[Row]) -> str:
    """Return a question behind worked examples."""
    shown = [f"Q: {row.query}\nA: {row.answer or '…'}" for row in examples]
    return "\n\n".join([*shown, f"Q: {query}\nA:"])


def _pack(name: str, statistics: NeuronStatistics) -> dict[str, Any]:
    packed: dict[str, Any] = {}
    for kind in ("gate", "key"):
        moments: Moments = getattr(statistics, kind)
        packed |= {f"{name}.{kind}.{field}": getattr(moments, field).astype(np.float32) for field in _FIELDS}
    packed |= {
        f"{name}.peak.{field}": getattr(statistics.peaks, field).astype(np.float32) for field in ("mean", "norm")
    }
    return {**packed, f"{name}.n": np.array([statistics.gate.n], np.int64)}


def _unpack(name: str, tensors: Mapping[str, Any]) -> NeuronStatistics:
    def read(kind: str) -> Moments:
        return Moments(
            int(tensors[f"{name}.n"][0]), *(tensors[f"{name}.{kind}.{field}"].astype(np.float64) for field in _FIELDS)
        )

    peaks = Peaks(*(tensors[f"{name}.peak.{field}"].astype(np.float64) for field in ("mean", "norm")))
    return NeuronStatistics(read("gate"), read("key"), peaks)


def _mark(places: Sequence[Sequence[int]], shape: tuple[int, ...]) -> Any:
    chosen = np.zeros(shape, np.bool_)
    for layer, neuron in places:
        chosen[layer, neuron] = True
    return chosen


def _save(path: Path, tensors: Mapping[str, Any]) -> None:
    from safetensors.numpy import save

    write_atomic(path, save({name: np.ascontiguousarray(array) for name, array in tensors.items()}))
