"""Runs the vision tower beside answers: in a stream of a CUDA device, or in a thread of a CPU.

What is run and when is decided by :mod:`internvl35.generate.vision`. No counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from internvl35.model.composite import VisionLanguageModel

MOST_BESIDE = 2
"""Batches that a thread is given at once, so that it need not wait for the next step."""

UNSEEN_AN_ANSWER = 4
"""Requests whose tiles are not encoded that outweigh an answer in work: a step reads all weights,
however few its answers are, so tiles of more than these are better encoded before it, by all
threads, than beside it."""


class Encoding(Protocol):
    """Tiles that are being encoded, or were."""

    def is_done(self) -> bool:
        """Whether all of it is there; never waits."""
        ...

    def values(self) -> tuple[Tensor, Tensor]:
        """Hand out what is there, to be asked for once it is done.

        Returns:
            ``(N, ...)`` of the tiles, and ``(N,)`` bool, whether a tile's numbers are finite.

        Raises:
            RuntimeError: if encoding failed.
        """
        ...


@dataclass
class Encoded:
    """Tiles that a stream encodes, or that are encoded."""

    output: Tensor
    """``(N, ...)``; to be read through :meth:`values`."""
    is_finite: Tensor
    """``(N,)`` bool, whether a tile's numbers are finite; on a CUDA device to be read once done."""
    event: torch.cuda.Event | None = None
    """Reached when all of it is there; None if it is."""

    def is_done(self) -> bool:
        """Whether all of it is there; never waits."""
        return self.event is None or bool(self.event.query())

    def values(self) -> tuple[Tensor, Tensor]:
        """Hand the result to the stream that is now current; see :class:`Encoding`."""
        if self.event is not None:
            stream = torch.cuda.current_stream(self.output.device)
            stream.wait_event(self.event)
            self.output.record_stream(stream)  # else its memory is given away while in use here
        return self.output, self.is_finite


class SideStream:
    """A CUDA stream for the vision side of a model, if all of that is on one CUDA device.

    Args:
        model: whose tower, projectors and router will run.
    """

    def __init__(self, model: VisionLanguageModel) -> None:
        parts = (
            model.vision_tower, model.multi_modal_projector, model.compressed_projector,
            model.router,
        )  # fmt: skip
        devices = {p.device for part in parts if part is not None for p in part.parameters()}
        device = devices.pop()
        is_alone = not devices and device.type == "cuda"  # what is offloaded is on the meta device
        self._stream = torch.cuda.Stream(device) if is_alone else None

    def run(self, encode: Callable[[Tensor], Tensor], pixel_values: Tensor) -> Encoded:
        """Start to encode tiles.

        Args:
            encode: from tiles to ``(N, ...)``.
            pixel_values: ``(N, 3, tile, tile)`` on the CPU.

        Returns:
            The result, on a CUDA device before it is there.
        """
        if self._stream is None:
            return _encode(encode, pixel_values)
        # what is queued there may still use memory that this stream is given
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            output = encode(pixel_values.pin_memory().to(self._stream.device, non_blocking=True))
            is_finite = torch.empty(len(output), dtype=torch.bool, pin_memory=True)
            is_finite.copy_(_judge(output), non_blocking=True)
            event = torch.cuda.Event()
            event.record(self._stream)
        return Encoded(output, is_finite, event)


@dataclass(frozen=True)
class EncodedBeside:
    """Tiles that a thread encodes."""

    future: Future[Encoded]
    """What becomes of them."""

    def is_done(self) -> bool:
        """Whether all of it is there; never waits."""
        return self.future.done()

    def values(self) -> tuple[Tensor, Tensor]:
        """Hand the result out; see :class:`Encoding`."""
        return self.future.result().values()


class SideThread:
    """A thread for the vision side of a model on a CPU, which takes half of torch's threads.

    Belongs to one other thread, whose products get by with the rest of them meanwhile. Two halves
    are ahead of the whole in turn, since threads that share a small product wait for each other.

    Args:
        num_threads: threads of torch in all; None for those that the other thread has.
    """

    def __init__(self, num_threads: int | None = None) -> None:
        """Start nothing before it is needed."""
        self._num_threads = num_threads
        self._pool: ThreadPoolExecutor | None = None
        self._running: list[Future[Encoded]] = []

    @property
    def is_full(self) -> bool:
        """Whether a further batch would only wait."""
        return sum(not future.done() for future in self._running) >= MOST_BESIDE

    def run(self, encode: Callable[[Tensor], Tensor], pixel_values: Tensor) -> Encoding:
        """Start to encode tiles; with a single thread of torch, encode them.

        Args:
            encode: from tiles to ``(N, ...)``.
            pixel_values: ``(N, 3, tile, tile)``.

        Returns:
            The result, before it is there.
        """
        if self._num_threads is None:
            self._num_threads = torch.get_num_threads()
        share = self._num_threads // 2
        if not share:
            return _encode(encode, pixel_values)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(
                1, "encode-tiles", initializer=torch.set_num_threads, initargs=(share,)
            )
        torch.set_num_threads(self._num_threads - share)
        future = self._pool.submit(_encode, encode, pixel_values)
        self._running.append(future)
        return EncodedBeside(future)

    def settle(self) -> None:
        """Give the other thread its threads back if nothing is being encoded."""
        if self._running and all(future.done() for future in self._running):
            assert self._num_threads is not None
            torch.set_num_threads(self._num_threads)
            self._running.clear()


@torch.inference_mode()  # of the thread that runs it
def _encode(encode: Callable[[Tensor], Tensor], pixel_values: Tensor) -> Encoded:
    output = encode(pixel_values)
    return Encoded(output, _judge(output))


def _judge(output: Tensor) -> Tensor:
    return output.isfinite().flatten(1).all(dim=1)
