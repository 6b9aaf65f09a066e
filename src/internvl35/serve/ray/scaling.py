"""How many servers there are: as many as their queues need.

Links pass Ray by, so that it counts no requests; servers tell how long their queues are instead.
Delays and bounds are Ray's. No counterpart in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

QUEUE = "queue"
"""Name of what servers tell."""


class QueuePolicy:
    """A policy of Ray Serve.

    Args:
        target: length of the queue of one server.
    """

    def __init__(self, target: float) -> None:
        """Keep it."""
        self._target = target

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Say how many servers are wanted.

        Args:
            context: Ray's ``AutoscalingContext``.

        Returns:
            How many, which Ray holds between its bounds, and no state.
        """
        told: Mapping[Any, float] = (context.aggregated_metrics or {}).get(QUEUE, {})
        if not told:
            return context.target_num_replicas, {}  # nobody has said anything yet
        return math.ceil(sum(told.values()) / self._target), {}
