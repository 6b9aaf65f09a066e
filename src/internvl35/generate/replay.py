"""Steps in which answers alone go on, recorded once for each size and replayed.

A replayed CUDA graph runs on the very memory on which it was recorded, so that the device need not
wait for Python between two operations. Rows that are not in use have no tokens and write into a
block that nobody reads. What a step computes is left to :mod:`internvl35.generate.decoder`. No
counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from internvl35.model.composite import VisionLanguageModel

Record: TypeAlias = Callable[[Callable[[], None]], Callable[[], None]]
"""From an operation on fixed memory to what does it again."""

WARM_UPS = 2
"""Times that a step runs before it is recorded: caches are filled, kernels chosen."""

LEAST_PAGES = 4
"""Blocks of a sequence that every recorded step has room for."""


@dataclass(frozen=True)
class AnswerRow:
    """The newest tokens of several answers, one each."""

    ids: Any
    """``(B,)`` int64 token ids."""
    positions: Any
    """``(B,)`` int64, tokens before each."""
    slots: Any
    """``(B,)`` int64, where in the cache its keys and values go."""
    tables: Any
    """``(B, M)`` int32, blocks of its sequence, filled up with 0."""
    lengths: Any
    """``(B,)`` int32, tokens of its sequence, itself included; 0 where a row is not in use."""


class ReplayedSteps:
    """Records steps by their size, and replays them.

    Args:
        compute: from tensors of a row to ``(B, W)`` logits; never waits for the device.
        device: where it computes.
        max_rows: most answers of a step.
        spare_slot: where rows that are not in use write.
        record: records an operation.
    """

    def __init__(
        self,
        compute: Callable[[AnswerRow], Tensor],
        device: torch.device,
        max_rows: int,
        spare_slot: int,
        record: Record,
    ) -> None:
        """Begin with nothing recorded."""
        self._compute, self._device = compute, device
        self._max_rows, self._spare_slot = round_up(max_rows), spare_slot
        self._record = record
        self._recorded: dict[tuple[int, int], tuple[AnswerRow, Callable[[], None]]] = {}
        self._logits: Tensor | None = None

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Rows and blocks a row of what was recorded."""
        return list(self._recorded)

    def run(self, row: AnswerRow) -> Tensor:
        """Compute a step.

        Args:
            row: arrays, one entry at least.

        Returns:
            ``(B, W)`` logits, to be read before the next step.
        """
        num_rows, num_pages = row.tables.shape
        size = round_up(num_rows), max(LEAST_PAGES, round_up(num_pages))
        if size not in self._recorded:
            self._recorded[size] = self._make(size)
        place, replay = self._recorded[size]
        self._fill(place, row)
        replay()
        assert self._logits is not None
        return self._logits[:num_rows]

    def _make(self, size: tuple[int, int]) -> tuple[AnswerRow, Callable[[], None]]:
        place = _empty_row(size, self._device)
        self._fill(place, None)

        def step() -> None:
            logits = self._compute(place)
            if self._logits is None:  # one place for all sizes
                self._logits = logits.new_empty(self._max_rows, logits.shape[1])
            self._logits[: len(logits)].copy_(logits)

        step()
        return place, self._record(step)

    def _fill(self, place: AnswerRow, row: AnswerRow | None) -> None:
        """Write a row into the memory of a recorded step, and empty rows behind it."""
        rows, pages = place.tables.shape
        padded = _pad_row((rows, pages), row, self._spare_slot)
        for name in ("ids", "positions", "slots", "tables", "lengths"):
            getattr(place, name).copy_(to_device(getattr(padded, name), self._device))


def round_up(number: int) -> int:
    """Give the next power of two, so that few sizes are recorded."""
    return 1 << (number - 1).bit_length()


def record_graph(device: torch.device) -> Record:
    """Make what records CUDA graphs, all of which share their memory.

    Args:
        device: a CUDA device.
    """
    pool = torch.cuda.graph_pool_handle()

    def record(step: Callable[[], None]) -> Callable[[], None]:
        beside = torch.cuda.Stream(device)
        beside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(beside):
            for _ in range(WARM_UPS):
                step()
        torch.cuda.current_stream(device).wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            step()
        return graph.replay

    return record


def choose_record(model: VisionLanguageModel, is_wanted: bool | None) -> Record | None:
    """Choose what records the steps of a model.

    Args:
        model: whose language model computes them.
        is_wanted: whether steps are recorded; None for models that lie on one CUDA device and
            have no experts, which are chosen by numbers that Python reads.

    Returns:
        What records; on other devices than CUDA ones it computes each step anew, on the same
        memory. None if nothing is to be recorded.
    """
    device = model.input_device
    if is_wanted is None:
        parts = {parameter.device for parameter in model.language_model.parameters()}
        is_dense = model.config.text_config.model_type == "qwen3"
        is_wanted = device.type == "cuda" and parts == {device} and is_dense
    if not is_wanted:
        return None
    return record_graph(device) if device.type == "cuda" else lambda step: step


def _empty_row(size: tuple[int, int], device: torch.device) -> AnswerRow:
    rows, pages = size
    ids, positions, slots = torch.zeros(3, rows, dtype=torch.int64, device=device)
    tables = torch.zeros(rows, pages, dtype=torch.int32, device=device)
    lengths = torch.zeros(rows, dtype=torch.int32, device=device)
    return AnswerRow(ids, positions, slots, tables, lengths)


def _pad_row(size: tuple[int, int], row: AnswerRow | None, spare_slot: int) -> AnswerRow:
    padded = AnswerRow(
        np.zeros(size[0], np.int64), np.zeros(size[0], np.int64),
        np.full(size[0], spare_slot, np.int64), np.zeros(size, np.int32),
        np.zeros(size[0], np.int32),
    )  # fmt: skip
    if row is not None:
        count, pages = row.tables.shape
        for name in ("ids", "positions", "slots", "lengths"):
            getattr(padded, name)[:count] = getattr(row, name)
        padded.tables[:count, :pages] = row.tables
    return padded


def to_device(values: NDArray[Any], device: torch.device) -> Tensor:
    """Bring an array to where steps are computed; to a CUDA device without waiting for it."""
    found = torch.from_numpy(values)
    if device.type != "cuda":
        return found.to(device)
    return found.pin_memory().to(device, non_blocking=True)
