"""What a bundle holds of neurons, and how it is read and shrunk."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from unlearn_guard.corruptions.mlp_edit import AblationTable, AdjustTable
from unlearn_guard.corruptions.neuron_fitting import (
    dress,
    drop_owners,
    drop_probes,
    fit_probes,
    fit_tables,
    load_probes,
    load_tables,
    mark_text,
)
from unlearn_guard.corruptions.neuron_settings import NeuronOptions, read_concepts, read_options
from unlearn_guard.guard.errors import BundleError, DataError, SettingsError
from unlearn_guard.guard.rows import ForgetRequest, Row


@pytest.fixture(scope="module")
def model() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config).eval()


def encode(prompt: str, answer: str) -> tuple[list[int], list[int]]:
    return [1 + ord(letter) % 60 for letter in prompt][-40:], [1 + ord(letter) % 60 for letter in answer] + [0]


def make_rows(word: str, n: int, owner: str = "") -> list[Row]:
    return [Row(f"{word} {number * 7}?", f"{word} {number}", forget_id=owner) for number in range(n)]


@pytest.fixture(scope="module")
def requests() -> list[ForgetRequest]:
    return [ForgetRequest(name, kind="skill", rows=tuple(make_rows(name, 30, name))) for name in ("sums", "odd/name.x")]


@pytest.fixture
def fitted(model: Any, requests: list[ForgetRequest], tmp_path: Path) -> tuple[dict[str, Any], Path]:
    record = fit_tables(
        model,
        encode,
        requests,
        make_rows("kept", 40),
        NeuronOptions(share=0.25, concept_neurons=3, shift="coin"),
        seed=7,
        folder=tmp_path,
        concepts={"sums": [(1, 5), (0, 2)]},
    )
    return json.loads(json.dumps(record)), tmp_path  # As the manifest keeps it.


def test_tables_survive_the_disk(fitted: tuple[dict[str, Any], Path]) -> None:
    tables = load_tables(*fitted)
    assert list(tables) == [
        "neuron-adjust/sums",
        "concept-ablation/sums",
        "neuron-adjust/odd/name.x",
        "concept-ablation/odd/name.x",
    ]
    adjust, named, _, found = tables.values()
    assert isinstance(adjust, AdjustTable)
    assert adjust.chosen.sum() == 12
    assert adjust.shift == "coin"
    assert isinstance(named, AblationTable)
    assert np.argwhere(named.chosen).tolist() == [[0, 2], [1, 5]]
    assert found.chosen.sum() == 3


@pytest.mark.parametrize("kind", ["neuron-adjust", "concept-ablation"])
def test_tables_of_one_kind_alone(fitted: tuple[dict[str, Any], Path], kind: str) -> None:
    assert list(load_tables(*fitted, kinds={kind})) == [f"{kind}/sums", f"{kind}/odd/name.x"]


def test_removing_a_request_removes_its_neurons(fitted: tuple[dict[str, Any], Path]) -> None:
    record, folder = fitted
    before = load_tables(record, folder)["neuron-adjust/odd/name.x"]
    left = drop_owners(record, folder, ["sums"])
    assert left is not None
    assert list(load_tables(left, folder)) == ["neuron-adjust/odd/name.x", "concept-ablation/odd/name.x"]
    after = load_tables(left, folder)["neuron-adjust/odd/name.x"]
    assert isinstance(before, AdjustTable)
    assert isinstance(after, AdjustTable)
    assert after.seed == before.seed == 8  # What is removed changes no coin of what stays.
    assert b"0000.gate" not in (folder / "neurons.safetensors").read_bytes()
    with pytest.raises(BundleError, match="sums"):
        load_tables(record, folder)
    assert drop_owners(left, folder, ["odd/name.x"]) is None
    assert not (folder / "neurons.safetensors").exists()


def test_probes_survive_the_disk_and_removal(model: Any, requests: list[ForgetRequest], tmp_path: Path) -> None:
    options = NeuronOptions(probe_alpha=0.05)
    clean = [*make_rows("kept", 60), *make_rows("else", 60)]
    record = fit_probes(model, encode, requests, clean, options, seed=0, folder=tmp_path)
    record = json.loads(json.dumps(record))
    probes = load_probes(record, tmp_path)
    assert list(probes) == ["sums", "odd/name.x"]
    assert list(probes["sums"].weights) == record["layers"] == [0, 1]
    file = tmp_path / "key_space.safetensors"
    whole, tensors = file.read_bytes(), load_file(file)
    save_file({**tensors, "0000/1": tensors["0000/1"] * np.nan}, file)
    with pytest.raises(BundleError, match=r"not finite.*sums"):
        load_probes(record, tmp_path)
    file.write_bytes(whole)
    left = drop_probes(record, tmp_path, ["sums"])
    assert left is not None
    assert list(load_probes(left, tmp_path)) == ["odd/name.x"]
    assert drop_probes(left, tmp_path, ["odd/name.x"]) is None


def test_too_little_to_go_by_is_an_error(model: Any, requests: list[ForgetRequest], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too few retain texts"):
        fit_tables(model, encode, requests, make_rows("kept", 5), NeuronOptions(), seed=0, folder=tmp_path)
    with pytest.raises(DataError, match="too few clean rows"):
        fit_probes(model, encode, requests, make_rows("kept", 9), NeuronOptions(), seed=0, folder=tmp_path)
    with pytest.raises(DataError, match="199 or more"):
        fit_probes(model, encode, requests, make_rows("kept", 50), NeuronOptions(), seed=0, folder=tmp_path)
    with pytest.raises(SettingsError, match="layer below 2, neuron below 24"):
        fit_tables(
            model,
            encode,
            requests,
            make_rows("kept", 40),
            NeuronOptions(),
            seed=0,
            folder=tmp_path,
            concepts={"sums": [(2, 0)]},
        )


def test_counted_tokens() -> None:
    """The prompt's last token predicts the answer's first; what follows the end is nobody's."""
    prompt, answer = [5, 6, 7], [8, 9, 0]
    assert [(mark_text(prompt, answer, how).start, mark_text(prompt, answer, how).stop) for how in ("answer", "all", "last")] == [
        (2, 5),
        (0, 6),
        (2, 3),
    ]  # fmt: skip


def test_dressed_prompts_vary_in_form() -> None:
    rows = make_rows("Sums", 40)
    dressed = dress(rows, random.Random(0))
    assert {row.query for row in rows} <= set(dressed)
    assert any(text.islower() for text in dressed)
    assert any(text.startswith("Q: ") and text.endswith("A:") for text in dressed)
    assert dressed == dress(rows, random.Random(0))
    shown = [text for text in dressed if text.count("Q: ") == 4]
    assert [text.rsplit("Q: ", 1)[1] for text in shown] == [f"{row.query}\nA:" for row in rows]
    assert all(shown.count(row.query) == 1 for shown, row in zip(shown, rows, strict=True))  # Never its own example.


def test_options_say_what_is_allowed() -> None:
    assert read_options({"share": 0.1, "score": "gap", "concept_neurons": 5.0}) == NeuronOptions(
        share=0.1, score="gap", concept_neurons=5
    )
    assert read_options({"applies": "always"}).applies == "always"
    for given, message in (
        ({"shares": 0.1}, "share, score"),
        ({"share": "much"}, "a number"),
        ({"share": 0.9}, "at most 0.5"),
        ({"score": 3.0}, "a word"),
        ({"shift": "dice"}, "posterior, coin"),
        ({"concept_neurons": 2.5}, "a whole number"),
        ({"probe_alpha": 0.0}, "above 0"),
        ({"applies": "sometimes"}, "flagged, always"),
        ({"applies": 1.0}, "a word"),
        ({"probe_depth": "half"}, "0.5, or 0.5\\+1"),
        ({"probe_depth": "0.5,1"}, "parts of the depth"),
        ({"probe_depth": ""}, "parts of the depth"),
        ({"probe_depth": 0.0}, "above 0, up to 1"),
        ({"probe_depth": "0.5+1.5"}, "above 0, up to 1"),
        ({"probe_depth": "nan"}, "above 0, up to 1"),
    ):
        with pytest.raises(SettingsError, match=message):
            read_options(given)


@pytest.mark.parametrize(
    ("depth", "n_layers", "layers"),
    [
        ("0.25+0.5+0.75+1", 4, [0, 1, 2, 3]),
        ("0.25+0.5+0.75+1", 32, [7, 15, 23, 31]),
        ("0.25+0.5+0.75+1", 1, [0]),
        (0.5, 24, [11]),
        ("1+0.5", 24, [11, 23]),
        (0.001, 24, [0]),
    ],
)
def test_probe_layers_are_parts_of_the_depth(depth: str | float, n_layers: int, layers: list[int]) -> None:
    assert read_options({"probe_depth": depth}).find_probe_layers(n_layers) == layers


def test_concepts_file(tmp_path: Path) -> None:
    file = tmp_path / "concepts.json"
    file.write_text('{"sums": [[1, 5]]}')
    assert read_concepts(file) == {"sums": [(1, 5)]}
    for content in ("[1]", "{", '{"sums": [[1]]}', '{"sums": 3}'):
        file.write_text(content)
        with pytest.raises(SettingsError, match="forget_id"):
            read_concepts(file)
