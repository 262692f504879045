"""Run a suite: train or load the models, fit the guard, measure every method, write the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from unlearn_guard.benchmarks.aggregate import aggregate_rows
from unlearn_guard.benchmarks.chat import Frame
from unlearn_guard.benchmarks.comparison import read_report
from unlearn_guard.benchmarks.dataset import Suite
from unlearn_guard.benchmarks.dominance import compare_rows
from unlearn_guard.benchmarks.environment import describe_environment
from unlearn_guard.benchmarks.methods import SUBJECTS
from unlearn_guard.benchmarks.muse import load_muse
from unlearn_guard.benchmarks.question_sets import load_knowundo, load_pistol
from unlearn_guard.benchmarks.report import SCHEMA_VERSION, prepare_output, write_report
from unlearn_guard.benchmarks.seed_run import NEEDS, SeedRun, name_model
from unlearn_guard.benchmarks.sizes import AttackPlan, load_profile
from unlearn_guard.benchmarks.stages import hash_content
from unlearn_guard.benchmarks.studies import choose_studies, read_study
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
_WHOLE = ("muse",)
"""Suites whose documents models that were trained elsewhere are asked about whole."""
_DERIVED = ("threats", "aggregate")
"""What of a row follows from others beside it."""


def load_suite(name: str, sizes: dict[str, Any], seed: int, *, own_models: bool = False) -> Suite:
    """Build the suite that a profile describes; models that were trained elsewhere are asked about MUSE's documents as MUSE asks."""
    key, load = _LOADERS[name]
    own = {"whole": True} if own_models and name in _WHOLE else {}
    return replace(load(**sizes[key], seed=seed, **own), name=name)


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
    frame: Frame | None = None,
) -> dict[str, Any]:
    """Measure methods and write `out` (JSON, schema 1), with Markdown and HTML beside it; return the report.

    `models` names the user's own `full` and `retain-only` models; without them both are trained. `own_rows` names the
    user's own `forget` and `clean` rows, for the suite `detection`. `targets` are what the suite `skills` forgets. Models
    run on `device`; other than on a CPU they are the user's own, but for `skills`. `edited` are checkpoints that somebody else has edited, by
    the names of their rows. `studies` are measured beside the methods that are named, or alone; without them the profile's, where no methods are named. `fresh` measures again what an earlier run has finished; rows are measured in up to two `workers`.
    `frame` is what the user's own models are asked behind. Raises SettingsError for options that do not go together, before any work.
    """
    sizes = load_profile(suite, profile)
    without = sizes.pop("without", ())
    is_detection = suite in ("detection", "rwku")
    owns_models = suite == "skills" or models is not None
    options = (
        ("--targets", targets, suite == "skills", "with --suite skills"),
        ("--device cuda", device != "cpu", owns_models, "with --model and --retain-model"),
        ("--edited", edited, owns_models, "with --model and --retain-model"),
        (
            "--system-prompt and --chat-date",
            frame,
            models is not None and suite in _LOADERS,
            f"with --model and --retain-model, and --suite {' or '.join(_LOADERS)}",
        ),
        ("--edited", edited, suite in _LOADERS, f"with --suite {' or '.join(_LOADERS)}"),
        ("--studies", studies, suite in _LOADERS, f"with --suite {' or '.join(_LOADERS)}"),
        ("--methods", methods, not is_detection, "what answers questions: world, tofu, …"),
        ("--model", models, not is_detection, "what answers questions: world, tofu, …"),
        ("more than one of --seeds", len(seeds or ()) > 1, not is_detection, "what answers questions: world, tofu, …"),
    )
    for name, is_given, is_read, allowed in options:
        if is_given and not is_read:
            raise SettingsError(f"{name} with --suite {suite}", allowed=allowed)
    if profile == "paper" and suite in _LOADERS and models is None:
        raise SettingsError(
            "--profile paper without models",
            allowed="with --model and --retain-model",
            mend="`small` and `full` train models of their own",
        )
    if taken := [name for name in edited or {} if name in SUBJECTS]:
        raise SettingsError("name of an edited checkpoint", value=taken[0], allowed="one that no row has")
    prepare_output(out)
    if is_detection:
        return _run_detection(sizes, suite, profile, out, own_rows or {}, seeds, fresh=fresh)
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
            fresh=fresh,
        )
    names, studies = _choose_work(sizes, without, methods, studies, models, edited or {})
    attack = AttackPlan(**sizes["attack"])
    before = frame or Frame()
    framed = {"frame": asdict(before)} if models is not None else {}
    rows: list[dict[str, Any]] = []
    studied: list[dict[str, Any]] = []
    data_hashes = []
    for seed in seeds if seeds is not None else sizes["seeds"]:
        data = load_suite(suite, sizes, seed, own_models=models is not None)
        data_hashes.append(data.data_hash)
        recipe = Recipe(**sizes.get("recipe", {}), seed=seed)
        run = SeedRun(data, recipe, seed, attack, sizes.get("uld") or {}, models, edited or {}, device, before, fresh)
        own = choose_studies(studies, is_first_seed=len(data_hashes) == 1)
        measured, records = run.measure(names, own, workers=workers)
        rows += measured
        studied += records
    report = {
        "schema_version": SCHEMA_VERSION,
        "suite": suite,
        "profile": profile,
        "environment": describe_environment(),
        "models": {name: name_model(path) for name, path in {**(models or {}), **(edited or {})}.items()}
        or "trained here",
        "device": device,
        **framed,
        "config_hash": hash_content(
            {"sizes": sizes, "methods": names, "studies": studies, "models": models, "edited": edited} | framed
        ),
        "data_hash": hash_content(data_hashes),
        "attack": attack.model_dump(),
        "left_out": [name for name in SUBJECTS if name not in names],
        **derive(rows, suite),
        "studies": studied,
    }
    write_report(report, out)
    return report


def _choose_work(
    sizes: dict[str, Any],
    without: Sequence[str],
    methods: Sequence[str] | None,
    studies: Sequence[str] | None,
    models: dict[str, Path] | None,
    edited: dict[str, Path],
) -> tuple[list[str], list[str]]:
    """Return the rows and the studies to measure; an unknown name, or a model that is not there, must not surface after minutes of training."""
    owns_models = models is not None
    everything = [] if studies else sizes["methods"] or list_rows(without, own_models=owns_models)
    names = list(methods or everything)
    if studies is None:  # Named rows are asked for alone; the user's own models have no twin to upgrade to.
        chosen = [name for name in sizes["studies"] if not methods and not (owns_models and f"study:{name}" in NEEDS)]
    else:
        chosen = list(studies)
    for kind, wanted in (("row", names), ("study", [f"study:{name}" for name in chosen])):
        if owns_models and (needy := [name for name in wanted if name in NEEDS]):
            raise SettingsError(
                kind, value=needy[0].removeprefix("study:"), allowed="where the benchmark trains the models itself"
            )
    for name in chosen:
        read_study(name)
    for path in (*(models or {}).values(), *edited.values()):
        _check_model(path)
    for name in names:
        SUBJECTS[name]
    for option, wanted in (("--methods", names), ("--studies", chosen)):
        if repeated := [name for name in dict.fromkeys(wanted) if wanted.count(name) > 1]:
            raise SettingsError(option, value=", ".join(repeated), allowed="each name once")
    return [*names, *edited], chosen


def list_rows(without: Sequence[str], *, own_models: bool) -> list[str]:
    """Return every row that a suite and profile can have, and that needs no model which is not there; raise UnknownNameError for a row that is none."""
    for name in without:
        SUBJECTS[name]
    return [name for name in SUBJECTS if name not in without and not (own_models and name in NEEDS)]


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
    prepare_output(out)
    if report["suite"] not in _LOADERS:
        raise DataError("a report of another kind", value=report["suite"], allowed=", ".join(_LOADERS))
    try:
        report |= derive(report["rows"], report["suite"])
    except KeyError as error:
        raise DataError(
            "a report of an earlier version", value=str(path), mend=f"measure again: its rows have no {error}"
        ) from None
    write_report(report, out)
    return report


def _check_model(path: Path) -> None:
    """Raise DependencyError for a checkpoint that is not there, or has no tokenizer, before hours of work."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise DependencyError(
            "no such model",
            value=str(path),
            allowed="a folder with config.json, or a hub name",
            mend=str(error).split("\n")[0],
        ) from None
    try:
        AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError):
        raise DependencyError(
            "a model without a tokenizer",
            value=str(path),
            allowed="a folder that holds both",
            mend="download it, and save the tokenizer of its base model beside it",
        ) from None


def _run_detection(
    sizes: dict[str, Any],
    suite: str,
    profile: str,
    out: Path,
    rows: dict[str, Path],
    seeds: Sequence[int] | None,
    *,
    fresh: bool,
) -> dict[str, Any]:
    from unlearn_guard.benchmarks.detection import run_detection
    from unlearn_guard.benchmarks.detection_report import write_detection

    seed = (seeds or sizes.get("seeds") or [0])[0]
    found = run_detection(sizes=sizes, forget=rows.get("forget"), clean=rows.get("clean"), seed=seed, fresh=fresh)
    report = {"schema_version": SCHEMA_VERSION, "suite": suite, "profile": profile, **found}
    write_detection(report, out)
    return report


__all__ = ["derive", "load_suite", "render_report", "run_bench"]
