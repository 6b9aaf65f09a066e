"""Options of servers on what they tell about themselves: their log, and spans of requests.

Lines are made in :mod:`internvl35.serve.logs`, spans in :mod:`internvl35.serve.tracing`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from internvl35.commands.options import METAVAR
from internvl35.commands.terminal import note
from internvl35.errors import ConfigError


@dataclass(frozen=True)
class TelemetryOptions:
    """What a server tells about itself."""

    log_form: Literal["text", "json"] = "text"
    """Form of the log on stderr: lines for people, or a JSON object a line."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least weight of what is logged; info has a line a request."""
    trace_endpoint: str | None = field(default=None, metadata={METAVAR: "URL"})
    """Where spans of requests are sent by OTLP over HTTP, such as http://localhost:4318/v1/traces
    (needs the extra internvl35[trace])."""
    trace_share: float = 1.0
    """Share of requests that are traced, 0 to 1, unless whoever asks has decided it already."""

    def __post_init__(self) -> None:
        """Refuse shares and addresses that there are not."""
        if not 0 <= self.trace_share <= 1:
            raise ConfigError(f"trace_share is {self.trace_share}; needed: 0 to 1")
        if self.trace_endpoint is not None:
            address = urlsplit(self.trace_endpoint)
            if address.scheme not in ("http", "https") or not address.hostname:
                raise ConfigError("trace_endpoint is no http or https URL; give one with a host")

    def as_arguments(self) -> list[str]:
        """Say the same to another process."""
        told = ["--log-form", self.log_form, "--log-level", self.log_level]
        if self.trace_endpoint is not None:
            told += ["--trace-endpoint", self.trace_endpoint]
            told += ["--trace-share", str(self.trace_share)]
        return told

    @contextmanager
    def watch(self, role: str) -> Iterator[None]:
        """Write the log and send spans for as long as the process serves.

        Args:
            role: what it does.

        Raises:
            ConfigError: if spans are to be sent and OpenTelemetry is not installed.
        """
        from internvl35.serve.logs import start_log
        from internvl35.serve.tracing import sending

        start_log(self.log_form, self.log_level, role)
        with sending(self.trace_endpoint, self.trace_share, f"internvl35-{role}"):
            yield

    def tell(self, text: str) -> None:
        """Tell whoever started the server something, in the form of the log."""
        if self.log_form == "json":
            logging.getLogger("internvl35.serve").info(text)
        else:
            note(text)
