"""Where and with what a figure was measured, and the file it is kept in."""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

PACKAGES = ("internvl35", "torch", "transformers", "numpy", "pillow")


def describe_machine() -> dict[str, Any]:
    """Name processor, cores and system."""
    names = [
        line.partition(":")[2].strip()
        for line in _lines(Path("/proc/cpuinfo"))
        if line.startswith("model name")
    ]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def describe_versions() -> dict[str, str]:
    """Name the versions of the packages that a figure may depend on."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def write_result(name: str, figures: dict[str, Any]) -> Path:
    """Write figures beside what they were measured with.

    Args:
        name: file name without ending.
        figures: JSON-ready figures.

    Returns:
        The file.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(["python", "-m", *_module_call()]),
        "machine": describe_machine(),
        "versions": describe_versions(),
        **figures,
    }
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _module_call() -> list[str]:
    spec = sys.modules["__main__"].__spec__
    return [spec.name if spec else Path(sys.argv[0]).name, *sys.argv[1:]]
