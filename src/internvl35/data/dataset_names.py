"""The names of data sets on the command line: ``[hf::|ms::]place[:subset1/subset2|:all][#count]``.

Opening what a name stands for is left to :mod:`internvl35.data.tables` and
:mod:`internvl35.data.hub_tables`. No counterpart in the paper.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from internvl35.errors import ConfigError, DataError

Hub: TypeAlias = Literal["hf", "ms"]
"""Hugging Face or ModelScope."""

ALL_SUBSETS = "all"
"""Stands for every subset of a data set."""

MAX_COUNT = 2**31 - 1
"""Most rows that may be asked for."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_FILE_ENDINGS = (
    ".json", ".jsonl", ".csv", ".tsv", ".txt", ".parquet", ".arrow", ".gz", ".zip", ".xlsx",
)  # fmt: skip


@dataclass(frozen=True)
class DatasetName:
    """What a name says."""

    place: str
    """A file or folder of this machine, or a hub's ``owner/name``."""
    is_local: bool = False
    """Whether ``place`` is a file or folder."""
    hub: Hub | None = None
    """Hub that the name asks for; None for the run's."""
    subsets: tuple[str, ...] = ()
    """Subsets in order; ``("all",)`` for every one; empty for the only or default one."""
    count: int | None = None
    """Rows that are taken; more than there are repeats them. None for all rows once."""

    def __str__(self) -> str:
        """Write the name in the form it is parsed from."""
        prefix = f"{self.hub}::" if self.hub else ""
        subsets = f":{'/'.join(self.subsets)}" if self.subsets else ""
        count = "" if self.count is None else f"#{self.count}"
        return f"{prefix}{self.place}{subsets}{count}"


def parse_dataset_name(text: str) -> DatasetName:
    """Take a data set's name apart.

    A text that is the path of something on this machine, as a whole or up to its ``#count`` or its
    ``:subset``, names just that; whatever else looks like ``owner/name`` is looked up on a hub.

    Args:
        text: for example ``AI-ModelScope/LaTeX_OCR:human_handwrite#20000`` or ``rows.jsonl#500``.

    Returns:
        Its parts.

    Raises:
        ConfigError: if it does not follow the grammar.
        DataError: if it is a path and nothing is there.
    """
    if not text.strip():
        raise ConfigError("the name of a data set is empty; pass a file, a folder or owner/name")
    hub, rest = _split_hub(text)
    if hub is None and _exists(rest):
        return DatasetName(_expand(rest), is_local=True)
    rest, count = _split_count(rest, text, is_local=hub is None)
    if hub is None and _exists(rest):
        return DatasetName(_expand(rest), is_local=True, count=count)
    place, colon, subset_text = rest.rpartition(":")
    if not colon:
        place, subset_text = rest, ""
    subsets = tuple(subset_text.split("/")) if colon else ()
    if not all(map(str.strip, subsets)) or (ALL_SUBSETS in subsets and len(subsets) > 1):
        raise ConfigError(
            f"{text!r} names the subsets {subset_text!r}; needed: name:subset1/subset2, or name:all"
        )
    if hub is None and _exists(place):
        if not Path(_expand(place)).is_dir():
            raise ConfigError(f"{text!r}: the file {place} has no subsets; leave out {subset_text}")
        return DatasetName(_expand(place), is_local=True, subsets=subsets, count=count)
    _check_hub_id(place, text, hub)
    return DatasetName(place, hub=hub, subsets=subsets, count=count)


def _split_hub(text: str) -> tuple[Hub | None, str]:
    prefix, marker, rest = text.partition("::")
    if not marker or _exists(text):
        return None, text
    prefix = prefix.lower()
    if prefix == "hf":
        return "hf", rest
    if prefix == "ms":
        return "ms", rest
    raise ConfigError(f"{text!r} begins with the unknown hub {prefix!r}; known: hf::, ms::")


def _split_count(rest: str, text: str, *, is_local: bool) -> tuple[str, int | None]:
    place, marker, digits = rest.rpartition("#")
    if not marker:
        return rest, None
    if not re.fullmatch(r"[0-9]+", digits):
        raise ConfigError(
            f"{text!r} asks for {digits!r} rows; needed: a whole number behind #"
            + (", or the path of something that exists" if is_local else "")
        )
    count = int(digits) if len(digits) <= len(str(MAX_COUNT)) else MAX_COUNT + 1
    if not 1 <= count <= MAX_COUNT:
        raise ConfigError(f"{text!r} asks for {digits} rows; needed: 1 to {MAX_COUNT}")
    return place, count


def _check_hub_id(place: str, text: str, hub: Hub | None) -> None:
    if hub is None and _looks_like_path(place):
        at = Path(_expand(place)).absolute()
        raise DataError(f"data set {text!r}: no such file or folder (looked at {at})")
    if not _HUB_ID.fullmatch(place) or (hub != "hf" and "/" not in place):
        raise DataError(
            f"data set {text!r}: neither a file or folder of this machine nor a hub's owner/name; "
            "check the name"
        )


def _looks_like_path(place: str) -> bool:
    is_anchored = place.startswith((".", "~", "/", "\\")) or "\\" in place
    return is_anchored or place.count("/") > 1 or place.lower().endswith(_FILE_ENDINGS)


def _expand(place: str) -> str:
    try:
        return str(Path(place).expanduser())
    except RuntimeError:  # ~name of nobody
        return place


def _exists(place: str) -> bool:
    try:
        return bool(place) and Path(_expand(place)).exists()
    except (OSError, ValueError):
        return False
