"""What a block adds to memory, whatever was used and freed before it."""

from __future__ import annotations

import time

import numpy as np

from unlearn_guard.benchmarks.memory import watch_memory

MIB = 2**20


def test_what_is_used_and_freed_counts_and_what_was_before_does_not() -> None:
    before = np.ones(64 * MIB, np.uint8)
    del before
    with watch_memory() as memory:
        held = np.ones(48 * MIB, np.uint8)
        time.sleep(0.3)  # It is looked at twenty times a second.
        del held
    assert 40 <= memory.added_mb <= 60
    kept = np.ones(64 * MIB, np.uint8)
    with watch_memory() as memory:
        assert kept[-1] == 1
    assert memory.added_mb < 16
