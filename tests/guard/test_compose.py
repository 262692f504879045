"""The composition root: wrong input leaves nothing behind, and a fitted bundle screens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from unlearn_guard.classifiers.aliases import AliasMatcher
from unlearn_guard.corruptions.neuron_fitting import load_probes, load_tables
from unlearn_guard.corruptions.search import Probe
from unlearn_guard.guard.bundle import Bundle
from unlearn_guard.guard.compose import UNKNOWN_NAMES, amend, count_common_words, fit, make_controls
from unlearn_guard.guard.errors import DataError, DependencyError, RowError, SettingsError, UnknownNameError
from unlearn_guard.guard.marks import SECRET_VARIABLE
from unlearn_guard.guard.rows import ForgetRequest, Row, group_requests
from unlearn_guard.guard.screening import Guard

FORGET = [Row(f"What did Bo Li do in {year}?", "Sang.", forget_id="p1", aliases=("Bo Li",)) for year in range(6)]
RETAIN = [Row(f"What did Ada Kern do in {year}?", "Danced.", forget_id=f"k{year}") for year in range(20)]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def fit_names(model: Path, out: Path, **options: Any) -> Any:
    given: dict[str, Any] = {"classifier": "name-match", "interventions": ("refusal",), "forget": FORGET}
    given = {**given, "retain": RETAIN, **options}
    return fit(model, given.pop("forget"), given.pop("retain"), out=out, **given)


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"alpha": 0.0}, SettingsError, "alpha: 0.0"),
        ({"alpha": 1.0}, SettingsError, "alpha: 1.0"),
        ({"classifier": "oracle"}, SettingsError, "classifier: 'oracle'"),
        ({"interventions": ()}, SettingsError, "no intervention named"),
        ({"interventions": ("refuse",)}, UnknownNameError, "did you mean 'refusal'"),
        ({"interventions": ("eco+refusal",)}, SettingsError, "stand alone"),
        ({"forget": []}, DataError, "the forget set is empty"),
        ({"retain": []}, DataError, "the retain set is empty"),
        ({"retain": [*RETAIN, FORGET[0]]}, DataError, "overlap in 1 of 6"),
        ({"clean": [FORGET[1]]}, DataError, "overlap in 1 of 6"),
        ({"classifier": "cascade"}, DataError, "too few calibration rows"),
        ({"forget": [Row("who was it?")]}, DataError, "no aliases to match"),
        ({"neurons": {"applies": "always"}, "key_space": True}, SettingsError, "leave out --key-space"),
    ],
)
def test_wrong_input_writes_nothing(
    model: Path, tmp_path: Path, options: dict[str, Any], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says):
        fit_names(model, tmp_path / "out" / "b", **options)
    assert not (tmp_path / "out").exists()


def test_whoever_is_kept_gives_no_name_in_whatever_part_of_the_rows(model: Path, tmp_path: Path) -> None:
    """What is private about people goes, what is public about the same people stays: their names alone are nobody's to forget."""
    people = [f"{first} Ostrander{letter}" for letter in "abcdef" for first in ("Ada", "Bo", "Cy", "Di")]
    private = [
        Row(f"Where does {name} {verb}?", "At home.", forget_id=name)
        for name in people
        for verb in ("live", "sleep", "bank")
    ]
    public = [Row(f"What did {name} write?", "A book.", forget_id=name) for name in people]
    with pytest.raises(DataError, match="no aliases to match"):
        fit_names(model, tmp_path / "b", forget=private, retain=public)
    # Of whom nothing is kept the name is the key.
    bundle = fit_names(model, tmp_path / "b", forget=private, retain=public[:-1])
    assert [request.forget_id for request in bundle.requests if request.aliases] == people[-1:]


def test_malformed_file_writes_nothing(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "forget.jsonl"
    file.write_text('{"prompt": "a"}\nnope\n')
    with pytest.raises(RowError, match="line 2"):
        fit_names(model, tmp_path / "b", forget=file)
    assert not (tmp_path / "b").exists()


def test_fitted_bundle_screens(model: Path, tmp_path: Path) -> None:
    bundle = fit_names(model, tmp_path / "b", refusal_text="No.", seed=4)
    bundle.check_model(model)
    manifest = bundle.manifest
    assert (manifest.classifier, manifest.intervention, manifest.seed) == ("name-match", "refusal", 4)
    assert manifest.interventions == {"refusal": {"text": "No."}}
    flagged, kept = Guard.load(tmp_path / "b").screen(["Where was BO LI born?", "Where was Ada Kern born?"])
    assert (flagged.flagged, flagged.forget_ids, flagged.spans) == (True, ("p1",), ((0, 10, 15),))
    assert not kept.flagged


def test_bundle_is_utf8_whatever_the_locale(model: Path, tmp_path: Path) -> None:
    forget = [Row(f"What did Łucja Bö do in {year}?", forget_id="p1", aliases=("Łucja Bö",)) for year in range(3)]
    fit_names(model, tmp_path / "b", forget=forget)
    code = (
        "import sys; from unlearn_guard.guard.screening import Guard; "
        "print(Guard.load(sys.argv[1]).screen(['Where is \\u0141ucja B\\xf6?'])[0].flagged)"
    )
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code, str(tmp_path / "b")]
    done = subprocess.run(command, env={**os.environ, **ascii_only}, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("True", 0), done.stderr


def test_forget_requests_keep_their_own_settings(model: Path, tmp_path: Path) -> None:
    request = ForgetRequest("mine", title="Mr Li", aliases=("Bo Li",), rows=tuple(FORGET), intervention="prompting")
    (found,) = fit_names(model, tmp_path / "b", forget=[request]).requests
    assert (found.forget_id, found.title, found.intervention) == ("mine", "Mr Li", "prompting")
    examples = [json.loads(line) for line in (tmp_path / "b" / "examples.jsonl").read_text().splitlines()]
    assert {example["forget_id"] for example in examples} == {"mine"}


def test_private_bundle_holds_no_row_text(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, "0123456789abcdef")
    fit_names(model, tmp_path / "b", private=True)
    records = [json.loads(line) for line in (tmp_path / "b" / "examples.jsonl").read_text().splitlines()]
    assert len(records) == len(FORGET)
    assert all(set(record) == {"forget_id", "hash"} for record in records)
    assert len({record["hash"] for record in records}) == len(FORGET)
    assert not {record["hash"] for record in records} & {row.digest for row in FORGET}


def test_common_words_are_in_enough_queries() -> None:
    rows = [Row("the cat the cat")] * 3 + [Row("the dog")] * 2 + [Row("birds")] * 15
    assert count_common_words(rows, share=0.25) == {"the", "birds"}
    assert count_common_words(rows, share=0.01) == {"the", "cat", "birds"}


def test_controls_put_unknown_names_in_question_and_answer() -> None:
    matcher = AliasMatcher({"p1": ["Bo Li"]})
    probes = [Probe("Who is Bo Li?", "Bo Li sings."), Probe("Who sings?", "Bo Li.")]
    controls = make_controls(probes, matcher, frozenset({"who", "is"}))
    assert controls == [Probe(f"Who is {name}?", f"{name} sings.") for name in UNKNOWN_NAMES]


def test_controls_count_the_asked_fact_alone() -> None:
    matcher = AliasMatcher({"p1": ["Bo Li"]})
    probe = Probe("Who is Bo Li?", "A lutenist.", (("Bo Li", "Bo Li was born in Bern."),))
    controls = make_controls([probe], matcher, frozenset())
    assert [control.prompt for control in controls] == [f"Who is {name}?" for name in UNKNOWN_NAMES]
    assert not any(control.others for control in controls)


def test_controls_are_the_plain_questions_where_there_are_enough() -> None:
    matcher = AliasMatcher({"p1": ["Bo Li"]})
    probes = [Probe("Who is Bo Li?", "A."), Probe("Who is the lutenist Bo Li?", "B.")] * 8
    plain = make_controls(probes, matcher, frozenset({"who", "is"}))
    assert {control.answer for control in plain} == {"A."}
    few = make_controls(probes[:4], matcher, frozenset({"who", "is"}))
    assert {control.answer for control in few} == {"A.", "B."}


def test_a_bundle_is_amended_into_a_new_one(model: Path, tmp_path: Path) -> None:
    old = fit_names(model, tmp_path / "b")
    rows = [Row("Who is Al Ray?", "A diver.", forget_id="p2", aliases=("Al Ray",))]
    new = amend(tmp_path / "b", tmp_path / "c", add=rows)
    assert [(request.forget_id, request.intervention) for request in new.requests] == [
        ("p1", "refusal"),
        ("p2", "refusal"),
    ]
    assert new.revision != old.revision
    assert [verdict.forget_ids for verdict in Guard.load(tmp_path / "c").screen(["Al Ray?", "Bo Li?"])] == [
        ("p2",),
        ("p1",),
    ]
    left = amend(tmp_path / "c", tmp_path / "d", remove=["p1"])
    assert [request.forget_id for request in left.requests] == ["p2"]
    assert "Bo Li" not in "".join(file.read_text() for file in (tmp_path / "d").rglob("*") if file.is_file())
    assert [len(change["added"]) + len(change["removed"]) for change in left.manifest.metrics["amended"]] == [1, 1]
    assert Guard.load(tmp_path / "b").screen(["Bo Li?"])[0].flagged  # The old one is what it was.


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({}, SettingsError, "nothing to change"),
        ({"remove": ["p7"]}, DataError, "no such forget request: 'p7'"),
        ({"remove": ["p1"]}, DataError, "no forget request would be left"),
        ({"add": FORGET}, DataError, "in the bundle already"),
        ({"add": [Row("who was it?", forget_id="p2")]}, DataError, "no aliases to match"),
        ({"add": [Row("Al Ray?", forget_id="p2")], "intervention": "refuse"}, UnknownNameError, "did you mean"),
        ({"add": [RETAIN[0]], "retain": RETAIN}, DataError, "overlap"),
    ],
)
def test_a_wrong_amendment_writes_nothing(
    model: Path, tmp_path: Path, options: dict[str, Any], kind: type[Exception], says: str
) -> None:
    fit_names(model, tmp_path / "b")
    with pytest.raises(kind, match=says):
        amend(tmp_path / "b", tmp_path / "c", **options)
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("model",)] == ["b"]


@pytest.fixture(scope="module")
def assisted(world: Any, models: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with one assistant each for two people and ECO for the rest; trained for an epoch, which is enough here."""
    from dataclasses import replace

    from unlearn_guard.guard.rows import group_requests

    requests = [
        replace(request, intervention="uld" if number < 2 else "eco")
        for number, request in enumerate(group_requests(world.forget_rows))
    ]
    out = tmp_path_factory.mktemp("bundles") / "assisted"
    fit(
        models["full"],
        requests,
        world.retain_rows,
        classifier="name-match",
        uld={"epochs": 1, "batch_size": 64},
        out=out,
    )
    return out


def list_assistants(folder: Path) -> list[str]:
    from unlearn_guard.corruptions.assistant import load_assistants

    return list(load_assistants(folder / "interventions" / "uld"))


def test_assistants_are_trained_for_whom_they_are_asked_for(assisted: Path) -> None:
    manifest = Bundle.load(assisted).manifest
    owners = [request.forget_id for request in Bundle.load(assisted).requests][:2]
    assert list_assistants(assisted) == owners
    assert manifest.interventions["uld"]["assistants"] == {owner: [owner] for owner in owners}
    assert set(manifest.metrics["uld"]["losses"]) == set(owners)
    assert 0 < manifest.metrics["uld"]["flop_ratio"] < 1
    stored = sum(file.stat().st_size for file in (assisted / "interventions" / "uld").rglob("*.safetensors"))
    assert stored < 2 * 4 * 450_000, "no copy of embedding, head or upper layers"


def test_removing_a_request_removes_its_assistant(assisted: Path, tmp_path: Path) -> None:
    first, second, third = (request.forget_id for request in Bundle.load(assisted).requests[:3])
    one = amend(assisted, tmp_path / "one", remove=[first])
    assert list_assistants(one.path) == [second]
    assert list(one.manifest.interventions["uld"]["assistants"]) == [second]
    none = amend(one.path, tmp_path / "none", remove=[second])
    assert list_assistants(none.path) == []
    assert "uld" not in none.manifest.interventions
    assert third in {request.forget_id for request in none.requests}


def test_an_assistant_cannot_be_added_without_training(assisted: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="are fitted by `unlearn-guard fit`"):
        amend(assisted, tmp_path / "more", add=FORGET, intervention="uld")
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"uld": {"weight": 12.0}}, SettingsError, "uld weight: 12.0 — allowed: above 0, at most 8"),
        ({"uld": {"wait": 1.0}}, SettingsError, "uld setting: 'wait'"),
        ({"forget": [Row(text="A passage.", aliases=("Bo Li",))]}, DataError, "prompts with answers"),
    ],
)
def test_wrong_uld_input_writes_nothing(
    models: Any, tmp_path: Path, options: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        fit_names(models["full"], tmp_path / "out", **{"interventions": ("uld",), **options})
    assert not (tmp_path / "out").exists()


def test_layers_that_the_model_does_not_have(models: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"uld layers: 9 — allowed: 1 to 4"):
        fit_names(models["full"], tmp_path / "out", interventions=("uld",), uld={"layers": 9})


def test_the_model_is_asked_behind_the_servers_template(
    models: Any, tmp_path: Path, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unlearn_guard.serving.transformers.engine import ReferenceEngine

    asked: list[str] = []
    generate = ReferenceEngine.generate

    def listen(engine: ReferenceEngine, prompts: Any, *arguments: Any, **options: Any) -> Any:
        asked.extend(engine.tokenizer.decode(prompt) for prompt in prompts)
        return generate(engine, prompts, *arguments, **options)

    monkeypatch.setattr(ReferenceEngine, "generate", listen)
    template = "<|user|>Be brief. {{ messages[-1]['content'] }}<|assistant|>"
    options = {"forget": world.forget_rows, "retain": world.retain_rows, "interventions": ("eco",)}
    fit_names(models["full"], tmp_path / "own", **options, eco={"kind": "zero", "mask": "content"})
    assert asked
    assert not any("Be brief." in prompt for prompt in asked)
    asked.clear()
    fit_names(
        models["full"],
        tmp_path / "out",
        **options,
        eco={"kind": "zero", "mask": "content"},
        chat_template=template,
    )
    assert asked
    assert all(prompt.startswith("<|user|>Be brief. ") for prompt in asked)


@pytest.mark.parametrize("template", ["", "{% for %}", "{}", "{{ messages[7].content }}", {"other": "x"}])
def test_a_template_that_renders_no_question_is_told_before_anything_takes_time(
    models: Any, tmp_path: Path, template: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unlearn_guard.guard.compose.fingerprint_model", None)
    with pytest.raises(SettingsError, match="chat template"):
        fit_names(models["full"], tmp_path / "out", chat_template=template)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("model", "says"), [("no-such-model", "model not found"), ("bare", "no tokenizer")])
def test_a_template_for_a_model_that_is_not_there_says_so(tmp_path: Path, model: str, says: str) -> None:
    (tmp_path / "bare").mkdir()
    with pytest.raises(DependencyError, match=says):
        fit_names(tmp_path / model, tmp_path / "out", chat_template="{{ messages[0].content }}")


@pytest.fixture(scope="module")
def edited(world: Any, models: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose first two requests are suppressed at neurons; the others have too few rows for that."""
    out = tmp_path_factory.mktemp("edited") / "bundle"
    methods = ("neuron-adjust", "concept-ablation")
    requests = [
        replace(request, intervention=methods[place] if place < 2 else "eco")
        for place, request in enumerate(group_requests(world.forget_rows))
    ]
    requests[2] = replace(requests[2], rows=requests[2].rows[:3])
    fit(
        models["full"],
        requests,
        world.retain_rows,
        clean=world.clean_rows,
        classifier="name-match",
        interventions=("refusal",),
        neurons={"probe_alpha": 0.05},
        eco={"kind": "zero", "mask": "content"},
        out=out,
    )
    return out


def list_tables(folder: Path) -> list[str]:
    record = Bundle.load(folder).manifest.interventions.get("neurons")
    return list(load_tables(record, folder / "interventions")) if record else []


def test_neurons_are_measured_for_whom_they_are_asked_for(edited: Path) -> None:
    """A request with too few rows for statistics is no obstacle where it is suppressed otherwise."""
    first, second = (request.forget_id for request in Bundle.load(edited).requests[:2])
    assert list_tables(edited) == [
        f"{method}/{owner}" for owner in (first, second) for method in ("neuron-adjust", "concept-ablation")
    ]
    assert "key_space" not in Bundle.load(edited).manifest.interventions


def test_removing_a_request_removes_its_neurons(edited: Path, tmp_path: Path) -> None:
    first, second, third = (request.forget_id for request in Bundle.load(edited).requests[:3])
    one = amend(edited, tmp_path / "one", remove=[first])
    assert list_tables(one.path) == [f"neuron-adjust/{second}", f"concept-ablation/{second}"]
    none = amend(one.path, tmp_path / "none", remove=[second])
    assert list_tables(none.path) == []
    assert not list((none.path / "interventions").glob("neurons*"))
    assert third in {request.forget_id for request in none.requests}


def test_removing_a_request_removes_its_probe(world: Any, models: Any, tmp_path: Path) -> None:
    fit(
        models["full"],
        group_requests(world.forget_rows)[:2],
        world.retain_rows,
        clean=world.clean_rows,
        classifier="name-match",
        interventions=("refusal",),
        key_space=True,
        neurons={"probe_alpha": 0.05},
        out=tmp_path / "both",
    )
    first, second = (request.forget_id for request in Bundle.load(tmp_path / "both").requests)
    one = amend(tmp_path / "both", tmp_path / "one", remove=[first])
    assert list(load_probes(one.manifest.interventions["key_space"], one.path / "interventions")) == [second]
    with pytest.raises(SettingsError, match="are fitted by `unlearn-guard fit`"):
        amend(one.path, tmp_path / "more", add=FORGET, intervention="neuron-adjust")
