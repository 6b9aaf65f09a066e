"""``internvl35 serve gateway``, and ``serve --vision 2 --language 1``: answers by other processes.

A gateway holds tokenizer and config of a checkpoint and none of its weights. Its work is left to
:mod:`internvl35.serve.dvd`.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from internvl35.commands.chat import SystemOptions
from internvl35.commands.checkpoint import HubOptions, ModelOptions
from internvl35.commands.flash import CompressionOptions
from internvl35.commands.links import LinkOptions, read_address
from internvl35.commands.options import METAVAR, spread_settings
from internvl35.commands.serve_engine import EngineOptions
from internvl35.commands.serve_front import Front, ServeOptions
from internvl35.commands.telemetry import TelemetryOptions
from internvl35.errors import ConfigError
from internvl35.generate.sampling import SamplingSettings
from internvl35.serve.gateway_settings import GatewaySettings

if TYPE_CHECKING:
    from internvl35.chat import Chat
    from internvl35.generate.engines import GenerationEngine
    from internvl35.serve.answering import Answerer
    from internvl35.serve.dvd.children import ChildCommand, Children
    from internvl35.serve.dvd.local_encoder import LocalEncoder
    from internvl35.serve.messages import Role
    from internvl35.serve.served_checkpoint import ServedCheckpoint


@dataclass(frozen=True)
class SplitOptions:
    """Which servers are started on this machine beside the gateway."""

    vision: int = 0
    """Vision servers to start on this machine; 0, with 0 language servers, for one process."""
    language: int = 0
    """Language servers to start on this machine."""
    vision_device: tuple[str, ...] = ()
    """Device of the vision servers in turn, for example cuda:1; repeat it for more."""
    language_device: tuple[str, ...] = ()
    """Device of the language servers in turn; repeat it for more. By default --device-map; with
    --engine vllm all GPUs of a server, for example cuda:0,cuda:1."""

    def __post_init__(self) -> None:
        """Refuse servers of one kind alone."""
        if min(self.vision, self.language) < 0 or (self.vision > 0) != (self.language > 0):
            raise ConfigError(
                f"vision is {self.vision} and language {self.language}; needed: one of each at "
                "least, or none"
            )

    @property
    def is_decoupled(self) -> bool:
        """Whether other processes answer."""
        return self.vision > 0


@dataclass(frozen=True)
class PeerOptions:
    """Which servers a gateway works with."""

    vision_peers: tuple[str, ...] = field(default=(), metadata={METAVAR: "HOST:PORT"})
    """Address of a vision server, or a name for several; repeat it, or separate them by commas."""
    language_peers: tuple[str, ...] = field(default=(), metadata={METAVAR: "HOST:PORT"})
    """Address of a language server, or a name for several; repeat it, or separate them by
    commas."""
    adapter: tuple[str, ...] = field(default=(), metadata={METAVAR: "NAME"})
    """LoRA adapter of all language servers that requests ask for by this name of a model; repeat it
    for more."""

    local_tiles: int = 0
    """Requests of at most so many tiles are encoded in the gateway's own process, on
    --device-map or the CPU; 0 for none, and no vision part is loaded."""

    def __post_init__(self) -> None:
        """Refuse what is no address."""
        if self.local_tiles < 0:
            raise ConfigError(f"local_tiles is {self.local_tiles}; needed: 0 or more")
        for name, given in (("vision", self.vision_peers), ("language", self.language_peers)):
            found = _split(given)
            if not found:
                raise ConfigError(f"there is no {name} server; give --{name}-peers host:port")
            if any(port == 0 for _, port in found):
                raise ConfigError(f"{name}_peers holds port 0; needed: 1 to 65535")


@spread_settings
def serve_gateway(
    options: ServeOptions,
    peers: PeerOptions,
    links: LinkOptions,
    gateway: GatewaySettings,
    system: SystemOptions,
    sampling: SamplingSettings,
    flash: CompressionOptions,
    model: ModelOptions,
    hub: HubOptions,
    telemetry: TelemetryOptions,
) -> None:
    """Answer OpenAI's API over HTTP by vision and language servers that run elsewhere."""
    front = Front(options, gateway, system, sampling, flash, model, hub, telemetry)
    vision, language = _split(peers.vision_peers), _split(peers.language_peers)
    _run(front, links, vision, language, adapters=peers.adapter, local_tiles=peers.local_tiles)


def run_split(front: Front, split: SplitOptions, engines: EngineOptions) -> None:
    """Start servers of both kinds, and answer by them.

    Args:
        front: options of the gateway.
        split: which servers.
        engines: what writes in language servers.
    """
    from internvl35.serve.dvd.children import Children, find_ports

    engines.look(is_int8=front.model.int8)
    ports = find_ports(split.vision + split.language)
    addresses = [("127.0.0.1", port) for port in ports]
    with TemporaryDirectory(prefix="internvl35-") as folder:  # of mode 700
        secret = Path(folder) / "secret"
        secret.touch(0o600)
        secret.write_text(secrets.token_hex(32))
        if engines.engine == "vllm" and engines.parts_folder is None:
            engines = replace(engines, parts_folder=str(Path(folder) / "parts"))  # made once
        commands = _commands(front, split, engines, ports, secret)
        children = Children(commands, front.gateway.drain_timeout_s)
        links = LinkOptions(secret_file=str(secret))
        vision, language = addresses[: split.vision], addresses[split.vision :]
        names = tuple(name for name, _ in engines.adapters)
        _run(front, links, vision, language, children, adapters=names)


def _commands(
    front: Front,
    split: SplitOptions,
    engines: EngineOptions,
    ports: Sequence[int],
    secret: Path,
) -> list[ChildCommand]:
    from internvl35.serve.dvd.children import ChildCommand

    model, hub, telemetry = front.model, front.hub, front.telemetry
    shared = ["--model", model.model, "--dtype", model.dtype, "--hub", hub.hub]
    shared += ["--revision", hub.revision] if hub.revision else []
    shared += ["--offline"] if hub.offline else []
    shared += ["--secret-file", str(secret), *telemetry.as_arguments()]
    shared += ["--drain-timeout-s", str(front.gateway.drain_timeout_s)]
    roles: list[tuple[Role, int]] = [("vision", number) for number in range(split.vision)]
    roles += [("language", number) for number in range(split.language)]
    commands = []
    for (role, number), port in zip(roles, ports, strict=True):
        name = f"{role}-{number}"
        devices = split.vision_device if role == "vision" else split.language_device
        device = devices[number % len(devices)] if devices else None
        own = ["--name", name, "--listen", f"127.0.0.1:{port}"]
        environment = {}
        if role == "vision":
            own += ["--device", device] if device else []
        elif engines.engine == "vllm":
            if device is not None:  # vLLM takes all GPUs that it sees
                environment["CUDA_VISIBLE_DEVICES"] = device.replace("cuda:", "")
            own += engines.as_arguments()
        else:
            device = device or model.device_map
            own += [*(["--device-map", device] if device else []), *(["--int8"] * model.int8)]
            own += engines.as_arguments()
        program = (sys.executable, "-m", "internvl35.commands.child", "serve", role)
        commands.append(ChildCommand(name, (*program, *shared, *own), environment))
    return commands


def _run(
    front: Front,
    links: LinkOptions,
    vision: Sequence[tuple[str, int]],
    language: Sequence[tuple[str, int]],
    children: Children | None = None,
    *,
    adapters: tuple[str, ...] = (),
    local_tiles: int = 0,
) -> None:
    """Answer by servers that are there, or will be."""
    links.read_secret()  # before anything is loaded

    @contextmanager
    def start(chat: Chat) -> Iterator[GenerationEngine]:
        from internvl35.serve.dvd.engine import DecoupledEngine, Servers
        from internvl35.serve.dvd.names import NamedPool
        from internvl35.serve.dvd.peers import PeerAddress
        from internvl35.serve.served_checkpoint import look_at

        served = look_at(front.hub.find_folder(front.model.model), front.model.dtype)
        profile = served.profile("gateway", "gateway", image_token_id=chat.builder.image_token_id)
        own = links.identify(profile, served.fingerprint)
        context = links.context(is_server=False)
        seen = [PeerAddress(*address) for address in vision]
        written = [PeerAddress(*address) for address in language]
        servers = Servers(
            NamedPool("vision", seen, own, context=context),
            NamedPool("language", written, own, context=context),
            children,
        )
        with _encoding(served, local_tiles, front.model.device_map) as local:
            yield DecoupledEngine(servers, chat.model.config, adapters=adapters, local=local)

    def look(folder: Path) -> str:
        from internvl35.serve.served_checkpoint import look_at

        look_at(folder, front.model.dtype)
        links.context(is_server=False)
        return f"{folder}, {len(vision)} vision and {len(language)} language servers"

    light = replace(front, model=replace(front.model, device_map="meta", int8=False))
    light.run(start, _import_answerer, look)


@contextmanager
def _encoding(
    served: ServedCheckpoint, max_tiles: int, device: str | None
) -> Iterator[LocalEncoder | None]:
    """Load the vision part, if small requests are encoded here."""
    if not max_tiles:
        yield None
        return
    from internvl35.generate.vision import VisionStage
    from internvl35.generate.vision_thread import VisionThread
    from internvl35.model.parts import load_vision_part
    from internvl35.serve.dvd.local_encoder import LocalEncoder

    model = load_vision_part(served.folder, dtype=served.dtype).to(device or "cpu")
    with closing(VisionThread(VisionStage(model))) as thread:
        yield LocalEncoder(thread, max_tiles, served.dtype)


def _import_answerer() -> type[Answerer]:
    from internvl35.serve.dvd.answering import DecoupledAnswerer

    return DecoupledAnswerer


def _split(given: Sequence[str]) -> list[tuple[str, int]]:
    return [read_address(one) for text in given for one in text.split(",") if one.strip()]
