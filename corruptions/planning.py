"""From a verdict to a stamp: the planner knows the bundle's fitted interventions and composes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unlearn_guard.corruptions.eco import EcoSettings, plan_eco
from unlearn_guard.corruptions.neuron_settings import ABLATE, ADJUST
from unlearn_guard.corruptions.prompt import Prompt, to_ranges
from unlearn_guard.corruptions.prompting import plan_prompting
from unlearn_guard.corruptions.refusal import DEFAULT_TEXT, encode_refusal, plan_refusal
from unlearn_guard.corruptions.standins import Pool, plan_swap
from unlearn_guard.corruptions.uld import UldSettings, plan_uld
from unlearn_guard.guard.bundle import Bundle
from unlearn_guard.guard.errors import SettingsError
from unlearn_guard.guard.registry import Registry
from unlearn_guard.guard.rows import ForgetRequest
from unlearn_guard.guard.stamp import Stamp, Step
from unlearn_guard.guard.verdict import Verdict

Plan = Callable[["Planner", Verdict, Prompt], list[Step]]
INTERVENTIONS: Registry[Plan] = Registry("intervention")
STAND_ALONE = ("refusal", "prompting")
NEURON_INTERVENTIONS = frozenset({ADJUST, ABLATE})
OWNED = NEURON_INTERVENTIONS | {"uld"}
"""Interventions that know their own forget request alone."""
_NEEDED = {"uld": "uld", **dict.fromkeys(NEURON_INTERVENTIONS, "neurons")}
"""Under which name the manifest has what an intervention needs; ECO's for all others."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a bundle's interventions folder holds."""

    settings: dict[str, dict[str, Any]]
    common_words: frozenset[str] = frozenset()
    pool: Pool | None = None
    exclusive_ids: tuple[int, ...] = ()
    folder: Path | None = None
    """Where larger parts lie, which only an engine reads."""

    @classmethod
    def load(cls, bundle: Bundle) -> Fitted:
        """Read the interventions of a bundle."""
        folder = bundle.path / "interventions"
        return cls(
            settings=bundle.manifest.interventions,
            common_words=frozenset(_read_json(folder / "common_words.json", [])),
            pool=_read_json(folder / "standins.json", None),
            exclusive_ids=tuple(_read_ids(folder / "eco.safetensors")),
            folder=folder,
        )


class Planner:
    """Plan what is done to flagged requests of one bundle, with one tokenizer."""

    def __init__(
        self,
        fitted: Fitted,
        requests: tuple[ForgetRequest, ...],
        *,
        default: str,
        override: str | None = None,
        revision: str,
        seed: int,
        tokenizer: Any,
        end_token: int,
    ) -> None:
        """Each forget request names its own intervention; `override` replaces all of them, `default` fills gaps.

        Raises UnknownNameError for an unknown intervention, SettingsError for one that was not fitted.
        """
        self.fitted, self.revision, self.seed, self.tokenizer = fitted, revision, seed, tokenizer
        self.requests = {request.forget_id: request for request in requests}
        self.default = parse_intervention(override or default)
        self.chosen = {
            request.forget_id: parse_intervention(override or request.intervention or default) for request in requests
        }
        for name in {name for names in (self.default, *self.chosen.values()) for name in names}:
            needed = _NEEDED.get(name, "eco")
            if name not in STAND_ALONE and needed not in fitted.settings:
                raise SettingsError(
                    f"intervention {name!r} was not fitted into this bundle",
                    allowed=", ".join(sorted({*fitted.settings, *STAND_ALONE})),
                    mend=f"fit again with --intervention {needed}",
                )
        measured = set(fitted.settings.get("neurons", {}).get("owners", {}).values())
        if unmeasured := [
            owner for owner, names in self.chosen.items() if set(names) & NEURON_INTERVENTIONS and owner not in measured
        ]:
            raise SettingsError(
                "the neurons of a forget request were not measured",
                value=unmeasured[0],
                mend="fit again with --intervention neuron-adjust, or give it another intervention",
            )
        taught = {owner for owners in fitted.settings.get("uld", {}).get("assistants", {}).values() for owner in owners}
        if untaught := [owner for owner, names in self.chosen.items() if "uld" in names and owner not in taught]:
            raise SettingsError(
                "a forget request has no assistant",
                value=untaught[0],
                mend="fit again with --intervention uld, or give it another intervention",
            )
        text = fitted.settings.get("refusal", {}).get("text", DEFAULT_TEXT)
        self.refusal_tokens = encode_refusal(tokenizer, text, end_token)

    def choose(self, verdict: Verdict) -> tuple[str, ...]:
        """Return the interventions of a verdict: the first forget request's, but a refusal wins over everything.

        What edits the prompt edits all that is named in it; assistants and neurons are each request's own. Where these meet
        another method, both act.
        """
        named = [self.chosen[forget_id] for forget_id in verdict.forget_ids if forget_id in self.chosen]
        first = next((names for names in named if "refusal" in names), named[0] if named else self.default)
        if len({(frozenset(names) & OWNED, bool(set(names) - OWNED)) for names in named}) > 1:
            if any(set(names) & set(STAND_ALONE) for names in named):
                return ("refusal",)
            ordered = sorted(named, key=lambda names: bool(set(names) & OWNED))
            return tuple(dict.fromkeys(name for names in ordered for name in names))
        return first

    @property
    def eco(self) -> EcoSettings:
        """The fitted ECO settings."""
        return EcoSettings(**self.fitted.settings["eco"])

    def plan(
        self,
        verdict: Verdict,
        prompt: Prompt,
        *,
        cover_prompt: bool = False,
        whole_support: bool = False,
        max_length: int | None = None,
    ) -> Stamp:
        """Return the stamp of a flagged request.

        `cover_prompt` widens ECO to every prompt token: who asks for the prompt's own log-probabilities would
        otherwise read the model's opinion of an answer that is part of the prompt. `whole_support` takes the filter off
        assistants: who names the tokens that may follow could name only such as the filter drops. Where an instruction would not fit
        into `max_length` tokens beside the prompt, the request is refused instead.
        """
        steps = [step for name in self.choose(verdict) for step in INTERVENTIONS[name](self, verdict, prompt)]
        if cover_prompt:
            # Assistants do nothing to the prompt's own log-probabilities; beside ECO the covered prompt says nothing.
            bare = any(step.method == "uld" for step in steps) and not any(step.method == "eco" for step in steps)
            steps = [plan_refusal(self.refusal_tokens)] if bare else [self._cover(step, prompt) for step in steps]
        if whole_support:
            steps = [
                Step(step.method, step.positions, {**step.params, "kept_share": 1.0}) if step.method == "uld" else step
                for step in steps
            ]
        added = sum(len(step.params["tokens"]) for step in steps if step.method == "prompting")
        if max_length is not None and added and len(prompt.ids) + added >= max_length:
            steps = [plan_refusal(self.refusal_tokens)]
        return Stamp(self.revision, verdict.forget_ids, len(prompt.ids), self.seed, tuple(steps))

    def find_assistants(self, verdict: Verdict) -> list[str]:
        """Return the assistants of a verdict's forget requests, all of them where it names none that has one."""
        assistants: dict[str, list[str]] = self.fitted.settings["uld"]["assistants"]
        named = [name for name, owners in assistants.items() if set(owners) & set(verdict.forget_ids)]
        return named or list(assistants)

    def find_tables(self, kind: str, verdict: Verdict) -> list[str]:
        """Return the neuron tables of a verdict's forget requests, all of that kind where it names none that has one."""
        owners = list(self.fitted.settings["neurons"]["owners"].values())
        named = [owner for owner in owners if owner in verdict.forget_ids and kind in self.chosen.get(owner, (kind,))]
        return [f"{kind}/{owner}" for owner in named or owners]

    def _cover(self, step: Step, prompt: Prompt) -> Step:
        whole = to_ranges(range(len(prompt.ids)))
        if step.method == "eco":
            return Step("eco", whole, {**step.params, "mask": "all"})
        if step.method == "swap":
            return plan_refusal(self.refusal_tokens)
        return plan_refusal(self.refusal_tokens) if step.method == "prompting" else step


def parse_intervention(name: str) -> tuple[str, ...]:
    """Split `a+b` into known names; raise UnknownNameError or SettingsError."""
    names = tuple(part.strip() for part in name.split("+"))
    for part in names:
        INTERVENTIONS[part]
    if len(names) > 1 and set(names) & set(STAND_ALONE):
        raise SettingsError("intervention", value=name, allowed=" and ".join(STAND_ALONE) + " stand alone")
    return names


def uses_assistants(bundle: Bundle, override: str | None = None) -> bool:
    """Return whether any forget request of a bundle is suppressed by an assistant."""
    return "uld" in find_used(bundle, override)


def find_always_on(bundle: Bundle, override: str | None = None) -> list[str]:
    """Return the neuron tables that act on every request, flagged or not: those of Neuron Adjust, where it was fitted so."""
    record = bundle.manifest.interventions.get("neurons", {})
    if record.get("options", {}).get("applies") != "always":
        return []
    default, measured = bundle.manifest.intervention, record["owners"].values()
    return [
        f"{ADJUST}/{request.forget_id}"
        for request in bundle.requests
        if request.forget_id in measured and ADJUST in parse_intervention(override or request.intervention or default)
    ]


def find_used(bundle: Bundle, override: str | None = None) -> set[str]:
    """Return every intervention that a bundle may apply."""
    default = bundle.manifest.intervention
    names = [override] if override else [default, *(request.intervention or default for request in bundle.requests)]
    return {part for name in names for part in parse_intervention(name)}


@INTERVENTIONS.register("eco")
def _plan_eco(planner: Planner, verdict: Verdict, prompt: Prompt) -> list[Step]:
    settings = planner.eco
    if "uld" in planner.choose(verdict):
        # ECO alone is tuned to destroy the prompt; an assistant beside it needs a prompt that still means something.
        settings = replace(settings, **planner.fitted.settings["uld"]["eco"])
    return [plan_eco(settings, verdict, prompt, planner.fitted.common_words)]


@INTERVENTIONS.register("uld")
def _plan_uld(planner: Planner, verdict: Verdict, prompt: Prompt) -> list[Step]:
    del prompt
    record = planner.fitted.settings["uld"]
    beside = record["weight_beside_eco"] if "eco" in planner.choose(verdict) else record["settings"]["weight"]
    settings = UldSettings(**{**record["settings"], "weight": beside})
    return [plan_uld(settings, planner.find_assistants(verdict))]


@INTERVENTIONS.register(ADJUST)
def _plan_adjust(planner: Planner, verdict: Verdict, prompt: Prompt) -> list[Step]:
    del prompt
    return [Step("neurons", (), {"tables": planner.find_tables(ADJUST, verdict)})]


@INTERVENTIONS.register(ABLATE)
def _plan_ablation(planner: Planner, verdict: Verdict, prompt: Prompt) -> list[Step]:
    del prompt
    return [Step("neurons", (), {"tables": planner.find_tables(ABLATE, verdict)})]


@INTERVENTIONS.register("eco-span")
def _plan_eco_span(planner: Planner, verdict: Verdict, prompt: Prompt) -> list[Step]:
    settings = EcoSettings(**{**planner.fitted.settings["eco"], "mask": "span"})
    return [plan_eco(settings, verdict, prompt, planner.fitted.common_words)]


@INTERVENTIONS.register("swap")
def _plan_swap(planner: Planner, verdict: Verdict, prompt: Prompt) -> list[Step]:
    request = planner.requests.get(verdict.forget_ids[0]) if verdict.forget_ids else None
    kind = "person" if request is None or request.kind == "person" else "title"
    step = planner.fitted.pool and plan_swap(planner.fitted.pool, kind, verdict, prompt, seed=planner.seed)
    # A nameless question has nothing to swap: corrupt all of it instead.
    return [step] if step else _plan_eco_all(planner, verdict, prompt)


def _plan_eco_all(planner: Planner, verdict: Verdict, prompt: Prompt) -> list[Step]:
    settings = EcoSettings(**{**planner.fitted.settings["eco"], "mask": "all"})
    return [plan_eco(settings, verdict, prompt, frozenset())]


@INTERVENTIONS.register("refusal")
def _plan_refusal(planner: Planner, verdict: Verdict, prompt: Prompt) -> list[Step]:
    del verdict, prompt
    return [plan_refusal(planner.refusal_tokens)]


@INTERVENTIONS.register("prompting")
def _plan_prompting(planner: Planner, verdict: Verdict, prompt: Prompt) -> list[Step]:
    del prompt
    titles = [planner.requests[name].title for name in verdict.forget_ids if name in planner.requests]
    return [plan_prompting(planner.tokenizer, titles)]


def _read_json(path: Path, default: Any) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else default


def _read_ids(path: Path) -> list[int]:
    if not path.is_file():
        return []
    from safetensors.numpy import load_file

    return [int(token) for token in load_file(path)["exclusive_ids"]]
