"""Learning rate over a run, as a share of its peak.

The shapes and their rounding are those of the schedulers that people know from transformers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from internvl35.errors import ConfigError
from internvl35.train.settings import ScheduleName


@dataclass(frozen=True)
class Schedule:
    """A rise over the first steps, then what the name says."""

    name: ScheduleName
    """``cosine`` and ``linear`` fall to zero at the end, ``constant`` stays, ``wsd`` stays, then
    falls linearly over the last share."""
    num_steps: int
    """Steps of the run."""
    num_warmup_steps: int = 0
    """Steps over which the rate rises linearly from zero."""
    decay_share: float = 0.2
    """Last share of a ``wsd`` run over which the rate falls, above 0 to 1."""

    def __post_init__(self) -> None:
        """Refuse a run without steps."""
        if self.num_steps < 1 or self.num_warmup_steps < 0:
            raise ConfigError(
                f"a schedule of {self.num_steps} steps with {self.num_warmup_steps} of warm-up; "
                "needed: at least 1 step and 0 or more of warm-up"
            )

    def rate_at(self, step: int) -> float:
        """Rate of a step.

        Args:
            step: counted from 0.

        Returns:
            A factor from 0 to 1.
        """
        if step < self.num_warmup_steps:
            return step / max(1, self.num_warmup_steps)
        if self.name == "constant":
            return 1.0
        rest = max(1, self.num_steps - self.num_warmup_steps)
        progress = min(1.0, (step - self.num_warmup_steps) / rest)
        if self.name == "cosine":
            return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
        if self.name == "linear":
            return 1.0 - progress
        return min(1.0, (self.num_steps - step) / (self.num_steps * self.decay_share))


def count_warmup_steps(num_steps: int, ratio: float, steps: int) -> int:
    """Settle the length of the warm-up.

    Args:
        num_steps: steps of the run.
        ratio: share of the run, used where ``steps`` is 0.
        steps: a fixed number.

    Returns:
        Steps, rounded up as transformers does.
    """
    return steps if steps > 0 else math.ceil(num_steps * ratio)
