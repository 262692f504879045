"""One seed of a suite: its rows, each in stages that are kept once they are finished."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from unlearn_guard.benchmarks.attacks.protocol import Protocol
from unlearn_guard.benchmarks.attacks.weights import attack_weights
from unlearn_guard.benchmarks.chat import Frame
from unlearn_guard.benchmarks.dataset import Suite
from unlearn_guard.benchmarks.editing.trainer import DivergedError
from unlearn_guard.benchmarks.examiner import NOTHING_FITTED, Examiner, clean_row
from unlearn_guard.benchmarks.fitted import Bundles
from unlearn_guard.benchmarks.lanes import Measure, run_lanes
from unlearn_guard.benchmarks.memory import watch_memory
from unlearn_guard.benchmarks.methods import SUBJECTS
from unlearn_guard.benchmarks.sizes import AttackPlan
from unlearn_guard.benchmarks.stages import Stages, describe_model, hash_sources
from unlearn_guard.benchmarks.studies import Site, run_study
from unlearn_guard.benchmarks.subjects import Bench, Subject
from unlearn_guard.benchmarks.training import FURTHER, Recipe, make_further_job, make_jobs, read_seconds, train_models
from unlearn_guard.benchmarks.weight_rows import WEIGHT_ROWS
from unlearn_guard.guard.errors import DataError, SettingsError
from unlearn_guard.guard.progress import report_step
from unlearn_guard.serving.transformers.engine import ReferenceEngine

NEEDS = {
    "retain-only-twin": "twin",
    "uoe": "mixture",
    "none-mixture": "mixture",
    "s3t": "base",
    "study:upgrade": "upgrade",
}
"""Rows and studies that need a further model, which the benchmark trains itself."""
_REFERENCES = ("none", "retain-only", "retain-only-twin", "none-mixture")
_STUDY = "study:"
"""Before the name of a study, where rows and studies are in one list."""


@dataclass(frozen=True, slots=True)
class SeedRun:
    """All that the rows of one seed depend on; it can be sent to another process.

    uld: the suite's settings of assistants, chosen on validation people. models: the user's own, None where they are trained.
    """

    suite: Suite
    recipe: Recipe
    seed: int
    attack: AttackPlan
    uld: dict[str, Any]
    models: dict[str, Path] | None = None
    edited: dict[str, Path] = field(default_factory=dict)
    """Checkpoints that somebody else has edited, by the names of their rows."""
    device: str = "cpu"
    frame: Frame = field(default_factory=Frame)
    """What the user's own models are asked behind."""
    fresh: bool = False
    sources: str = field(default_factory=hash_sources)
    """Taken once: rows of one run belong together even where a file is edited while it goes on."""

    def measure(
        self, names: Sequence[str], studies: Sequence[str] = (), *, workers: int = 1
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the rows of these names, and the records of studies; what an earlier run finished comes from disk, unless `fresh`.

        What is not needed for the others is neither trained nor fitted.
        """
        # Guards first: they share bundles, and so a process, and the first of them takes longest.
        order = sorted([*names, *(_STUDY + study for study in studies)], key=self._rank)
        missing = [name for name in order if self.fresh or self.read(name) is None]
        if missing:
            # Trained side by side at once; what they are is found again by who needs them.
            self.train([NEEDS[name] for name in missing if name in NEEDS])
            with tempfile.TemporaryDirectory() as folder:
                run_lanes(partial(self.open, Path(folder)), missing, workers=workers)
        rows = [self.read(name) for name in names]
        records = [self.read(_STUDY + study) for study in studies]
        return [row for row in rows if row is not None], [record for record in records if record is not None]

    def _rank(self, name: str) -> int:
        """Return when a row's turn comes: guards, references, studies, edited weights."""
        if name.startswith(_STUDY):
            return 2
        if name in self.edited or name in WEIGHT_ROWS:
            return 3
        return 1 if name in _REFERENCES else 0

    def train(self, further: Sequence[str] = ()) -> dict[str, Path]:
        """Return the folders of the suite's models and of further ones (`training.FURTHER`), trained where they are not there."""
        if self.models is not None:
            return self.models
        more = [
            make_further_job(name, self.suite, self.recipe, reads_unread=True) for name in FURTHER if name in further
        ]
        return train_models([*make_jobs(self.suite, self.recipe, reads_unread=True), *more])

    def read(self, name: str) -> dict[str, Any] | None:
        """Return a finished row, None where a part of it is not finished; raise DataError for a damaged part."""
        stages = Stages(sources=self.sources)
        row: dict[str, Any] = {}
        for part, key in self.list_stages(name):
            found = stages.read(*self.name_stage(name, part, key))
            if found is None:
                return None
            row = {**row, **({part: found} if part else found)}
            if row.get("status", "ok") != "ok":
                break
        return row

    def list_stages(self, name: str) -> list[tuple[str, Any]]:
        """Return the parts of a row, and what decides each beside what decides all; a study has one part."""
        if name.startswith(_STUDY):
            return [("", [self.attack.n_facts, self.attack.variants])]
        plan = self.attack.model_dump(exclude={"n_queries"})
        parts: list[tuple[str, Any]] = [("", None), ("attack", plan)]
        if self.attack.n_queries:
            parts.append(("adaptive", [self.attack.n_facts, self.attack.n_queries, self.attack.variants]))
        return parts

    def name_stage(self, name: str, part: str, key: Any) -> tuple[str, Any]:
        """Return the name and the key of a part of a row."""
        whole = [self.suite.name, self.suite.data_hash, asdict(self.recipe), self.seed, self.uld]
        own = describe_model(self.edited[name]) if name in self.edited else None
        label = f"{self.suite.name}-{name.replace(_STUDY, 'study-')}" + (f"-{part}" if part else "")
        models = None
        if self.models is not None:
            described = {which: describe_model(model) for which, model in self.models.items()}
            models = [described, asdict(self.frame)]
        return label, [*whole, models, self.device, own, name, part, key]

    def open(self, folder: Path) -> Measure:
        """Return what measures one row; models are opened, and bundles fitted in the folder, when a row first needs them."""
        import torch

        torch.set_num_threads(1)  # Two threads on a busy pair of cores are slower than one.
        return _Workshop(self, folder).measure


class _Workshop:
    """What a process keeps between rows: models, bundles, the examiner, the prompts of the attacks."""

    def __init__(self, run: SeedRun, folder: Path) -> None:
        self.run, self.folder, self.stages = run, folder, Stages(fresh=run.fresh, sources=run.sources)
        self._opened: tuple[Examiner, Bench, Protocol] | None = None
        self._informative: list[str] | None = None

    def measure(self, name: str) -> None:
        """Finish every stage of a row, or a study."""
        if name.startswith(_STUDY):
            ((part, key),) = self.run.list_stages(name)
            with report_step(f"study {name.removeprefix(_STUDY)}"):
                self.stages.run(*self.run.name_stage(name, part, key), lambda: self._study(name.removeprefix(_STUDY)))
            return
        subject = cache(lambda: self._build(name))
        compute = {
            "": lambda: self._examine(name, subject),
            "attack": lambda: self._attack(subject()),
            "adaptive": lambda: self._open()[2].attack_adaptively(subject()),
        }
        for part, key in self.run.list_stages(name):
            with report_step(f"{part or 'measure'} {name}"):
                found = self.stages.run(*self.run.name_stage(name, part, key), compute[part])
            if found.get("status", "ok") != "ok":
                return

    def _open(self) -> tuple[Examiner, Bench, Protocol]:
        if self._opened is None:
            run = self.run
            folders = run.train()
            full, retain = (self._load(folders[name]) for name in ("full", "retain-only"))
            bundles = Bundles(
                run.suite,
                folders["full"],
                self.folder,
                seed=run.seed,
                uld=run.uld,
                device=run.device,
                chat_template=full.tokenizer.chat_template,
            )
            examiner = Examiner(run.suite, Subject("retain-only", "retain", retain), knows_words=run.models is None)
            protocol = Protocol(run.suite, run.attack, seed=run.seed, max_new_tokens=examiner.max_new_tokens)

            bench = Bench(run.suite, full, retain, bundles, run.seed, self._open_model)
            self._opened = examiner, bench, protocol
        return self._opened

    def _load(self, folder: Path) -> ReferenceEngine:
        """Return a model: in float32 on a CPU, in the checkpoint's own type elsewhere."""
        dtype = "float32" if self.run.device == "cpu" else "auto"
        engine = ReferenceEngine.load(
            folder, device=self.run.device, dtype=dtype, batch_size=_choose_batch_size(self.run.device)
        )
        if self.run.models is not None:
            self.run.frame.put_around(engine.tokenizer)
        return engine

    def _open_model(self, name: str) -> ReferenceEngine:
        return self._load(self.run.train([name])[name])

    def _build(self, name: str) -> Subject:
        if name in self.run.edited:
            engine = self._load(self.run.edited[name])
            # Whoever edited it may have had the rows that are unseen here.
            return Subject(name, "weights", engine, settings={"checkpoint": name_model(self.run.edited[name])})
        return SUBJECTS[name](self._open()[1])

    def _examine(self, name: str, build: Any) -> dict[str, Any]:
        """Build and measure one method; a method that diverges is reported as diverged."""
        kind = "weights" if name in WEIGHT_ROWS else "guard"
        row: dict[str, Any] = {"name": name, "kind": kind, "seed": self.run.seed, "status": "ok", "reasons": {}}
        import torch

        examiner = self._open()[0]  # What all rows need is nobody's memory.
        try:
            with watch_memory() as whole:
                with watch_memory() as memory:
                    subject: Subject = build()
                found = examiner.examine(subject)
        except DivergedError as error:
            return {**row, "status": "diverged", "reasons": {"sets": str(error)}, "sets": {}, "detection": {}}
        # Such as a suite without names for a row that matches them, or without answers for one that learns from them; or a model that leaves no room for its edit.
        except (DataError, SettingsError, torch.OutOfMemoryError) as error:
            return {**row, "status": "n/a", "reasons": {"sets": str(error)}, "sets": {}, "detection": {}}
        if subject.kind == "retain":  # Exact unlearning costs a training.
            model = NEEDS.get(name, name)
            found["cost"]["fit_s"] = read_seconds(self.run.train([model])[model])
            if found["cost"]["fit_s"] is None:
                found["reasons"]["cost.fit_s"] = "its training was not timed here"
        elif found["cost"]["fit_s"] is None:
            found["reasons"]["cost.fit_s"] = NOTHING_FITTED
        found["cost"]["added_memory_mb"] = subject.fit_added_mb or memory.added_mb
        found["cost"]["peak_memory_mb"] = whole.peak_mb
        return clean_row({**row, "kind": subject.kind, **found})

    def _study(self, name: str) -> dict[str, Any]:
        examiner, bench, protocol = self._open()

        with tempfile.TemporaryDirectory() as folder:
            record = run_study(name, Site(bench, protocol, examiner, Path(folder), self._find_informative))
        return clean_row({"seed": self.run.seed, "reasons": {}, **record})

    def _find_informative(self) -> list[str]:
        if self._informative is None:
            _, bench, protocol = self._open()
            unguarded, never_knew = Subject("none", "none", bench.full), Subject("retain-only", "retain", bench.retain)
            self._informative = protocol.find_informative(unguarded, never_knew)
        return self._informative

    def _attack(self, subject: Subject) -> dict[str, Any]:
        _, bench, protocol = self._open()
        found = protocol.attack(subject)
        if protocol.harmless:
            found["harmless"] = protocol.try_harmless(subject, Subject("none", "none", bench.full))
        if subject.kind != "guard":
            found["weights"] = attack_weights(subject, self.run.suite, protocol)
        return found


def _choose_batch_size(device: str) -> int:
    """Return how many prompts are read at once: what a card mostly takes of a few billion parameters; where it does not, batches are halved."""
    if device == "cpu":
        return 32
    import torch

    gibibytes = torch.cuda.get_device_properties(device).total_memory / 2**30
    return 64 if gibibytes > 60 else 32 if gibibytes > 30 else 8


def name_model(path: Path) -> str:
    """Return what a report calls a checkpoint: its folder's name, or its name on the hub. Where it lies is nobody's business."""
    return path.name if path.is_dir() else str(path)
