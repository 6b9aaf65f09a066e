"""The life of a process that answers OpenAI's API over HTTP, whoever writes the answers.

Answering is left to :mod:`internvl35.serve.gateway`. No counterpart in the paper.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from internvl35.commands.batch import describe_settings
from internvl35.commands.chat import SystemOptions, load_chat
from internvl35.commands.checkpoint import HubOptions, ModelOptions
from internvl35.commands.flash import CompressionOptions
from internvl35.commands.options import METAVAR
from internvl35.commands.pictures import PictureOptions
from internvl35.commands.telemetry import TelemetryOptions
from internvl35.commands.terminal import paused_collection, silence_libraries, spinner
from internvl35.errors import ConfigError, ServerError
from internvl35.generate.sampling import SamplingSettings
from internvl35.serve.gateway_settings import GatewaySettings, check_keys

if TYPE_CHECKING:
    from internvl35.chat import Chat
    from internvl35.generate.engines import GenerationEngine
    from internvl35.serve.answering import Answerer
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


@dataclass(frozen=True)
class Front:
    """All options of such a process."""

    options: ServeOptions
    """Where it listens, and who may ask."""
    gateway: GatewaySettings
    """How much it lets in."""
    system: SystemOptions
    """What the model is told."""
    sampling: SamplingSettings
    """How answers are chosen where a body says nothing."""
    flash: CompressionOptions
    """Which tiles are compressed where a body says nothing."""
    model: ModelOptions
    """Which checkpoint."""
    hub: HubOptions
    """Where it is looked for."""
    telemetry: TelemetryOptions
    """What the process tells about itself."""

    def run(
        self,
        start: Callable[[Chat], AbstractContextManager[GenerationEngine]],
        kind: Callable[[], type[Answerer]],
        look: Callable[[Path], str],
    ) -> None:
        """Answer until SIGTERM or Ctrl-C, or say whether that could be done.

        Args:
            start: starts what writes the answers.
            kind: imports what asks it.
            look: looks for mistakes that only show when the process runs, in a checkpoint's folder;
                says what it found.

        Raises:
            InternVLError: if settings, keys, port or checkpoint cannot be used.
        """
        options = self.options
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
        with closing(listening.bind(options.host, options.port)) as taken:
            host, port = taken.getsockname()[:2]
            if options.check:
                found = look(self.hub.find_folder(self.model.model))
                typer.echo(f"usable: {found}, {host} port {port}, {len(keys)} API keys")
                return
            chat = load_chat(self.model, self.hub, options.pictures, self.system)
            with self.telemetry.watch("gateway"), start(chat) as engine:
                answerer = self._make_answerer(chat, engine, kind())
                app = application.build_app(answerer, keys)
                shown = f"[{host}]" if ":" in host else host
                names = ", ".join(answerer.names)
                text = f"listening at http://{shown}:{port}/v1 as {names}"
                listening.serve(
                    app, answerer, self.gateway, taken, lambda: self.telemetry.tell(text)
                )

    def _make_answerer(
        self, chat: Chat, engine: GenerationEngine, kind: type[Answerer]
    ) -> Answerer:
        from internvl35.serve.answering import Defaults
        from internvl35.serve.chat_answer import AnswerFormat
        from internvl35.serve.media_loader import SafeMediaLoader

        options, model = self.options, self.model
        names = options.served_name or (model.model,)
        fingerprint = describe_settings(
            options.pictures, self.system, self.sampling, self.flash, model, self.hub
        )
        form = AnswerFormat(
            chat.tokenizer, chat.rules.end_token_ids, names[0], fingerprint,
            chat.model.config.tokens_per_tile,
        )  # fmt: skip
        loader = SafeMediaLoader(chat.tiles, options.media(), chat.images)
        defaults = Defaults(self.sampling, self.flash.settings())
        return kind(chat, engine, loader, form, defaults, self.gateway, names)
