"""Neuron edits and key readings of a Hugging Face model, row by row of a padded batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from unlearn_guard.corruptions.gated_mlp import find_gated_mlps
from unlearn_guard.corruptions.key_space import Probe
from unlearn_guard.corruptions.mlp_edit import MlpEdit, Table, hook_mlps
from unlearn_guard.guard.stamp import Stamp, find_tables

_TOKENS, _TEXTS = 65_536, 1_024
"""Texts times tokens, and texts, that one padded batch may hold."""


class NeuronHooks:
    """Hooks that act inside `acting` alone: outside of it the model is as it was."""

    def __init__(
        self,
        model: Any,
        tables: Mapping[str, Table],
        probes: Mapping[str, Probe] | None = None,
        always_on: Sequence[str] = (),
    ) -> None:
        """`always_on` are tables that act on unflagged texts too."""
        self.probes, self.always_on = dict(probes or {}), list(always_on)
        self.mlps = find_gated_mlps(model)
        self.edit = MlpEdit(
            self.mlps,
            tables,
            n_rows=_TOKENS,
            device=next(model.parameters()).device,
            read_layers=sorted({layer for probe in self.probes.values() for layer in probe.weights}),
            n_reads=_TEXTS if self.probes else 0,
        )

    @contextmanager
    def acting(self, stamps: Sequence[Stamp | None], spans: Sequence[tuple[int, int]], width: int) -> Iterator[None]:
        """Edit flagged texts while a padded batch, `width` tokens each, runs.

        spans: of each text, how many padding tokens stand before it, and the absolute position of its first token.
        """
        handles = hook_mlps(self.edit, self.mlps)
        try:
            for row, (stamp, (padding, start)) in enumerate(zip(stamps, spans, strict=True)):
                for name in dict.fromkeys([*self.always_on, *find_tables(stamp)]):
                    self.edit.stage(name, row * width + padding, start, width - padding)
            yield
        finally:
            self.edit.clear()
            for handle in handles:
                handle.remove()

    def notice(self, n_rows: int, width: int) -> None:
        """Have the last token of every text in a left-padded batch read in the pass that follows."""
        self.edit.read([row * width + width - 1 for row in range(n_rows)])

    def judge(self, n_rows: int) -> list[tuple[str, ...]]:
        """Return, per text that was read, the forget requests whose probe is above its threshold."""
        keys = {layer: states[:n_rows].cpu().numpy() for layer, states in self.edit.keys.items()}
        flags = {owner: ~(probe.score(keys) < probe.threshold) for owner, probe in self.probes.items()}
        return [tuple(owner for owner, flagged in flags.items() if flagged[row]) for row in range(n_rows)]
