"""Rows measured in processes side by side: one takes them from the front, another from the back, until they meet."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

Measure = Callable[[str], Any]
Open = Callable[[], Measure]

_measure: Measure | None = None


def run_lanes(opens: Open, names: Sequence[str], *, workers: int) -> None:
    """Call what `opens` returns for every name, in at most two processes; rows next to each other mostly share one.

    What is measured is kept by whoever measures it. The first error ends the run and is raised; a process ends with the one that
    started it. With one worker everything happens in this process.
    """
    if workers < 2 or len(names) < 2:
        measure = opens() if names else None
        for name in names:
            assert measure is not None
            measure(name)
        return
    left, lock = deque(names), threading.Lock()
    errors: list[Exception] = []

    def take(front: bool) -> str | None:
        with lock:
            if not left or errors:
                return None
            return left.popleft() if front else left.pop()

    def follow(front: bool) -> None:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context, initializer=_prepare, initargs=(opens, os.getpid())) as pool:
            while (name := take(front)) is not None:
                try:
                    pool.submit(_run, name).result()
                except Exception as error:
                    errors.append(error)

    threads = [threading.Thread(target=follow, args=(front,)) for front in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _prepare(opens: Open, parent: int) -> None:
    global _measure
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _measure = opens()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _run(name: str) -> None:
    assert _measure is not None
    _measure(name)
