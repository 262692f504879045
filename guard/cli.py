"""The command line. Exit codes: 0 done, 1 what was measured failed, 2 wrong input."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from unlearn_guard import __version__
from unlearn_guard.guard.errors import DataError, SettingsError, UnlearnGuardError

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
        str,
        typer.Option(help="eco, uld, eco+uld, neuron-adjust, concept-ablation, eco-span, swap, refusal or prompting."),
    ] = "eco",
    alpha: Annotated[float, typer.Option(help="Allowed rate of false flags.")] = 0.001,
    classifier: Annotated[Classifier, typer.Option(help="Prompt classifier.")] = Classifier.cascade,
    encoder: Annotated[str | None, typer.Option(help="Sentence encoder: folder or name.")] = None,
    precision: Annotated[Precision, typer.Option(help="The encoder's arithmetic; int8 is about twice as fast.")] = (
        Precision.fp32
    ),
    tune_encoder: Annotated[
        bool, typer.Option("--tune-encoder", help="Fine-tune the sentence encoder on the rows first; takes minutes.")
    ] = False,
    elicit: Annotated[
        bool, typer.Option("--elicit", help="Ask the model what it knows about each name, and add what it repeats.")
    ] = False,
    refusal_text: Annotated[str | None, typer.Option(help="What a refusal says.")] = None,
    eco: Annotated[
        str | None,
        typer.Option(help="Fix ECO instead of searching, for example kind=flip,mask=token-id,strength=2."),
    ] = None,
    uld: Annotated[
        str | None,
        typer.Option(help="Settings of assistants, for example assistants=one,weight=1.5,trainable=lora,epochs=10."),
    ] = None,
    neurons: Annotated[
        str | None,
        typer.Option(help="Settings of neurons, for example share=0.12,score=energy,shift=posterior,probe=whitened."),
    ] = None,
    concepts: Annotated[
        Path | None, typer.Option(help="JSON that names the neurons of concepts: {forget_id: [[layer, neuron], …]}.")
    ] = None,
    key_space: Annotated[
        bool,
        typer.Option("--key-space", help="Add probes that abstain from prompts which the text classifier let through."),
    ] = False,
    traffic_without: Annotated[
        str | None,
        typer.Option(
            help="Kinds of built-in traffic that are not clean here, comma-separated: arithmetic, chores, people, school, "
            "stories, works. Name those that ask for a skill to forget."
        ),
    ] = None,
    chat_template: Annotated[
        Path | None,
        typer.Option(help="The template that the server is started with, where that is not the model's own."),
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
        tune_encoder=tune_encoder,
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
        eco=_read_settings(eco, "eco", "kind=noise|zero|flip, mask=…, strength=…, dims=…"),
        uld=_read_settings(uld, "uld", "assistants=each|one, weight=…, trainable=lora|layers, epochs=…"),
        neurons=_read_settings(
            neurons, "neurons", "share=…, score=peak|energy|gap|contrast, shift=posterior|coin, probe=…"
        ),
        concepts=_read_concepts(concepts),
        traffic_without=_read_names(traffic_without) or (),
        chat_template=_read_template(chat_template),
        key_space=key_space,
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
        "uld": manifest.interventions.get("uld"),
        "neurons": manifest.interventions.get("neurons"),
        "key_space": manifest.interventions.get("key_space"),
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
    for name in ("uld", "neurons", "key_space"):
        if summary[name]:
            console.print(f"  {name}: {summary[name]}", highlight=False)


@app.command()
def add(
    bundle: BundleOption,
    out: Annotated[Path, typer.Option(help="Where to write the new bundle.")],
    forget: Annotated[Path | None, typer.Option(help="JSON lines of one or more new forget requests.")] = None,
    document: Annotated[list[Path] | None, typer.Option(help="A text file to forget whole.")] = None,
    retain: Annotated[
        Path | None,
        typer.Option(help="The kept rows the bundle was fitted with, so that its calibration is scored again."),
    ] = None,
    intervention: Annotated[
        str, typer.Option(help="What is done to requests for them; ECO was tuned on others.")
    ] = "refusal",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an older bundle.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Add forget requests to a fitted bundle, in seconds; the rest is not fitted again."""
    from unlearn_guard.guard.compose import amend

    if forget is None and not document:
        raise SettingsError("nothing to add", mend="give --forget ROWS, --document FILE, or both")
    changed = amend(
        bundle,
        out,
        add=forget,
        documents=tuple(document or ()),
        retain=retain,
        intervention=intervention,
        overwrite=overwrite,
    )
    _print_change(changed, as_json=as_json)


@app.command()
def remove(
    forget_id: Annotated[list[str], typer.Argument(help="Which forget requests to take out.")],
    bundle: BundleOption,
    out: Annotated[Path, typer.Option(help="Where to write the new bundle.")],
    retain: Annotated[
        Path | None,
        typer.Option(help="The kept rows the bundle was fitted with, so that its calibration is scored again."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an older bundle.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Take forget requests out of a fitted bundle, with their names, facts and rows."""
    from unlearn_guard.guard.compose import amend

    _print_change(amend(bundle, out, remove=forget_id, retain=retain, overwrite=overwrite), as_json=as_json)


def _print_change(bundle: Any, *, as_json: bool) -> None:
    change = bundle.manifest.metrics["amended"][-1]
    record = {
        "bundle": str(bundle.path),
        "revision": bundle.revision,
        "forget_requests": len(bundle.requests),
        **change,
    }
    if as_json:
        print(json.dumps(record))
        return
    console.print(f"bundle [bold]{escape(str(bundle.path))}[/bold], revision {bundle.revision}", highlight=False)
    for name in ("added", "removed"):
        if change[name]:
            console.print(f"  {name}: {escape(', '.join(change[name]))}", highlight=False)
    if "n_scored_again" in change and change["n_scored_again"] < change["n_calibration"]:
        console.print(
            f"  [yellow]{change['n_scored_again']} of {change['n_calibration']} calibration rows scored again[/yellow]: for the "
            "others the rate of false flags holds as before; give the rows of the fit with --retain",
            highlight=False,
        )


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
    from unlearn_guard.guard.explaining import explain
    from unlearn_guard.guard.screening import Guard

    texts = list(text) if text else [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not texts:
        raise SettingsError("nothing to screen", mend="give a prompt as argument, or lines on standard input")
    guard = Guard.load(bundle, device=device.value)
    explained = [explain(guard, prompt) for prompt in texts]
    if as_json:
        for record in explained:
            print(json.dumps(record, ensure_ascii=False))
        return
    for record in explained:
        _print_explanation(record)
    console.print(f"[dim]alpha {guard.policy.alpha:.4f}: flagged when p-value ≤ alpha[/dim]", highlight=False)


def _print_explanation(record: dict[str, Any]) -> None:
    """Print one verdict, the windows it rests on, and the nearest rows."""
    flag = "[red]flagged[/red]" if record["flagged"] else "[green]clean[/green]"
    who = f" for {escape(', '.join(record['forget_ids']))}" if record["flagged"] else ""
    console.print(f"{flag}{who}: {_mark_spans(record['prompt'], record['spans'])}", highlight=False)
    console.print(
        f"  stage {record['stage']}, score {record['score']:.3f} (threshold {record['threshold']:.3f}), p-value "
        f"{record['p_value']:.4f}; {record['n_windows']} windows, {record['n_encoded']} of them encoded",
        highlight=False,
    )
    for error in record["errors"]:
        console.print(f"  [red]error[/red] {escape(error)}", highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for column in ("window", "read as", "score", "signals"):
        table.add_column(column, overflow="fold")
    for window in record["windows"]:
        signals = ", ".join(f"{name} {value:.2f}" for name, value in window["signals"].items() if value)
        text = window["text"] if len(window["text"]) <= 80 else window["text"][:77] + "…"
        table.add_row(Text(text), window["how"], f"{window['score']:.2f}", signals)
    if record["windows"]:
        console.print(table)
    for neighbour in record["neighbours"]:
        console.print(
            f"  near {neighbour['forget_id']} ({neighbour['cosine']:.2f}): {neighbour['text'][:80]}",
            highlight=False,
            markup=False,
        )


@app.command()
def replay(
    traffic: Annotated[Path, typer.Argument(help="JSON lines: prompt (and answer), messages, or an OpenAI request.")],
    bundle: BundleOption,
    top: Annotated[int, typer.Option(help="How many of the nearest requests to show.")] = 10,
    out: Annotated[Path | None, typer.Option(help="Write the findings as JSON.")] = None,
    device: DeviceOption = Device.cpu,
    as_json: JsonOption = False,
) -> None:
    """Screen recorded traffic as a guard would have, and say what would have been flagged; nothing is changed."""
    from unlearn_guard.guard.progress import track
    from unlearn_guard.guard.replaying import read_traffic, replay_traffic
    from unlearn_guard.guard.screening import Guard

    requests = read_traffic(traffic)
    found = replay_traffic(
        Guard.load(bundle, device=device.value), track(requests, "replay", total=len(requests)), top=top
    )
    if out is not None:
        from unlearn_guard.guard.bundle import write_atomic

        write_atomic(out, json.dumps(found, ensure_ascii=False, indent=1).encode())
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    console.print(
        f"{found['n']} requests, [bold]{found['flagged']}[/bold] would have been flagged "
        f"({found['flags_per_million']:.0f} per million, 95 % {found['low_per_million']:.0f}–{found['high_per_million']:.0f}), "
        f"{found['stopped']} answers stopped, {found['errors']} errors; {found['p50_ms']:.2f} ms p50, {found['p99_ms']:.2f} ms p99",
        highlight=False,
    )
    for bar in found["histogram"]:
        console.print(
            f"  p-value ≤ {bar['p_value']:<7g} {bar['n']:>7}  {'█' * bar['width']}", highlight=False, markup=False
        )
    changed = "[yellow]differs from[/yellow]" if found["drift_alarms"] else "agrees with"
    console.print(
        f"  traffic {changed} the calibration (log martingale {found['drift_log_martingale']})", highlight=False
    )
    console.print("  alpha      would flag", highlight=False)
    for choice in found["choices"]:
        console.print(f"  {choice['alpha']:<10g} {choice['flagged']}", highlight=False)
    for hit in found["nearest"]:
        mark = "flagged" if hit["flagged"] else "passes"
        console.print(
            f"  {mark} p {hit['p_value']:.4f} {hit['stage']} {', '.join(hit['suspects'])}: {hit['text'][:90]}",
            highlight=False,
            markup=False,
        )


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
    if not (findings["canary"] and (findings["unflagged_identical"] or findings["always_on"])):
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


bench_app = typer.Typer(invoke_without_command=True)
app.add_typer(bench_app, name="bench")


@bench_app.callback()
def bench(
    context: typer.Context,
    suite: Annotated[str, typer.Option(help="What is forgotten: docs/benchmark.md lists the suites.")] = "world",
    profile: Annotated[str, typer.Option(help="smoke, small, full or paper; detection also dev.")] = "small",
    methods: Annotated[str | None, typer.Option(help="Comma-separated rows; none: all.")] = None,
    studies: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated, as requests-100, alone or beside --methods; none: the profile's, where no methods are named."
        ),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Comma-separated seeds; none: the profile's.")] = None,
    out: Annotated[Path, typer.Option(help="Where to write the report, Markdown and HTML beside it.")] = Path(
        "out/bench/report.json"
    ),
    model: Annotated[str | None, typer.Option(help="Your own model that knows the suite, instead of training.")] = None,
    retain_model: Annotated[str | None, typer.Option(help="Its retain-only reference; goes with --model.")] = None,
    forget: Annotated[Path | None, typer.Option(help="detection: your own forget rows; goes with --clean.")] = None,
    clean: Annotated[Path | None, typer.Option(help="detection: your own clean rows; goes with --forget.")] = None,
    targets: Annotated[
        str | None, typer.Option(help="skills: what to forget, comma-separated; none: the profile's.")
    ] = None,
    device: Annotated[
        Device, typer.Option(help="Where your own model runs; skills: where it is trained, too.")
    ] = Device.cpu,
    edited: Annotated[
        list[str] | None,
        typer.Option(help="NAME=CHECKPOINT: a row of weights that somebody else has edited; with --model."),
    ] = None,
    system_prompt: Annotated[
        str | None, typer.Option(help="What your own models are told before every question; with --model.")
    ] = None,
    chat_date: Annotated[
        str | None,
        typer.Option(help="The day that your models' chat template writes; with --model. None: 26 Jul 2024."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what an earlier run has finished.")] = False,
    workers: Annotated[int, typer.Option(help="Processes that measure rows (world, tofu).", min=1, max=2)] = 2,
    attack: Annotated[str | None, typer.Option(help="adaptive: attack the world's facts, 500 queries each.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare guards with weight editing, offline."""
    if context.invoked_subcommand is not None:
        return
    if attack is not None:
        given: dict[str, Any] = {
            "--methods": methods,
            "--studies": studies,
            "--model": model,
            "--retain-model": retain_model,
            "--edited": edited,
            "--forget": forget,
            "--clean": clean,
            "--targets": targets,
            "--device": device is not Device.cpu,
            "--system-prompt": system_prompt,
            "--chat-date": chat_date,
            "--fresh": fresh,
        }
        if unread := [name for name, value in given.items() if value]:
            raise SettingsError(f"{unread[0]} with --attack {attack}", allowed="--profile, --seeds and --out")
        _bench_attack(attack, suite, profile, out, _read_seeds(seeds), as_json=as_json)
        return
    from unlearn_guard.benchmarks.runner import run_bench

    report = run_bench(
        suite=suite,
        profile=profile,
        methods=_read_names(methods),
        studies=_read_names(studies),
        seeds=_read_seeds(seeds),
        out=out,
        models=_read_models(suite, model, retain_model),
        own_rows=_read_own_rows(suite, forget, clean),
        targets=_read_names(targets),
        device=device.value,
        fresh=fresh,
        workers=workers if device is Device.cpu else 1,
        edited=_read_edited(edited or []),
        frame=_read_frame(system_prompt, chat_date),
    )
    if as_json:
        print(json.dumps(report))


@bench_app.command()
def tune(
    suite: Annotated[str, typer.Option(help="world or tofu; its validation people are tuned on.")] = "world",
    profile: Annotated[str, typer.Option(help="Whose sizes: smoke, small or full.")] = "small",
    methods: Annotated[str | None, typer.Option(help="Comma-separated; none: every method.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Tune weight-editing methods, those of a tier with the same number of trials, on people that no report measures."""
    from unlearn_guard.benchmarks.editing.tuning import VALIDATION_SEED, run_tuning
    from unlearn_guard.benchmarks.sizes import load_profile
    from unlearn_guard.benchmarks.tofu import load_tofu
    from unlearn_guard.benchmarks.world import make_world

    if suite not in ("world", "tofu"):
        raise SettingsError("suite to tune on", value=suite, allowed="world, tofu")
    sizes = load_profile(suite, profile)
    if suite == "world":
        data = make_world(**sizes["world"], seed=VALIDATION_SEED)
    else:
        data = load_tofu(**sizes["authors"], part="dev")
    record = run_tuning(data, sizes, name=suite, profile=profile, methods=_read_names(methods))
    if as_json:
        print(json.dumps(record))
        return
    for name, found in record["methods"].items():
        console.print(f"  {name}: score {found['score']:.3f} with {found['values']}", highlight=False)


@bench_app.command("rows")
def list_rows(as_json: JsonOption = False) -> None:
    """List the rows that --methods takes: what each is, and where it comes from."""
    from unlearn_guard.benchmarks.methods import describe_rows

    rows = describe_rows()
    if as_json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    for row in rows:
        console.print(f"  {row.name:<18} {row.family:<13} {row.title}", highlight=False, soft_wrap=True)
        console.print(f"  {'':<32} {row.source}", style="dim", highlight=False, soft_wrap=True)


@bench_app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="A report's JSON file.")],
    after: Annotated[Path, typer.Argument(help="Another one, of the same suite.")],
    as_json: JsonOption = False,
) -> None:
    """Say which figures of two reports differ, cost and environment left out; exit code 1 where any does."""
    from unlearn_guard.benchmarks.comparison import compare_reports, read_report

    found = compare_reports(read_report(before), read_report(after))
    if as_json:
        print(json.dumps([asdict(each) for each in found]))
    elif not found:
        console.print("  no difference", highlight=False)
    for each in () if as_json else found:
        console.print(f"  {each.row}: {each.figure} {each.before} → {each.after}", highlight=False, soft_wrap=True)
    if found:
        raise typer.Exit(1)


@bench_app.command()
def render(
    report: Annotated[Path, typer.Argument(help="A report's JSON file.")],
    out: Annotated[Path | None, typer.Option(help="Where to write it; none: over the old one.")] = None,
) -> None:
    """Write a report's Markdown and HTML again from its JSON, verdicts by today's rules; nothing is measured."""
    from unlearn_guard.benchmarks.runner import render_report
    from unlearn_guard.benchmarks.verdicts import summarise

    written = render_report(report, out or report)
    for line in summarise(written):
        console.print(f"  {line}", highlight=False, soft_wrap=True)


@bench_app.command()
def leaderboard(
    results: Annotated[Path, typer.Option(help="Folder of reports.")] = Path("docs/results"),
    out: Annotated[Path, typer.Option(help="Where to write the page.")] = Path("docs/leaderboard.md"),
) -> None:
    """Write the leaderboard page from a folder of reports."""
    from unlearn_guard.benchmarks.leaderboard import write_leaderboard

    n_reports = write_leaderboard(results, out)
    console.print(f"  {out} from {n_reports} reports", highlight=False)


def _read_names(names: str | None) -> list[str] | None:
    return [name.strip() for name in names.split(",")] if names is not None else None


def _read_edited(pairs: list[str]) -> dict[str, Path]:
    found = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not name or not equals or not path:
            raise SettingsError(
                "--edited", value=pair, allowed="NAME=CHECKPOINT, as in published-npo=open-unlearning/unlearn_tofu_…"
            )
        found[name] = Path(path)
    return found


def _read_frame(system_prompt: str | None, chat_date: str | None) -> Any:
    from unlearn_guard.benchmarks.chat import Frame

    given = {"system": system_prompt, "date": chat_date}
    chosen = {name: value for name, value in given.items() if value is not None}
    return Frame(**chosen) if chosen else None


def _read_models(suite: str, model: str | None, retain_model: str | None) -> dict[str, Path] | None:
    if suite == "skills" and retain_model is None:
        return {"full": Path(model)} if model else None
    if (model is None) != (retain_model is None):
        raise SettingsError("--model and --retain-model go together", mend="name both, or neither")
    return {"full": Path(model), "retain-only": Path(retain_model)} if model and retain_model else None


def _bench_attack(attack: str, suite: str, profile: str, out: Path, seeds: list[int] | None, *, as_json: bool) -> None:
    from unlearn_guard.benchmarks.assault import run_attack
    from unlearn_guard.benchmarks.report import prepare_output
    from unlearn_guard.benchmarks.sizes import load_profile

    if attack != "adaptive" or suite != "world":
        raise SettingsError("attack", value=f"{attack} on {suite}", allowed="--attack adaptive with --suite world")
    if len(seeds or ()) > 1:
        raise SettingsError("more than one of --seeds with --attack", allowed="one seed")
    prepare_output(out)
    report = run_attack(sizes=load_profile(suite, profile), profile=profile, out=out, seed=(seeds or [0])[0])
    if as_json:
        print(json.dumps(report))
        return
    for row in report["rows"]:
        console.print(f"  {row['name']}: {row['leaked']} of {row['n_facts']} facts leaked", highlight=False)


def _read_own_rows(suite: str, forget: Path | None, clean: Path | None) -> dict[str, Path] | None:
    if (forget is None) != (clean is None):
        raise SettingsError("--forget and --clean go together", mend="name both, or neither")
    if forget is None or clean is None:
        return None
    if suite != "detection":
        raise SettingsError("--forget and --clean belong to another suite", value=suite, allowed="--suite detection")
    return {"forget": forget, "clean": clean}


def _read_concepts(path: Path | None) -> dict[str, list[tuple[int, int]]] | None:
    from unlearn_guard.corruptions.neuron_settings import read_concepts

    return read_concepts(path) if path is not None else None


def _read_template(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no UTF-8"
        mend = "give the file that the server is started with"
        raise DataError(f"cannot read chat template: {reason}", value=str(path), mend=mend) from None


def _read_settings(text: str | None, what: str, allowed: str) -> dict[str, str | float] | None:
    """Read `name=value,…`; numbers become numbers, whole ones whole."""
    if text is None:
        return None
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(name.strip() and equals and value.strip() for name, equals, value in pairs):
        raise SettingsError(f"{what} settings", value=text, allowed=allowed)
    return {name.strip(): _read_value(value.strip()) for name, _, value in pairs}


def _read_value(text: str) -> str | float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _read_seeds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise SettingsError("seeds", value=text, allowed="whole numbers from 0 on, separated by commas")
    return [int(part) for part in parts]


def _mark_spans(text: str, spans: Any) -> str:
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
