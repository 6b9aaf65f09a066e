"""Where the items of a large JSON list stand in its file, without reading the file into memory.

Items are found by brackets and quotes alone; whether each is valid JSON shows when it is read. No
counterpart in the paper.
"""

from __future__ import annotations

import mmap
import re
from array import array
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from internvl35.errors import DataError

LIST_KEY = b'"data"'
"""Key of an object under which its list of rows stands."""

# a whole string, or one character that opens, closes or separates; possessive, so that a file
# without a closing quote costs no more than a walk to its end
_TOKENS = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["{}\[\],]', re.DOTALL)
_BLANK = b" \t\r\n"
_CHUNK_BYTES = 1 << 20


def find_items(
    file: BinaryIO, start: int, path: Path
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the items of the list in a file, or of the list under ``data`` of its object.

    Args:
        file: a file of this machine, opened in binary mode.
        start: offset of its first character.
        path: its name in messages.

    Returns:
        Offsets of the first byte of each item, and of the one behind it.

    Raises:
        DataError: if there is no such list, it does not end, or an item is missing.
    """
    file.seek(0, 2)
    if file.tell() == start:
        raise DataError(f"{path} is empty")
    # closed when nothing refers to it: a match in an error's traceback would forbid closing it here
    content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return _split_list(content, _find_list(content, start, path), path)


def _find_list(content: mmap.mmap, start: int, path: Path) -> int:
    """Find the bracket that opens the list."""
    depth, key, is_key_next = 0, b"", False
    for match in _TOKENS.finditer(content, start):
        token = match.group()
        if depth == 0:
            if content[start : match.start()].strip(_BLANK) or token not in (b"[", b"{"):
                break
            if token == b"[":
                return match.start()
            depth, is_key_next = 1, True
        elif token in (b"{", b"["):
            if depth == 1 and token == b"[" and key == LIST_KEY and not is_key_next:
                return match.start()
            depth += 1
        elif token in (b"}", b"]"):
            depth -= 1
            if depth == 0:
                break
        elif depth == 1 and token == b",":
            is_key_next = True
        elif depth == 1 and is_key_next and len(token) > 1:
            key, is_key_next = token, False
    raise DataError(
        f"{path} holds no list of rows; needed: a JSON list, an object with a list under 'data', "
        "or one object a line in a .jsonl file"
    )


def _split_list(
    content: mmap.mmap, opening: int, path: Path
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    starts, ends = array("q"), array("q")
    begin, depth = opening + 1, 1
    for match in _TOKENS.finditer(content, opening + 1):
        token = match.group()
        if token == b'"':
            line = _line_of(content, match.start())
            raise DataError(f"{path} line {line}: a quote that opens a text is never closed")
        if token in (b"{", b"["):
            depth += 1
            continue
        is_end = token in (b"}", b"]")
        depth -= is_end
        if not (depth == 1 and token == b",") and depth > 0:
            continue
        if content[begin : match.start()].strip(_BLANK):
            starts.append(begin)
            ends.append(match.start())
        elif token == b"," or starts:
            line = _line_of(content, match.start())
            raise DataError(f"{path} line {line}: an item is missing; drop the comma too many")
        if depth == 0:
            return np.asarray(starts, dtype=np.int64), np.asarray(ends, dtype=np.int64)
        begin = match.end()
    raise DataError(f"{path} ends before its list of rows does; was it cut off?")


def _line_of(content: mmap.mmap, offset: int) -> int:
    steps = range(0, offset, _CHUNK_BYTES)
    return 1 + sum(content[at : min(at + _CHUNK_BYTES, offset)].count(b"\n") for at in steps)
