"""``internvl35 serve``: OpenAI's API over HTTP, answered on this machine.

By an engine in this process, or by vision and language servers that it starts. No counterpart in
the paper.
"""

from __future__ import annotations

from internvl35.commands.chat import SystemOptions
from internvl35.commands.checkpoint import HubOptions, ModelOptions
from internvl35.commands.flash import CompressionOptions
from internvl35.commands.options import spread_settings
from internvl35.commands.serve_engine import EngineOptions, run_coupled
from internvl35.commands.serve_front import Front, ServeOptions
from internvl35.commands.serve_split import SplitOptions, run_split
from internvl35.commands.telemetry import TelemetryOptions
from internvl35.generate.sampling import SamplingSettings
from internvl35.serve.gateway_settings import GatewaySettings


@spread_settings
def serve(
    options: ServeOptions,
    split: SplitOptions,
    engines: EngineOptions,
    gateway: GatewaySettings,
    system: SystemOptions,
    sampling: SamplingSettings,
    flash: CompressionOptions,
    model: ModelOptions,
    hub: HubOptions,
    telemetry: TelemetryOptions,
) -> None:
    """Answer OpenAI's API over HTTP until SIGTERM or Ctrl-C."""
    front = Front(options, gateway, system, sampling, flash, model, hub, telemetry)
    if split.is_decoupled:
        run_split(front, split, engines)
    else:
        run_coupled(front, engines)
