"""Drawn examples in files, for machines that train faster than they draw.

A shard is one safetensors file that is whole or absent, so that an interrupted rendering goes on
with what is missing. What an example is is left to :mod:`internvl35.train.tiny.examples`.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from internvl35.data.batches import Example
from internvl35.data.synthetic.labels import MARK_LABELS
from internvl35.errors import DataError
from internvl35.train.tiny.examples import DrawnExamples

SHARD_SIZE = 2000
"""Examples a shard."""

_FACTS = "facts"


@dataclass(frozen=True)
class ShardSet:
    """The shards of one stage."""

    folder: Path
    """Where they are."""
    num_shards: int
    """Shards in all."""
    shard_size: int = SHARD_SIZE
    """Examples a shard."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What decides what is drawn, as it would stand in a JSON file; kept in every shard."""

    def path(self, number: int) -> Path:
        """File of a shard."""
        return self.folder / f"shard-{number:05d}.safetensors"

    @property
    def missing(self) -> list[int]:
        """Numbers of shards that are not there."""
        return [number for number in range(self.num_shards) if not self.path(number).exists()]

    @property
    def facts(self) -> dict[str, Any]:
        """What is written into every shard, to be told from shards of other drawings."""
        return {"labels": list(MARK_LABELS), "settings": dict(self.settings)}

    def check(self) -> None:
        """Refuse shards that hold other drawings than these.

        Raises:
            DataError: if a shard that is there was drawn otherwise, or cannot be read.
        """
        for number in range(self.num_shards):
            if self.path(number).exists():
                _check_facts(self.path(number), self.facts)

    def __len__(self) -> int:
        """Count the examples."""
        return self.num_shards * self.shard_size


def render_shards(
    shards: ShardSet,
    examples: DrawnExamples,
    num_processes: int,
    *,
    keep_going: Callable[[], bool] = lambda: True,
) -> Iterator[int]:
    """Draw the shards that are missing.

    Args:
        shards: which there shall be.
        examples: of the stage; shard n holds those from ``n * shard_size`` on.
        num_processes: processes that draw.
        keep_going: asked after every shard; False leaves the rest for another time.

    Yields:
        How many shards there are, after every one.

    Raises:
        DataError: if a shard that is there holds other drawings.
    """
    shards.folder.mkdir(parents=True, exist_ok=True)
    shards.check()
    for left_behind in shards.folder.glob("*.partial"):
        left_behind.unlink()
    waiting = shards.missing
    done = shards.num_shards - len(waiting)
    if not waiting:
        return
    running: set[Future[None]] = set()
    with ProcessPoolExecutor(num_processes, get_context("fork")) as pool:
        while waiting or running:
            while waiting and len(running) < num_processes:
                running.add(pool.submit(write_shard, shards, examples, waiting.pop(0)))
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()
                done += 1
                yield done
            if not keep_going():
                waiting = []


def write_shard(shards: ShardSet, examples: DrawnExamples, number: int) -> None:
    """Draw one shard and write it as a whole.

    Args:
        shards: which it belongs to.
        examples: of the stage.
        number: of the shard.
    """
    torch.set_num_threads(1)
    first = number * shards.shard_size
    drawn = [examples[first + place] for place in range(shards.shard_size)]
    partial_path = shards.path(number).with_suffix(f".{os.getpid()}.partial")
    save_file(_pack(drawn), partial_path, {_FACTS: json.dumps(shards.facts)})
    partial_path.replace(shards.path(number))


def _pack(drawn: list[Example]) -> dict[str, Tensor]:
    levels = [e.pixel_values for e in drawn if e.pixel_values is not None]
    labels = [e.patch_labels for e in drawn if e.patch_labels is not None]
    tensors = {
        "num_tiles": torch.tensor([e.num_tiles for e in drawn], dtype=torch.int32),
        "num_tokens": torch.tensor([len(e.token_ids) for e in drawn], dtype=torch.int32),
        "token_ids": torch.tensor([i for e in drawn for i in e.token_ids], dtype=torch.int32),
        "loss_mask": torch.tensor([m for e in drawn for m in e.loss_mask], dtype=torch.bool),
    }
    if levels:
        tensors["levels"] = torch.cat(levels).contiguous()
        bits = np.packbits(torch.cat(labels).numpy(), axis=-1)
        tensors["labels"] = torch.from_numpy(bits)
    return tensors


class ShardedExamples:
    """Examples out of shards by their numbers, in another order every time round.

    Args:
        shards: all of which are there.
        seed: of the order.

    Raises:
        DataError: if a shard is missing, cannot be read, or holds other drawings.
    """

    def __init__(self, shards: ShardSet, seed: int = 0) -> None:
        """Open every shard; nothing is read yet."""
        if shards.missing:
            raise DataError(
                f"{len(shards.missing)} of {shards.num_shards} shards are missing in "
                f"{shards.folder}; render them first"
            )
        shards.check()
        self.shards = shards
        self.seed = seed
        self._open: tuple[int, dict[str, Any]] = (-1, {})

    def __getitem__(self, index: int) -> Example:
        """Read one example; numbers beyond the last begin a new round."""
        size = self.shards.shard_size
        turn, place = divmod(index, len(self.shards))
        # whole shards in a shuffled order, and shuffled inside: a shard is read once a round
        shard = _shuffled(self.shards.num_shards, f"{self.seed}/{turn}")[place // size]
        return self._read(shard, _shuffled(size, f"{self.seed}/{turn}/{shard}")[place % size])

    def _read(self, shard: int, place: int) -> Example:
        if self._open[0] != shard:
            self._open = (shard, _load(self.shards.path(shard)))
        content = self._open[1]
        first, last = content["token_places"][place : place + 2]
        ids: list[int] = content["token_ids"][first:last].tolist()
        mask: list[bool] = content["loss_mask"][first:last].tolist()
        low, high = content["tile_places"][place : place + 2]
        if low == high:
            return Example(ids, mask)
        bits: NDArray[np.uint8] = content["labels"][low:high]
        labels = np.unpackbits(bits, axis=-1, count=len(MARK_LABELS))
        return Example(ids, mask, content["levels"][low:high], torch.from_numpy(labels))


@lru_cache(maxsize=8)
def _shuffled(count: int, seed: str) -> tuple[int, ...]:
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return tuple(order)


def _load(path: Path) -> dict[str, Any]:
    with _opened(path) as file:
        content: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for kind in ("tile", "token"):
        counts = content[f"num_{kind}s"].tolist()
        content[f"{kind}_places"] = np.concatenate([[0], np.cumsum(counts)]).tolist()
    if "labels" in content:
        content["labels"] = content["labels"].numpy()
    return content


def _check_facts(path: Path, wanted: dict[str, Any]) -> None:
    with _opened(path) as file:
        facts = json.loads((file.metadata() or {}).get(_FACTS, "{}"))
    for name, value in wanted.items():
        if facts.get(name) != value:
            raise DataError(
                f"{path} was drawn with other {name} than are asked for now; remove {path.parent} "
                "and render again"
            )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; remove it and render again") from error
