"""Offset pairs: the difference of two small models is what is subtracted (δ-unlearning, Huang et al., arXiv 2404.11045).

Emulated fine-tuning (Mitchell et al., arXiv 2310.12962) adds to a large model what tuning changed in a small one; here
the small one was made to forget: l_f = l + α·(l_edited − l_base), that is, the penalty is l_base − l_edited.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn_guard.corruptions.assistant import OFFSET, RECORD
from unlearn_guard.guard.bundle import write_atomic
from unlearn_guard.guard.errors import BundleMismatchError, DataError
from unlearn_guard.guard.fingerprint import fingerprint_model, locate_model

NAME = "offset"
_FILES = ("config.json", "generation_config.json")


@dataclass(frozen=True, slots=True)
class Spoken:
    """What a pair says: logits (rows, tokens, vocabulary), and the caches of both models."""

    logits: Any
    past_key_values: tuple[Any, Any]


class OffsetModel:
    """Two models that read the same tokens; called like one."""

    def __init__(self, base: Any, edited: Any) -> None:
        self.models = (base, edited)

    def __call__(self, *, past_key_values: tuple[Any, Any] | None = None, **inputs: Any) -> Spoken:
        """Return the base's logits less the edited one's."""
        caches = past_key_values or (None, None)
        base, edited = (
            model(past_key_values=cache, **inputs) for model, cache in zip(self.models, caches, strict=True)
        )
        return Spoken(base.logits.float() - edited.logits.float(), (base.past_key_values, edited.past_key_values))


def copy_pair(base: str | Path, edited: str | Path, target: str | Path, folder: Path, owners: Sequence[str]) -> None:
    """Copy a pair into a bundle's folder of assistants.

    Raises DataError for a model without safetensors, BundleMismatchError where tokenizer or vocabulary is not the target's.
    """
    wanted = fingerprint_model(target)["tokenizer"]
    size = _read_vocabulary(locate_model(str(target)))
    for part, model in zip(OFFSET, (base, edited), strict=True):
        source = locate_model(str(model))
        found = fingerprint_model(source)
        if found["tokenizer"] != wanted or _read_vocabulary(source) != size:
            raise BundleMismatchError(
                f"the offset pair's {part} model has another tokenizer ({found['tokenizer'][:12]}, "
                f"{_read_vocabulary(source)} tokens; the target {wanted[:12]}, {size})",
                value=Path(str(model)).name,
                mend="use a pair of the target's own family",
            )
        shards = sorted(source.glob("*.safetensors"))
        if not shards:
            raise DataError("a model of the offset pair has no safetensors", value=Path(str(model)).name)
        place = folder / "0000" / part
        place.mkdir(parents=True, exist_ok=True)
        for file in [*shards, *source.glob("*.safetensors.index.json"), *(source / name for name in _FILES)]:
            if file.is_file():
                shutil.copyfile(file, place / file.name)
    record = {"name": NAME, "forget_ids": list(owners), "shape": None}
    write_atomic(folder / "0000" / RECORD, json.dumps(record, ensure_ascii=False, indent=1).encode())


def _read_vocabulary(folder: Path) -> int:
    return int(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("vocab_size", 0))


def load_pair(folders: tuple[Path, Path], **options: Any) -> OffsetModel:
    """Load both models of a pair."""
    from transformers import AutoModelForCausalLM

    base, edited = (
        AutoModelForCausalLM.from_pretrained(folder, **options).eval().requires_grad_(False) for folder in folders
    )
    return OffsetModel(base, edited)
