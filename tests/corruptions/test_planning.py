"""Planning: from a verdict to the steps of a stamp."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from unlearn_guard.corruptions.eco import EcoSettings
from unlearn_guard.corruptions.planning import INTERVENTIONS, Fitted, Planner, find_always_on, parse_intervention
from unlearn_guard.corruptions.prompt import Prompt
from unlearn_guard.corruptions.refusal import DEFAULT_TEXT
from unlearn_guard.corruptions.standins import build_pool
from unlearn_guard.guard.bundle import Bundle, write_bundle
from unlearn_guard.guard.errors import SettingsError, UnknownNameError
from unlearn_guard.guard.rows import ForgetRequest
from unlearn_guard.guard.stamp import Stamp
from unlearn_guard.guard.verdict import Verdict

Chat = Callable[..., Prompt]
Name = Callable[..., Verdict]
Plan = Callable[..., Planner]
END = 0
ECO = EcoSettings("noise", "content", 2.0, 0, 0.5).to_record()
USER = ("user", "Where was Ann Lee born?")
REQUESTS = (
    ForgetRequest("p1", title="Ann Lee", intervention="eco"),
    ForgetRequest("p2", title="Bo Li", intervention="refusal"),
    ForgetRequest("p3", title="", intervention="swap"),
    ForgetRequest("d1", "document", title="The Salt Road", intervention="swap"),
)


@pytest.fixture(scope="module")
def plan_with(tokenizer: Any) -> Plan:
    def make(
        override: str | None = None,
        *,
        default: str = "eco",
        settings: dict[str, dict[str, Any]] | None = None,
        requests: tuple[ForgetRequest, ...] = REQUESTS,
        pool: bool = True,
    ) -> Planner:
        fitted = Fitted(
            {"eco": ECO} if settings is None else settings,
            frozenset({"where", "was"}),
            build_pool(tokenizer, []) if pool else None,
        )
        return Planner(
            fitted,
            requests,
            default=default,
            override=override,
            revision="rev",
            seed=5,
            tokenizer=tokenizer,
            end_token=END,
        )

    return make


def methods(stamp: Stamp) -> list[str]:
    return [step.method for step in stamp.steps]


@pytest.mark.parametrize(
    ("name", "names"),
    [("eco", ("eco",)), ("eco+swap", ("eco", "swap")), (" swap + eco ", ("swap", "eco")), ("refusal", ("refusal",))],
)
def test_names_are_split(name: str, names: tuple[str, ...]) -> None:
    assert parse_intervention(name) == names


@pytest.mark.parametrize("name", ["ecco", "eco+ecco", "", "eco+", "ECO"])
def test_unknown_name_lists_the_known(name: str) -> None:
    with pytest.raises(UnknownNameError, match=", ".join(sorted(INTERVENTIONS))):
        parse_intervention(name)


@pytest.mark.parametrize("name", ["refusal+eco", "eco+refusal", "prompting+swap", "refusal+prompting"])
def test_refusal_and_prompting_stand_alone(name: str) -> None:
    with pytest.raises(SettingsError, match="refusal and prompting stand alone"):
        parse_intervention(name)


@pytest.mark.parametrize("name", ["eco", "eco-span", "swap", "swap+eco"])
def test_intervention_that_was_not_fitted_is_refused(plan_with: Plan, name: str) -> None:
    with pytest.raises(SettingsError, match=r"was not fitted into this bundle — allowed: prompting, refusal —"):
        plan_with(name, settings={}, requests=())


def test_request_with_an_unfitted_intervention_is_refused(plan_with: Plan) -> None:
    with pytest.raises(SettingsError, match="'eco' was not fitted"):
        plan_with(default="refusal", settings={}, requests=REQUESTS[:2])
    assert plan_with("refusal", settings={}).choose(Verdict(True, ("p1",), 9.0, 0.0, "alias")) == ("refusal",)


@pytest.mark.parametrize("name", ["refusal", "prompting"])
def test_what_needs_no_fit_works_without(plan_with: Plan, chat: Chat, name: str) -> None:
    planner = plan_with(default=name, settings={}, requests=())
    assert methods(planner.plan(Verdict(True, ("p1",), 9.0, 0.0, "head"), chat(USER))) == [name]


@pytest.mark.parametrize(
    ("forget_ids", "chosen"),
    [
        (("p1",), ("eco",)),
        (("p3", "p1"), ("swap",)),
        (("p1", "p2"), ("refusal",)),
        (("gone", "p3"), ("swap",)),
        (("gone",), ("eco-span",)),
        ((), ("eco-span",)),
    ],
)
def test_first_forget_request_decides_but_a_refusal_wins(
    plan_with: Plan, forget_ids: tuple[str, ...], chosen: tuple[str, ...]
) -> None:
    planner = plan_with(default="eco-span")
    assert planner.choose(Verdict(True, forget_ids, 9.0, 0.0, "alias")) == chosen


def test_override_replaces_every_choice(plan_with: Plan) -> None:
    planner = plan_with("prompting")
    for forget_ids in (("p1",), ("p2",), ()):
        assert planner.choose(Verdict(True, forget_ids, 9.0, 0.0, "alias")) == ("prompting",)


def test_stamp_says_everything_the_worker_needs(plan_with: Plan, chat: Chat, name: Name) -> None:
    prompt = chat(USER)
    stamp = plan_with().plan(name(prompt, "Ann Lee"), prompt)
    assert (stamp.revision, stamp.forget_ids, stamp.prompt_length, stamp.seed) == ("rev", ("p1",), len(prompt.ids), 5)
    assert methods(stamp) == ["eco"]
    assert stamp.steps[0].params == {"kind": "noise", "mask": "content", "amplitude": 1.0, "dims": 0}
    assert Stamp.from_record(json.loads(json.dumps(stamp.to_record()))) == stamp


def test_composed_steps_keep_their_order(plan_with: Plan, chat: Chat, name: Name) -> None:
    prompt = chat(USER)
    verdict = name(prompt, "Ann Lee")
    assert methods(plan_with("swap+eco").plan(verdict, prompt)) == ["swap", "eco"]
    assert methods(plan_with("eco+swap").plan(verdict, prompt)) == ["eco", "swap"]


def test_eco_span_narrows_the_fitted_mask(plan_with: Plan, chat: Chat, name: Name) -> None:
    prompt = chat(USER)
    verdict = name(prompt, "Ann Lee")
    (narrow,), (wide,) = (plan_with(way).plan(verdict, prompt).steps for way in ("eco-span", "eco"))
    assert narrow.params["mask"] == "span"
    assert {place for pair in narrow.positions for place in range(*pair)} == prompt.cover(prompt.locate(verdict))
    assert sum(end - start for start, end in narrow.positions) < sum(end - start for start, end in wide.positions)


def test_swap_takes_a_title_for_a_document(
    tokenizer: Any, plan_with: Plan, chat: Chat, name: Name, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = []
    monkeypatch.setattr(
        "unlearn_guard.corruptions.planning.plan_swap", lambda pool, kind, *rest, **more: kinds.append(kind)
    )
    prompt = chat(USER)
    for owner in ("p3", "d1", "unknown"):
        plan_with("swap").plan(name(prompt, "Ann Lee", forget_ids=(owner,)), prompt)
    assert kinds == ["person", "title", "person"]


@pytest.mark.parametrize("pool", [True, False])
def test_swap_without_a_name_or_a_pool_corrupts_all(plan_with: Plan, chat: Chat, name: Name, pool: bool) -> None:
    prompt = chat(USER)
    verdict = Verdict(True, ("p3",), 9.0, 0.0, "head") if pool else name(prompt, "Ann Lee")
    (step,) = plan_with("swap", pool=pool).plan(verdict, prompt).steps
    assert (step.method, step.params["mask"]) == ("eco", "all")
    assert {place for pair in step.positions for place in range(*pair)} == prompt.open_tokens()


def test_swap_without_a_pool_corrupts_a_name_in_an_earlier_answer(
    tokenizer: Any, plan_with: Plan, chat: Chat, name: Name
) -> None:
    prompt = chat(("user", "Hello."), ("assistant", "Ask about Ann Lee."), ("user", "Where was she born?"))
    (step,) = plan_with("swap", pool=False).plan(name(prompt, "Ann Lee", message=1), prompt).steps
    covered = [prompt.ids[place] for pair in step.positions for place in range(*pair)]
    assert tokenizer.decode(covered) == "Hello. Ann LeeWhere was she born?"


@pytest.mark.parametrize("settings", [{}, {"refusal": {"text": "No comment."}}])
def test_refusal_spells_its_text_and_ends(
    tokenizer: Any, plan_with: Plan, chat: Chat, settings: dict[str, dict[str, Any]]
) -> None:
    planner = plan_with("refusal", settings=settings)
    (step,) = planner.plan(Verdict(True, ("p1",), 9.0, 0.0, "head"), chat(USER)).steps
    *text, end = step.params["tokens"]
    assert end == END
    assert tokenizer.decode(text) == settings.get("refusal", {}).get("text", DEFAULT_TEXT)


def test_prompting_names_the_flagged_titles(tokenizer: Any, plan_with: Plan, chat: Chat) -> None:
    planner, prompt = plan_with("prompting"), chat(USER)
    texts = [
        tokenizer.decode(planner.plan(Verdict(True, ids, 9.0, 0.0, "head"), prompt).steps[0].params["tokens"])
        for ids in (("p1", "p2"), ("p3",), ("gone",))
    ]
    assert "heard of Ann Lee, Bo Li." in texts[0]
    assert all("heard of the subject of this question." in text for text in texts[1:])


@pytest.mark.parametrize(
    ("way", "covered"),
    [
        ("eco", ["eco"]),
        ("eco-span", ["eco"]),
        ("swap", ["refusal"]),
        ("refusal", ["refusal"]),
        ("prompting", ["refusal"]),
    ],
)
def test_prompt_that_is_scored_itself_is_covered_whole(
    plan_with: Plan, chat: Chat, name: Name, way: str, covered: list[str]
) -> None:
    prompt = chat(USER)
    stamp = plan_with(way).plan(name(prompt, "Ann Lee"), prompt, cover_prompt=True)
    assert methods(stamp) == covered
    if covered == ["eco"]:
        assert stamp.steps[0].positions == ((0, len(prompt.ids)),)
        assert stamp.steps[0].params["mask"] == "all"


def test_token_id_step_is_covered_whole_too(plan_with: Plan, chat: Chat) -> None:
    prompt = chat(USER)
    planner = plan_with("eco", settings={"eco": {**ECO, "mask": "token-id"}})
    (step,) = planner.plan(Verdict(True, ("p1",), 9.0, 0.0, "head"), prompt, cover_prompt=True).steps
    assert (step.positions, step.params["mask"]) == (((0, len(prompt.ids)),), "all")


def test_fitted_interventions_are_read_from_a_bundle(tmp_path: Any) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    def write(name: str, full: bool) -> Fitted:
        with write_bundle(tmp_path / name) as writer:
            writer.write_lines("requests.jsonl", [])
            if full:
                writer.path("interventions/common_words.json").write_text('["was", "where"]')
                writer.path("interventions/standins.json").write_text('{"person": {"1": [[4]]}}')
                save_file({"exclusive_ids": np.array([3, 9])}, writer.path("interventions/eco.safetensors"))
            writer.commit(
                model="m",
                fingerprint={},
                classifier="name-match",
                encoder=None,
                seed=0,
                alpha=0.1,
                alpha_requested=0.1,
                n_calibration=0,
                intervention="eco",
                interventions={"eco": ECO},
                metrics={},
            )
        return Fitted.load(Bundle.load(tmp_path / name))

    words, pool = frozenset({"was", "where"}), {"person": {"1": [[4]]}}
    assert write("full", True) == Fitted({"eco": ECO}, words, pool, (3, 9), tmp_path / "full" / "interventions")
    assert write("bare", False) == Fitted({"eco": ECO}, folder=tmp_path / "bare" / "interventions")


@pytest.mark.parametrize(
    ("applies", "override", "tables"),
    [
        ("flagged", None, []),
        ("always", None, ["neuron-adjust/p1"]),
        ("always", "neuron-adjust", ["neuron-adjust/p1", "neuron-adjust/p2"]),
        ("always", "eco+neuron-adjust", ["neuron-adjust/p1", "neuron-adjust/p2"]),
        ("always", "concept-ablation", []),
        ("always", "refusal", []),
    ],
)
def test_only_neuron_adjust_is_ever_always_on(applies: str, override: str | None, tables: list[str]) -> None:
    """And of those requests alone whose neurons were measured, and that it suppresses."""
    named = {"p1": "neuron-adjust", "p2": "concept-ablation", "p3": "neuron-adjust", "p4": ""}
    record = {"owners": {"0000": "p1", "0001": "p2"}, "options": {"applies": applies}}
    bundle: Any = SimpleNamespace(
        manifest=SimpleNamespace(intervention="refusal", interventions={"neurons": record}),
        requests=[ForgetRequest(owner, intervention=name) for owner, name in named.items()],
    )
    assert find_always_on(bundle, override) == tables
    bundle.manifest.interventions = {}
    assert find_always_on(bundle, override) == []


ULD = {
    "settings": {"weight": 2.0, "penalty": "advantage"},
    "weight_beside_eco": 1.5,
    "eco": {"kind": "flip", "mask": "token-id", "dims": 0},
    "assistants": {"p1": ["p1"], "rest": ["p2", "p3"]},
}


def plan_uld_with(
    chat: Any, name: Any, tokenizer: Any, intervention: str, owners: tuple[str, ...], **options: Any
) -> Any:
    requests = tuple(ForgetRequest(owner) for owner in ("p1", "p2", "p3"))
    planner = Planner(
        Fitted({"eco": ECO, "uld": ULD}),
        requests,
        default=intervention,
        override=intervention,
        revision="r",
        seed=0,
        tokenizer=tokenizer,
        end_token=0,
    )
    prompt = chat(("user", "Where was Ann Lee born?"))
    return planner.plan(name(prompt, "Ann", "Lee", forget_ids=owners), prompt, **options)


@pytest.mark.parametrize(
    ("owners", "assistants"),
    [(("p1",), ["p1"]), (("p2",), ["rest"]), (("p3", "p1"), ["p1", "rest"]), ((), ["p1", "rest"])],
)
def test_uld_subtracts_the_assistants_of_whoever_is_meant(
    chat: Any, name: Any, tokenizer: Any, owners: tuple[str, ...], assistants: list[str]
) -> None:
    (step,) = plan_uld_with(chat, name, tokenizer, "uld", owners).steps
    assert (step.params["assistants"], step.params["weight"]) == (assistants, 2.0)


def test_eco_beside_uld_has_settings_of_its_own_and_uld_another_weight(chat: Any, name: Any, tokenizer: Any) -> None:
    eco, uld = plan_uld_with(chat, name, tokenizer, "eco+uld", ("p1",)).steps
    assert (eco.params["kind"], eco.params["mask"]) == ("flip", "token-id")
    assert uld.params["weight"] == 1.5


def test_prompt_log_probabilities_need_more_than_an_assistant(chat: Any, name: Any, tokenizer: Any) -> None:
    (step,) = plan_uld_with(chat, name, tokenizer, "uld", ("p1",), cover_prompt=True).steps
    assert step.method == "refusal"
    eco, uld = plan_uld_with(chat, name, tokenizer, "eco+uld", ("p1",), cover_prompt=True).steps
    assert eco.positions[0][0] == 0
    assert (eco.params["mask"], uld.method) == ("all", "uld")


def test_a_request_without_an_assistant_is_refused_at_start(tokenizer: Any) -> None:
    with pytest.raises(SettingsError, match=r"no assistant: 'p9'"):
        Planner(
            Fitted({"eco": ECO, "uld": ULD}),
            (ForgetRequest("p9", intervention="uld"),),
            default="eco",
            revision="r",
            seed=0,
            tokenizer=tokenizer,
            end_token=0,
        )


def plan_mixed(chat: Any, name: Any, tokenizer: Any, methods: dict[str, str], owners: tuple[str, ...]) -> list[str]:
    planner = Planner(
        Fitted({"eco": ECO, "uld": ULD}),
        tuple(ForgetRequest(owner, intervention=method) for owner, method in methods.items()),
        default="eco",
        revision="r",
        seed=0,
        tokenizer=tokenizer,
        end_token=0,
    )
    prompt = chat(("user", "Where was Ann Lee born?"))
    return [step.method for step in planner.plan(name(prompt, "Ann", "Lee", forget_ids=owners), prompt).steps]


@pytest.mark.parametrize("owners", [("p1", "p9"), ("p9", "p1")])
def test_an_assistant_does_not_answer_for_whom_it_does_not_know(
    chat: Any, name: Any, tokenizer: Any, owners: tuple[str, ...]
) -> None:
    """Two people in one question, one suppressed by an assistant, the other in another way: both act, or a refusal."""
    assert plan_mixed(chat, name, tokenizer, {"p1": "uld", "p9": "eco"}, owners) == ["eco", "uld"]
    assert plan_mixed(chat, name, tokenizer, {"p1": "uld", "p9": "prompting"}, owners) == ["refusal"]
    assert plan_mixed(chat, name, tokenizer, {"p1": "uld", "p9": "eco"}, ("p1",)) == ["uld"]


def test_who_names_the_tokens_gets_no_filter(chat: Any, name: Any, tokenizer: Any) -> None:
    (step,) = plan_uld_with(chat, name, tokenizer, "uld", ("p1",), whole_support=True).steps
    assert step.params["kept_share"] == 1.0
    (step,) = plan_uld_with(chat, name, tokenizer, "uld", ("p1",)).steps
    assert step.params.get("kept_share", 0.01) == 0.01


def test_two_requests_of_one_kind_do_not_drop_what_only_one_has(chat: Any, name: Any, tokenizer: Any) -> None:
    """Both own assistants; the prompt is corrupted too, because one of them asks for it, in either order."""
    for owners in (("p1", "p2"), ("p2", "p1")):
        steps = plan_mixed(chat, name, tokenizer, {"p1": "uld", "p2": "eco+uld"}, owners)
        assert sorted(steps) == ["eco", "uld"]
