"""Recipes of training on the command line: overridden by name, and kept in the run folder.

A recipe is a frozen dataclass, possibly with others inside; what its settings mean is left to
:mod:`internvl35.train`.
"""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from internvl35.errors import ConfigError, DataError

RECIPE_FILE = "recipe.json"

Recipe = TypeVar("Recipe")


def override(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Change settings of a recipe.

    Args:
        recipe: a dataclass.
        changes: name to value; a dot leads into a dataclass inside, as in ``sft.num_steps``.

    Returns:
        The changed recipe, checked by its own rules.

    Raises:
        ConfigError: if there is no such setting, or the value is of another type or out of range.
    """
    for path, value in changes.items():
        recipe = _override_one(recipe, path.split("."), path, value)
    return recipe


def _override_one(recipe: Any, names: Sequence[str], path: str, value: Any) -> Any:
    known = [field.name for field in fields(recipe)]
    if names[0] not in known:
        raise ConfigError(f"there is no setting {path!r}; known: {', '.join(known)}")
    old = getattr(recipe, names[0])
    if len(names) > 1:
        if not is_dataclass(old):
            raise ConfigError(f"there is no setting {path!r}: {names[0]} holds no others")
        return replace(recipe, **{names[0]: _override_one(old, names[1:], path, value)})
    if is_dataclass(old):
        inner = ", ".join(f"{path}.{field.name}" for field in fields(old))
        raise ConfigError(f"{path} is not one setting; known: {inner}")
    return replace(recipe, **{names[0]: _fitted(value, old, path)})


def _fitted(value: Any, old: Any, path: str) -> Any:
    """Bring a value to the type of the one that it replaces."""
    value = _as_tuple(value)
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(old):
        raise ConfigError(f"{path} is {value!r}; needed: {type(old).__name__}, for example {old!r}")
    return value


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else value


def parse_changes(texts: Sequence[str]) -> dict[str, Any]:
    """Read ``NAME=VALUE`` texts.

    Args:
        texts: values are numbers, True, False or Python tuples; anything else is a text.

    Returns:
        Name to value.

    Raises:
        ConfigError: if a text has no equals sign.
    """
    changes: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{text!r} is not of the form NAME=VALUE")
        try:
            changes[name.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            changes[name.strip()] = value.strip()
    return changes


def settle_recipe(
    folder: Path, recipe: Recipe, changes: Mapping[str, Any], changeable: Sequence[str]
) -> Recipe:
    """Decide on the recipe of a run, new or resumed, and write it into the run folder.

    Args:
        folder: run folder; made if missing. The recipe that it holds stands in for ``recipe``.
        recipe: the recipe of a new run.
        changes: what the user wants to be different.
        changeable: names of settings, or of dataclasses inside, that may change under way.

    Returns:
        The recipe to go on with.

    Raises:
        ConfigError: if a change is not possible, or not under way.
        DataError: if the folder's recipe cannot be read, or nothing can be written there.
    """
    path = folder / RECIPE_FILE
    saved = read_recipe(path, type(recipe)) if path.exists() else None
    wanted = override(saved or recipe, changes)
    if saved is not None:
        for name in changes:
            if _get(wanted, name) != _get(saved, name) and name not in changeable:
                raise ConfigError(
                    f"{name} is {_get(wanted, name)!r} but the run in {folder} was started with "
                    f"{_get(saved, name)!r}; use a new folder, or leave it out"
                )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(_plain(wanted)), indent=2) + "\n", encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise DataError(f"nothing can be written to {folder}: {error}") from error
    return wanted


def _plain(recipe: Any) -> Any:
    assert is_dataclass(recipe)
    return recipe


def _get(recipe: Any, path: str) -> Any:
    for name in path.split("."):
        recipe = getattr(recipe, name)
    return recipe


def read_recipe(path: Path, owner: type[Recipe]) -> Recipe:
    """Read a recipe from a run folder.

    Args:
        path: the file.
        owner: the recipe's class; settings that the file lacks take its defaults.

    Returns:
        The recipe.

    Raises:
        DataError: if the file is no recipe of this class.
    """
    try:
        return _build(owner, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError, ConfigError) as error:
        raise DataError(f"{path} is not a recipe: {error}; use a new folder") from error


def _build(owner: type[Recipe], values: Mapping[str, Any]) -> Recipe:
    hints = get_type_hints(owner)
    return owner(
        **{
            name: _build(hints[name], value) if is_dataclass(hints.get(name)) else _as_tuple(value)
            for name, value in values.items()
        }
    )
