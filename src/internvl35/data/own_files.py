"""A hub's data set is loaded from its own files alone, whatever its README declares.

The ``datasets`` library takes any path or address that a README names; here such a set is refused,
before anything is asked for and again when its files are known. Reading rows is left to
:mod:`internvl35.data.arrow_tables`. No counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import huggingface_hub
import yaml
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

from internvl35.errors import DataError

DECLARING_FILES = ("README.md", ".huggingface.yaml")
"""Files in which a set says which others it is made of."""

_KEYS = ("data_files", "data_dir")
_MAX_CHARACTERS = 1 << 20

# huggingface_hub changed its HTTP library between versions; its own error derives from the root of
# whichever it uses, which is what a connection lost half-way raises
HTTP_ERROR: type[Exception] = next(c for c in HfHubHTTPError.__mro__ if c.__name__ == "HTTPError")
"""What a lost connection to the Hugging Face hub raises."""


def check_folder(folder: Path, label: str) -> None:
    """Refuse a folder that declares files outside it.

    Args:
        folder: of the set.
        label: what messages call the set.

    Raises:
        DataError: if it does.
    """
    for name in DECLARING_FILES:
        _check_declared(folder / name, label)


def check_repository(place: str, *, revision: str | None, token: str | None) -> None:
    """Refuse a set of the Hugging Face hub that declares files of others.

    Args:
        place: its name on the hub.
        revision: branch, tag or commit.
        token: access token, by default the one logged in with.

    Raises:
        DataError: if it does.
    """
    for name in DECLARING_FILES:
        try:
            path = huggingface_hub.hf_hub_download(
                place, name, repo_type="dataset", revision=revision, token=token
            )
        except (OSError, ValueError, EntryNotFoundError, HTTP_ERROR):
            continue  # there is none, or loading the set says what is wrong
        _check_declared(Path(path), place)


def load_own(datasets: Any, path: str, label: str, **where: Any) -> Any:
    """Load a set, unless a file outside it belongs to it.

    Args:
        datasets: the library.
        path: folder, or name on the Hugging Face hub.
        label: what messages call the set.
        where: subset, revision and so on, as ``datasets.load_dataset`` takes them.

    Returns:
        ``datasets.DatasetDict``.

    Raises:
        DataError: if a file is not the set's own.
    """
    builder = datasets.load_dataset_builder(path, **where)
    folder = Path(path).resolve() if Path(path).is_dir() else None
    for files in (builder.config.data_files or {}).values():
        for file in map(str, files):
            if folder is None:
                is_own = file.startswith(f"hf://datasets/{path}@") and ".." not in _parts(file)
            else:
                is_own = "://" not in file and Path(file).resolve().is_relative_to(folder)
            if not is_own:
                raise _foreign(file, label)
    builder.download_and_prepare()
    return builder.as_dataset()


def _check_declared(path: Path, label: str) -> None:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")[:_MAX_CHARACTERS]
    except OSError:
        return
    if path.suffix == ".md":
        text = text.removeprefix("---").partition("\n---")[0] if text.startswith("---") else ""
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return  # the library says what is wrong with it
    entries = content.get("configs") if isinstance(content, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        for key in _KEYS if isinstance(entry, dict) else ():
            for declared in _texts(entry.get(key), set()):
                is_address = "://" in declared or "::" in declared
                if is_address or declared.startswith(("/", "~", "\\")) or ".." in _parts(declared):
                    raise _foreign(declared, label)


def _parts(text: str) -> tuple[str, ...]:
    return PurePosixPath(text.replace("\\", "/")).parts


def _texts(value: Any, seen: set[int]) -> Iterator[str]:
    """All texts in a value of YAML, which may hold itself."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)) and id(value) not in seen:
        seen.add(id(value))
        inner: Iterable[Any] = value.values() if isinstance(value, dict) else value
        for part in inner:
            yield from _texts(part, seen)


def _foreign(name: str, label: str) -> DataError:
    return DataError(
        f"{label} declares the file {name[:200]!r}, which is not one of its own; a hub's set may "
        "have no others: if you trust it, fetch what you need and pass that"
    )
