"""Run a suite: train or load the models, fit the guard, measure every method, write the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unlearn_guard.benchmarks.aggregate import aggregate_rows
from unlearn_guard.benchmarks.comparison import read_report
from unlearn_guard.benchmarks.dataset import Suite
from unlearn_guard.benchmarks.dominance import compare_rows
from unlearn_guard.benchmarks.environment import describe_environment
from unlearn_guard.benchmarks.methods import SUBJECTS
from unlearn_guard.benchmarks.muse import load_muse
from unlearn_guard.benchmarks.question_sets import load_knowundo, load_pistol
from unlearn_guard.benchmarks.report import SCHEMA_VERSION, write_report
from unlearn_guard.benchmarks.seed_run import NEEDS, SeedRun
from unlearn_guard.benchmarks.sizes import AttackPlan, load_profile
from unlearn_guard.benchmarks.stages import hash_content
from unlearn_guard.benchmarks.studies import read_study
from unlearn_guard.benchmarks.threats import summarise_threats
from unlearn_guard.benchmarks.tofu import load_tofu
from unlearn_guard.benchmarks.training import Recipe
from unlearn_guard.benchmarks.world import make_world
from unlearn_guard.guard.errors import DataError, DependencyError, SettingsError

_LOADERS: dict[str, tuple[str, Callable[..., Suite]]] = {
    "world": ("world", make_world),
    "world-nearest": ("world", make_world),
    "tofu": ("authors", load_tofu),
    "tofu-01": ("authors", load_tofu),
    "tofu-05": ("authors", load_tofu),
    "tofu-10": ("authors", load_tofu),
    "knowundo": ("rows", load_knowundo),
    "pistol": ("rows", load_pistol),
    "muse": ("rows", load_muse),
}
"""By suite: which of its sizes say what is in it, and what loads it. Their finished rows are kept."""
_DERIVED = ("threats", "aggregate")
"""What of a row follows from others beside it."""


def load_suite(name: str, sizes: dict[str, Any], seed: int, *, own_models: bool = False) -> Suite:
    """Build the suite that a profile describes; models that were trained elsewhere are asked about MUSE's documents as MUSE asks."""
    key, load = _LOADERS[name]
    options = {"whole": own_models} if load is load_muse else {}
    return replace(load(**sizes[key], seed=seed, **options), name=name)


def run_bench(
    *,
    suite: str,
    profile: str,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    out: Path,
    models: dict[str, Path] | None = None,
    own_rows: dict[str, Path] | None = None,
    targets: Sequence[str] | None = None,
    device: str = "cpu",
    fresh: bool = False,
    workers: int = 1,
    edited: dict[str, Path] | None = None,
    studies: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Measure methods and write `out` (JSON, schema 1), with Markdown and HTML beside it; return the report.

    `models` names the user's own `full` and `retain-only` models; without them both are trained. `own_rows` names the
    user's own `forget` and `clean` rows, for the suite `detection`. `targets` are what the suite `skills` forgets. Models
    run on `device`; other than on a CPU they are the user's own, but for `skills`. `edited` are checkpoints that somebody else has edited, by
    the names of their rows. `studies` are measured beside the rows; without them the profile's, where no methods are named. `fresh` measures again what an earlier run has finished; rows are measured in up to two `workers`.
    """
    if suite != "skills" and targets:
        raise SettingsError("--targets", value=suite, allowed="with --suite skills")
    if suite != "skills" and models is None and (device != "cpu" or edited):
        raise SettingsError("--device cuda and --edited", value=suite, allowed="with --model and --retain-model")
    if (fresh or edited or studies) and suite not in _LOADERS:
        raise SettingsError(
            "--fresh, --edited and --studies", value=suite, allowed=f"with --suite {' or '.join(_LOADERS)}"
        )
    if taken := [name for name in edited or {} if name in SUBJECTS]:
        raise SettingsError("name of an edited checkpoint", value=taken[0], allowed="one that no row has")
    sizes = load_profile(suite, profile)
    if suite in ("detection", "rwku"):
        given = {"--methods": methods, "--model": models, "more than one of --seeds": seeds and len(seeds) > 1}
        if unread := [name for name, value in given.items() if value]:
            raise SettingsError(
                f"{unread[0]} with --suite {suite}", value=suite, allowed="what answers questions: world, tofu, …"
            )
        return _run_detection(sizes, suite, profile, out, own_rows or {}, seeds)
    if suite == "skills":
        from unlearn_guard.benchmarks.skill_bench import run_skills

        model = (models or {}).get("full")
        return run_skills(
            profile=profile,
            sizes=sizes,
            methods=methods,
            seeds=seeds,
            out=out,
            model=model,
            targets=targets,
            device=device,
        )
    names = list(methods or sizes["methods"] or list_rows(sizes, own_models=models is not None))
    if models is not None and (needy := [name for name in names if name in NEEDS]):
        raise SettingsError("row", value=needy[0], allowed="where the benchmark trains the models itself")
    if studies is None:  # Named rows are asked for alone; the user's own models have no twin to upgrade to.
        studies = [
            name for name in sizes["studies"] if not methods and (models is None or f"study:{name}" not in NEEDS)
        ]
    for name in studies:
        read_study(name)
        if models is not None and f"study:{name}" in NEEDS:
            raise SettingsError("study", value=name, allowed="where the benchmark trains the models itself")
    names += edited or {}
    for path in (*(models or {}).values(), *(edited or {}).values()):
        _check_model(path)
    for name in names:
        if name not in (edited or {}):
            SUBJECTS[name]  # An unknown name must not surface after minutes of training.
    attack = AttackPlan(**sizes["attack"])
    rows: list[dict[str, Any]] = []
    studied: list[dict[str, Any]] = []
    data_hashes = []
    for seed in seeds if seeds is not None else sizes["seeds"]:
        data = load_suite(suite, sizes, seed, own_models=models is not None)
        data_hashes.append(data.data_hash)
        recipe = Recipe(**sizes["recipe"], seed=seed)
        run = SeedRun(data, recipe, seed, attack, sizes.get("uld") or {}, models, edited or {}, device, fresh)
        # Studies are about cost and order, which one seed shows; three would take hours more.
        measured, records = run.measure(names, [] if rows else studies, workers=workers)
        rows += measured
        studied += records
    report = {
        "schema_version": SCHEMA_VERSION,
        "suite": suite,
        "profile": profile,
        "environment": describe_environment(),
        "models": {name: str(path) for name, path in {**(models or {}), **(edited or {})}.items()} or "trained here",
        "device": device,
        "config_hash": hash_content(
            {"sizes": sizes, "methods": names, "studies": studies, "models": models, "edited": edited}
        ),
        "data_hash": hash_content(data_hashes),
        "attack": attack.model_dump(),
        **derive(rows, suite),
        "studies": studied,
    }
    write_report(report, out)
    return report


def list_rows(sizes: dict[str, Any], *, own_models: bool) -> list[str]:
    """Return every row that a suite can have, and that needs no model which is not there."""
    without = set(sizes.get("without", ())) | (set(NEEDS) if own_models else set())
    return [name for name in SUBJECTS if name not in without]


def derive(rows: Sequence[dict[str, Any]], suite: str) -> dict[str, Any]:
    """Return rows with what follows from others beside them, and the comparisons of guards with edited weights."""
    plain = [
        {**row, "reasons": {path: why for path, why in row["reasons"].items() if path.split(".")[0] not in _DERIVED}}
        for row in rows
    ]
    derived = aggregate_rows(summarise_threats(plain), suite)
    return {"rows": derived, "comparisons": compare_rows(derived, suite)}


def render_report(path: Path, out: Path) -> dict[str, Any]:
    """Write a report again from the JSON of an earlier one, what is derived by today's rules; return it.

    Raises DataError for a file that is no report, or one without answers to compare.
    """
    report = read_report(path)
    if report["suite"] not in _LOADERS:
        raise DataError("a report of another kind", value=report["suite"], allowed=", ".join(_LOADERS))
    report |= derive(report["rows"], report["suite"])
    write_report(report, out)
    return report


def _check_model(path: Path) -> None:
    """Raise DependencyError for a checkpoint that is not there, before hours of work."""
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise DependencyError(
            "no such model",
            value=str(path),
            allowed="a folder with config.json, or a hub name",
            mend=str(error).split("\n")[0],
        ) from None


def _run_detection(
    sizes: dict[str, Any], suite: str, profile: str, out: Path, rows: dict[str, Path], seeds: Sequence[int] | None
) -> dict[str, Any]:
    from unlearn_guard.benchmarks.detection import run_detection
    from unlearn_guard.benchmarks.detection_report import write_detection

    found = run_detection(
        sizes=sizes, forget=rows.get("forget"), clean=rows.get("clean"), seed=(seeds or sizes.get("seeds") or [0])[0]
    )
    report = {"schema_version": SCHEMA_VERSION, "suite": suite, "profile": profile, **found}
    write_detection(report, out)
    return report


__all__ = ["derive", "load_suite", "render_report", "run_bench"]
