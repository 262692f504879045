"""The command line. Exit codes: 0 done, 1 what was measured failed, 2 wrong input."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from unlearn_guard import __version__
from unlearn_guard.guard.errors import SettingsError, UnlearnGuardError

app = typer.Typer(
    name="unlearn-guard",
    help="Inference-time unlearning for vLLM: suppression with audit, never erasure.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
console = Console()


class Device(StrEnum):
    """Where encoder and index run."""

    cpu = "cpu"
    cuda = "cuda"


class Classifier(StrEnum):
    """Which prompt classifier to fit."""

    cascade = "cascade"
    name_match = "name-match"


class Precision(StrEnum):
    """The encoder's arithmetic."""

    fp32 = "fp32"
    int8 = "int8"


ModelArgument = Annotated[str, typer.Argument(help="Folder or hub name of the served model.")]
BundleOption = Annotated[Path, typer.Option("--bundle", "-b", help="Folder of a fitted bundle.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine output on standard output.")]
DeviceOption = Annotated[Device, typer.Option(help="Where encoder and index run.")]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(f"unlearn-guard {__version__}")
        raise typer.Exit


@app.command()
def fit(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="Where to write the bundle.")],
    forget: Annotated[
        Path | None, typer.Option(help="JSON lines to forget: prompt, answer or text, forget_id, aliases.")
    ] = None,
    document: Annotated[
        list[Path] | None, typer.Option(help="A text file to forget whole; may be given several times.")
    ] = None,
    retain: Annotated[
        Path | None, typer.Option(help="JSON lines to keep; without it, built-in clean traffic stands in.")
    ] = None,
    clean: Annotated[Path | None, typer.Option(help="JSON lines of clean traffic, for calibration.")] = None,
    intervention: Annotated[
        str, typer.Option(help="eco, eco-span, swap, refusal or prompting; several with +.")
    ] = "eco",
    alpha: Annotated[float, typer.Option(help="Allowed rate of false flags.")] = 0.001,
    classifier: Annotated[Classifier, typer.Option(help="Prompt classifier.")] = Classifier.cascade,
    encoder: Annotated[str | None, typer.Option(help="Sentence encoder: folder or name.")] = None,
    precision: Annotated[Precision, typer.Option(help="The encoder's arithmetic; int8 is about twice as fast.")] = (
        Precision.fp32
    ),
    elicit: Annotated[
        bool, typer.Option("--elicit", help="Ask the model what it knows about each name, and add what it repeats.")
    ] = False,
    refusal_text: Annotated[str | None, typer.Option(help="What a refusal says.")] = None,
    eco: Annotated[
        str | None,
        typer.Option(help="Fix ECO instead of searching, for example kind=flip,mask=token-id,strength=2."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of splits, noise and stand-ins.")] = 0,
    private: Annotated[
        bool, typer.Option("--private", help="Keep forget rows as hashes keyed by UNLEARN_GUARD_SECRET.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an older bundle.")] = False,
    device: Annotated[Device, typer.Option(help="Where the model runs while ECO is tuned.")] = Device.cpu,
    as_json: JsonOption = False,
) -> None:
    """Fit a guard for a model: classifier, calibration and interventions, in one bundle."""
    from unlearn_guard.guard.compose import fit as fit_bundle

    if forget is None and not document:
        raise SettingsError("nothing to forget", mend="give --forget ROWS, --document FILE, or both")
    bundle = fit_bundle(
        model,
        forget,
        retain,
        documents=tuple(document or ()),
        precision=precision.value,  # type: ignore[arg-type]
        elicit=elicit,
        clean=clean,
        interventions=(intervention,),
        alpha=alpha,
        seed=seed,
        out=out,
        classifier=classifier.value,
        encoder=encoder,
        device=device.value,
        overwrite=overwrite,
        private=private,
        refusal_text=refusal_text,
        eco=_read_eco(eco),
    )
    manifest = bundle.manifest
    summary: dict[str, Any] = {
        "bundle": str(bundle.path),
        "revision": bundle.revision,
        "forget_requests": len(bundle.requests),
        "intervention": manifest.intervention,
        "alpha": manifest.alpha,
        "n_calibration": manifest.n_calibration,
        "metrics": {key: value for key, value in manifest.metrics.items() if key != "eco"},
        "eco": manifest.interventions.get("eco"),
    }
    if as_json:
        print(json.dumps(summary))
        return
    console.print(f"bundle [bold]{bundle.path}[/bold], revision {bundle.revision}", highlight=False)
    if retain is None and manifest.classifier == "cascade":
        console.print(
            "[yellow]calibrated on built-in traffic[/yellow], not yours: give kept rows with --retain, clean traffic with "
            "--clean, or try it on recorded traffic first (`replay`)",
            highlight=False,
        )
    if manifest.classifier == "cascade" and manifest.alpha > manifest.alpha_requested:
        console.print(
            f"[yellow]alpha {manifest.alpha:.4f}[/yellow] instead of {manifest.alpha_requested}: "
            f"{manifest.n_calibration} calibration rows hold no less; give more clean traffic with --clean",
            highlight=False,
        )
    for key, value in summary["metrics"].items():
        console.print(f"  {key}: {value}", highlight=False)
    if summary["eco"]:
        console.print(f"  eco: {summary['eco']}", highlight=False)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(
    context: typer.Context,
    model: ModelArgument,
    bundle: BundleOption,
    mode: Annotated[str | None, typer.Option(help="enforce, shadow or off.")] = None,
    on_error: Annotated[str | None, typer.Option(help="block or pass, when screening fails.")] = None,
    on_answer: Annotated[
        str | None, typer.Option(help="filter, rewrite or pass: what happens to an answer that gives something away.")
    ] = None,
    context_policy: Annotated[
        str | None, typer.Option(help="allow or redact: whether an answer may repeat what the user supplied.")
    ] = None,
    intervention: Annotated[str | None, typer.Option(help="Use this instead of the bundle's interventions.")] = None,
    audit: Annotated[Path | None, typer.Option(help="Append one JSON line per request to this file.")] = None,
) -> None:
    """Serve a model in vLLM with a guard in force; every further argument is vLLM's own."""
    from unlearn_guard.serving.vllm.server import serve as run_server

    settings: dict[str, object] = {
        "mode": mode,
        "on_error": on_error,
        "on_answer": on_answer,
        "context_policy": context_policy,
        "intervention": intervention,
        "audit": str(audit) if audit else None,
    }
    run_server(model, str(bundle), context.args, settings=settings)


@app.command()
def screen(
    text: Annotated[list[str] | None, typer.Argument(help="Prompts to explain; none: one per line of stdin.")] = None,
    bundle: BundleOption = ...,  # type: ignore[assignment]
    device: DeviceOption = Device.cpu,
    as_json: JsonOption = False,
) -> None:
    """Explain the decision on one or several prompts."""
    from unlearn_guard.guard.screening import Guard

    texts = list(text) if text else [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not texts:
        raise SettingsError("nothing to screen", mend="give a prompt as argument, or lines on standard input")
    guard = Guard.load(bundle, device=device.value)
    verdicts = guard.screen(texts)
    if as_json:
        for prompt, verdict in zip(texts, verdicts, strict=True):
            record = {name: getattr(verdict, name) for name in verdict.__dataclass_fields__}
            print(json.dumps({"prompt": prompt, **record}, ensure_ascii=False))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("flagged", "stage", "forget request", "score", "p-value", "prompt"):
        table.add_column(column, overflow="fold")
    for prompt, verdict in zip(texts, verdicts, strict=True):
        table.add_row(
            "[red]yes[/red]" if verdict.flagged else "no",
            verdict.stage,
            ", ".join(verdict.forget_ids) if verdict.flagged else "",
            f"{verdict.score:.3f}",
            f"{verdict.p_value:.4f}",
            _mark_spans(prompt, verdict.spans),
        )
    console.print(table)
    console.print(f"[dim]alpha {guard.policy.alpha:.4f}: flagged when p-value ≤ alpha[/dim]", highlight=False)


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    model: Annotated[str | None, typer.Option(help="Also check that the bundle was made for this model.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check every file of a bundle, and optionally the model it was made for."""
    from unlearn_guard.guard.bundle import Bundle

    opened = Bundle.load(bundle)
    if model is not None:
        opened.check_model(model)
    manifest = opened.manifest
    record = {
        "revision": opened.revision,
        "files": len(manifest.files),
        "forget_requests": len(opened.requests),
        "classifier": manifest.classifier,
        "model_checked": model is not None,
    }
    print(json.dumps(record) if as_json else f"{bundle}: whole, " + ", ".join(f"{k} {v}" for k, v in record.items()))


@app.command()
def doctor(
    model: ModelArgument,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", "-b", help="Bundle to test with; none: a name-match one is made.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Alternating rounds per speed comparison.")] = 5,
    max_model_len: Annotated[int, typer.Option(help="Context length of the test engines.")] = 256,
    enforce_eager: Annotated[bool, typer.Option("--enforce-eager", help="Test without torch.compile.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Prove on this machine that the hooks run, that unflagged answers are stock's, and what the guard costs."""
    import tempfile

    from unlearn_guard.guard.rows import Row
    from unlearn_guard.serving.vllm.doctor import examine

    options = {"max_model_len": max_model_len, "enforce_eager": enforce_eager}
    with tempfile.TemporaryDirectory() as scratch:
        if bundle is None:
            from unlearn_guard.guard.compose import fit as fit_bundle

            bundle = Path(scratch) / "bundle"
            rows = [Row(prompt="Who is Tilda Weiland?", aliases=("Tilda Weiland",), forget_id="doctor")]
            kept = [Row(prompt="Who is Ada Lovelace?")]
            fit_bundle(model, rows, kept, interventions=("refusal",), out=bundle, classifier="name-match")
        findings = examine(
            model,
            bundle,
            options=options,
            rounds=rounds,
            report=lambda line: None if as_json else console.print(f"  {line}", highlight=False),
        )
    if as_json:
        print(json.dumps(findings))
    else:
        console.print("[bold]unlearn-guard doctor[/bold]")
        for key, value in findings.items():
            console.print(f"  {key}: {value}", highlight=False)
    if not (findings["canary"] and findings["unflagged_identical"]):
        raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where to write report.json and report.html.")] = Path("out/demo"),
    port: Annotated[int, typer.Option(help="Loopback port of the demo server; 0 takes a free one.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Train two small models, fit a guard, serve it in vLLM, and show before and after."""
    from unlearn_guard.benchmarks.demo import run_demo

    passed = run_demo(out, port=port, as_json=as_json)
    if not passed:
        raise typer.Exit(1)


@app.command()
def bench(
    suite: Annotated[str, typer.Option(help="world, tofu or detection.")] = "world",
    profile: Annotated[str, typer.Option(help="smoke, small or full; detection also dev.")] = "small",
    methods: Annotated[str | None, typer.Option(help="Comma-separated rows; none: all.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Comma-separated seeds; none: the profile's.")] = None,
    out: Annotated[Path, typer.Option(help="Where to write the report, Markdown and HTML beside it.")] = Path(
        "out/bench/report.json"
    ),
    model: Annotated[str | None, typer.Option(help="Your own model that knows the suite, instead of training.")] = None,
    retain_model: Annotated[str | None, typer.Option(help="Its retain-only reference; goes with --model.")] = None,
    forget: Annotated[Path | None, typer.Option(help="detection: your own forget rows; goes with --clean.")] = None,
    clean: Annotated[Path | None, typer.Option(help="detection: your own clean rows; goes with --forget.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare guards with weight editing, offline."""
    from unlearn_guard.benchmarks.runner import run_bench

    report = run_bench(
        suite=suite,
        profile=profile,
        methods=[name.strip() for name in methods.split(",")] if methods else None,
        seeds=_read_seeds(seeds),
        out=out,
        models=_read_models(model, retain_model),
        rows=_read_own_rows(suite, forget, clean),
    )
    if as_json:
        print(json.dumps(report))


def _read_models(model: str | None, retain_model: str | None) -> dict[str, Path] | None:
    if (model is None) != (retain_model is None):
        raise SettingsError("--model and --retain-model go together", mend="name both, or neither")
    return {"full": Path(model), "retain-only": Path(retain_model)} if model and retain_model else None


def _read_own_rows(suite: str, forget: Path | None, clean: Path | None) -> dict[str, Path] | None:
    if (forget is None) != (clean is None):
        raise SettingsError("--forget and --clean go together", mend="name both, or neither")
    if forget is None or clean is None:
        return None
    if suite != "detection":
        raise SettingsError("--forget and --clean belong to another suite", value=suite, allowed="--suite detection")
    return {"forget": forget, "clean": clean}


def _read_eco(text: str | None) -> dict[str, str | float] | None:
    """Read `name=value,…`; numbers become numbers."""
    if text is None:
        return None
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(name and equals and value for name, equals, value in pairs):
        raise SettingsError("eco settings", value=text, allowed="kind=noise|zero|flip, mask=…, strength=…, dims=…")
    values: dict[str, str | float] = {}
    for name, _, value in pairs:
        number = value.replace(".", "", 1).isdigit()
        values[name.strip()] = (int(value) if name.strip() == "dims" else float(value)) if number else value.strip()
    return values


def _read_seeds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise SettingsError("seeds", value=text, allowed="whole numbers separated by commas") from None


def _mark_spans(text: str, spans: Any) -> str:
    from rich.markup import escape

    shown, cursor = "", 0
    for _, start, end in sorted(spans):
        if start >= cursor:
            shown += f"{escape(text[cursor:start])}[bold red]{escape(text[start:end])}[/bold red]"
            cursor = end
    return shown + escape(text[cursor:])


def main() -> None:
    """Run the command line; errors of ours become one line on standard error and their exit code."""
    try:
        app()
    except UnlearnGuardError as error:
        print(f"unlearn-guard: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # A path that cannot be read or written is the caller's to mend.
        where = f": {error.filename!r}" if error.filename else ""
        print(f"unlearn-guard: {error.strerror or error}{where}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
