"""Records written as JSON lines that can be read again, pictures that were in memory beside them.

No counterpart in the paper.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from internvl35.data.messages import Message
from internvl35.data.records import Record
from internvl35.data.row_turns import break_after_marks
from internvl35.errors import DataError

_ENDINGS = (
    (b"\x89PNG", ".png"), (b"\xff\xd8\xff", ".jpg"), (b"GIF8", ".gif"), (b"BM", ".bmp"),
    (b"II*\0", ".tif"), (b"MM\0*", ".tif"), (b"RIFF", ".webp"),
)  # fmt: skip


def write_rows(records: Iterable[Record], path: Path) -> int:
    """Write records as rows of messages, as a whole or not at all.

    Pictures and videos that are files or addresses are named where they are; those that came as
    bytes are saved in a folder beside the file, ``val_images`` for ``val_dataset.jsonl``.

    Args:
        records: any number.
        path: the file, which is replaced if it is there.

    Returns:
        Rows written.

    Raises:
        DataError: if a record cannot be read, or holds what no row can.
        OSError: if the file cannot be written.
    """
    folder = path.parent / f"{path.stem.removesuffix('_dataset')}_images"
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    count = 0
    try:
        # half a character of UTF-16 becomes its escape, which JSON knows
        with partial.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            for record in records:
                count += 1
                row = _write(record, folder, f"{count:06d}")
                file.write(json.dumps(row, ensure_ascii=False, default=_write_other) + "\n")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return count


def _write(record: Record, folder: Path, number: str) -> dict[str, Any]:
    row: dict[str, Any] = dict(record.extra)
    # this form keeps a mark without a line break behind it as it is
    is_verbatim = any(
        message.role == "user" and break_after_marks(message.text) != message.text
        for message in record.messages
    )
    keys = ("from", "value") if is_verbatim else ("role", "content")
    row["conversations" if is_verbatim else "messages"] = [
        _write_message(message, keys) for message in record.messages
    ]
    if record.images:
        row["images"] = [
            _write_media(image, folder, f"{number}-{place}")
            for place, image in enumerate(record.images)
        ]
    if record.videos:
        row["videos"] = [
            [
                _write_media(frame, folder, f"{number}-v{place}-{at}")
                for at, frame in enumerate(video)
            ]
            if isinstance(video, tuple)
            else _write_media(video, folder, f"{number}-v{place}")
            for place, video in enumerate(record.videos)
        ]
    if record.tools is not None:
        row["tools"] = record.tools
    if record.objects is not None:
        objects = record.objects
        row["objects"] = {
            "ref": objects.refs, "bbox": objects.boxes, "bbox_type": objects.unit,
            "image_id": objects.image_numbers,
        }  # fmt: skip
    for name in ("max_dynamic_patch", "data_augment"):
        if getattr(record, name) is not None:
            row[name] = getattr(record, name)
    return row


def _write_other(value: Any) -> Any:
    """Write what JSON has no form for and only columns that nothing is read from can hold."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"bytes": base64.b64encode(value).decode("ascii")}
    return str(value)


def _write_message(message: Message, keys: tuple[str, str]) -> Mapping[str, Any]:
    row: dict[str, Any] = {keys[0]: message.role, keys[1]: message.text}
    if message.thinking is not None:
        row["reasoning_content"] = message.thinking
    if message.has_loss is not None:
        row["loss"] = message.has_loss
    return row


def _write_media(source: Any, folder: Path, stem: str) -> str:
    if isinstance(source, str):
        return source
    if isinstance(source, os.PathLike):
        return str(Path(source).absolute())
    if isinstance(source, np.ndarray):
        source = Image.fromarray(source)
    if isinstance(source, Image.Image):
        buffer = io.BytesIO()
        source.save(buffer, format="PNG")
        source = buffer.getvalue()
    if not isinstance(source, (bytes, bytearray, memoryview)):
        raise DataError(f"a source of type {type(source).__name__} cannot be written as a row")
    data = bytes(source)
    ending = next((ending for magic, ending in _ENDINGS if data.startswith(magic)), ".bin")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{stem}{ending}"
    target.write_bytes(data)
    return f"{folder.name}/{target.name}"
