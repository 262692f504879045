"""Progress of long steps: a bar on a terminal, plain lines in a log, always on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

T = TypeVar("T")
console = Console(stderr=True)


def track(items: Iterable[T], label: str, *, total: int | None = None) -> Iterator[T]:
    """Yield items while showing how far the work is."""
    if not console.is_terminal:
        yield from _track_plain(items, label, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        yield from progress.track(items, description=label, total=total)


def _track_plain(items: Iterable[T], label: str, total: int | None) -> Iterator[T]:
    start, last = time.monotonic(), time.monotonic()
    for number, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - last > 10.0:
            last = time.monotonic()
            of = f"/{total}" if total else ""
            print(f"{label}: {number}{of}, {last - start:.0f} s", file=sys.stderr, flush=True)


@contextmanager
def report_step(label: str) -> Iterator[None]:
    """Print a step's name when it starts and its duration when it ends."""
    start = time.monotonic()
    console.print(f"[dim]…[/dim] {label}", highlight=False)
    yield
    console.print(f"[green]✓[/green] {label} [dim]({time.monotonic() - start:.1f} s)[/dim]", highlight=False)
