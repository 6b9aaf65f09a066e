"""Settings classes as options of commands: one option a field, with its sentence as the help text.

A sentence is read from the source in which it stands under its field, so the class need not be
imported and ``--help`` stays quick. What settings mean is left to the classes.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import Field, fields, is_dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

FLAGS = "flags"
"""Key of a field's metadata under which flags stand that differ from the field's name; none for a
field that is no option."""

METAVAR = "metavar"
"""Key of a field's metadata under which the form of its value stands, for the help text."""


def spread_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take each settings class in its signature as one option a field.

    Args:
        command: a function whose parameters are typer's, or frozen dataclasses without a default.

    Returns:
        The function with the signature that typer needs; it builds the dataclasses, whose own
        checks refuse bad values.
    """
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        if is_dataclass(hints[name]):
            groups[name] = hints[name]
            parameters += field_parameters(hints[name])
        else:
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters.append(parameter.replace(annotation=hints[name], kind=kind))
    names = [parameter.name for parameter in parameters]
    assert len(set(names)) == len(names), f"{command.__name__} has an option twice: {names}"

    def run(**given: Any) -> None:
        for name, owner in groups.items():
            given[name] = owner(**{field.name: _pop(given, field.name) for field in shown(owner)})
        command(**given)

    run.__doc__ = command.__doc__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def shown(owner: Any) -> list[Field[Any]]:
    """List the fields of a settings class that are options."""
    return [field for field in fields(owner) if field.metadata.get(FLAGS, "unset") != ()]


def field_parameters(owner: Any) -> list[inspect.Parameter]:
    """Turn the fields of a settings class into parameters of a command.

    Args:
        owner: a dataclass; all fields have defaults. Tuples become options that can be repeated.

    Returns:
        One parameter a field.
    """
    hints = get_type_hints(owner)
    sentences = {
        name: sentence
        for kind in owner.__mro__
        if "__dataclass_fields__" in vars(kind)
        for name, sentence in read_sentences(kind.__module__, kind.__name__).items()
    }
    parameters = []
    for field in shown(owner):
        kind, metavar = hints[field.name], field.metadata.get(METAVAR)
        if get_origin(kind) is tuple:
            item = get_args(kind)[0]
            kind, metavar = list[item], metavar or f"<{item.__name__}>"  # type: ignore[valid-type]
        flags = field.metadata.get(FLAGS, (f"--{field.name.replace('_', '-')}",))
        option = typer.Option(*flags, help=sentences.get(field.name, ""), metavar=metavar)
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        parameters.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=Annotated[kind, option],
            )
        )
    return parameters


@cache
def read_sentences(module: str, owner: str) -> dict[str, str]:
    """Read what stands under the fields of a class, without importing its module.

    Args:
        module: full name of the module.
        owner: name of the class.

    Returns:
        Field name to sentence, without marks of code.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return _NoSentences()  # an installation without sources
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    body = next(
        node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == owner
    )
    found: dict[str, str] = {}
    for field, text in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name)
            assert isinstance(text.value, ast.Constant)
            sentence = inspect.cleandoc(str(text.value.value)).replace("``", "")
            found[field.target.id] = " ".join(sentence.split())
    return found


class _NoSentences(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return ""


def _pop(given: dict[str, Any], name: str) -> Any:
    value = given.pop(name)
    return tuple(value) if isinstance(value, list) else value
