"""What every engine can do, so that its users need not know which one answers.

Our own engine stands in :mod:`internvl35.generate.engine`, vLLM's in
:mod:`internvl35.generate.vllm_engine`. No counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from internvl35.generate.answers import Completion, Update
from internvl35.generate.flash import FlashSettings
from internvl35.generate.request import Request
from internvl35.generate.sampling import SamplingSettings


class GenerationEngine(Protocol):
    """Answers requests, many at a time; each gets the answer that it would get alone.

    A request that is wrong, or whose answer fails, ends with the finish reason ``error`` and says
    why; the others go on.
    """

    def generate(
        self,
        requests: Sequence[Request],
        sampling: SamplingSettings | Sequence[SamplingSettings],
        *,
        flash: FlashSettings | Sequence[FlashSettings | None] | None = None,
    ) -> list[Completion]:
        """Answer requests and wait for all of them.

        Args:
            requests: not routed yet; pictures as tiles, or as visual tokens computed before.
            sampling: for all requests, or one for each.
            flash: which tiles are compressed, for all requests or for each; None as the checkpoint
                says.

        Returns:
            A completion a request, in order.

        Raises:
            ConfigError: if the engine cannot do at all what is asked.
        """
        ...

    def stream(
        self,
        request: Request,
        sampling: SamplingSettings,
        *,
        request_id: str | None = None,
        priority: int = 0,
        flash: FlashSettings | None = None,
        cache_salt: str = "",
    ) -> AsyncIterator[Update]:
        """Answer one request and hand out its answers while they are written.

        Leaving the iterator early cancels the request.

        Args:
            request: as for :meth:`generate`.
            sampling: how the answers are chosen.
            request_id: its name, unique among those in work; None for a new one.
            priority: lower numbers are served first.
            flash: as for :meth:`generate`.
            cache_salt: only requests of equal salt share cached prefixes.

        Returns:
            Updates; the last one of each answer says why it ended.

        Raises:
            ConfigError: if the engine cannot do at all what is asked.
        """
        ...

    @property
    def stalled_s(self) -> float:
        """Seconds for which work has stood still; 0 while it goes on, and for who cannot tell."""
        return 0.0

    def close(self) -> None:
        """End all requests and give back threads and processes; a second call is harmless."""
        ...


def one_each(given: Any, count: int) -> list[Any]:
    """Repeat one setting for all of so many requests, or take a list of them as it is."""
    return list(given) if isinstance(given, list | tuple) else [given] * count
