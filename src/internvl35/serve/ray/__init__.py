"""A Ray Serve application: gateways, vision servers and language servers, scaled by their queues.

``serve run internvl35.serve.ray:build model=8B max_vision=4`` starts it. Ray places processes,
watches and counts them. Pictures, visual tokens and answers travel over this package's own links;
Ray's calls carry addresses and numbers alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve import Application


def build(arguments: Mapping[str, Any]) -> Application:
    """Build the application.

    Args:
        arguments: fields of :class:`~internvl35.serve.ray.settings.RaySettings` by name.

    Returns:
        What ``serve.run`` takes.

    Raises:
        ConfigError: if an argument is unknown or cannot be used.
    """
    from internvl35.serve.ray.application import bind_all  # Ray's own processes need no torch
    from internvl35.serve.ray.settings import RaySettings

    return bind_all(RaySettings.read(arguments))
