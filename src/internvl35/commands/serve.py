"""``internvl35 serve``: OpenAI's API over HTTP, answered by a model in this process.

Answering is left to :mod:`internvl35.serve.gateway`. No counterpart in the paper.
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from internvl35.commands.batch import describe_settings, start_engine
from internvl35.commands.chat import SystemOptions, load_chat
from internvl35.commands.checkpoint import HubOptions, ModelOptions
from internvl35.commands.flash import CompressionOptions
from internvl35.commands.options import METAVAR, spread_settings
from internvl35.commands.pictures import PictureOptions
from internvl35.commands.telemetry import TelemetryOptions
from internvl35.commands.terminal import paused_collection, silence_libraries, spinner
from internvl35.errors import ConfigError, ServerError
from internvl35.generate.sampling import SamplingSettings
from internvl35.serve.gateway_settings import GatewaySettings, check_keys

if TYPE_CHECKING:
    from internvl35.serve.media import MediaSettings

KEYS_VARIABLE = "INTERNVL35_API_KEYS"
"""Environment variable whose API keys, separated by commas, count beside those of a file."""


@dataclass(frozen=True)
class ServeOptions:
    """Where a server listens, who may ask, and which pictures are opened."""

    host: str = "127.0.0.1"
    """Address to listen at; others than this machine's own loopback need API keys."""
    port: int = 8000
    """Port to listen at, 0 to 65535; 0 takes one that is free."""
    api_key_file: str | None = field(default=None, metadata={METAVAR: "FILE"})
    """File with an API key a line, of which every request needs one; INTERNVL35_API_KEYS holds
    further ones, separated by commas."""
    insecure: bool = False
    """Answer everybody who reaches an address that is not loopback, without API keys."""
    served_name: tuple[str, ...] = ()
    """Name that requests call the model by; repeat it for more. By default what --model says."""
    max_tiles: int | None = None
    """Most tiles a picture, thumbnail not counted; by default as the checkpoint says."""
    reference_images: bool = False
    """Open pictures as the released code does: EXIF orientation ignored, alpha dropped."""
    media_host: tuple[str, ...] = field(default=(), metadata={METAVAR: "HOST"})
    """Host from which pictures and videos are fetched; repeat it for more, * is every public one.
    By default requests bring them along as data: URIs."""
    media_workers: int = 2
    """Processes that decode pictures and videos."""
    check: bool = False
    """Look whether settings, keys, port and checkpoint are usable, say so, and leave."""

    def __post_init__(self) -> None:
        """Refuse ports that there are not, and names that are empty."""
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port is {self.port}; needed: 0 to 65535")
        if not all(self.served_name):
            raise ConfigError("served_name is empty; give the model a name")

    def read_keys(self) -> tuple[str, ...]:
        """Read the API keys.

        Returns:
            The keys; none if everybody is answered.

        Raises:
            ConfigError: if they cannot be read or used, or there are none where some are needed.
        """
        text = os.environ.get(KEYS_VARIABLE, "").replace(",", "\n")
        if self.api_key_file is not None:
            try:
                text += "\n" + Path(self.api_key_file).expanduser().read_text("utf-8")
            except (OSError, ValueError) as error:
                raise ConfigError(
                    f"api_key_file {self.api_key_file!r} cannot be read as UTF-8 text"
                ) from error
        keys = tuple(line.strip() for line in text.splitlines() if line.strip())
        if self.api_key_file is not None and not keys:
            raise ConfigError(f"api_key_file {self.api_key_file!r} holds no key; write one a line")
        check_keys(keys)
        if not (keys or self.insecure or self._is_loopback()):
            raise ConfigError(
                f"host is {self.host!r}, which others can reach, and there are no API keys; give "
                "--api-key-file, or --insecure to answer everybody"
            )
        return keys

    def media(self) -> MediaSettings:
        """Say which pictures and videos are taken in."""
        from internvl35.serve.media import MediaSettings

        return MediaSettings(hosts=self.media_host, num_workers=self.media_workers)

    @property
    def pictures(self) -> PictureOptions:
        """How pictures are opened and cut."""
        return PictureOptions(max_tiles=self.max_tiles, reference_images=self.reference_images)

    def _is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


@spread_settings
def serve(
    options: ServeOptions,
    gateway: GatewaySettings,
    system: SystemOptions,
    sampling: SamplingSettings,
    flash: CompressionOptions,
    model: ModelOptions,
    hub: HubOptions,
    telemetry: TelemetryOptions,
) -> None:
    """Answer OpenAI's API over HTTP until SIGTERM or Ctrl-C."""
    keys = options.read_keys()
    with spinner("starting"), paused_collection():
        silence_libraries()
        try:
            from internvl35.serve import gateway as application
            from internvl35.serve import listening
        except ModuleNotFoundError as error:
            raise ServerError(
                f"{error.name} is not installed; run pip install 'internvl35[serve]'"
            ) from error
        from internvl35.serve.answering import Answerer, Defaults
        from internvl35.serve.chat_answer import AnswerFormat
        from internvl35.serve.media_loader import SafeMediaLoader
    with closing(listening.bind(options.host, options.port)) as taken:
        if options.check:
            folder = hub.find_folder(model.model)
            host, port = taken.getsockname()[:2]
            typer.echo(f"usable: {folder}, {host} port {port}, {len(keys)} API keys")
            return
        fingerprint = describe_settings(options.pictures, system, sampling, flash, model, hub)
        chat = load_chat(model, hub, options.pictures, system)
        names = options.served_name or (model.model,)
        form = AnswerFormat(
            chat.tokenizer, chat.rules.end_token_ids, names[0], fingerprint,
            chat.model.config.tokens_per_tile,
        )  # fmt: skip
        loader = SafeMediaLoader(chat.tiles, options.media(), chat.images)
        defaults = Defaults(sampling, flash.settings())
        with telemetry.watch("gateway"), start_engine(chat) as engine:
            answerer = Answerer(chat, engine, loader, form, defaults, gateway, names)
            app = application.build_app(answerer, keys)
            host, port = taken.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            telemetry.tell(f"listening at http://{shown}:{port}/v1 as {', '.join(names)}")
            listening.serve(app, answerer, gateway, taken)
