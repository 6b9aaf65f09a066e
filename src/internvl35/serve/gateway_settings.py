"""What a gateway lets in, how long it waits, and under which names it answers.

The command's own options stand in :mod:`internvl35.commands.serve_front`. No counterpart in the
paper.
"""

from __future__ import annotations

from dataclasses import dataclass

from internvl35.errors import ConfigError

LEAST_KEY = 16
"""Fewest characters of an API key; shorter ones can be guessed."""


@dataclass(frozen=True)
class GatewaySettings:
    """Limits of a gateway."""

    max_requests: int = 256
    """Most requests that are answered or wait for it; further ones get status 429."""
    max_tiles_in_work: int = 512
    """Most tiles of requests that are being answered; pictures of further requests are opened
    later, and one request with more of them goes alone."""
    max_opening: int = 16
    """Most requests whose pictures are fetched and opened at once."""
    max_body_mib: int = 64
    """Most MiB of a request's body."""
    body_timeout_s: float = 60.0
    """Longest time in seconds that a body may take to arrive."""
    request_timeout_s: float = 600.0
    """Longest time in seconds from a request's arrival to the end of its answer."""
    drain_timeout_s: float = 60.0
    """Longest time in seconds that answers under way are waited for when the server stops."""
    retry_after_s: int = 2
    """Seconds after which a refused client is told to try again."""

    def __post_init__(self) -> None:
        """Refuse limits under which nothing is answered."""
        for name in (
            "max_requests", "max_tiles_in_work", "max_opening", "max_body_mib", "retry_after_s",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; needed: at least 1")
        for name in ("body_timeout_s", "request_timeout_s", "drain_timeout_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; needed: above 0")


def check_keys(keys: tuple[str, ...]) -> None:
    """Refuse API keys that can be guessed or that no header can hold.

    Args:
        keys: of which one has to come with every request.

    Raises:
        ConfigError: if there is such a key; the message does not repeat it.
    """
    for number, key in enumerate(keys, 1):
        if len(key) < LEAST_KEY or not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError(
                f"API key {number} has {len(key)} characters; needed: at least {LEAST_KEY}, "
                "printable ASCII without blanks"
            )
