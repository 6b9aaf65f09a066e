"""What sending tiles and visual tokens between processes costs, beside encoding them.

Time of processors, of both ends together: it does not depend on what else runs on a machine, and
hides nothing behind the computing that a real gateway would wait for anyway.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from transformers import InternVLVisionModel

from internvl35.config import PRESETS
from internvl35.data.token_writer import ImageSpan, Prompt
from internvl35.generate.request import Request
from internvl35.generate.sampling import SamplingSettings
from internvl35.model.configuration import InternVLChatConfig, preset_config
from internvl35.model.projector import Projector, merge_patches
from internvl35.serve.dvd.engine import DecoupledEngine, Servers
from internvl35.serve.dvd.peers import PeerAddress, Pool
from internvl35.serve.handshake import Identity, make_fingerprint
from internvl35.serve.link_server import LinkServer
from internvl35.serve.messages import (
    Channel,
    Encode,
    Encoded,
    Features,
    Finished,
    Generate,
    Load,
    Profile,
    Progress,
    Tiles,
    to_block,
)

NUM_TILES = 13
"""Of a picture: a grid of twelve and the thumbnail."""
_SECRET = b"a secret that is long enough, 32"
_SHARED_BYTES = 64 * 2**20
_REPEATS = 5


@dataclass(frozen=True)
class Ready:
    """A server whose answers are computed: visual tokens of as many tiles as come, or a word."""

    tokens: torch.Tensor
    """Of a tile, ``(V, D)``."""

    @property
    def load(self) -> Load:
        """Never busy."""
        return Load(0, 0, 0)

    async def answer(self, opening: Encode | Generate, channel: Channel) -> None:
        """Answer at once; see ``Service``."""
        name, num_left = opening.request_id, 0
        if isinstance(opening, Generate):
            num_left = len(opening.is_compressed)
            while num_left:
                features = await channel.receive()
                assert isinstance(features, Features)
                num_left -= features.num_tiles
            await channel.send(Progress(name, 0, (1,), "word", None, "stop", None))
            await channel.send(Finished(name, 0, None, 0.0))
            return
        num_left = sum(opening.tiles)
        while num_left:
            tiles = await channel.receive()
            assert isinstance(tiles, Tiles)
            num_left -= tiles.num_tiles
            values = to_block(self.tokens.repeat(tiles.num_tiles, 1))
            is_few = (False,) * tiles.num_tiles
            await channel.send(
                Features(name, tiles.first_tile, tiles.num_tiles, is_few, None, values)
            )
        await channel.send(Encoded(name, 0, 0.0))


def measure_wire(config: InternVLChatConfig, secret: bytes | None, shared_bytes: int) -> float:
    """Send a picture's tiles to a vision server and their tokens to a language server.

    Args:
        config: of the checkpoint whose sizes are sent.
        secret: of the links; None for checksums alone.
        shared_bytes: of memory between processes; 0 for sockets.

    Returns:
        Processor seconds a tile: gateway, both servers and the kernel.
    """
    return asyncio.run(_measure_wire(config, secret, shared_bytes))


async def _measure_wire(
    config: InternVLChatConfig, secret: bytes | None, shared_bytes: int
) -> float:
    side, tokens = config.force_image_size, config.tokens_per_tile
    width = int(config.text_config.hidden_size)
    profile = Profile("gateway", "gateway", side, tokens, 0, width, config.image_token_id)
    own = Identity(profile, make_fingerprint(b"wire"), secret, shared_bytes)
    ready = Ready(torch.randn(tokens, width, dtype=torch.bfloat16))
    span = ImageSpan(1, NUM_TILES * tokens, NUM_TILES)
    ids = (1, *[config.image_token_id] * span.num_tokens, 2)
    levels = torch.randint(0, 256, (NUM_TILES, side, side, 3), dtype=torch.uint8)
    prompt = Prompt(ids, (span,), (False,) * len(ids))
    request = Request(prompt, levels.permute(0, 3, 1, 2))
    async with AsyncExitStack() as stack:
        pools = []
        for role in ("vision", "language"):
            its: Any = replace(profile, role=role, name=role)
            server = LinkServer(ready, replace(own, profile=its))
            await server.start()
            stack.push_async_callback(server.close)
            address = PeerAddress("127.0.0.1", server.port)
            pools.append(Pool(its.role, [address], own))
        servers = Servers(pools[0], pools[1])
        await servers.start()
        stack.push_async_callback(servers.close)
        sizes: Any = SimpleNamespace(flash_mode=False, tokens_per_tile=tokens)
        engine, seconds = DecoupledEngine(servers, sizes), []
        for _ in range(_REPEATS + 1):
            started = time.process_time()
            updates = [one async for one in engine.stream(request, SamplingSettings())]
            assert updates[-1].text == "word"
            seconds.append((time.process_time() - started) / NUM_TILES)
    return statistics.median(seconds[1:])


@torch.inference_mode()
def measure_encoding(config: InternVLChatConfig, num_tiles: int = 3) -> float:
    """Run tower and projector of a released size with random weights, in float32.

    Args:
        config: of the size.
        num_tiles: that are encoded one after the other, after one that does not count.

    Returns:
        Processor seconds a tile.
    """
    config.vision_config._attn_implementation = "sdpa"
    tower = InternVLVisionModel(config.vision_config).eval()
    width = config.vision_config.hidden_size * config.merge_factor**2
    projector = Projector(width, config.text_config.hidden_size).eval()
    side, grid = config.force_image_size, config.grid
    seconds = []
    for _ in range(num_tiles + 1):
        tile = torch.randn(1, 3, side, side)
        started = time.process_time()
        patches = tower(tile).last_hidden_state[:, 1:].reshape(1, grid, grid, -1)
        projector(merge_patches(patches, config.merge_factor).flatten(1, 2))
        seconds.append(time.process_time() - started)
    return statistics.median(seconds[1:])


def compare(size: str = "8B") -> dict[str, Any]:
    """Measure both for a released size.

    Args:
        size: whose tiles and visual tokens they are.

    Returns:
        Figures, JSON-ready.
    """
    config = preset_config(PRESETS[size])
    encode_s = measure_encoding(config)
    wires = {
        "keyed_digest": measure_wire(config, _SECRET, 0),
        "checksum": measure_wire(config, None, 0),
        "keyed_digest_shared_memory": measure_wire(config, _SECRET, _SHARED_BYTES),
    }
    side, tokens = config.force_image_size, config.tokens_per_tile
    return {
        "wire_share_of_encode": round(wires["keyed_digest"] / encode_s, 5),
        "wire": {
            "size": size,
            "tiles_of_a_picture": NUM_TILES,
            "bytes_a_tile": side * side * 3,
            "bytes_of_its_visual_tokens": tokens * int(config.text_config.hidden_size) * 2,
            "encode_processor_ms_a_tile": round(1000 * encode_s, 1),
            "wire_processor_ms_a_tile": {
                name: round(1000 * seconds, 3) for name, seconds in wires.items()
            },
            "encode_dtype": "float32",
        },
    }
