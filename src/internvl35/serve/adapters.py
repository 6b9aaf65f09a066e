"""A model and adapters of it (LoRA), each asked by its own name.

Loading them is left to :mod:`internvl35.commands.serve_engine`. No counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from internvl35.generate.answers import Completion, Update
from internvl35.generate.engines import GenerationEngine
from internvl35.generate.request import Request
from internvl35.generate.sampling import SamplingSettings
from internvl35.serve.answering import Answerer, OpenedCall


class AdaptedEngines(GenerationEngine):
    """An engine, and one for each adapter; asked as it is, the model without adapters answers.

    Keys and values depend on the adapter, so every engine has a cache of its own.

    Args:
        plain: answers without an adapter.
        adapters: engines by the names of their adapters; the caller closes all.
    """

    def __init__(self, plain: GenerationEngine, adapters: Mapping[str, GenerationEngine]) -> None:
        """Keep the engines."""
        self.plain, self.adapters = plain, dict(adapters)

    def generate(
        self, requests: Sequence[Request], sampling: SamplingSettings | Sequence[SamplingSettings],
        **options: Any,
    ) -> list[Completion]:  # fmt: skip
        """Answer requests without an adapter; see ``GenerationEngine``."""
        return self.plain.generate(requests, sampling, **options)

    def stream(
        self, request: Request, sampling: SamplingSettings, **options: Any
    ) -> AsyncIterator[Update]:
        """Answer one request without an adapter; see ``GenerationEngine``."""
        return self.plain.stream(request, sampling, **options)

    def close(self) -> None:
        """End all engines."""
        for engine in (self.plain, *self.adapters.values()):
            engine.close()


class AdapterAnswerer(Answerer):
    """Answers by the adapter that a body names as its model; all share the limits and prompts."""

    def engine_for(self, opened: OpenedCall, *, is_whole: bool) -> GenerationEngine:
        """Say who answers a request; see :class:`Answerer`."""
        assert isinstance(self.engine, AdaptedEngines)
        return self.engine.adapters.get(opened.call.model or "", self.engine)
