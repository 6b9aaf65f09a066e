"""What a Ray Serve application is made of.

The application is put together in :mod:`internvl35.serve.ray.application`. No counterpart in the
paper.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

from internvl35.config import TINY
from internvl35.errors import ConfigError


@dataclass(frozen=True)
class RaySettings:
    """Sizes and limits of an application; each is an argument of ``serve run``."""

    model: str = TINY
    """Checkpoint, as ``internvl35 serve --model`` takes it; every node has to find it."""
    dtype: str = "auto"
    """Number format of the weights: auto, bfloat16, float16 or float32."""
    served_name: str | None = None
    """Name that requests call the model by; None for what model says."""
    num_gateways: int = 1
    """Gateways, behind Ray's own proxies."""
    min_vision: int = 1
    """Fewest vision servers."""
    max_vision: int = 4
    """Most vision servers."""
    min_language: int = 1
    """Fewest language servers."""
    max_language: int = 4
    """Most language servers."""
    tiles_a_vision_server: int = 64
    """Waiting tiles for which there is one vision server each."""
    requests_a_language_server: int = 16
    """Requests in work for which there is one language server each."""
    upscale_delay_s: float = 10.0
    """Seconds for which queues are long before a server is added."""
    downscale_delay_s: float = 300.0
    """Seconds for which queues are short before a server is taken away."""
    num_cpus: float = 1.0
    """Cores that Ray sets aside for each server, and threads that torch takes."""
    num_gpus: float = 0.0
    """GPUs that Ray sets aside for each server; with any, it loads its weights there."""
    drain_timeout_s: float = 60.0
    """Longest time in seconds that a server which is taken away works on what it has."""
    api_key_file: str | None = None
    """File with an API key a line, on every node; the variable INTERNVL35_API_KEYS holds more."""
    log_form: Literal["text", "json"] = "json"
    """Form of the lines that replicas write to stderr, which Ray keeps in its own logs."""
    trace_endpoint: str | None = None
    """URL to which spans are sent by OTLP over HTTP (extra internvl35[trace]); None for nowhere."""
    trace_share: float = 1.0
    """Share of requests that are traced, 0 to 1."""
    secret: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)
    """What all processes of the application prove to each other; a fresh one by default."""

    def __post_init__(self) -> None:
        """Refuse sizes under which nothing is answered."""
        for name, least in (
            ("num_gateways", 1), ("min_vision", 1), ("min_language", 1),
            ("max_vision", self.min_vision), ("max_language", self.min_language),
            ("tiles_a_vision_server", 1), ("requests_a_language_server", 1),
            ("num_cpus", 0), ("num_gpus", 0), ("upscale_delay_s", 0), ("downscale_delay_s", 0),
        ):  # fmt: skip
            if not getattr(self, name) >= least:
                raise ConfigError(f"{name} is {getattr(self, name)}; needed: at least {least}")
        if not self.drain_timeout_s > 0:
            raise ConfigError(f"drain_timeout_s is {self.drain_timeout_s}; needed: above 0")
        if not 0 <= self.trace_share <= 1:
            raise ConfigError(f"trace_share is {self.trace_share}; needed: 0 to 1")
        if self.log_form not in ("text", "json"):
            raise ConfigError(f"log_form is {self.log_form!r}; needed: text or json")
        if self.dtype not in ("auto", "bfloat16", "float16", "float32"):
            raise ConfigError(
                f"dtype is {self.dtype!r}; needed: auto, bfloat16, float16 or float32"
            )

    @classmethod
    def read(cls, arguments: Mapping[str, Any]) -> RaySettings:
        """Read what ``serve run`` or a file of Ray Serve gives.

        Args:
            arguments: by name, as texts or of the settings' types; ``secret_file`` names a file in
                place of ``secret``.

        Returns:
            Settings.

        Raises:
            ConfigError: if a name is unknown or a value cannot be used.
        """
        given, hints = dict(arguments), get_type_hints(cls)
        if "secret" in given:
            raise ConfigError("secret shall not stand in arguments; name its file: secret_file")
        secret_file = given.pop("secret_file", None)
        unknown = sorted(set(given) - {one.name for one in fields(cls)})
        if unknown:
            raise ConfigError(f"unknown argument {unknown[0]}; see RaySettings for those there are")
        try:
            values = {
                name: hints[name](value) if hints[name] in (int, float) else value
                for name, value in given.items()
            }
            if secret_file is not None:
                values["secret"] = Path(secret_file).read_text("utf-8").strip()
        except (OSError, TypeError, ValueError) as error:
            raise ConfigError(f"an argument cannot be used: {error}") from error
        return cls(**values)
