"""Where the servers of an application listen, as they say it themselves.

No counterpart in the paper.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from internvl35.serve.messages import Role

ANNOUNCE_EVERY_S = 2.0
"""Seconds between two announcements of a server, and two looks of a gateway."""


class Directory:
    """Addresses of servers; one that is silent for too long is forgotten.

    Whoever begins anew knows all of them after :data:`ANNOUNCE_EVERY_S`.

    Args:
        forget_after_s: of silence.
        clock: in seconds.
    """

    def __init__(
        self, forget_after_s: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Know nobody yet."""
        self._forget_after_s, self._clock = forget_after_s, clock
        self._heard: dict[tuple[Role, str, int], float] = {}

    def announce(self, role: Role, host: str, port: int) -> None:
        """Note that a server listens.

        Args:
            role: what it does.
            host: its address.
            port: its port.
        """
        self._heard[role, host, port] = self._clock()

    def withdraw(self, role: Role, host: str, port: int) -> None:
        """Forget a server; one that is not known is passed over."""
        self._heard.pop((role, host, port), None)

    def find(self, role: Role) -> list[tuple[str, int]]:
        """Tell which servers listen.

        Args:
            role: what they do.

        Returns:
            Their hosts and ports, sorted.
        """
        latest = self._clock() - self._forget_after_s
        self._heard = {name: at for name, at in self._heard.items() if at >= latest}
        return sorted((host, port) for own, host, port in self._heard if own == role)
