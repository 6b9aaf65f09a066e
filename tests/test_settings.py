"""Every field of a public frozen dataclass says, in a sentence under it, what it means."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "internvl35"


def find_silent_fields(source: str) -> list[str]:
    """Name the fields of public frozen dataclasses in ``source`` that no sentence follows."""
    return [
        f"{node.name}.{name}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef) and _is_frozen_dataclass(node)
        for name in _silent_fields_of(node)
    ]


def _is_frozen_dataclass(node: ast.ClassDef) -> bool:
    return not node.name.startswith("_") and any(
        isinstance(decorator, ast.Call)
        and ast.unparse(decorator.func) in {"dataclass", "dataclasses.dataclass"}
        and any(
            keyword.arg == "frozen" and ast.unparse(keyword.value) == "True"
            for keyword in decorator.keywords
        )
        for decorator in node.decorator_list
    )


def _silent_fields_of(node: ast.ClassDef) -> list[str]:
    silent = []
    for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        is_class_variable = ast.unparse(statement.annotation).startswith("ClassVar")
        if not is_class_variable and not _is_sentence(following):
            silent.append(statement.target.id)
    return silent


def _is_sentence(node: ast.stmt | None) -> bool:
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
        return False
    text = node.value.value
    return isinstance(text, str) and text.strip().endswith(".")


def test_every_field_of_a_public_frozen_dataclass_is_described() -> None:
    silent = {
        str(path.relative_to(SOURCE)): names
        for path in sorted(SOURCE.rglob("*.py"))
        if (names := find_silent_fields(path.read_text(encoding="utf-8")))
    }
    assert silent == {}


def test_a_field_without_a_sentence_is_found() -> None:
    source = '''
from dataclasses import dataclass

@dataclass(frozen=True, slots=True)
class Planted:
    """A planted class."""

    described: int = 1
    """How many there are."""
    silent: int = 2
    kind: ClassVar[str] = "x"
    unfinished: int = 3
    """unfinished"""

@dataclass(frozen=True)
class _Private:
    field: int = 1

@dataclass
class Mutable:
    field: int = 1
'''
    assert find_silent_fields(source) == ["Planted.silent", "Planted.unfinished"]
