"""The list of rows, as the command line shows it."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from unlearn_guard.benchmarks.methods import SUBJECTS, describe_rows
from unlearn_guard.guard.cli import app


def test_every_row_says_what_it_is_and_where_it_comes_from() -> None:
    entries = describe_rows()
    assert [entry.name for entry in entries] == list(SUBJECTS)
    assert all(entry.title and entry.source for entry in entries)
    assert len({entry.title for entry in entries}) == len(entries)
    families = {entry.name: entry.family for entry in entries}
    assert (families["none"], families["guard"], families["npo"], families["s3t"]) == (
        "reference",
        "guard",
        "editing 1",
        "exact",
    )


def test_the_command_line_lists_rows() -> None:
    shown = CliRunner().invoke(app, ["bench", "rows"])
    assert shown.exit_code == 0
    assert "input-filter" in shown.stdout
    assert "arXiv 2404.05868" in shown.stdout
    listed = json.loads(CliRunner().invoke(app, ["bench", "rows", "--json"]).stdout)
    assert {entry["name"] for entry in listed} == set(SUBJECTS)
