"""Sets of questions that detectors are shown and models are not trained on: RWKU's, and general ones."""

from __future__ import annotations

from typing import Any

from unlearn_guard.benchmarks.dataset import Item
from unlearn_guard.benchmarks.hub import read_local, read_table
from unlearn_guard.guard.errors import DependencyError

GENERAL = ("triviaqa", "mmlu", "truthfulqa", "gsm8k", "bbh", "instructions")
_RWKU = "jinzhuoran/RWKU"


def read_set(folder: str, name: str) -> list[dict[str, Any]]:
    """Read a set from UNLEARN_GUARD_DATA, RWKU's from the hub, too; raise DependencyError where it is not at hand."""
    if folder == "rwku":
        config, split = ("forget_target", "train") if name == "intro" else (name, "test")
        return read_table(folder, name, hub=_RWKU, config=config, split=split)
    rows = read_local(folder, name)
    if rows is None:
        raise DependencyError(
            "data is not at hand",
            value=f"{folder}/{name}.jsonl",
            allowed="a file below UNLEARN_GUARD_DATA",
            mend="set UNLEARN_GUARD_DATA",
        )
    return rows


def read_general(name: str) -> list[Item]:
    """Return one set of general questions as items."""
    items = []
    for row in read_set("general", name):
        question = row.get("question") or row.get("instruction") or ""
        answer = row.get("answer", "")
        if "answers" in row:
            answer = row["answers"][0]
        elif "mc1_targets" in row:
            answer = row["mc1_targets"]["choices"][0]
        elif "choices" in row:
            answer = row["choices"][int(answer)]
            question = question + "\n" + "\n".join(row["choices"])
        items.append(Item(question, str(answer)))
    return items
