"""Files of flags: YAML or JSON, one flag a key, as texts that a command line could hold.

Which flags there are is left to :mod:`internvl35.commands.flags`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from internvl35.errors import ConfigError

FILE_SUFFIXES = (".yaml", ".yml", ".json")
"""How the name of a file of flags ends."""

ENVIRONMENT_KEY = "ENV"
"""Key under which environment variables stand."""


def read_flag_file(path: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Read a file of flags.

    Args:
        path: ends in .yaml, .yml or .json.

    Returns:
        Flag to its values as texts, flags that are null left out; and environment variables.

    Raises:
        ConfigError: if the file cannot be read, or is not one object.
    """
    content = _read_object(path)
    environment = content.pop(ENVIRONMENT_KEY, None) or {}
    if not isinstance(environment, dict):
        raise ConfigError(f"{path}: {ENVIRONMENT_KEY} is not an object of environment variables")
    flags = {
        str(name): [_as_text(item) for item in (value if isinstance(value, list) else [value])]
        for name, value in content.items()
        if value is not None
    }
    return flags, {str(name): _as_text(value) for name, value in environment.items()}


def _read_object(path: Path) -> dict[Any, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the file of flags {path} cannot be read: {error}") from error
    if path.suffix == ".json":
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path} is not JSON: {error}") from error
    else:
        import yaml

        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}; needed: one flag a key")
    return content


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
