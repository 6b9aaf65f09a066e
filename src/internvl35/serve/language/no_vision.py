"""Stands where an engine has its vision stage, in a process that has none.

No counterpart in the paper.
"""

from __future__ import annotations

from internvl35.errors import PromptError
from internvl35.generate.encoders import EncodingResult
from internvl35.generate.flash import FlashSettings
from internvl35.generate.request import Request


class NoVision:
    """Refuses tiles; meets ``VisionEncoder``."""

    num_waiting_tiles = 0

    def __init__(self) -> None:
        """Begin with no requests."""
        self._results: dict[str, EncodingResult] = {}

    @property
    def has_work(self) -> bool:
        """Whether a refusal is to be handed out."""
        return bool(self._results)

    def submit(
        self,
        key: str,
        request: Request,
        flash: FlashSettings | None = None,
        *,
        cache_salt: str = "",
        priority: int = 0,
    ) -> None:
        """Refuse a request; see ``VisionEncoder``."""
        self._results[key] = PromptError(
            "pictures come as tiles to a process without a vision part; have them encoded first"
        )

    def cancel(self, key: str) -> None:
        """Forget a request; see ``VisionEncoder``."""
        self._results.pop(key, None)

    def forget_pictures(self) -> None:
        """Nothing is kept."""

    def step(
        self, max_tiles: int | None = None, *, num_answers: int | None = None
    ) -> list[tuple[str, EncodingResult]]:
        """Hand out refusals; see ``VisionEncoder``."""
        results, self._results = self._results, {}
        return list(results.items())
