"""Runs the vision tower beside decoding on a CUDA device, and plainly elsewhere.

What is run and when is decided by :mod:`internvl35.generate.vision`. No counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from internvl35.model.composite import VisionLanguageModel


@dataclass
class Encoded:
    """Tiles that are being encoded, or were."""

    output: Tensor
    """``(N, ...)``; to be read through :meth:`values`."""
    is_finite: Tensor
    """``(N,)`` bool, whether a tile's numbers are finite; on a CUDA device to be read once done."""
    event: torch.cuda.Event | None = None
    """Reached when all of it is there; None if it is."""

    def is_done(self) -> bool:
        """Whether all of it is there; never waits."""
        return self.event is None or bool(self.event.query())

    def values(self) -> Tensor:
        """Hand the result to the stream that is now current."""
        if self.event is not None:
            stream = torch.cuda.current_stream(self.output.device)
            stream.wait_event(self.event)
            self.output.record_stream(stream)  # else its memory is given away while in use here
        return self.output


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
            output = encode(pixel_values)
            return Encoded(output, _judge(output))
        # what is queued there may still use memory that this stream is given
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            output = encode(pixel_values.pin_memory().to(self._stream.device, non_blocking=True))
            is_finite = torch.empty(len(output), dtype=torch.bool, pin_memory=True)
            is_finite.copy_(_judge(output), non_blocking=True)
            event = torch.cuda.Event()
            event.record(self._stream)
        return Encoded(output, is_finite, event)


def _judge(output: Tensor) -> Tensor:
    return output.isfinite().flatten(1).all(dim=1)
