"""Whether and how the tiles of a request are compressed, as a user says it.

Following it is left to :mod:`internvl35.generate.routing`. Paper section 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, TypeAlias, get_args

from internvl35.errors import ConfigError

FlashPolicy: TypeAlias = Literal["off", "all", "released", "absolute"]
"""Which tiles of a request are compressed."""


@dataclass(frozen=True)
class FlashSettings:
    """Which tiles of a request take a quarter of their visual tokens."""

    policy: FlashPolicy = "released"
    """Which tiles are compressed: none (``off``), every one (``all``), those that the released code
    would compress (``released``: the score beats a quantile over all tiles of the request and
    reaches a threshold, so that a single tile never is), or those whose own score reaches the
    threshold (``absolute``)."""
    relative_threshold: float | None = None
    """Quantile of the request's scores that a tile has to beat under ``released``, 0 to 1; None for
    the checkpoint's."""
    absolute_threshold: float | None = None
    """Score that a tile has to reach under ``released`` and ``absolute``, 0 to 1; None for the
    checkpoint's."""

    @property
    def joins_pictures(self) -> bool:
        """Whether what becomes of a tile depends on other pictures of the request."""
        return self.policy == "released"

    def __post_init__(self) -> None:
        """Refuse unknown policies, and thresholds that are not shares."""
        if self.policy not in get_args(FlashPolicy):
            raise ConfigError(
                f"policy is {self.policy!r}; known: {', '.join(get_args(FlashPolicy))}"
            )
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (is_number and 0 <= value <= 1):
                raise ConfigError(f"{field.name} is {value!r}; needed: 0 to 1")
