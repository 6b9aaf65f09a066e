"""Figures of a gateway in Prometheus' format.

They are counted here and measured elsewhere. No counterpart in the paper.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.registry import Collector

from internvl35.generate.answers import Completion
from internvl35.serve.room import Room

_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Figures of one gateway; two in one process do not mix.

    Args:
        room: whose queues are shown.
    """

    def __init__(self, room: Room) -> None:
        """Begin with zeros."""
        self._registry = registry = CollectorRegistry()
        self._answers = Counter(
            "internvl35_answers", "Answers by route and status.", ("route", "status"),
            registry=registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "internvl35_answer_seconds", "From a request's arrival to the end of its answer.",
            ("route",), buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._first = Histogram(
            "internvl35_first_token_seconds", "From the engine's taking a request to a token.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._visual = Histogram(
            "internvl35_visual_tokens_seconds", "From the same until all visual tokens were made.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._opening = Histogram(
            "internvl35_opening_seconds", "To open the pictures of a request and cut them.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        names = {
            "prompt_tokens": "Tokens of answered prompts, after compression.",
            "cached_tokens": "Tokens of answered prompts that had not to be computed.",
            "new_tokens": "Tokens of answers.",
            "tiles": "Tiles of answered prompts.",
            "compressed_tiles": "Tiles of answered prompts that took fewer visual tokens.",
            "gone_readers": "Requests whose sender went before the end.",
        }
        self._counts = {
            name: Counter(f"internvl35_{name}", text, registry=registry)
            for name, text in names.items()
        }
        for name, text, read in (
            ("requests", "Requests in work.", lambda: room.num_requests),
            ("waiting_requests", "Requests whose pictures wait.", lambda: room.num_waiting),
            ("tiles_in_work", "Tiles of requests in work.", lambda: room.num_tiles),
        ):
            Gauge(f"internvl35_{name}", text, registry=registry).set_function(read)

    def note_answer(self, route: str, status: int, seconds: float) -> None:
        """Count an answer.

        Args:
            route: as it is written in the app.
            status: that was sent; 499 if the sender had gone.
            seconds: that it took.
        """
        self._answers.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def note_opening(self, seconds: float) -> None:
        """Note how long the pictures of a request took."""
        self._opening.observe(seconds)

    def note_gone(self) -> None:
        """Count a sender who went."""
        self._counts["gone_readers"].inc()

    def note_completion(self, completion: Completion) -> None:
        """Count the tokens and tiles of an answer."""
        request = completion.request
        routing = request.routing
        counts = {
            "prompt_tokens": len(request.prompt),
            "cached_tokens": completion.num_cached_tokens,
            "new_tokens": sum(len(sample.token_ids) for sample in completion.samples),
            "tiles": request.prompt.num_tiles,
            "compressed_tiles": 0 if routing is None else routing.num_compressed,
        }
        for name, count in counts.items():
            self._counts[name].inc(count)
        if completion.seconds_to_first_token is not None:
            self._first.observe(completion.seconds_to_first_token)
        if completion.seconds_to_visual_tokens is not None:
            self._visual.observe(completion.seconds_to_visual_tokens)

    def register(self, figures: Collector) -> None:
        """Write further figures, too."""
        self._registry.register(figures)

    def write(self) -> bytes:
        """Write all figures."""
        return generate_latest(self._registry)
