"""What a block adds to memory, whatever was used and freed before it."""

from __future__ import annotations

import time

from unlearn_guard.benchmarks.memory import watch_memory


def use(n_mib: int) -> list[bytearray]:
    """Blocks that are too small to be given back to the system by themselves."""
    return [bytearray(b"x" * 2**15) for _ in range(n_mib * 32)]


def test_what_is_used_and_freed_counts_also_where_it_was_freed_before() -> None:
    before = use(64)
    with watch_memory() as memory:
        assert before[-1][-1]
    assert memory.added_mb < 16
    del before
    with watch_memory() as memory:
        held = use(48)
        time.sleep(0.3)  # It is looked at twenty times a second.
        del held
    assert 40 <= memory.added_mb <= 64
    assert memory.peak_mb > memory.added_mb + 32  # An interpreter with its libraries is more than that.
