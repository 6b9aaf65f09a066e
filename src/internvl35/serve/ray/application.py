"""Puts the parts of a Ray Serve application together.

No counterpart in the paper.
"""

from __future__ import annotations

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from internvl35.serve.ray.directory import Directory
from internvl35.serve.ray.front import GatewayReplica
from internvl35.serve.ray.scaling import QueuePolicy
from internvl35.serve.ray.servers import LanguageReplica, VisionReplica
from internvl35.serve.ray.settings import RaySettings

_POLICY = f"{QueuePolicy.__module__}:{QueuePolicy.__name__}"


def bind_all(settings: RaySettings) -> Application:
    """Bind gateways, servers and the directory to each other.

    Args:
        settings: sizes and limits.

    Returns:
        What ``serve.run`` takes.
    """
    directory = serve.deployment(
        Directory, name="directory", num_replicas=1, ray_actor_options={"num_cpus": 0}
    ).bind()
    shared = (settings, directory)
    servers = [
        scale(
            VisionReplica, "vision", settings,
            (settings.min_vision, settings.max_vision, settings.tiles_a_vision_server),
        ).bind(*shared),
        scale(
            LanguageReplica, "language", settings,
            (settings.min_language, settings.max_language, settings.requests_a_language_server),
        ).bind(*shared),
    ]  # fmt: skip
    gateway = serve.deployment(
        serve.ingress()(GatewayReplica), name="gateway", num_replicas=settings.num_gateways,
        max_ongoing_requests=10_000,  # the gateway has limits of its own, and says 429
        graceful_shutdown_timeout_s=settings.drain_timeout_s,
        ray_actor_options={"num_cpus": 0},
    )  # fmt: skip
    return gateway.bind(*shared, servers)


def scale(
    kind: type, name: str, settings: RaySettings, sizes: tuple[int, int, int]
) -> serve.Deployment:
    """Let there be as many servers of a kind as their queues need.

    Args:
        kind: tells its queue by ``record_autoscaling_stats``.
        name: of the deployment.
        settings: delays, and what each server gets.
        sizes: fewest servers, most, and the length of a queue for which there is one server each.

    Returns:
        What is bound to a server's arguments.
    """
    fewest, most, target = sizes
    scaling = AutoscalingConfig(
        min_replicas=fewest, max_replicas=most, upscale_delay_s=settings.upscale_delay_s,
        downscale_delay_s=settings.downscale_delay_s, metrics_interval_s=1.0,
        look_back_period_s=max(2.0, settings.upscale_delay_s),
        policy=AutoscalingPolicy(policy_function=_POLICY, policy_kwargs={"target": target}),
    )  # fmt: skip
    return serve.deployment(
        kind, name=name, autoscaling_config=scaling, health_check_period_s=5.0,
        graceful_shutdown_timeout_s=settings.drain_timeout_s + 10.0,
        ray_actor_options={"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus},
    )  # fmt: skip
