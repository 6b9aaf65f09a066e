"""A language server with vLLM writes what a chat writes, and holds no weight of the vision part.

``make test-vllm`` runs this in an environment of vLLM's own.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
from contextlib import closing

import numpy as np
import pytest
import torch
from PIL import Image

from internvl35.config import TINY_FOLDER
from internvl35.data.prompt import Message, PromptBuilder, PromptSettings
from internvl35.data.tiles import make_pixel_values
from internvl35.data.tokenizer import load_tokenizer
from internvl35.generate.engine import Engine
from internvl35.generate.request import Request
from internvl35.generate.rules import stop_rules
from internvl35.generate.sampling import SamplingSettings
from internvl35.model.composite import VisionLanguageModel
from internvl35.serve.handshake import Identity
from internvl35.serve.link import Link, open_link
from internvl35.serve.link_server import LinkServer
from internvl35.serve.messages import (
    Features,
    Finished,
    Generate,
    Progress,
    new_request_id,
    to_block,
)
from internvl35.serve.parts import start_language
from internvl35.serve.served_checkpoint import look_at

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None,
        reason="vLLM is not installed here; `make test-vllm` sets up an environment that has it",
    ),
]

LONG = SamplingSettings(max_tokens=24, ignore_end=True)
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else always the first core, whoever is there already
    "VLLM_NO_USAGE_STATS": "1",
}


async def ask(link: Link, request: Request, features: torch.Tensor | None) -> list[int]:
    ids = to_block(torch.tensor(request.prompt.token_ids, dtype=torch.int32))
    choices = (False,) * request.prompt.num_tiles
    spans = request.prompt.image_spans
    opening = Generate(new_request_id(), 0, spans, choices, LONG, "", 0, None, ids)
    stream = await link.open(opening)
    if features is not None:
        parts = features.split(len(features) // len(choices))
        for number in reversed(range(len(choices))):
            block = to_block(parts[number])
            await stream.send(Features(opening.request_id, number, 1, (False,), None, block))
    token_ids: list[int] = []
    while not isinstance(message := await stream.receive(), Finished):
        assert isinstance(message, Progress)
        token_ids += message.token_ids
    return token_ids


def test_greedy_answers_are_those_of_a_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    from internvl35.generate.vllm_engine import VLLMSettings

    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    served = look_at(TINY_FOLDER)
    settings = VLLMSettings(max_tokens=2048, further={"enforce_eager": True})
    with closing(start_language(served, vllm=settings)) as service:
        assert not [found for found in gc.get_objects() if _is_parameter(found)]
        model = VisionLanguageModel.from_pretrained(TINY_FOLDER, dtype=torch.float32)
        tokenizer = load_tokenizer(TINY_FOLDER)
        tokens = model.config.tokens_per_tile
        prompts = PromptSettings(template=model.config.template, tokens_per_tile=tokens)
        builder = PromptBuilder(tokenizer, prompts)
        rng = np.random.default_rng(3)
        picture = Image.fromarray(rng.integers(0, 255, (300, 500, 3), dtype=np.uint8))
        tiles = make_pixel_values(picture, model.config.tile_settings)
        assert len(tiles) > 1
        requests = [
            Request(builder.build([Message("user", "Hello")], [])),
            Request(builder.build([Message("user", "<image>\nWhat?")], [len(tiles)]), tiles),
        ]
        engine = Engine(model, stop_rules(tokenizer, builder), tokenizer=tokenizer)
        expected = engine.generate(requests, LONG)
        with torch.inference_mode():
            features = model.get_image_features(tiles).flatten(0, 1)

        async def main() -> None:
            token_id = service.config.image_token_id
            assert token_id == builder.image_token_id
            own, other = (
                Identity(served.profile(role, role, image_token_id=token_id), served.fingerprint)
                for role in ("gateway", "language")
            )
            server = LinkServer(service, other)
            await server.start()
            link = await open_link("127.0.0.1", server.port, own)
            found = await asyncio.gather(
                ask(link, requests[0], None), ask(link, requests[1], features)
            )
            assert found == [[*one.samples[0].token_ids] for one in expected]
            await link.close()
            await server.close()

        asyncio.run(asyncio.wait_for(main(), 200))


def _is_parameter(found: object) -> bool:
    return type(found) is torch.nn.Parameter and found.device.type != "meta"
