"""A chat and an engine without a network, for tests of files of requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import torch

from internvl35.data.prompt import ImageSpan, Prompt
from internvl35.data.tiles import Grid
from internvl35.errors import ConfigError, PromptError
from internvl35.generate.answers import Completion, Sample, Update
from internvl35.generate.request import Request

END = 2
"""The token that ends an answer."""


class StubTokenizer:
    """Ids are code points."""

    def __init__(self) -> None:
        self.added_tokens_decoder = {END: "<end>"}

    def convert_ids_to_tokens(self, token_id: int) -> str:
        return chr(token_id)


class StubChat:
    """A token a character, 4 visual tokens a tile; ``BROKEN`` in a text is a fault of ours."""

    def __init__(self, max_tokens: int = 1_000_000) -> None:
        self.model = SimpleNamespace(
            config=SimpleNamespace(
                flash_mode=False, tokens_per_tile=4, compressed_tokens_per_tile=1
            )
        )
        self.tokenizer = StubTokenizer()
        self.rules = SimpleNamespace(end_token_ids=(END,))
        self.builder = self
        self.max_tokens = max_tokens
        self.cuts: list[tuple[Any, int | None]] = []

    def check_length(self, num_tokens: int) -> None:
        if num_tokens > self.max_tokens:
            raise PromptError(f"the prompt has {num_tokens} tokens")

    def cut(self, source: Any, max_tiles: int | None = None) -> tuple[torch.Tensor, Grid]:
        self.cuts.append((source, max_tiles))
        num_tiles = max_tiles or 3
        return torch.zeros(num_tiles, 3, 2, 2), Grid(1, num_tiles)

    def prepare(
        self, asked: Any, flash: Any = None, is_thinking: Any = None, **tools: str
    ) -> Request:
        text = asked.messages[-1].text
        if "BROKEN" in text:
            raise IndexError("list index out of range")
        counts = [len(tiles) for tiles in asked.pictures]
        spans = tuple(ImageSpan(0, 4 * count, count) for count in counts)
        ids = (*[1] * 4 * sum(counts), *map(ord, text))
        pixels = torch.cat(asked.pictures) if counts else None
        return Request(Prompt(ids, spans, (False,) * len(ids)), pixels)


class EchoEngine:
    """Answers with the prompt's text in capitals.

    ``REFUSE`` in it is an error of the request, ``RAISE`` one that the call raises, ``CRASH`` a
    fault of the engine.
    """

    def __init__(self, delay: Callable[[str], float] = lambda text: 0.0) -> None:
        self.delay = delay
        self.num_now = self.num_most = self.tiles_now = self.tiles_most = 0
        self.seen: list[tuple[str, Any, Any]] = []
        self.is_closed = False

    async def stream(
        self, request: Request, sampling: Any, *, request_id: str | None = None,
        priority: int = 0, flash: Any = None, cache_salt: str = "",
    ) -> AsyncIterator[Update]:  # fmt: skip
        assert request_id is not None
        text = "".join(chr(i) for i in request.prompt.token_ids if i > 1)
        num_tiles = request.prompt.num_tiles
        self.num_now += 1
        self.tiles_now += num_tiles
        self.num_most = max(self.num_most, self.num_now)
        self.tiles_most = max(self.tiles_most, self.tiles_now)
        self.seen.append((text, sampling, flash))
        try:
            await asyncio.sleep(self.delay(text))
            if "RAISE" in text:
                raise ConfigError("this engine cannot do that")
            if "CRASH" in text:
                raise RuntimeError("the engine is gone")
            new = "" if "REFUSE" in text else text.upper()
            error = "refused" if "REFUSE" in text else None
            ids = (*map(ord, new), END)
            samples = [
                Sample(ids, new, "error" if error else "stop", None, error)
                for _ in range(sampling.n)
            ]
            done = Completion(request_id, request, tuple(samples), 0)
            yield Update(request_id, 0, ids, new)
            yield Update(request_id, 0, finish_reason=samples[0].finish_reason, completion=done)
        finally:
            self.num_now -= 1
            self.tiles_now -= num_tiles

    def close(self) -> None:
        self.is_closed = True
