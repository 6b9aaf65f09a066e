"""Figures of a gateway's servers in Prometheus' format: who is there, how busy, how often failed.

No counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from internvl35.serve.dvd.peers import Pool


class PeerFigures(Collector):
    """Looks at the servers whenever figures are asked for.

    Args:
        pools: all servers, by kind.
    """

    def __init__(self, pools: Sequence[Pool]) -> None:
        """Look at nothing yet."""
        self._pools = pools

    def collect(self) -> Iterator[Metric]:
        """Read all figures."""
        waiting = GaugeMetricFamily(
            "internvl35_waiting_for_server", "Requests that wait for a server.", labels=("role",)
        )
        labels = ("role", "server")
        up = GaugeMetricFamily("internvl35_server_up", "1 if it takes requests.", labels=labels)
        requests = GaugeMetricFamily(
            "internvl35_server_requests", "Requests that this gateway gave it.", labels=labels
        )
        queue = GaugeMetricFamily(
            "internvl35_server_queue", "Tiles, or requests of a language server, in work there.",
            labels=labels,
        )  # fmt: skip
        failures = CounterMetricFamily(
            "internvl35_server_failures", "Attempts that failed there.", labels=labels
        )
        for pool in self._pools:
            waiting.add_metric((pool.role,), pool.num_waiting)
            for peer in pool.peers:
                name = pool.role, str(peer.address)
                up.add_metric(name, peer.state == "up")
                requests.add_metric(name, peer.num_requests)
                queue.add_metric(name, peer.queue)
                failures.add_metric(name, peer.num_failures)
        yield from (waiting, up, requests, queue, failures)
