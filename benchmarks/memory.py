"""What a piece of work adds to a process's memory, whatever the process did before."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_POLL_SECONDS = 0.05


@dataclass(slots=True)
class Memory:
    """Bytes that a block adds at most, to resident memory and a card's, and what there is at most; filled in when the block ends."""

    added: int = 0
    peak: int = 0

    @property
    def added_mb(self) -> float:
        """What is added, in MiB."""
        return self.added / 2**20

    @property
    def peak_mb(self) -> float:
        """What there is at most, in MiB."""
        return self.peak / 2**20


@contextmanager
def watch_memory() -> Iterator[Memory]:
    """Yield what is filled in with the memory that the block adds; what was freed before goes back first, or it would hide the next use."""
    import psutil
    import torch

    gc.collect()
    _trim()
    process, done, found = psutil.Process(), threading.Event(), Memory()
    has_card = torch.cuda.is_available()
    if has_card:
        torch.cuda.reset_peak_memory_stats()
    start, start_card = process.memory_info().rss, torch.cuda.memory_allocated() if has_card else 0
    peak = start

    def poll() -> None:
        nonlocal peak
        while True:
            peak = max(peak, process.memory_info().rss)
            if done.wait(_POLL_SECONDS):
                return

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()
        peak_card = torch.cuda.max_memory_allocated() if has_card else 0
        found.added = max(0, peak - start) + max(0, peak_card - start_card)
        found.peak = peak + peak_card


def _trim() -> None:
    """Give freed pages back where the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
