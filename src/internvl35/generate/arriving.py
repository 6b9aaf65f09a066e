"""Visual tokens that arrive piece by piece, while the prompt in front of them is computed already.

Whoever receives them adds them from any thread; the engine goes as far as they reach. Paper section
2.3, decoupled vision-language deployment: the stages overlap.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from internvl35.errors import InternVLError, MediaError
from internvl35.generate.digests import DIGEST_BYTES, is_finite


class ArrivingFeatures:
    """The visual tokens of one request, of which some may not be there yet.

    Args:
        num_tokens: of all its pictures.
        width: of a token, ``D``.
        dtype: of their numbers.
    """

    def __init__(self, num_tokens: int, width: int, dtype: torch.dtype = torch.bfloat16) -> None:
        """Begin with none; memory is taken as they come."""
        self.values = torch.empty(num_tokens, width, dtype=dtype)
        """``(tokens, D)``; only the first ``num_ready`` may be read."""
        self.num_ready = 0
        """Tokens from the first on without a gap."""
        self.error: InternVLError | None = None
        """Why no more will come, if that is known."""
        self._digests: list[bytes | None] = [None] * num_tokens
        self._head = hashlib.blake2b(str(dtype).encode(), digest_size=DIGEST_BYTES)
        self._listeners: list[Callable[[], object]] = []
        self._lock = threading.Lock()

    @property
    def num_tokens(self) -> int:
        """Tokens in all."""
        return len(self.values)

    @property
    def width(self) -> int:
        """Numbers of a token."""
        return int(self.values.shape[1])

    @property
    def is_complete(self) -> bool:
        """Whether all are there."""
        return self.num_ready == self.num_tokens

    def add(self, first_token: int, values: Tensor) -> None:
        """Take some tokens, in any order; what comes behind :meth:`fail` is passed over.

        Args:
            first_token: number of the first one.
            values: ``(n, D)`` in the dtype of the others; they are copied.

        Raises:
            MediaError: if they are of another kind, not finite, or were there before.
        """
        values = values.detach().cpu().contiguous()
        stop = first_token + len(values)
        if values.shape[1:] != self.values.shape[1:] or values.dtype != self.values.dtype:
            raise MediaError(
                f"visual tokens of shape {tuple(values.shape)} and dtype {values.dtype} arrive; "
                f"needed: (n, {self.width}) of {self.values.dtype}"
            )
        if not is_finite(values):
            raise MediaError("visual tokens arrive that hold NaN or infinite numbers")
        digests = list(map(self._digest, values.view(torch.uint8).numpy()))
        with self._lock:
            if self.error is not None:
                return
            if not 0 <= first_token <= stop <= self.num_tokens:
                raise MediaError(
                    f"visual tokens {first_token} to {stop - 1} arrive at a request of "
                    f"{self.num_tokens}"
                )
            if any(self._digests[first_token:stop]):
                raise MediaError(f"some of visual tokens {first_token} to {stop - 1} came before")
            self.values[first_token:stop] = values
            self._digests[first_token:stop] = digests
            num_ready = self.num_ready
            while num_ready < self.num_tokens and self._digests[num_ready] is not None:
                num_ready += 1
            self.num_ready = num_ready
        for callback in self._listeners:
            callback()

    def fail(self, error: InternVLError) -> None:
        """End the request, unless all its tokens are there.

        Args:
            error: why no more will come.
        """
        with self._lock:
            if self.is_complete or self.error is not None:
                return
            self.error = error
        for callback in self._listeners:
            callback()

    def digests(self, start: int, stop: int) -> list[bytes]:
        """Tell by 32 bytes each what some tokens hold; they must be there."""
        return [digest for digest in self._digests[start:stop] if digest is not None]

    def listen(self, callback: Callable[[], object]) -> None:
        """Have a function called whenever something has changed, in the thread that changed it.

        Args:
            callback: must return at once.
        """
        self._listeners.append(callback)

    async def wait(self) -> Tensor:
        """Wait for all of them.

        Returns:
            ``(tokens, D)``.

        Raises:
            InternVLError: what :meth:`fail` was told.
        """
        loop, news = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(news.set)

        self.listen(wake)
        while not self.is_complete:
            if self.error is not None:
                raise self.error
            await news.wait()
            news.clear()
        return self.values

    def _digest(self, row: npt.NDArray[np.uint8]) -> bytes:
        digest = self._head.copy()
        digest.update(row.data)
        return digest.digest()
