"""A model and adapters of it (LoRA), each asked by its own name.

Loading them is left to :mod:`internvl35.commands.serve_engine`. No counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from internvl35.errors import ConfigError
from internvl35.generate.answers import Completion, Update
from internvl35.generate.engines import GenerationEngine
from internvl35.generate.request import Request
from internvl35.generate.sampling import SamplingSettings
from internvl35.serve.answering import Answerer, Defaults, OpenedCall
from internvl35.serve.chat_answer import AnswerFormat
from internvl35.serve.gateway_settings import GatewaySettings
from internvl35.serve.media import MediaLoader

if TYPE_CHECKING:
    from internvl35.chat import Chat


class AdaptedEngines:
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
    """Answers by the adapter that a body names as its model.

    Args:
        chat: see :class:`Answerer`; adapters share its prompts.
        engine: the engines.
        loader: see :class:`Answerer`.
        form: see :class:`Answerer`; answers of adapters carry their names.
        defaults: see :class:`Answerer`.
        settings: see :class:`Answerer`; all adapters share the limits.
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
        assert isinstance(engine, AdaptedEngines)
        self._adapters = engine.adapters
        if taken := sorted(self._adapters.keys() & set(names)):
            raise ConfigError(f"an adapter has the model's name {taken[0]}; give it another one")
        every = (*names, *self._adapters)
        super().__init__(chat, engine, loader, form, defaults, settings, every)

    def engine_for(self, opened: OpenedCall, *, is_whole: bool) -> GenerationEngine:
        """Say who answers a request; see :class:`Answerer`."""
        return self._adapters.get(opened.call.model or "", self.engine)

    def form_for(self, model: str | None) -> AnswerFormat:
        """Say who writes an answer down; see :class:`Answerer`."""
        return replace(self.form, model=model) if model in self._adapters else self.form
