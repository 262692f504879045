"""The house: dependencies run downwards, screening stays light, seams and table agree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("guard", "classifiers", "corruptions", "serving", "benchmarks")
# What each room may import; the composition root may import everything, lazily.
ALLOWED = {
    "guard": {"guard"},
    "classifiers": {"guard", "classifiers"},
    "corruptions": {"guard", "corruptions"},
    "serving": {"guard", "corruptions", "serving"},
    "benchmarks": {"guard", "classifiers", "corruptions", "serving", "benchmarks"},
}
ROOTS = {"guard/cli.py", "guard/compose.py"}
FORBIDDEN_NAMES = {"utils", "helpers", "common", "misc", "manager"}


def modules() -> list[Path]:
    return sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def imported_rooms(path: Path, *, top_level: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level else list(ast.walk(tree))
    found = set()
    for node in nodes:
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if match := re.match(r"unlearn_guard\.(\w+)", name):
                found.add(match.group(1))
    return found & set(ROOMS)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downwards(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    if name in ROOTS:
        assert imported_rooms(path, top_level=True) <= {"guard"}
    else:
        allowed = ALLOWED[path.relative_to(ROOT).parts[0]]
        # Guard.load and unlearn_guard.fit reach the composition root, which lives in guard/.
        assert imported_rooms(path) <= allowed


def test_only_the_plugin_imports_vllm() -> None:
    for path in modules():
        if "serving/vllm" in str(path):
            continue
        assert not re.search(r"^\s*(import vllm|from vllm)", path.read_text(), re.MULTILINE), path


def test_plugin_module_imports_nothing() -> None:
    tree = ast.parse((ROOT / "serving/vllm/plugin.py").read_text())
    assert not [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]


def test_module_names_say_something() -> None:
    assert not [path for path in modules() if path.stem in FORBIDDEN_NAMES]


def test_package_links_are_relative_and_whole() -> None:
    package = ROOT / "src" / "unlearn_guard"
    for room in ROOMS:
        link = package / room
        assert link.is_symlink()
        assert str(link.readlink()) == f"../../{room}"


def test_no_pickle_and_no_eval() -> None:
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), path
            if isinstance(node, ast.Import):
                assert not {"pickle", "dill", "cloudpickle"} & {alias.name for alias in node.names}, path


def test_importing_the_package_is_light() -> None:
    code = "import sys, unlearn_guard; unlearn_guard.Verdict; print([m for m in ('torch', 'vllm') if m in sys.modules])"
    assert _run(code) == "[]"


def test_screening_needs_neither_torch_nor_vllm(bundle: Path) -> None:
    code = (
        "import sys\n"
        "from unlearn_guard import Guard\n"
        f"guard = Guard.load({str(bundle)!r})\n"
        "guard.screen(['Who is Ada?', [{'role': 'user', 'content': 'Hello'}]])\n"
        "print([m for m in ('torch', 'vllm', 'transformers', 'sklearn') if m in sys.modules])"
    )
    assert _run(code) == "[]"


def test_seam_table_names_every_seam() -> None:
    from unlearn_guard.serving.vllm.seams import SEAMS, SUPPORTED

    table = (ROOT / "docs" / "vllm-seams.md").read_text()
    for seam in SEAMS:
        assert f"`{seam.symbol}`" in table, seam.symbol
    for release in SUPPORTED:
        assert release in table
    for name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", table):
        path, test = name
        assert (ROOT / path).is_file(), path
        assert not test or f"def {test}(" in (ROOT / path).read_text(), name


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.strip().splitlines()[-1]
