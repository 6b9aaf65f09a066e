"""The import map of the package: who may import whom, and which names no file may bear.

errors <- config <- scoring <- data; config <- model; {model, data} <- generate
hub_choice beside config
generate <- {chat, dropin, train}; generate <- conversation <- replies <- chat
{chat, conversation, replies} <- {serve, evals}
cli, its commands, web and the package's front see all.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "internvl35"
ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / PACKAGE
IMPORT_NAMES = {
    "opentelemetry_api": "opentelemetry", "pillow": "PIL", "pyyaml": "yaml", "ucxx_cu13": "ucxx"
}  # fmt: skip
"""Where a distribution is imported under another name."""

GROUND = {"errors", "config", "hub_choice"}
MIDDLE = GROUND | {"model", "data", "scoring"}
UPPER = MIDDLE | {"generate"}
MAY_IMPORT = {
    "errors": set[str](),
    "config": {"errors"},
    "hub_choice": {"errors"},
    "scoring": GROUND,
    "model": GROUND,
    "data": GROUND | {"scoring"},  # a drawn task knows how its answer is scored
    "generate": MIDDLE,
    "conversation": GROUND | {"data", "generate"},
    "replies": UPPER | {"conversation"},
    "chat": UPPER | {"conversation", "replies"},
    "dropin": UPPER,
    "serve": UPPER | {"chat", "conversation", "replies"},  # prompts and parts are those of a chat
    "train": UPPER,
    "evals": UPPER | {"chat", "conversation", "replies"},
}
SEES_ALL = {"cli", "commands", "web", "__init__", "__main__"}
SHARE_ONLY = {("serve", "vision"): "messages", ("serve", "language"): "messages"}
"""A room's inner rooms that may import one neighbour and no other."""
VAGUE_NAMES = {"utils", "util", "common", "misc", "base", "helpers"}


def find_bad_imports(source: Path) -> list[str]:
    """Name every import under ``source`` that the map does not allow."""
    return [
        f"{'.'.join(importer)} imports {'.'.join(imported)}"
        for path in sorted(source.rglob("*.py"))
        for importer in [_module_of(path, source)]
        for imported in _imports_of(path, source)
        if not _is_allowed(importer, imported)
    ]


def find_vague_names(source: Path) -> list[str]:
    """Name every file and folder under ``source`` that is called after nothing it does."""
    paths = [*source.rglob("*.py"), *(path for path in source.rglob("*") if path.is_dir())]
    return sorted(str(path.relative_to(source)) for path in paths if path.stem in VAGUE_NAMES)


def _module_of(path: Path, source: Path) -> tuple[str, ...]:
    parts = path.relative_to(source).with_suffix("").parts
    return parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts


def _imports_of(path: Path, source: Path) -> Iterator[tuple[str, ...]]:
    folder = (PACKAGE, *path.relative_to(source).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = folder[: len(folder) - node.level + 1] if node.level else ()
            stem = start + tuple((node.module or "").split(".") if node.module else ())
            names = [(*stem, alias.name) for alias in node.names]
        else:
            continue
        yield from (name[1:] for name in names if name[0] == PACKAGE)


def _is_allowed(importer: tuple[str, ...], imported: tuple[str, ...]) -> bool:
    room = importer[0]
    if room in SEES_ALL:
        return True
    if room not in MAY_IMPORT or not imported:
        return False
    if imported[0] != room:
        return imported[0] in MAY_IMPORT[room]
    neighbour = SHARE_ONLY.get(importer[:2])
    return neighbour is None or len(imported) < 2 or imported[1] in {importer[1], neighbour}


def test_imports_run_one_way() -> None:
    assert find_bad_imports(SOURCE) == []


def test_nothing_is_called_after_nothing() -> None:
    assert find_vague_names(SOURCE) == []


@pytest.mark.parametrize(
    ("path", "line", "report"),
    [
        ("data/tiles.py", "from internvl35.model.hub import x", "data.tiles imports model.hub.x"),
        ("model/hub.py", "import internvl35.data", "model.hub imports data"),
        ("config.py", "from internvl35 import scoring", "config imports scoring"),
        ("model/hub.py", "from ..chat import load", "model.hub imports chat.load"),
        ("train/sft.py", "from internvl35 import load", "train.sft imports load"),
        (
            "evals/run.py",
            "def f():\n    import internvl35.serve.gateway",
            "evals.run imports serve.gateway",
        ),
        ("newroom/x.py", "import internvl35.errors", "newroom.x imports errors"),
        (
            "serve/vision/app.py",
            "from internvl35.serve.language import x",
            "serve.vision.app imports serve.language.x",
        ),
    ],
)
def test_a_planted_bad_import_is_found(tmp_path: Path, path: str, line: str, report: str) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(line)
    assert find_bad_imports(tmp_path) == [report]


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("cli.py", "from internvl35.train import sft"),
        ("__init__.py", "from internvl35.dropin import AutoModel"),
        ("generate/engine.py", "from internvl35.model.composite import VisionLanguageModel"),
        ("generate/engine.py", "import internvl35.errors, torch, json.decoder"),
        ("data/images.py", "from . import tiles"),
        ("data/synthetic/shapes/shapes.py", "from ..tiles import cut_tiles"),
        ("evals/run.py", "from internvl35.chat import load"),
        ("serve/vision/app.py", "from internvl35.serve.messages import Tiles"),
        ("data/x.py", "import internvl35_other.model"),
    ],
)
def test_an_import_that_the_map_allows_is_left_alone(tmp_path: Path, path: str, line: str) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(line)
    assert find_bad_imports(tmp_path) == []


def test_a_planted_vague_name_is_found(tmp_path: Path) -> None:
    (tmp_path / "common").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "utils.py").touch()
    assert find_vague_names(tmp_path) == ["common", "data/utils.py"]


def test_every_foreign_library_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = project["dependencies"] + [item for name in extras for item in extras[name]]
    names = {re.split(r"[<>=!~\[; ]", item)[0].lower().replace("-", "_") for item in declared}
    names = {IMPORT_NAMES.get(name, name) for name in names}
    used = {
        name.split(".")[0]
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in _foreign_names(node)
    }
    assert used - set(sys.stdlib_module_names) - {PACKAGE} - names == set()


def _foreign_names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [node.module or ""]
    return []
