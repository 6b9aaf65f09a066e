"""Settings as one flat object, flag name to value: ``args.json``, config files, recipes.

What the settings mean is left to :mod:`internvl35.train.settings`.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from internvl35.errors import ConfigError
from internvl35.train.settings import SECRET, FinetuneSettings


@cache
def setting_groups(owner: type = FinetuneSettings) -> dict[str, str]:
    """Say in which group every setting is.

    Args:
        owner: a dataclass whose fields are dataclasses.

    Returns:
        Name of a setting to name of the group, in order.
    """
    found: dict[str, str] = {}
    for group, kind in get_type_hints(owner).items():
        for field in fields(kind):
            assert field.name not in found, f"{field.name} is in two groups of {owner.__name__}"
            found[field.name] = group
    return found


@cache
def setting_types(owner: type = FinetuneSettings) -> dict[str, Any]:
    """Say of which type every setting is.

    Args:
        owner: a dataclass whose fields are dataclasses.

    Returns:
        Name of a setting to its type.
    """
    return {
        name: kind
        for group in get_type_hints(owner).values()
        for name, kind in get_type_hints(group).items()
    }


def flatten_settings(settings: FinetuneSettings) -> dict[str, Any]:
    """Put settings into one JSON-ready object.

    Args:
        settings: of a run.

    Returns:
        Flag name to value; tuples become lists, and secrets None.
    """
    flat: dict[str, Any] = {}
    kind: type = type(settings)
    for name, group in setting_groups(kind).items():
        owner = getattr(settings, group)
        value = getattr(owner, name)
        is_secret = next(f for f in fields(owner) if f.name == name).metadata.get(SECRET, False)
        flat[name] = None if is_secret else list(value) if isinstance(value, tuple) else value
    return flat


def build_settings(
    values: Mapping[str, Any], base: FinetuneSettings | None = None
) -> FinetuneSettings:
    """Build settings from a flat object.

    Args:
        values: flag name to value; lists stand for tuples.
        base: settings of what is not named, which decide on the kind of settings too; the defaults
            of ``sft`` where None.

    Returns:
        The settings, of the same class as ``base`` and checked by their own rules.

    Raises:
        ConfigError: if a name is unknown, or a value of another type or out of range.
    """
    base = FinetuneSettings() if base is None else base
    owner: type = type(base)
    groups, kinds = setting_groups(owner), setting_types(owner)
    changes: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        if name not in groups:
            raise ConfigError(f"there is no setting {name!r}{suggest(name, groups)}")
        changes.setdefault(groups[name], {})[name] = fit_value(name, value, kinds[name])
    return replace(
        base,
        **{group: replace(getattr(base, group), **change) for group, change in changes.items()},
    )


def fit_value(name: str, value: Any, kind: Any) -> Any:
    """Bring a value read from JSON to the type of a setting.

    Args:
        name: of the setting, for the error.
        value: a plain value.
        kind: the setting's type: str, int, float, bool, a Literal, a tuple of one of them, or
            one of them or None.

    Returns:
        The value, a list as a tuple, and an integer as a float where one is needed.

    Raises:
        ConfigError: if the value is of another type.
    """
    for option in _options_of(kind):
        origin = get_origin(option)
        if origin is Literal:
            if any(value == known and type(value) is type(known) for known in get_args(option)):
                return value
        elif origin is tuple:
            if isinstance(value, list | tuple):
                return tuple(fit_value(name, item, get_args(option)[0]) for item in value)
        elif type(value) is option:
            return value
        elif option is float and type(value) is int:
            return float(value)
    raise ConfigError(f"{name} is {value!r}; needed: {_describe(kind)}")


def _options_of(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in {Union, types.UnionType} else (kind,)


def _describe(kind: Any) -> str:
    words = []
    for option in _options_of(kind):
        if get_origin(option) is Literal:
            words += [repr(known) for known in get_args(option)]
        elif get_origin(option) is tuple:
            words.append(f"a list of {_describe(get_args(option)[0])}")
        else:
            names = {type(None): "null", bool: "true or false", str: "a text"}
            words.append(names.get(option, "a number" if option is float else "a whole number"))
    return " or ".join(words)


def suggest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Name what is nearest to a name that is not known.

    Args:
        name: what was given.
        known: what there is.
        prefix: what stands in front of names where they are typed, such as ``--``.

    Returns:
        The end of a sentence, empty if nothing is near.
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {prefix}{near[0]}?" if near else ""
