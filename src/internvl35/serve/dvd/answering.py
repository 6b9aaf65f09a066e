"""A gateway's answerer whose engine is other processes.

What differs from one with an engine of its own stands here, the rest in
:mod:`internvl35.serve.answering`. No counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from internvl35.errors import ConfigError
from internvl35.generate.engines import GenerationEngine
from internvl35.serve.answering import Answerer, Defaults, OpenedCall
from internvl35.serve.chat_answer import AnswerFormat
from internvl35.serve.dvd.engine import DecoupledEngine
from internvl35.serve.dvd.figures import PeerFigures
from internvl35.serve.gateway_settings import GatewaySettings
from internvl35.serve.media import MediaLoader

if TYPE_CHECKING:
    from internvl35.chat import Chat


class DecoupledAnswerer(Answerer):
    """Answers requests by vision and language servers, and by the adapter that a body names.

    Args:
        chat: see :class:`Answerer`; it needs no weights.
        engine: a :class:`DecoupledEngine`.
        loader: see :class:`Answerer`.
        form: see :class:`Answerer`; answers of adapters carry their names.
        defaults: see :class:`Answerer`.
        settings: see :class:`Answerer`.
        names: of the model without adapters.

    Raises:
        ConfigError: if an adapter has a name of the model.
    """

    def __init__(
        self,
        chat: Chat,
        engine: GenerationEngine,
        loader: MediaLoader,
        form: AnswerFormat,
        defaults: Defaults,
        settings: GatewaySettings,
        names: Sequence[str],
    ) -> None:
        """Serve the adapters' names beside the model's."""
        self._adapters = self._decoupled(engine).adapters
        if taken := sorted(set(self._adapters) & set(names)):
            raise ConfigError(f"an adapter has the model's name {taken[0]}; give it another one")
        every = (*names, *self._adapters)
        super().__init__(chat, engine, loader, form, defaults, settings, every)

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
        adapter = name if name in self._adapters else None
        return replace(engine, adapter=adapter, can_restart=is_whole)

    def form_for(self, model: str | None) -> AnswerFormat:
        """Say who writes an answer down; see :class:`Answerer`."""
        return replace(self.form, model=model) if model in self._adapters else self.form

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
