"""Rows in processes side by side: all of them, once; an error ends the run and stays what it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from unlearn_guard.benchmarks.lanes import run_lanes
from unlearn_guard.guard.errors import DataError, UnknownNameError


def open_notes(folder: Path) -> Callable[[str], None]:
    """Return what notes who measured which row."""

    def measure(name: str) -> None:
        with (folder / name).open("x") as file:
            file.write(str(os.getpid()))

    return measure


def open_broken() -> Callable[[str], None]:
    """Return what cannot measure one of the rows."""

    def measure(name: str) -> None:
        if name == "c":
            raise UnknownNameError("method", name, ["a", "b"])

    return measure


@pytest.mark.parametrize("workers", [1, 2])
def test_every_row_is_measured_once(tmp_path: Path, workers: int) -> None:
    names = ["a", "b", "c", "d", "e"]
    run_lanes(partial(open_notes, tmp_path), names, workers=workers)
    found = {file.name: int(file.read_text()) for file in tmp_path.iterdir()}
    assert sorted(found) == names
    assert len(set(found.values())) <= workers
    assert (os.getpid() in found.values()) == (workers == 1)


def test_no_rows_open_nothing() -> None:
    run_lanes(lambda: pytest.fail("nothing is to be measured"), [], workers=2)


def test_an_error_of_another_process_is_what_it_was() -> None:
    with pytest.raises(UnknownNameError, match="unknown method: 'c' — allowed: a, b") as raised:
        run_lanes(open_broken, ["a", "b", "c"], workers=2)
    assert raised.value.exit_code == DataError("x").exit_code
