"""The documentation is not stale: links lead somewhere, names exist, figures are the code's."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from internvl35.config import PRESETS

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "examples" / "README.md",
        *(ROOT / "docs").rglob("*.md"),
    ]
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
REFERENCE = re.compile(r"`([\w/]+\.py):([\w.]+)`")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def find_dead_links(page: Path) -> list[str]:
    """Name the relative links of a page whose target does not exist, anchors included."""
    dead = []
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in _anchors_of(file)):
            dead.append(target)
    return dead


def find_unknown_names(text: str, root: Path) -> list[str]:
    """Name every ``file.py:name`` in ``text`` that the sources do not define.

    Files are looked up under ``src/internvl35`` first, then from the root.
    """
    return [
        f"{file}:{name}"
        for file, name in REFERENCE.findall(text)
        if name not in _names_of(file, root)
    ]


def _anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


def _names_of(file: str, root: Path) -> set[str]:
    for path in (root / "src" / "internvl35" / file, root / file):
        if path.is_file():
            return set(_defined(ast.parse(path.read_text(encoding="utf-8")).body))
    return set()


def _defined(body: list[ast.stmt]) -> list[str]:
    names = []
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.append(node.name)
        elif isinstance(node, ast.ClassDef):
            names += [node.name, *(f"{node.name}.{name}" for name in _defined(node.body))]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [target.id for target in targets if isinstance(target, ast.Name)]
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    assert find_dead_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_functions_and_tests_that_a_page_names_exist(page: Path) -> None:
    assert find_unknown_names(page.read_text(encoding="utf-8"), ROOT) == []


def test_the_paper_page_names_code_and_tests() -> None:
    references = REFERENCE.findall((ROOT / "docs" / "paper.md").read_text(encoding="utf-8"))
    num_tests = sum(file.startswith("tests/") for file, _ in references)
    assert num_tests >= 5
    assert len(references) - num_tests >= 5


def test_the_readme_gives_every_size_its_exact_count() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in readme.splitlines()]
    found = {row[0]: row[3] for row in rows if row and row[0] in PRESETS}
    assert found == {name: f"{preset.num_parameters:,}" for name, preset in PRESETS.items()}


def test_the_readme_names_only_targets_that_the_makefile_has() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"`?make ([a-z-]+)`?$", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= named
    assert named <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A heading, here\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md) [b](other.md#a-heading-here) [c](https://example.org/x) [d](none.md) "
        "[e](other.md#nothing)\n```\n[f](fenced.md)\n```\n"
    )
    assert find_dead_links(page) == ["none.md", "other.md#nothing"]


def test_an_unknown_name_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "src" / "internvl35" / "model"
    folder.mkdir(parents=True)
    (folder / "x.py").write_text(
        "TABLE = 1\nclass A:\n    size: int = 1\n    def run(self): ...\ndef f(): ...\n"
    )
    text = (
        "`model/x.py:f` `model/x.py:A.run` `model/x.py:TABLE` `model/x.py:A.size` "
        "`model/x.py:gone` `model/y.py:f`"
    )
    assert find_unknown_names(text, tmp_path) == ["model/x.py:gone", "model/y.py:f"]
