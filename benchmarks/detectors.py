"""The rows of the detection report: our guard, the name match that it must beat, and O3's detector, fitted on the same policy."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unlearn_guard.benchmarks.attacks.variants import Prompt
from unlearn_guard.benchmarks.ood import OodDetector, tune_by_contrastive_entropy
from unlearn_guard.classifiers.cascade import Cascade
from unlearn_guard.classifiers.encoder import OnnxEncoder
from unlearn_guard.classifiers.export import export_encoder
from unlearn_guard.classifiers.fitting import collect_aliases, fit_cascade, split_rows
from unlearn_guard.classifiers.name_match import NameMatch
from unlearn_guard.guard.policy import Policy
from unlearn_guard.guard.progress import track
from unlearn_guard.guard.rows import Row, group_requests
from unlearn_guard.guard.screening import Guard


class Detectors:
    """The rows of the report: ours, and the name match that ours must beat, fitted on the same policy."""

    def __init__(
        self,
        forget: Sequence[Row],
        retain: Sequence[Row],
        clean: Sequence[Row],
        folder: Path,
        *,
        alpha: float,
        seed: int,
    ) -> None:
        requests = group_requests(forget)
        split = split_rows(forget, retain, clean, seed, alpha=alpha)
        start = time.perf_counter()
        info = fit_cascade(
            requests, split, encoder_folder=export_encoder(), folder=folder, alpha=alpha, seed=seed, track=track
        )
        self.fit_seconds = time.perf_counter() - start
        self.info = info
        aliases = {owner: names for owner, names in collect_aliases(requests, []).items() if names}
        policy = Policy(alpha=alpha)
        self.guards = {
            "guard": Guard(Cascade.load(folder, info["engine"]), policy),
            "name-match": Guard(NameMatch(aliases, alpha), policy),
        }
        given = [row.query for row in (*split.forget_train, *split.forget_validation)]
        tuned = tune_by_contrastive_entropy(given, folder / "ood", seed=seed)
        self.ood = OodDetector(
            OnnxEncoder(export_encoder(str(tuned))),
            given,
            [row.query for row in split.calibration],
            alpha,
        )

    def judge(self, prompt: Prompt, answer: str = "") -> dict[str, tuple[bool, bool, float]]:
        """Return, per detector, whether the prompt is flagged, whether prompt or answer is stopped, and the score."""
        found = {}
        for name, guard in self.guards.items():
            verdict = guard.screen([prompt])[0]
            stopped = verdict.flagged
            if answer and not stopped:
                stopped = guard.screen_answer(prompt, answer, verdict=verdict).flagged
            found[name] = (verdict.flagged, stopped, verdict.score)
        if isinstance(prompt, str):  # It reads single questions.
            score = self.ood.score(prompt)
            found["o3-ood"] = (self.ood.flags(score), self.ood.flags(score), score)
        return found

    def describe(self) -> dict[str, Any]:
        """Return what was fitted, and in how many seconds."""
        return {
            "alpha": self.info["alpha"],
            "n_calibration": self.info["n_calibration"],
            "fit_s": round(self.fit_seconds, 2),
            **self.info["metrics"],
        }
