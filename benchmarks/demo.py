"""The demo: from nothing to a guarded vLLM server, the same questions asked before and after."""

from __future__ import annotations

import html
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from unlearn_guard.benchmarks import metrics
from unlearn_guard.benchmarks.dataset import Item, Suite
from unlearn_guard.benchmarks.environment import describe_environment
from unlearn_guard.benchmarks.examiner import Examiner, clean_row
from unlearn_guard.benchmarks.live import LiveServer, ask_chat, ask_completion, ask_stream, find_port
from unlearn_guard.benchmarks.page import render_page, render_table
from unlearn_guard.benchmarks.plots import encode_figure
from unlearn_guard.benchmarks.report import SCHEMA_VERSION
from unlearn_guard.benchmarks.subjects import Subject
from unlearn_guard.benchmarks.training import ASSISTANT, USER, Recipe, make_jobs, train_models
from unlearn_guard.benchmarks.world import make_world
from unlearn_guard.guard.bundle import Bundle, write_atomic
from unlearn_guard.guard.compose import fit, load_planner
from unlearn_guard.guard.progress import report_step
from unlearn_guard.guard.screening import Guard
from unlearn_guard.serving.transformers.engine import GuardedModel, ReferenceEngine

_SERVER_ARGUMENTS = (
    "--max-model-len", "256", "--block-size", "32", "--dtype", "float32", "--enforce-eager",
    "--uvicorn-log-level", "warning", "--max-num-seqs", "16",
)  # fmt: skip
_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1"}
_FORGET_SETS = ("forget.given", "forget.unseen", "forget.paraphrase")
_SHOWN = (
    ("forget, given to the guard", "forget.given", (0, 24, 49)),
    ("forget, unseen phrasing", "forget.unseen", (0, 45, 90)),
    ("forget, paraphrase", "forget.paraphrase", (3, 71)),
    ("retain", "retain", (0, 60)),
    ("neighbour (shares city or name)", "neighbour", (0, 40)),
    ("unrelated", "world_facts", (0, 5)),
)
_FIGURE_COLUMNS = (
    "row",
    "leak given",
    "unseen",
    "paraphrase",
    "ROUGE given",
    "unseen",
    "paraphrase",
    "retain ROUGE",
    "retain flagged",
)
SLACK = 0.05


def run_demo(out: Path, *, port: int = 0, as_json: bool = False) -> bool:
    """Run everything, print the table, write report.json and report.html to `out`; return whether all bars held."""
    import torch

    torch.set_num_threads(1)
    console = Console(stderr=as_json)
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    suite = make_world()
    console.print(
        f"[bold]unlearn-guard demo[/bold]: a world of fictional people; "
        f"{len({item.subject for item in suite.sets['forget.given']})} of them must be gone",
        highlight=False,
    )
    folders = train_models(make_jobs(suite, Recipe()))
    ports = (find_port(), port or find_port())
    with tempfile.TemporaryDirectory() as scratch:
        audit = Path(scratch) / "audit.jsonl"
        with LiveServer(
            folders["full"], bundle=None, port=ports[0], arguments=_SERVER_ARGUMENTS, environment=_ENVIRONMENT
        ) as stock:
            fit_start = time.perf_counter()
            bundle = fit(
                folders["full"],
                suite.forget_rows,
                suite.retain_rows,
                clean=suite.clean_rows,
                out=out / "bundle",
                overwrite=True,
            )
            fit_seconds = time.perf_counter() - fit_start
            with LiveServer(
                folders["full"],
                bundle=out / "bundle",
                port=ports[1],
                arguments=_SERVER_ARGUMENTS,
                guard_arguments=("--audit", str(audit)),
                environment=_ENVIRONMENT,
            ) as guarded:
                with report_step("stock vLLM ready"):
                    stock.wait()
                with report_step("guarded vLLM ready"):
                    guarded.wait()
                session = Session(suite, folders, bundle, stock, guarded, audit)
                report = session.run(fit_seconds)
    report["seconds"] = round(time.perf_counter() - start, 1)
    write_atomic(out / "report.json", (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
    write_atomic(out / "report.html", render_demo(report).encode())
    if as_json:
        print(json.dumps(report))
    print_demo(report, console, out)
    return all(check["passed"] for check in report["checks"])


class Session:
    """Ask both servers, measure, and compare."""

    def __init__(
        self,
        suite: Suite,
        folders: dict[str, Path],
        bundle: Bundle,
        stock: LiveServer,
        guarded: LiveServer,
        audit: Path,
    ) -> None:
        self.suite, self.folders, self.bundle = suite, folders, bundle
        self.stock, self.guarded, self.audit = stock, guarded, audit
        self.retain_engine = ReferenceEngine.load(folders["retain-only"])
        self.examiner = Examiner(suite, Subject("retain-only", "retain", self.retain_engine))

    def run(self, fit_seconds: float) -> dict[str, Any]:
        """Return the report: rows none and eco from the servers, retain-only, eco-span and eco-swap beside them."""
        n_tokens = self.examiner.max_new_tokens
        answers: dict[str, dict[str, list[str]]] = {}
        flagged: dict[str, dict[str, int]] = {"eco": {}}
        with report_step(f"{sum(len(items) for items in self.suite.sets.values())} questions to each server"):
            for name, items in self.suite.sets.items():
                questions = [item.question for item in items]
                answers.setdefault("none", {})[name] = ask_chat(self.stock, questions, max_tokens=n_tokens)
                before = len(self._actions())
                answers.setdefault("eco", {})[name] = ask_chat(self.guarded, questions, max_tokens=n_tokens)
                flagged["eco"][name] = sum(action != "none" for action in self._actions()[before:])
            self._settle(answers)
            channels = self._ask_channels(n_tokens)
        with report_step("retain-only, eco-span and eco-swap on the reference engine"):
            engine = ReferenceEngine.load(self.folders["full"])
            guard = Guard.load(self.bundle.path)
            for name, intervention in (("retain-only", None), ("eco-span", "eco-span"), ("eco-swap", "swap")):
                subject = Subject(name, "retain", self.retain_engine)
                if intervention:
                    planner = load_planner(self.bundle, engine.tokenizer, engine.end_token, intervention=intervention)
                    subject = Subject(name, "guard", engine, GuardedModel(engine, guard, planner))
                answers[name] = {
                    part: subject.answer([item.question for item in items], max_new_tokens=n_tokens)
                    for part, items in self.suite.sets.items()
                }
                flagged[name] = {
                    part: sum(flags)
                    for part, items in self.suite.sets.items()
                    if (flags := subject.flag([item.question for item in items])) is not None
                }
        rows = [
            self._make_row(name, kind, answers, flagged.get(name) or {}, fit_seconds if kind == "guard" else 0.0)
            for name, kind in (
                ("none", "none"),
                ("retain-only", "retain"),
                ("eco", "guard"),
                ("eco-span", "guard"),
                ("eco-swap", "guard"),
            )
        ]
        screened = guard.screen([[{"role": "user", "content": item.question}] for item in self.suite.sets["retain"]])
        identical = sum(
            before == after and not verdict.flagged
            for before, after, verdict in zip(
                answers["none"]["retain"], answers["eco"]["retain"], screened, strict=True
            )
        )
        return {
            "schema_version": SCHEMA_VERSION,
            "suite": "world",
            "profile": "demo",
            "environment": describe_environment(),
            "config_hash": self.bundle.revision,
            "data_hash": self.suite.data_hash,
            "rows": rows,
            "checks": check_bars({row["name"]: row for row in rows}, identical),
            "samples": self._samples(answers),
            "channels": channels,
        }

    def _actions(self) -> list[str]:
        if not self.audit.is_file():
            return []
        return [json.loads(line)["action"] for line in self.audit.read_text().splitlines()]

    def _settle(self, answers: dict[str, dict[str, list[str]]]) -> None:
        """Ask retain questions that differ once more, one at a time: batches of other sizes differ in stock vLLM too."""
        items = self.suite.sets["retain"]
        for place, item in enumerate(items):
            if answers["none"]["retain"][place] != answers["eco"]["retain"][place]:
                for name, server in (("none", self.stock), ("eco", self.guarded)):
                    (answers[name]["retain"][place],) = ask_chat(
                        server, [item.question], max_tokens=self.examiner.max_new_tokens, at_once=1
                    )

    def _ask_channels(self, n_tokens: int) -> list[dict[str, str]]:
        """Ask one forget and one retain question through completions and as a stream."""
        channels = []
        for part in ("forget.given", "retain"):
            items = self.suite.sets[part]
            item = items[2]
            prompt = f"{USER}{item.question}{ASSISTANT}"
            completion = [ask_completion(server, prompt, max_tokens=n_tokens) for server in (self.stock, self.guarded)]
            stream = [ask_stream(server, item.question, max_tokens=n_tokens) for server in (self.stock, self.guarded)]
            channels += [
                _channel("completions", part, items, 2, *completion),
                _channel(f"chat, streamed in {stream[1][1]} pieces", part, items, 2, stream[0][0], stream[1][0]),
            ]
        return channels

    def _make_row(
        self,
        name: str,
        kind: str,
        answers: dict[str, dict[str, list[str]]],
        flagged: dict[str, int],
        fit_seconds: float,
    ) -> dict[str, Any]:
        from scipy.stats import ks_2samp

        sets: dict[str, Any] = {}
        reasons = {"forget_quality.p_value": "the demo measures served answers; `bench` scores probabilities"}
        recalls: dict[str, list[float]] = {}
        for part, items in self.suite.sets.items():
            found, recall = metrics.measure_outputs(items, answers[name][part], self.examiner.vocabulary)
            _, recalls[part] = metrics.measure_outputs(items, answers["retain-only"][part], self.examiner.vocabulary)
            found["flagged"] = flagged.get(part)
            sets[f"world.{part}"] = found
            if part == "forget.given":
                given = recall
        return clean_row(
            {
                "name": name,
                "kind": kind,
                "seed": 0,
                "status": "ok",
                "reasons": reasons,
                "sets": sets,
                "detection": {
                    f"world.{part}": {"n": len(items), "flagged": flagged[part], "stopped": flagged[part]}
                    for part, items in self.suite.sets.items()
                    if part in flagged
                },
                "forget_quality": {
                    "ks_d": None,
                    "p_value": None,
                    "n": len(given),
                    "ks_rouge_p": float(ks_2samp(given, recalls["forget.given"]).pvalue),
                    "corrupted_positions": "prompt, as served" if kind == "guard" else "none",
                },
                "model_utility": None,
                "cost": {"fit_s": fit_seconds},
            }
        )

    def _samples(self, answers: dict[str, dict[str, list[str]]]) -> list[dict[str, str]]:
        samples = []
        for label, part, places in _SHOWN:
            items = self.suite.sets[part]
            for place in places:
                place = min(place, len(items) - 1)
                samples.append(
                    _channel(label, part, items, place, answers["none"][part][place], answers["eco"][part][place])
                )
        return samples


def _channel(label: str, part: str, items: Sequence[Item], place: int, before: str, after: str) -> dict[str, str]:
    item = items[place]
    # The whole set, because another fact of the same person is a leak as well.
    leaked = metrics.find_leaks(items, [after if other == place else "" for other in range(len(items))])[place]
    if part.startswith("forget"):
        effect = "LEAKED" if leaked else "forgotten"
    else:
        effect = "unchanged" if before == after else "CHANGED"
    return {
        "set": label,
        "question": item.question,
        "truth": item.answer,
        "before": before,
        "after": after,
        "effect": effect,
    }


def check_bars(rows: dict[str, dict[str, Any]], identical: int) -> list[dict[str, Any]]:
    """Return each bar of the demo with its value, its limit and whether it held."""
    stock, gold, eco = (rows[name]["sets"] for name in ("none", "retain-only", "eco"))
    checks = [
        _at_least("unguarded model knows (ROUGE-L recall, unseen)", stock["world.forget.unseen"]["rouge_l_recall"], 0.9)
    ]
    for part in _FORGET_SETS:
        name = f"world.{part}"
        checks += [
            _at_most(
                f"{part}: ROUGE-L recall ≤ retain-only + {SLACK}",
                eco[name]["rouge_l_recall"],
                gold[name]["rouge_l_recall"] + SLACK,
            ),
            _at_most(
                f"{part}: leak rate ≤ retain-only + {SLACK}", eco[name]["leak_rate"], gold[name]["leak_rate"] + SLACK
            ),
            _at_most(f"{part}: non-word rate", eco[name]["nonword_rate"], 0.05),
            _at_most(f"{part}: repeated trigrams", eco[name]["repeated_trigrams"], 0.03),
        ]
    n_retain = eco["world.retain"]["n"]
    unflagged = n_retain - eco["world.retain"]["flagged"]
    checks += [
        _at_most("retain: share flagged", eco["world.retain"]["flagged"] / n_retain, 0.01),
        _at_least("retain: unflagged answers identical to stock", identical, unflagged),
        _at_least(
            "retain: ROUGE-L over unguarded",
            eco["world.retain"]["rouge_l_recall"] / stock["world.retain"]["rouge_l_recall"],
            0.99,
        ),
    ]
    return checks


def _at_most(name: str, value: float, limit: float) -> dict[str, Any]:
    return {"name": name, "value": round(value, 4), "limit": f"≤ {limit:.3f}", "passed": value <= limit}


def _at_least(name: str, value: float, limit: float) -> dict[str, Any]:
    return {
        "name": name,
        "value": round(value, 4),
        "limit": f"≥ {limit:.3f}".rstrip("0").rstrip("."),
        "passed": value >= limit,
    }


def print_demo(report: dict[str, Any], console: Console, out: Path) -> None:
    """Print the before/after table and the bars."""
    table = Table(title="The same questions, before and after", show_lines=False, pad_edge=False)
    for column, style in (("set", "dim"), ("question", ""), ("stock vLLM", ""), ("with the guard", ""), ("", "")):
        table.add_column(column, style=style, overflow="fold")
    last = ""
    for sample in [*report["samples"], *report["channels"]]:
        good = sample["effect"] in ("forgotten", "unchanged")
        label = sample["set"] if sample["set"] != last else ""
        last = sample["set"]
        effect = f"[{'green' if good else 'red'}]{sample['effect']}[/]"
        table.add_row(label, sample["question"], sample["before"], sample["after"], effect)
    console.print(table)
    figures = Table(title="Figures", pad_edge=False)
    for column in _FIGURE_COLUMNS:
        figures.add_column(column, justify="left" if column == "row" else "right")
    for row in report["rows"]:
        figures.add_row(row["name"], *_figures(row))
    console.print(figures)
    for check in report["checks"]:
        mark = "[green]✓[/]" if check["passed"] else "[red]✗[/]"
        console.print(f"{mark} {check['name']}: {check['value']} (limit {check['limit']})", highlight=False)
    console.print(
        f"\n{report['seconds']} s; report: {out / 'report.html'}, {out / 'report.json'}; bundle: {out / 'bundle'}",
        highlight=False,
    )


def _figures(row: dict[str, Any]) -> list[str]:
    sets = row["sets"]
    cells = [
        f"{sets[f'world.{part}'][metric]:.3f}" for metric in ("leak_rate", "rouge_l_recall") for part in _FORGET_SETS
    ]
    retain = sets["world.retain"]
    flagged = "–" if retain["flagged"] is None else f"{retain['flagged']}/{retain['n']}"
    return [*cells, f"{retain['rouge_l_recall']:.3f}", flagged]


def render_demo(report: dict[str, Any]) -> str:
    """Return the demo's report as one self-contained page."""
    samples = []
    for sample in [*report["samples"], *report["channels"]]:
        good = sample["effect"] in ("forgotten", "unchanged")
        cells = [sample["set"], sample["question"], sample["before"], sample["after"]]
        samples.append(
            "<tr>" + "".join(f'<td class="text">{html.escape(cell)}</td>' for cell in cells)
            + f'<td class="{"kept" if good else "gone"}">{sample["effect"]}</td></tr>'
        )  # fmt: skip
    checks = "".join(
        f"<tr><td>{html.escape(check['name'])}</td><td>{check['value']}</td><td>{check['limit']}</td>"
        f'<td class="{"pass" if check["passed"] else "fail"}">{"held" if check["passed"] else "missed"}</td></tr>'
        for check in report["checks"]
    )
    environment = report["environment"]
    body = [
        "<h1>unlearn-guard demo</h1>",
        "<p>A small language model was trained on a world of fictional people. Five of them must be gone. The same vLLM "
        "was asked the same questions twice: stock, and with the guard. Suppression with audit, not erasure: the weights "
        "are the same in both.</p>",
        f"<p>{html.escape(str(environment['processor']))}, {environment['cores']} cores; {report['seconds']} s in all.</p>",
        f'<div class="grid"><img alt="leak rates" src="data:image/png;base64,{_plot(report, "leak_rate", "leak rate: facts that still come out")}">'
        f'<img alt="ROUGE" src="data:image/png;base64,{_plot(report, "rouge_l_recall", "ROUGE-L recall of the true answer")}"></div>',
        "<h2>Before and after</h2>",
        '<div class="wide prose"><table><thead><tr><th>set</th><th>question</th><th>stock vLLM</th><th>with the guard</th>'
        f"<th></th></tr></thead><tbody>{''.join(samples)}</tbody></table></div>",
        "<h2>Figures</h2>",
        render_table(_FIGURE_COLUMNS, [[row["name"], *_figures(row)] for row in report["rows"]]),
        "<p>retain-only is the gold reference: the same model trained without the five people. Rows none and eco are what "
        "the two servers answered; the others ran on the reference engine.</p>",
        "<h2>Bars</h2>",
        f'<div class="wide"><table><thead><tr><th>bar</th><th>value</th><th>limit</th><th></th></tr></thead><tbody>{checks}</tbody></table></div>',
    ]
    return render_page("unlearn-guard demo", body)


def _plot(report: dict[str, Any], metric: str, title: str) -> str:
    from unlearn_guard.benchmarks.plots import make_figure

    figure, axes = make_figure()
    parts: Sequence[str] = (*_FORGET_SETS, "retain")
    colors = {"none": "#5c6577", "retain-only": "#b6bdca", "eco": "#2458d3"}
    for number, (name, color) in enumerate(colors.items()):
        row = next(row for row in report["rows"] if row["name"] == name)
        values = [row["sets"][f"world.{part}"][metric] for part in parts]
        axes.bar(
            [place + (number - 1) * 0.27 for place in range(len(parts))],
            values,
            width=0.25,
            color=color,
            label=name,
            zorder=3,
        )
    axes.set_xticks(range(len(parts)), parts, fontsize=8)
    axes.set(ylim=(0, 1.05), title=title)
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, frameon=False)
    return encode_figure(figure)


__all__ = ["check_bars", "print_demo", "render_demo", "run_demo"]
