"""Flags as the fine-tuning tools of this field write them, on top of typer.

Names have underscores (dashes are accepted), truth values are written out (``--freeze_vit true``;
the bare flag means true), lists take several values, and a YAML or JSON file of flags may come
first. Which flags there are is decided by settings classes; other spellings stand in
:mod:`internvl35.commands.flag_names`, files are read by :mod:`internvl35.commands.flag_file`.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from internvl35.commands.flag_file import FILE_SUFFIXES, read_flag_file
from internvl35.commands.flag_names import ALIASES, ENVIRONMENT, FIXED, REPLACED, VALUE_ALIASES
from internvl35.commands.options import read_sentences
from internvl35.errors import ConfigError
from internvl35.train.arguments import suggest

TRUE_WORDS = {"true", "1", "yes", "on"}
FALSE_WORDS = {"false", "0", "no", "off"}
TRUTH = ("true", "false")
"""Values of a flag that stands for a truth value."""

_TRUTH_FORM = f"[{'|'.join(TRUTH)}]"
CONFIG_ARGUMENT = "config_file"
_TYPED = "internvl35.typed_arguments"
_FLAG = re.compile(r"--[A-Za-z]")
_HELP = {"--help", "-h"}


@dataclass(frozen=True)
class GivenFlags:
    """What a user gave, on the command line, in a file of flags or in the environment."""

    values: Mapping[str, Any]
    """Name to value, of the settings' types; flags that were not given are not in it."""
    arguments: tuple[str, ...]
    """The command's name and what was typed after it."""


def spread_flags(*owners: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command take settings classes as flags, and learn which of them were given.

    Args:
        owners: frozen dataclasses whose fields all have defaults and stand for a flag each, or
            dataclasses of such dataclasses. No name may occur twice.

    Returns:
        A decorator. The command's first parameter is a :class:`GivenFlags`; all others are
        typer's. The result is registered with ``cls=FlagCommand``.
    """
    groups = [group for owner in owners for group in _groups_of(owner)]
    kinds = {name: kind for group in groups for name, kind in get_type_hints(group).items()}
    flags = [parameter for group in groups for parameter in _flag_parameters(group)]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        _, *others = inspect.signature(command).parameters.values()
        keyword = inspect.Parameter.KEYWORD_ONLY
        own = [p.replace(annotation=hints[p.name], kind=keyword) for p in others]
        context = inspect.Parameter("context", keyword, annotation=typer.Context)
        parameters = [context, _config_parameter(), *own, *flags]
        names = [parameter.name for parameter in parameters]
        assert len(set(names)) == len(names), f"{command.__name__} has a flag twice: {names}"

        def run(context: typer.Context, **values: Any) -> None:
            given = {
                name: _from_text(values[name], kind)
                for name, kind in kinds.items()
                if _is_given(context, name)
            }
            typed = [*context.meta.get(_TYPED, []), *_global_options(context)]
            flags = GivenFlags(given, (context.info_name or command.__name__, *typed))
            command(flags, **{p.name: values[p.name] for p in own})

        run.__doc__ = command.__doc__
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return run

    return decorate


def _groups_of(owner: Any) -> list[Any]:
    hints = get_type_hints(owner)
    inner = [hints[field.name] for field in fields(owner)]
    return inner if inner and all(is_dataclass(kind) for kind in inner) else [owner]


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name in {"COMMANDLINE", "ENVIRONMENT"}


def _global_options(context: typer.Context) -> list[str]:
    """Options in front of all commands that were set; the entry point gives them as ``obj``."""
    given = context.find_root().obj
    return [name for name, is_set in given.items() if is_set is True] if given else []


def _config_parameter() -> inspect.Parameter:
    argument = typer.Argument(
        metavar="FILE.yaml|FILE.json",
        show_default=False,
        help="File of flags, one a key; an object ENV in it holds environment variables. "
        "What is given on the command line goes before it.",
    )
    kind = inspect.Parameter.KEYWORD_ONLY
    annotation = Annotated[str | None, argument]
    return inspect.Parameter(CONFIG_ARGUMENT, kind, default=None, annotation=annotation)


def _flag_parameters(owner: Any) -> list[inspect.Parameter]:
    """Turn the fields of a settings class into parameters, under a heading of their own."""
    hints, sentences = get_type_hints(owner), read_sentences(owner.__module__, owner.__name__)
    heading = owner.__name__.removesuffix("Settings").removesuffix("Options")
    parameters = []
    for field in fields(owner):
        annotation, metavar = _as_text_type(hints[field.name])
        text = sentences[field.name]
        if field.name in ENVIRONMENT:
            text += f" Environment variable: {ENVIRONMENT[field.name]}."
        option = typer.Option(
            *(f"--{name}" for name in (field.name, *ALIASES.get(field.name, ()))),
            help=text,
            metavar=metavar,
            rich_help_panel=heading,
        )
        parameters.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=_to_text(field.default),
                annotation=Annotated[annotation, option],
            )
        )
    return parameters


def _as_text_type(kind: Any) -> tuple[Any, str | None]:
    """The type under which typer reads a setting, and how its values are shown."""
    options = get_args(kind) if get_origin(kind) in {Union, UnionType} else (kind,)
    chosen = next(option for option in options if option is not type(None))
    metavar = None
    if chosen is bool:
        chosen, metavar = Literal["true", "false"], _TRUTH_FORM
    elif get_origin(chosen) is tuple:
        item = get_args(chosen)[0]
        chosen, metavar = list[item], f"<{item.__name__}>..."  # type: ignore[valid-type]
    elif get_origin(chosen) is Literal:
        words = tuple(_as_word(value) for value in get_args(chosen))
        metavar = f"[{'|'.join(words)}]".replace("[|", "[")
        chosen = Literal[words]
    return (chosen | None if type(None) in options else chosen), metavar


def _as_word(value: Any) -> str:
    """One of a few values as it is typed: line breaks as in Python."""
    return str(value).replace("\n", "\\n")


def _to_text(value: Any) -> Any:
    if isinstance(value, bool):
        return TRUTH[0] if value else TRUTH[1]
    if isinstance(value, str):
        return _as_word(value)
    return list(value) if isinstance(value, tuple) else value


def _from_text(value: Any, kind: Any) -> Any:
    options = get_args(kind) if get_origin(kind) in {Union, UnionType} else (kind,)
    for option in options:
        if option is bool:
            return value == TRUTH[0]
        if get_origin(option) is tuple:
            return tuple(value or ())
        if get_origin(option) is Literal:
            return next(known for known in get_args(option) if _as_word(known) == value)
    return value


class FlagCommand(TyperCommand):
    """A command that reads its flags by this module's grammar and groups them in its help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Bring what was typed into the form that typer reads."""
        ctx.meta[_TYPED] = list(args)
        if _HELP & set(args):
            return list(super().parse_args(ctx, ["--help"]))
        flags = _Flags(self.params)
        typed, file = flags.read_arguments(args)
        from_file = {} if file is None else flags.read_file(Path(file))
        from_environment = flags.read_environment(os.environ)
        merged = from_environment | from_file | typed
        arguments = [] if file is None else [file]
        arguments += [f"{option}={value}" for option, values in merged.items() for value in values]
        return list(super().parse_args(ctx, arguments))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options of every group under its heading, the command's own first."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                default = "Arguments" if parameter.param_type_name == "argument" else "Options"
                heading = getattr(parameter, "rich_help_panel", None) or default
                sections.setdefault(heading, []).append(record)
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


class _Flags:
    """The flags of one command, by every spelling, and the values that they take."""

    def __init__(self, parameters: Sequence[Any]) -> None:
        options = [p for p in parameters if p.param_type_name == "option"]
        self._options = {
            _canonical(flag): p for p in options for flag in (*p.opts, *p.secondary_opts)
        }

    def read_arguments(self, arguments: Sequence[str]) -> tuple[dict[str, list[str]], str | None]:
        """Sort what was typed into flags with their values; a file of flags may come first."""
        rest, file = list(arguments), None
        if rest and not rest[0].startswith("-"):
            file = rest.pop(0)
            if not file.endswith(FILE_SUFFIXES):
                raise ConfigError(
                    f"{file!r} is no flag; flags begin with --, and only a .yaml or .json file of "
                    "flags may come first"
                )
        found: dict[str, list[str]] = {}
        while rest:
            token = rest.pop(0)
            if not _FLAG.match(token):
                raise ConfigError(f"{token!r} belongs to no flag; flags begin with --")
            flag, has_value, value = token.partition("=")
            following = [value] if has_value else []
            while not has_value and rest and not _FLAG.match(rest[0]):
                following.append(rest.pop(0))
            self._add(found, _canonical(flag), following, prefix="--")
        return found, file

    def read_file(self, path: Path) -> dict[str, list[str]]:
        """Read a file of flags; its environment variables are set where there is none yet."""
        values, environment = read_flag_file(path)
        for name, value in environment.items():
            os.environ.setdefault(name, value)
        found: dict[str, list[str]] = {}
        for name, texts in values.items():
            self._add(found, _canonical(name), texts, prefix="", where=f"{path}: ")
        return found

    def read_environment(self, environment: Mapping[str, str]) -> dict[str, list[str]]:
        """Read the environment variables that stand in for flags of this command."""
        found: dict[str, list[str]] = {}
        for name, variable in ENVIRONMENT.items():
            if name in self._options and environment.get(variable):
                where = f"environment variable {variable}: "
                self._add(found, name, [environment[variable]], prefix="--", where=where)
        return found

    def _add(
        self, found: dict[str, list[str]], name: str, values: list[str], *, prefix: str,
        where: str = "",
    ) -> None:  # fmt: skip
        option = self._options.get(name)
        if option is None:
            _check_unknown(name, values, self._options, prefix, where)
            return
        flag = f"{prefix}{name}"
        assert not option.is_flag, f"{flag} has to be a Literal of true and false"
        values = [VALUE_ALIASES.get(option.name, {}).get(value, value) for value in values]
        if option.metavar == _TRUTH_FORM:
            values = [_truth(flag, values, where)]
        if not values:
            raise ConfigError(
                f"{where}{flag} has no value; give one, as in {flag} {_example(option)}"
            )
        if len(values) > 1 and not option.multiple:
            raise ConfigError(
                f"{where}{flag} takes one value but has {len(values)}: {' '.join(values)}; put "
                "quotes around a value with spaces"
            )
        key = option.opts[0]
        found[key] = found.get(key, []) + values if option.multiple else values


def _canonical(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def _example(option: Any) -> str:
    return str(option.metavar or "VALUE")


def _truth(flag: str, values: Sequence[str], where: str) -> str:
    word = values[0].lower() if values else TRUTH[0]
    if len(values) > 1 or word not in TRUE_WORDS | FALSE_WORDS:
        raise ConfigError(f"{where}{flag} is {' '.join(values)!r}; needed: true or false")
    return TRUTH[0] if word in TRUE_WORDS else TRUTH[1]


def _check_unknown(
    name: str, values: Sequence[str], known: Mapping[str, Any], prefix: str, where: str
) -> None:
    """Let a flag pass that would change nothing, and refuse any other."""
    if name in FIXED:
        beginnings, reason = FIXED[name]
        value = values[0].lower() if values else TRUTH[0]
        if value.startswith(beginnings):
            return
        raise ConfigError(
            f"{where}{prefix}{name} is {value!r}; needed: {' or '.join(beginnings)}, or leave it "
            f"out: {reason}"
        )
    hint = f"; {REPLACED[name]}" if name in REPLACED else suggest(name, known, prefix)
    raise ConfigError(f"{where}unknown flag {prefix}{name}{hint or '; --help lists all flags'}")
