"""Lets torchvision be imported beside a torch without CUDA; installs itself into an environment.

vLLM prepares pictures with torchvision. Its usual build cannot load its operators into a CPU build
of torch, and then fails to import because it describes two of them nonetheless. Nothing that is
tested calls them, so their schemas are enough. ``python torchvision_schemas.py`` copies this file
into the environment of that Python, where every process that vLLM starts finds it.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class SchemaFinder:
    """Defines the schemas when torchvision is first looked for; finds no module itself."""

    def __init__(self) -> None:
        self.was_asked = False
        self.library: object = None  # definitions last as long as the library they are made in

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> None:
        """Called by every import before the module is looked for on disk."""
        if name != "torchvision" or self.was_asked:
            return
        self.was_asked = True  # torch, imported below, looks for torchvision too
        if not loads_operators():
            from torch.library import Library

            library = Library("torchvision", "DEF")
            for schema in SCHEMAS:
                library.define(schema)
            self.library = library


def loads_operators() -> bool:
    """Whether torchvision's compiled part fits this torch (or there is no torchvision at all)."""
    import torch

    spec = PathFinder.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True
    try:
        for library in Path(spec.origin).parent.glob("_C*.so"):
            torch.ops.load_library(library)
    except OSError:
        return False
    return True


def watch() -> None:
    """Wait for torchvision to be imported."""
    if not any(isinstance(finder, SchemaFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, SchemaFinder())


def install() -> None:
    """Copy this file into the environment and have it run whenever its Python starts."""
    site = Path(sysconfig.get_path("purelib"))
    source = Path(__file__)
    shutil.copy(source, site / source.name)
    start = f"import {source.stem}; {source.stem}.watch()\n"
    (site / f"{source.stem}.pth").write_text(start, encoding="utf-8")


if __name__ == "__main__":
    install()
