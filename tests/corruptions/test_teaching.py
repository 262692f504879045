"""From forget requests to assistants: options, grouping and removal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unlearn_guard.corruptions.assistant import Assistant, AssistantShape
from unlearn_guard.corruptions.teaching import (
    UldOptions,
    drop_requests,
    group_assistants,
    read_options,
    remove_assistants,
)
from unlearn_guard.guard.errors import DataError, SettingsError
from unlearn_guard.guard.rows import ForgetRequest, Row

REQUESTS = [ForgetRequest(name, rows=(Row("Who?", "She."),)) for name in ("p1", "p2")]


def test_defaults_are_ours_and_the_papers_weight_goes_with_its_penalty() -> None:
    assert UldOptions().settings.penalty == "advantage"
    assert UldOptions(penalty="raw").settings.weight == 0.75
    assert UldOptions(penalty="raw", weight=1.5).settings.weight == 1.5


def test_the_weight_beside_eco_is_the_advantages_own() -> None:
    assert UldOptions().beside_eco != UldOptions().settings.weight
    assert UldOptions(penalty="raw").beside_eco == 0.75
    assert UldOptions(weight=1.1).beside_eco == 1.1
    assert UldOptions(weight=1.1, weight_beside_eco=0.9).beside_eco == 0.9
    assert UldOptions(offset_base="a", offset_edited="b").beside_eco == 1.0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"weigth": 1.0}, "weight"),
        ({"weight": "much"}, "a number"),
        ({"weight": 0.0}, "above 0"),
        ({"weight": 20}, "at most 8"),
        ({"weight_beside_eco": -1.0}, "above 0"),
        ({"epochs": 1.5}, "a whole number"),
        ({"epochs": 0}, "1 or more"),
        ({"assistants": "all"}, "one, each"),
        ({"assistants": 1}, "a word"),
        ({"penalty": "ratio"}, "raw, advantage"),
        ({"offset_base": "folder"}, "both models"),
        ({"eco_mask": "some"}, "span, content, all, token-id"),
    ],
)
def test_wrong_options(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        read_options(given)


def test_one_assistant_or_one_each() -> None:
    assert {name: len(members) for name, members in group_assistants(REQUESTS, "each").items()} == {"p1": 1, "p2": 1}
    assert {name: len(members) for name, members in group_assistants(REQUESTS, "one").items()} == {"all": 2}
    with pytest.raises(DataError, match=r"p3.*prompts with answers"):
        group_assistants([*REQUESTS, ForgetRequest("p3", rows=(Row(text="A passage."),))], "each")


def test_a_removed_request_takes_its_assistant_along(tmp_path: Path) -> None:
    record = {"assistants": {"p1": ["p1"], "rest": ["p2", "p3"]}, "weight": 1}
    assert drop_requests(record, ["p1"]) == ({"assistants": {"rest": ["p2", "p3"]}, "weight": 1}, ["p1"])
    assert drop_requests(record, ["p2"]) == ({"assistants": {"p1": ["p1"], "rest": ["p3"]}, "weight": 1}, [])
    assert drop_requests(record, ["p1", "p2", "p3"]) == (None, ["p1", "rest"])
    for number, name in enumerate(("p1", "rest")):
        Assistant(name, (name,), AssistantShape(1, "layers"), {}).save(tmp_path / f"{number:04d}")
    remove_assistants(tmp_path, ["p1"])
    assert [Assistant.read_name(folder) for folder in tmp_path.iterdir()] == ["rest"]


def test_an_offset_pair_must_share_the_targets_tokenizer(tmp_path: Path) -> None:
    import json

    from safetensors.numpy import save_file

    from unlearn_guard.corruptions.offset import copy_pair
    from unlearn_guard.guard.errors import BundleMismatchError

    for name, size in (("target", 60), ("base", 60), ("edited", 60), ("other", 61)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"vocab_size": size}))
        (folder / "tokenizer.json").write_text("{}")
        save_file({}, folder / "model.safetensors")
    copy_pair(tmp_path / "base", tmp_path / "edited", tmp_path / "target", tmp_path / "out", ["p1"])
    assert (tmp_path / "out" / "0000" / "edited" / "model.safetensors").is_file()
    assert "tmp" not in (tmp_path / "out" / "0000" / "assistant.json").read_text()
    with pytest.raises(BundleMismatchError, match=r"edited model has another tokenizer .* 61 tokens; .* 60"):
        copy_pair(tmp_path / "base", tmp_path / "other", tmp_path / "target", tmp_path / "no", ["p1"])
