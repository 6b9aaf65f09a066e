"""``internvl35 serve vision`` and ``serve language``: one part of a checkpoint each, for gateways.

Loading is left to :mod:`internvl35.serve.parts`, listening to
:mod:`internvl35.serve.server_process`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import typer

from internvl35.commands.checkpoint import HubOptions
from internvl35.commands.links import LinkOptions, read_address
from internvl35.commands.options import FLAGS, spread_settings
from internvl35.commands.serve_engine import EngineOptions, adapt
from internvl35.commands.telemetry import TelemetryOptions
from internvl35.commands.terminal import paused_collection, silence_libraries, spinner
from internvl35.config import TINY
from internvl35.errors import ConfigError
from internvl35.serve.language.settings import LanguageServerSettings
from internvl35.serve.vision.settings import VisionServerSettings

if TYPE_CHECKING:
    from internvl35.model.composite import VisionLanguageModel
    from internvl35.serve.messages import Role
    from internvl35.serve.served_checkpoint import ServedCheckpoint
    from internvl35.serve.server_process import PartService


@dataclass(frozen=True)
class PartOptions:
    """Which checkpoint a server takes its part from, and where it listens."""

    model: str = field(default=TINY, metadata={FLAGS: ("--model", "-m")})
    """Checkpoint: tiny (embedded), a folder, a released size such as 8B, or a hub's owner/name; the
    same for gateways and servers."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Number format of the weights and of visual tokens, the same for gateways and servers; auto
    takes the checkpoint's own."""
    listen: str = "127.0.0.1:8101"
    """Address to listen at, host:port or [address]:port; port 0 takes one that is free."""
    name: str | None = None
    """What logs call this server; by default its role and process number."""
    max_requests: int = 256
    """Most requests in work, of all gateways; further ones are refused."""
    drain_timeout_s: float = 60.0
    """Longest time in seconds that requests in work are waited for when the server stops."""
    check: bool = False
    """Look whether settings, secret, port and checkpoint are usable, say so, and leave."""

    def __post_init__(self) -> None:
        """Refuse limits under which nothing is answered, and addresses that are none."""
        read_address(self.listen)
        if not self.drain_timeout_s > 0:
            raise ConfigError(f"drain_timeout_s is {self.drain_timeout_s}; needed: above 0")


@dataclass(frozen=True)
class VisionOptions(PartOptions):
    """The same for a vision server."""

    device: str | None = None
    """Where tiles are encoded, for example cuda:1; by default the first GPU, or the CPU."""


@dataclass(frozen=True)
class LanguageOptions(PartOptions):
    """The same for a language server."""

    listen: str = "127.0.0.1:8201"
    """Address to listen at, host:port or [address]:port; port 0 takes one that is free."""
    device_map: str | None = None
    """Where the layers go, for example auto, cpu or cuda:1; by default all GPUs, or the CPU."""
    int8: bool = False
    """Load linear layers in 8 bits (needs the extra internvl35[int8])."""


@spread_settings
def serve_vision(
    options: VisionOptions,
    settings: VisionServerSettings,
    links: LinkOptions,
    hub: HubOptions,
    telemetry: TelemetryOptions,
) -> None:
    """Encode tiles for gateways, with tower, projectors and router alone."""

    def start(served: ServedCheckpoint) -> PartService:
        from internvl35.serve.parts import start_vision

        return start_vision(served, settings, device=options.device)

    _serve("vision", options, links, hub, telemetry, start, settings.max_request_tiles)


@spread_settings
def serve_language(
    options: LanguageOptions,
    settings: LanguageServerSettings,
    engines: EngineOptions,
    links: LinkOptions,
    hub: HubOptions,
    telemetry: TelemetryOptions,
) -> None:
    """Answer prompts for gateways, with the language model alone."""
    engines.look(is_int8=options.int8)
    if engines.engine == "vllm" and options.device_map is not None:
        raise ConfigError(
            "device_map is of our own engine; vLLM takes the GPUs that CUDA_VISIBLE_DEVICES names"
        )

    def start(served: ServedCheckpoint) -> PartService:
        from internvl35.serve.parts import start_language

        dtype = str(served.dtype).removeprefix("torch.")
        return start_language(
            served, settings, device_map=options.device_map, is_int8=options.int8,
            adapt=lambda model: _adapt(model, engines),
            vllm=engines.vllm(dtype, "cpu") if engines.engine == "vllm" else None,
        )  # fmt: skip

    _serve("language", options, links, hub, telemetry, start, settings.max_request_tiles)


def _adapt(model: VisionLanguageModel, engines: EngineOptions) -> dict[str, VisionLanguageModel]:
    return {name: adapt(model, folder) for name, folder in engines.adapters}


def _serve(
    role: Role,
    options: PartOptions,
    links: LinkOptions,
    hub: HubOptions,
    telemetry: TelemetryOptions,
    start: Callable[[ServedCheckpoint], PartService],
    max_tiles: int,
) -> None:
    host, port = read_address(options.listen)
    context = links.context(is_server=True)
    with spinner("starting"), paused_collection():
        silence_libraries()
        from internvl35.serve.link_server import LinkServer, ListenSettings
        from internvl35.serve.served_checkpoint import look_at
        from internvl35.serve.server_process import run_server
    served = look_at(hub.find_folder(options.model), options.dtype)
    profile = served.profile(
        role, options.name or f"{role}-{os.getpid()}", max_requests=options.max_requests,
        max_tiles=max_tiles,
    )  # fmt: skip
    own = links.identify(profile, served.fingerprint)
    listen = ListenSettings(host, port)
    listen.check(own, context)
    if options.check:
        with closing(listen.bind()) as taken:
            typer.echo(f"usable: {served.folder}, {host} port {taken.getsockname()[1]}")
        return
    with spinner(f"loading what a {role} server needs of {options.model}"), paused_collection():
        service = start(served)
    with telemetry.watch(role), closing(service):
        own = replace(own, profile=replace(profile, image_token_id=service.config.image_token_id))
        shown = f"[{host}]" if ":" in host else host
        asyncio.run(
            run_server(
                LinkServer(service, own, listen, context=context), service, options.drain_timeout_s,
                lambda found: telemetry.tell(f"{role} server listening at {shown}:{found}"),
            )
        )  # fmt: skip
