"""A gateway's answerer whose engine is other processes.

What differs from one with an engine of its own stands here, the rest in
:mod:`internvl35.serve.answering`. No counterpart in the paper.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from internvl35.generate.engines import GenerationEngine
from internvl35.serve.answering import Answerer, OpenedCall
from internvl35.serve.dvd.engine import DecoupledEngine
from internvl35.serve.dvd.figures import PeerFigures


class DecoupledAnswerer(Answerer):
    """Answers requests by vision and language servers, and by the adapter that a body names.

    Its engine is a :class:`DecoupledEngine`, and its chat needs no weights.
    """

    @property
    def is_ready(self) -> bool:
        """Whether requests are taken, and there is a server of each kind."""
        return super().is_ready and self._decoupled(self.engine).servers.is_up

    async def start(self) -> None:
        """Begin to connect."""
        servers = self._decoupled(self.engine).servers
        self.metrics.register(PeerFigures(servers.pools))
        await servers.start()

    async def stop(self) -> None:
        """End all connections."""
        await super().stop()
        await self._decoupled(self.engine).servers.close()

    def engine_for(self, opened: OpenedCall, *, is_whole: bool) -> GenerationEngine:
        """Say who answers; what nobody has seen a part of can be begun anew elsewhere."""
        engine, name = self._decoupled(self.engine), opened.call.model
        adapter = name if name in self.adapters else None
        return replace(engine, adapter=adapter, can_restart=is_whole)

    def to_tiles(self, levels: NDArray[np.uint8]) -> Tensor:
        """Leave levels as they are, but for the order in which they travel: colours last."""
        rows = np.ascontiguousarray(levels.transpose(0, 2, 3, 1))
        rows = rows if rows.flags.writeable else rows.copy()  # torch takes no others
        return torch.from_numpy(rows).permute(0, 3, 1, 2)

    def note_fault(self) -> None:
        """Go on: a fault in one request is none of the servers'."""

    def _decoupled(self, engine: GenerationEngine) -> DecoupledEngine:
        assert isinstance(engine, DecoupledEngine)
        return engine
