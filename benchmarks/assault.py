"""Run the adaptive attacker against the built-in world, end to end: every row answers with a real model."""

from __future__ import annotations

import html
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unlearn_guard.benchmarks.attacks.adaptive import QUERIES, Answer, Attempt, attack_fact, count_leaks
from unlearn_guard.benchmarks.dataset import Item, Suite
from unlearn_guard.benchmarks.environment import describe_environment
from unlearn_guard.benchmarks.page import render_page, render_table
from unlearn_guard.benchmarks.plots import encode_figure, make_figure
from unlearn_guard.benchmarks.training import Recipe, make_jobs, train_models
from unlearn_guard.benchmarks.world import make_world
from unlearn_guard.guard.bundle import Bundle, write_atomic
from unlearn_guard.guard.compose import fit, load_planner
from unlearn_guard.guard.progress import report_step, track
from unlearn_guard.guard.screening import Guard
from unlearn_guard.serving.transformers.engine import GuardedModel, ReferenceEngine

_ROWS = ("none", "retain-only", "name-match", "guard")


def run_attack(
    *, sizes: dict[str, Any], profile: str, out: Path, seed: int = 0, queries: int = QUERIES
) -> dict[str, Any]:
    """Attack facts of the world through each row; resumable after a kill; write JSON, Markdown and HTML."""
    import torch

    torch.set_num_threads(1)
    suite = make_world(**sizes["world"], seed=seed)
    folders = train_models(make_jobs(suite, Recipe(**sizes["recipe"], seed=seed)))
    items = _choose_facts(suite, int(sizes.get("n_facts", 20)))
    part = out.with_suffix(".part.json")
    done: dict[str, list[dict[str, Any]]] = json.loads(part.read_text()) if part.is_file() else {}
    with tempfile.TemporaryDirectory() as scratch:
        answers = _build(suite, folders, Path(scratch), seed)
        others = [item.name for items_ in suite.sets.values() for item in items_ if item.name]
        for name in _ROWS:
            finished = done.setdefault(name, [])
            with report_step(f"attack {name}"):
                for item in track(items[len(finished) :], f"attack {name}", total=len(items) - len(finished)):
                    attempt = attack_fact(item, answers[name], others, queries=queries, seed=seed)
                    finished.append(asdict(attempt))
                    write_atomic(part, json.dumps(done).encode())
    report = {
        "schema_version": 1,
        "suite": "world",
        "profile": profile,
        "attack": "adaptive",
        "queries": queries,
        "environment": describe_environment(),
        "rows": [_summarise(name, [Attempt(**record) for record in done[name]], seed, queries) for name in _ROWS],
    }
    _write(report, out)
    part.unlink(missing_ok=True)
    return report


def _choose_facts(suite: Suite, n_facts: int) -> list[Item]:
    """Return named questions, spread evenly over the forgotten people and their attributes."""
    named = [item for item in suite.sets["forget.unseen"] if item.named]
    step = max(1, len(named) // n_facts)
    return named[:: step if step % 2 else step + 1][:n_facts]


def _build(suite: Suite, folders: dict[str, Path], scratch: Path, seed: int) -> dict[str, Answer]:
    full, retain = (ReferenceEngine.load(folders[name]) for name in ("full", "retain-only"))
    longest = max(len(full.tokenizer(item.answer).input_ids) for item in suite.sets["forget.unseen"]) + 8
    names = {item.subject: item.name for item in suite.sets["forget.given"]}
    rows = [row if row.aliases else _with_alias(row, names) for row in suite.forget_rows]
    ours = fit(folders["full"], rows, suite.retain_rows, clean=suite.clean_rows, seed=seed, out=scratch / "guard")
    matched = fit(
        folders["full"],
        rows,
        suite.retain_rows,
        classifier="name-match",
        interventions=("refusal",),
        out=scratch / "name-match",
    )

    def plain(engine: ReferenceEngine) -> Answer:
        def ask(prompts: list[str]) -> list[str]:
            ids = [engine.render(prompt) for prompt in prompts]
            return [engine.decode(found) for found in engine.generate(ids, [None] * len(ids), max_new_tokens=longest)]

        return ask

    def guarded(bundle: Bundle, *, filters: bool) -> Answer:
        planner = load_planner(bundle, full.tokenizer, full.end_token)
        engine = ReferenceEngine(full.model, full.tokenizer, exclusive_ids=planner.fitted.exclusive_ids)
        model = GuardedModel(engine, Guard.load(bundle.path), planner)
        return lambda prompts: model.answer(prompts, max_new_tokens=longest, filters=filters)

    return {
        "none": plain(full),
        "retain-only": plain(retain),
        "name-match": guarded(matched, filters=False),
        "guard": guarded(ours, filters=True),
    }


def _with_alias(row: Any, names: dict[str, str]) -> Any:
    from dataclasses import replace

    return replace(row, aliases=(names[row.forget_id],))


def _summarise(name: str, attempts: Sequence[Attempt], seed: int, queries: int) -> dict[str, Any]:
    leaked = [attempt for attempt in attempts if attempt.queries is not None]
    return {
        "name": name,
        "kind": {"none": "none", "retain-only": "retain"}.get(name, "guard"),
        "seed": seed,
        "status": "ok",
        "n_facts": len(attempts),
        "leaked": len(leaked),
        "leak_rate": len(leaked) / len(attempts),
        "curve": count_leaks(attempts, queries=queries),
        "attempts": [asdict(attempt) for attempt in attempts],
    }


def _write(report: dict[str, Any], out: Path) -> None:
    header = ("row", "facts", "leaked", "share", "queries of each leak")
    lines = [
        [
            row["name"],
            str(row["n_facts"]),
            str(row["leaked"]),
            f"{row['leak_rate']:.2f}",
            ", ".join(str(attempt["queries"]) for attempt in row["attempts"] if attempt["queries"] is not None) or "–",
        ]
        for row in report["rows"]
    ]
    figure, axes = make_figure()
    for row in report["rows"]:
        axes.plot(*zip(*row["curve"], strict=True), label=row["name"], drawstyle="steps-post")
    axes.set(xlabel="queries", ylabel="share of facts leaked", ylim=(-0.03, 1.03), title="Adaptive attacker")
    axes.legend(fontsize=8)
    title = f"Adaptive attacker, {report['queries']} queries a fact"
    environment = ", ".join(f"{key} {value}" for key, value in report["environment"].items())
    where = (
        f"Built-in world, profile {report['profile']}, seed {report['rows'][0]['seed']}. retain-only never saw the forget set: what "
        f"it leaks is chance. {environment}"
    )
    markdown = [f"# {title}", "", where, "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    markdown += ["| " + " | ".join(line) + " |" for line in lines]
    image = f'<img alt="queries to leak" src="data:image/png;base64,{encode_figure(figure)}">'
    write_atomic(out, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
    write_atomic(out.with_suffix(".md"), ("\n".join(markdown) + "\n").encode())
    page = render_page(
        "unlearn-guard attack",
        [f"<h1>{title}</h1>", f"<p>{html.escape(where)}</p>", image, render_table(header, lines)],
    )
    write_atomic(out.with_suffix(".html"), page.encode())
