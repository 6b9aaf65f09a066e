"""Formulas that people wrote: those in the docstrings of installed packages.

Sources are read, never imported. The packages are torch and what torch, matplotlib and
transformers themselves depend on, so nothing is downloaded; other versions of them hold other
formulas.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("sympy", "mpmath", "networkx", "torch", "numpy", "matplotlib", "transformers")
"""Where formulas are looked for."""

_WITH_DOLLARS = frozenset({"sympy", "networkx", "matplotlib"})  # elsewhere $ is mostly a shell's
_ROLE = re.compile(r":math:`([^`]+)`")
_DOLLARS = re.compile(r"(?<![\\$\w])\$([^$\n]{1,200}?)\$(?![$\w])")
_BLOCK = re.compile(r"^([ \t]*)\.\. math ?::[ \t]*(.*)\n((?:\1[ \t]+\S.*\n|[ \t]*\n)*)", re.M)
_HINTS = (":math:", ".. math", "$", "latex")


def list_sources(packages: tuple[str, ...] = PACKAGES) -> list[tuple[str, Path]]:
    """List the Python files of packages.

    Args:
        packages: names as they are imported; those that are missing are left out.

    Returns:
        Pairs of package and file, sorted.
    """
    sources: list[tuple[str, Path]] = []
    for package in packages:
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            files = Path(spec.origin).parent.rglob("*.py")
            sources += [(package, file) for file in sorted(files)]
    return sources


def describe_packages(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Name the installed versions of packages, on which the formulas depend."""
    found: dict[str, str] = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def find_formulas(package: str, file: Path) -> Iterator[str]:
    """Find the formulas of one file.

    Args:
        package: the package it belongs to.
        file: Python source.

    Yields:
        Formulas as they are written, without marks around them; some are none, since a dollar sign
        may mean anything.
    """
    source = file.read_text(encoding="utf-8", errors="ignore")
    if not any(hint in source for hint in _HINTS):
        return
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    # sympy tests its LaTeX printer against the expected text: short formulas by the hundred.
    is_printer_test = "tests" in file.parts and "latex" in file.name
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from _find_in_text(node.value, has_dollars=package in _WITH_DOLLARS)
            if is_printer_test and len(node.value) < 200 and re.search(r"[\\^_=]", node.value):
                yield node.value


def _find_in_text(text: str, *, has_dollars: bool) -> Iterator[str]:
    yield from _ROLE.findall(text)
    if has_dollars:
        yield from _DOLLARS.findall(text)
    for match in _BLOCK.finditer(text):
        # Paragraphs and aligned lines of one block are formulas of their own.
        body = re.sub(
            r"\\(begin|end)\{(aligned|align|split|gather|equation)\*?\}",
            "",
            match[2] + "\n" + match[3],
        )
        for line in re.split(r"\n[ \t]*\n|\\\\", body):
            yield line.replace("&", " ").strip()
