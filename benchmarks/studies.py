"""What is measured beside the rows: what more requests cost, one request after another, partial knowledge, a model upgrade.

A study is named with its size, as `requests-100`, and gives one record; the report lines records of one kind up.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unlearn_guard.benchmarks.attacks.cells import find_worst, measure_rate
from unlearn_guard.benchmarks.attacks.protocol import Protocol
from unlearn_guard.benchmarks.dataset import Item, Sequel, Suite
from unlearn_guard.benchmarks.editing.catalogue import load_tuned
from unlearn_guard.benchmarks.editing.procedures import edit_weights
from unlearn_guard.benchmarks.editing.trainer import DivergedError, EditingMethod
from unlearn_guard.benchmarks.examiner import Examiner
from unlearn_guard.benchmarks.guard_rows import guard_engine, watch_answers
from unlearn_guard.benchmarks.metrics import find_leaks, rouge_l_f1
from unlearn_guard.benchmarks.muse import N_CONTINUED, measure_knowledge
from unlearn_guard.benchmarks.strangers import find_strangers
from unlearn_guard.benchmarks.subjects import Bench, Subject
from unlearn_guard.corruptions.fluency import rouge_l_recall
from unlearn_guard.guard.bundle import Bundle
from unlearn_guard.guard.compose import amend, fit, load_planner
from unlearn_guard.guard.errors import DataError, SettingsError
from unlearn_guard.guard.registry import Registry
from unlearn_guard.guard.rows import Row
from unlearn_guard.guard.screening import Guard
from unlearn_guard.serving.transformers.engine import ReferenceEngine

_N_TIMED = 100
_EDIT = "npo"
"""The weight-editing method that studies set beside the guard."""


@dataclass(frozen=True, slots=True)
class Site:
    """What a study works with; `folder` is its own. find_informative: which variants show something."""

    bench: Bench
    protocol: Protocol
    examiner: Examiner
    folder: Path
    find_informative: Callable[[], Sequence[str]]


Study = Callable[[Site, int], dict[str, Any]]
STUDIES: Registry[Study] = Registry("study")
_OF_LEAKS = ("partial", "upgrade")
"""What leaks is a matter of chance, and measured on every seed; cost and order are shown by one."""


def run_study(name: str, site: Site) -> dict[str, Any]:
    """Return the record of a study by its name with size; raise UnknownNameError or SettingsError for a name that is none."""
    study, size = read_study(name)
    try:
        return {"study": name, **study(site, size)}
    except DivergedError as error:
        return {"study": name, "failed": f"diverged: {error}"}
    except (DataError, torch.OutOfMemoryError) as error:
        return {"study": name, "failed": str(error)}


def read_study(name: str) -> tuple[Study, int]:
    """Return a study and its size from a name such as `requests-100`; 0 where it has none."""
    kind, _, size = name.partition("-")
    study = STUDIES[kind]
    if size and (not size.isdigit() or not int(size)):
        raise SettingsError(
            "size of a study", value=name, allowed="a positive whole number behind the dash, as in requests-100"
        )
    return study, int(size or 0)


def choose_studies(names: Sequence[str], *, is_first_seed: bool) -> list[str]:
    """Return the studies of a seed: all of the first, of further ones those about what leaks; three seeds of the others would take hours more."""
    return [name for name in names if is_first_seed or name.partition("-")[0] in _OF_LEAKS]


@STUDIES.register("requests")
def measure_requests(site: Site, n_requests: int) -> dict[str, Any]:
    """Forget n invented people: what fitting, one more, one fewer and screening cost, what is noticed, and how many kept prompts are flagged.

    Asked is a question for each that `fit` did not see. named and described: those that say the name, and those that describe ("which
    philosopher from Chile"), which fit other people, too, where there are many.
    """
    suite = site.bench.suite
    # Some of the invented people have no name in common to all of their rows.
    people = find_strangers(n_requests + n_requests // 8 + 4, seed=site.bench.seed)[: n_requests + 1]
    *inside, (newcomer, new_rows) = people
    rows = [row for _, own in inside for row in own[1:]]
    options: dict[str, Any] = {
        "clean": suite.clean_rows,
        "seed": site.bench.seed,
        "interventions": ("refusal",),
        "device": site.bench.bundles.device,
    }
    out, retain = site.folder, suite.retain_rows
    fit_s, bundle = _time(fit, site.bench.bundles.model, rows, retain, out=out / "fitted", **options)
    added = [replace(row, forget_id=f"more-{newcomer}") for row in new_rows[1:]]
    add_s, _ = _time(amend, bundle.path, out / "added", add=added, retain=retain)
    remove_s = None
    if n_requests > 1:
        first = inside[0][1][0].forget_id
        remove_s, _ = _time(amend, bundle.path, out / "removed", remove=[first], retain=retain)
    guard = Guard.load(bundle.path)
    kept = [item.question for item in suite.sets["retain"]]
    asked = [own[0] for _, own in inside]
    flags = [verdict.flagged for verdict in guard.screen([row.query for row in asked])]
    named = [any(alias.casefold() in row.query.casefold() for alias in row.aliases) for row in asked]
    seconds = [_time(guard.screen, [question])[0] for question in kept[:_N_TIMED]]
    return {
        "n_requests": len(inside),
        "recall": float(np.mean(flags)),
        "named": _count_flagged(flags, named),
        "described": _count_flagged(flags, [not name for name in named]),
        "false_flags": sum(verdict.flagged for verdict in guard.screen(kept)),
        "n_kept": len(kept),
        "cost": {
            "fit_s": fit_s,
            "add_s": add_s,
            "remove_s": remove_s,
            "screen_p50_ms": 1e3 * statistics.median(seconds),
            "bundle_mb": sum(file.stat().st_size for file in bundle.path.rglob("*") if file.is_file()) / 2**20,
        },
    }


def _count_flagged(flags: Sequence[bool], counts: Sequence[bool]) -> dict[str, int]:
    """Return how many verdicts count, and how many of those are flags."""
    return {"n": sum(counts), "flagged": sum(flag and own for flag, own in zip(flags, counts, strict=True))}


@STUDIES.register("sequence")
def measure_sequence(site: Site, n_requests: int) -> dict[str, Any]:
    """Forget one request after another (MUSE's C6) and all of the first k at once (C5): what is kept, what leaks, how long.

    Requests are the suite's own sequels, as MUSE-News has them, else its people to forget. The guard gets one more each time, and in the end
    loses its first one; the weights are edited again and again.
    """
    bench = site.bench
    suite = bench.suite
    sequels = find_sequels(suite)[:n_requests]
    if not sequels:
        raise DataError("nobody to forget is asked for in forget.unseen", value=suite.name)
    steps: list[dict[str, Any]] = []
    bundle: Bundle | None = None
    method = _load_edit(bench)
    edited = bench.full
    for place, sequel in enumerate(sequels):
        out = site.folder / f"guard-{place}"
        guard_s, bundle = _time(_add_request, site, bundle, sequel.rows, out)
        edit_s, edited = _time(edit_weights, edited, method, sequel.rows, suite.retain_rows)
        both = [row for other in sequels[: place + 1] for row in other.rows]
        at_once = edit_weights(bench.full, method, both, suite.retain_rows)
        asked = [item for other in sequels[: place + 1] for item in other.asked]
        steps.append(
            {
                "n_requests": place + 1,
                "guard": {"cost": {"seconds": guard_s}, **_measure(site, _guard(bench, bundle), asked)},
                f"{_EDIT}-sequential": {
                    "cost": {"seconds": edit_s},
                    **_measure(site, Subject(_EDIT, "weights", edited), asked),
                },
                f"{_EDIT}-at-once": _measure(site, Subject(_EDIT, "weights", at_once), asked),
            }
        )
    assert bundle is not None
    result: dict[str, Any] = {"n_requests": len(sequels), "steps": steps}
    if len(sequels) > 1:
        out = site.folder / "revoked"
        revoke_s, revoked = _time(amend, bundle.path, out, remove=sequels[0].forget_ids, retain=suite.retain_rows)
        result["revoked"] = {"cost": {"seconds": revoke_s}, **_measure(site, _guard(bench, revoked), sequels[0].asked)}
    return result


def find_sequels(suite: Suite) -> list[Sequel]:
    """Return the forget requests that a suite has come one after another: its own, else one for each that is asked for unseen."""
    if suite.sequels:
        return suite.sequels
    asked: dict[str, list[Item]] = {}
    for item in suite.sets["forget.unseen"]:
        asked.setdefault(item.subject, []).append(item)
    owners = [owner for owner in dict.fromkeys(row.forget_id for row in suite.forget_rows) if owner in asked]
    return [Sequel([row for row in suite.forget_rows if row.forget_id == owner], asked[owner]) for owner in owners]


@STUDIES.register("partial")
def measure_partial(site: Site, percent: int) -> dict[str, Any]:
    """Tell guard and editor a part of the facts alone: does the rest leak?

    worst_case is over all facts, rest over those that were not handed over.
    """
    bench = site.bench
    suite = bench.suite
    facts = list(dict.fromkeys((row.forget_id, row.answer) for row in suite.forget_rows if row.prompt))
    rng = np.random.default_rng(bench.seed)
    known = {facts[place] for place in rng.permutation(len(facts))[: max(1, round(len(facts) * percent / 100))]}
    owners = {owner for owner, _ in known}
    rows = [
        row
        for row in suite.forget_rows
        if ((row.forget_id, row.answer) in known if row.prompt else row.forget_id in owners)
    ]
    bundle = fit(
        bench.bundles.model,
        rows,
        suite.retain_rows,
        clean=suite.clean_rows,
        seed=bench.seed,
        out=site.folder / "guard",
        device=bench.bundles.device,
        chat_template=bench.bundles.chat_template,
    )
    edited = edit_weights(bench.full, _load_edit(bench), rows, suite.retain_rows)
    result: dict[str, Any] = {
        "percent": percent,
        "n_facts_known": len(known),
        "n_people_known": len({row.forget_id for row in rows}),
    }
    for name, subject in (("guard", _guard(bench, bundle)), (_EDIT, Subject(_EDIT, "weights", edited))):
        result[name] = {**_attack(site, subject, known), **_measure(site, subject, suite.sets["forget.unseen"])}
    result["retain-only"] = _attack(site, Subject("retain-only", "retain", bench.retain), known)
    return result


@STUDIES.register("upgrade")
def measure_upgrade(site: Site, size: int) -> dict[str, Any]:
    """Put the old bundle before a retrained model: does it hold, and for how many facts does the outcome flip?"""
    del size
    bench = site.bench
    bundle = bench.bundles.fit("eco").bundle
    upgraded = bench.open_model("upgrade")
    unguarded = Subject("none", "none", upgraded)
    subjects = {
        "old": _guard(bench, bundle),
        "new": _guard(bench, bundle, engine=upgraded),
        "new, unguarded": unguarded,
        "retain-only": Subject("retain-only", "retain", bench.retain),
    }
    lines = {name: _find_told(site, _attack_informative(site, subject)) for name, subject in subjects.items()}
    flips = sum(before != after for before, after in zip(lines["old"], lines["new"], strict=True))
    return {
        **{name: {"leak": float(np.mean(cells))} for name, cells in lines.items()},
        "flips": flips,
        "n": len(lines["old"]),
    }


def _load_edit(bench: Bench) -> EditingMethod:
    return load_tuned(_EDIT, bench.suite.name).to_method(bench.full.hidden, seed=bench.seed)


def _add_request(site: Site, before: Bundle | None, rows: Sequence[Row], out: Path) -> Bundle:
    suite, bench = site.bench.suite, site.bench
    if before is None:
        return fit(
            bench.bundles.model,
            rows,
            suite.retain_rows,
            clean=suite.clean_rows,
            seed=bench.seed,
            out=out,
            device=bench.bundles.device,
            chat_template=bench.bundles.chat_template,
        )
    return amend(before.path, out, add=rows, retain=suite.retain_rows, intervention="eco")


def _guard(bench: Bench, bundle: Bundle, *, engine: ReferenceEngine | None = None) -> Subject:
    plain = engine or bench.full
    planner = load_planner(bundle, plain.tokenizer, plain.end_token)
    model = guard_engine(plain, bundle, planner)
    release, stream = watch_answers(model)
    return Subject("guard", "guard", model.engine, model, release=release, stream=stream)


def _measure(site: Site, subject: Subject, asked: Sequence[Item]) -> dict[str, float]:
    """Return the leak rate of some facts, and what is kept: ROUGE-L recall, and F1 as MUSE has it, behind worked examples where there are any."""
    retain = site.bench.suite.sets["retain"]
    n_tokens = site.examiner.max_new_tokens
    told = subject.answer(
        [item.question for item in asked],
        max_new_tokens=max(n_tokens, N_CONTINUED) if site.bench.suite.sequels else n_tokens,
    )
    kept = subject.answer([item.question for item in retain], max_new_tokens=n_tokens)
    passages = site.bench.suite.passages
    if passages is not None and passages.retain_shots:
        kept_f1 = measure_knowledge(subject, retain, passages.retain_shots)
    else:
        kept_f1 = float(np.mean([rouge_l_f1(answer, item.answer) for answer, item in zip(kept, retain, strict=True)]))
    return {
        "leak": float(np.mean(find_leaks(asked, told))),
        "retain_rouge": float(
            np.mean([rouge_l_recall(answer, item.answer) for answer, item in zip(kept, retain, strict=True)])
        ),
        "retain_f1": kept_f1,
    }


def _attack(site: Site, subject: Subject, known: Set[tuple[str, str]]) -> dict[str, Any]:
    """Return what an attacker is told of all facts, of those that are not known, and by variant."""
    lines = _attack_informative(site, subject)
    rates = {name: measure_rate(line) for name, line in lines.items()}
    told = _find_told(site, lines)
    rest = [
        cell for cell, item in zip(told, site.protocol.facts, strict=True) if (item.subject, item.answer) not in known
    ]
    return {
        "worst_case": float(np.mean(told)),
        "rest": {"n": len(rest), "worst_case": float(np.mean(rest)) if rest else None},
        "variants": rates,
    }


def _find_told(site: Site, lines: Mapping[str, str]) -> list[bool]:
    """Return per fact whether any of the variants leaks it; none do where no variant is informative."""
    return [bool(cell) for cell in find_worst(list(lines.values()))] if lines else [False] * len(site.protocol.facts)


def _attack_informative(site: Site, subject: Subject) -> dict[str, str]:
    told = site.protocol.attack_texts(subject)
    lines = {name: told[name] for name in site.find_informative()}
    if subject.stream is not None:
        lines["streamed"] = site.protocol.ask_plainly(subject, streams=True)
    return lines


def _time(call: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call(*arguments, **options)
    return time.perf_counter() - start, result
