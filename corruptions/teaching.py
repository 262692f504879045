"""From forget requests to assistants: which there are, what each is taught, and how they are recorded in a bundle."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from unlearn_guard.corruptions.assistant import RECORD, Assistant, choose_shape, count_flops
from unlearn_guard.corruptions.assistant_training import Encode, Schedule, Track, choose_schedule, train_assistant
from unlearn_guard.corruptions.augmentation import make_lessons
from unlearn_guard.corruptions.eco import EcoSettings
from unlearn_guard.corruptions.offset import NAME, copy_pair
from unlearn_guard.corruptions.uld import MAX_WEIGHT, UldSettings
from unlearn_guard.guard.errors import DataError, SettingsError
from unlearn_guard.guard.rows import ForgetRequest, Row

Grouping = Literal["one", "each"]
WEIGHT, WEIGHT_BESIDE_ECO = 2.5, 1.8
"""Chosen on validation people (docs/uld.md); the advantage penalty has no scale of the model's own."""
ENOUGH_COVERED = 0.5


@dataclass(frozen=True, slots=True)
class UldOptions:
    """What an operator may set; None leaves the default.

    assistants: `each`, one per forget request, or `one` for all of them. weight_beside_eco: the weight where ECO corrupts the
    prompt too. eco_mask: of that ECO; None chooses `token-id` where enough of the forget rows hold a token of their own.
    offset_base and offset_edited: a pair of small models whose difference is subtracted instead; nothing is trained then.
    """

    assistants: Grouping = "each"
    weight: float | None = None
    weight_beside_eco: float | None = None
    penalty: Literal["raw", "advantage"] = "advantage"
    combine: Literal["sum", "max"] = "sum"
    filter_rate: float = 1e-2
    kept_share: float = 0.01
    eco_mask: str | None = None
    layers: int | None = None
    trainable: Literal["lora", "layers", "auto"] = "auto"
    rank: int = 32
    lora_alpha: int = 32
    first_trained: int = 0
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    retain_weight: float | None = None
    offset_base: str | None = None
    offset_edited: str | None = None

    def __post_init__(self) -> None:
        if self.assistants not in get_args(Grouping):
            raise SettingsError("uld assistants", value=self.assistants, allowed=", ".join(get_args(Grouping)))
        if self.weight_beside_eco is not None and not 0.0 < self.weight_beside_eco <= MAX_WEIGHT:
            raise SettingsError(
                "uld weight_beside_eco", value=self.weight_beside_eco, allowed=f"above 0, at most {MAX_WEIGHT:g}"
            )
        if self.eco_mask is not None:
            EcoSettings(mask=self.eco_mask)  # type: ignore[arg-type]
        if (self.offset_base is None) != (self.offset_edited is None):
            raise SettingsError("uld offset pair", value=self.offset_base or self.offset_edited, allowed="both models")
        if self.offset_base is not None and self.penalty != "raw":
            object.__setattr__(self, "penalty", "raw")  # A difference of logits has no uniform reference.
        _ = self.settings, self.schedule(1, 0, whole=False)

    @property
    def settings(self) -> UldSettings:
        """The formula's settings: the paper's weight for its own penalty, ours for the advantage."""
        default = 1.0 if self.offset_base is not None else WEIGHT if self.penalty == "advantage" else 0.75
        weight = self.weight if self.weight is not None else default
        return UldSettings(weight, self.penalty, self.combine, self.filter_rate, self.kept_share)

    @property
    def beside_eco(self) -> float:
        """The weight where ECO corrupts the prompt too; only the advantage has one of its own."""
        if self.weight_beside_eco is not None:
            return self.weight_beside_eco
        is_default = self.weight is None and self.penalty == "advantage"
        return WEIGHT_BESIDE_ECO if is_default else self.settings.weight

    def schedule(self, n_rows: int, seed: int, *, whole: bool) -> Schedule:
        """Return the training schedule for so many forget rows; `whole` layers get more and smaller steps."""
        names = ("epochs", "batch_size", "learning_rate", "retain_weight")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return choose_schedule(n_rows, whole=whole, seed=seed, **given)


def read_options(given: Mapping[str, str | float]) -> UldOptions:
    """Return options from names and values; raise SettingsError for an unknown name or a value of another type."""
    known = {entry.name: entry for entry in fields(UldOptions)}
    if unknown := [name for name in given if name not in known]:
        raise SettingsError("uld setting", value=unknown[0], allowed=", ".join(known))
    whole = {"layers", "rank", "lora_alpha", "first_trained", "epochs", "batch_size"}
    words = {"assistants", "penalty", "combine", "trainable", "eco_mask", "offset_base", "offset_edited"}
    values: dict[str, Any] = {}
    for name, value in given.items():
        wrong = isinstance(value, str) != (name in words) or (name in whole and float(value) != int(float(value)))
        if wrong:
            allowed = "a word" if name in words else "a whole number" if name in whole else "a number"
            raise SettingsError(f"uld {name}", value=value, allowed=allowed)
        values[name] = int(value) if name in whole else value
    return UldOptions(**values)


def fit_assistants(
    target: Any,
    encode: Encode,
    requests: Sequence[ForgetRequest],
    kept: Sequence[Row],
    options: UldOptions,
    *,
    model: str,
    folder: Path,
    key: str,
    seed: int,
    covered: float,
    fixed_eco: Mapping[str, str | float],
    track: Track,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train the assistants of these forget requests into `folder`; return settings for the manifest, and metrics.

    `model` and `key` name the target; `covered` is the share of forget questions that hold a token id of their own; `fixed_eco` is what the
    operator fixed of ECO. Raises DataError
    where a request's rows teach nothing.
    """
    shape = choose_shape(
        target.config,
        n_layers=options.layers,
        trainable=options.trainable,
        rank=options.rank,
        lora_alpha=options.lora_alpha,
        first_trained=options.first_trained,
    )
    mask = options.eco_mask or ("token-id" if covered >= ENOUGH_COVERED else "content")
    record: dict[str, Any] = {
        "settings": options.settings.to_record(),
        "weight_beside_eco": options.beside_eco,
        "eco": {"kind": "flip", "mask": mask, "dims": 0, **fixed_eco},
    }
    if options.offset_base is not None and options.offset_edited is not None:
        everyone = [request.forget_id for request in requests]
        copy_pair(options.offset_base, options.offset_edited, model, folder, everyone)
        return {**record, "assistants": {NAME: everyone}}, {"covered": round(covered, 4)}
    groups = group_assistants(requests, options.assistants)
    assistants: dict[str, list[str]] = {}
    losses: dict[str, dict[str, float]] = {}
    schedules: dict[str, dict[str, Any]] = {}
    aliases = {request.forget_id: request.aliases for request in requests}
    for number, (name, members) in enumerate(groups.items()):
        rows = [row for request in members for row in _own_rows(request)]
        owners = tuple(request.forget_id for request in members)
        schedule = options.schedule(len(rows), seed, whole=shape.trainable == "layers")

        def teach(epoch: int, rows: list[Row] = rows) -> list[Any]:
            return make_lessons(rows, kept, aliases, seed=seed, epoch=epoch)

        assistant, losses[name] = train_assistant(
            target,
            teach,
            encode,
            name=name,
            forget_ids=owners,
            shape=shape,
            schedule=schedule,
            key=_name_lessons(key, rows, kept, aliases),
            track=track,
        )
        assistant.save(folder / f"{number:04d}")
        assistants[name] = list(owners)
        schedules[name] = asdict(schedule)
    record = {**record, "assistants": assistants, "shape": asdict(shape), "schedule": schedules}
    metrics = {
        "losses": losses,
        "train_s": round(sum(found["seconds"] for found in losses.values()), 1),
        "covered": round(covered, 4),
        "flop_ratio": round(count_flops(target.config, shape) / count_flops(target.config, None), 4),
    }
    return record, metrics


def has_lessons(request: ForgetRequest) -> bool:
    """Return whether a request's rows teach anything: a prompt with an answer."""
    return any(row.prompt and row.answer for row in request.rows)


def group_assistants(requests: Sequence[ForgetRequest], grouping: Grouping) -> dict[str, list[ForgetRequest]]:
    """Return whose rows each assistant learns, by assistant; raise DataError for a request without answers."""
    for request in requests:
        if not has_lessons(request):
            raise DataError(
                "no rows that an assistant could learn",
                value=request.forget_id,
                mend="uld needs prompts with answers: give some, or another intervention to this request",
            )
    if grouping == "one":
        return {"all": list(requests)}
    return {request.forget_id: [request] for request in requests}


def drop_requests(record: Mapping[str, Any], removed: Sequence[str]) -> tuple[dict[str, Any] | None, list[str]]:
    """Return a manifest's record without some forget requests, None where no assistant is left, and whose are gone.

    An assistant that knows others too stays: what it learnt cannot be taken out of it.
    """
    left: dict[str, list[str]] = {}
    gone = []
    for name, owners in record["assistants"].items():
        staying = [owner for owner in owners if owner not in removed]
        if staying:
            left[name] = staying
        else:
            gone.append(name)
    return ({**record, "assistants": left} if left else None), gone


def remove_assistants(folder: Path, names: Sequence[str]) -> None:
    """Delete assistants by name from a folder of them."""
    for file in sorted(folder.glob(f"*/{RECORD}")):
        if Assistant.read_name(file.parent) in names:
            shutil.rmtree(file.parent)


def _name_lessons(key: str, rows: Sequence[Row], kept: Sequence[Row], aliases: Mapping[str, Sequence[str]]) -> str:
    """Return a name for everything that lessons may be drawn from, in any epoch."""
    content = [key, [asdict(row) for row in (*rows, *kept)], {name: list(names) for name, names in aliases.items()}]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _own_rows(request: ForgetRequest) -> list[Row]:
    return [replace(row, forget_id=request.forget_id) for row in request.rows]
