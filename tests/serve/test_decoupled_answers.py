"""Through gateway, vision and language servers a checkpoint answers what a chat answers."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_servers import FAST
from flash_models import make_flash_model
from PIL import Image

from internvl35.chat import Chat
from internvl35.conversation import Conversation
from internvl35.data.messages import Message
from internvl35.data.tiles import cut_tiles, normalize_levels, stack_tiles
from internvl35.data.tokenizer import load_tokenizer, save_tokenizer
from internvl35.generate.flash import FlashSettings
from internvl35.generate.sampling import SamplingSettings
from internvl35.generate.vision import VisionStage
from internvl35.generate.vision_thread import VisionThread
from internvl35.model.parts import load_vision_part
from internvl35.serve.dvd.answering import DecoupledAnswerer
from internvl35.serve.dvd.engine import DecoupledEngine, Servers
from internvl35.serve.dvd.local_encoder import LocalEncoder
from internvl35.serve.dvd.peers import PeerAddress, Pool
from internvl35.serve.handshake import Identity
from internvl35.serve.link_server import LinkServer
from internvl35.serve.parts import start_language, start_vision
from internvl35.serve.served_checkpoint import look_at

SAMPLING = SamplingSettings(max_tokens=12, num_logprobs=2)
ASKED = (
    ("Who are you?", ()), ("Describe it", ((220, 230),)), ("Hello, both", ((110, 240), (100, 90))),
    ("Describe the image", ((100, 100),)), ("user", ((330, 110),)),
)  # fmt: skip
POLICIES = ("off", "all", "released", "absolute")


@pytest.fixture(scope="module")
def folder(random_checkpoint, tmp_path_factory):
    """A Flash checkpoint on disk."""
    target = tmp_path_factory.mktemp("flash")
    tokenizer = load_tokenizer(random_checkpoint)
    make_flash_model().save_pretrained(target)
    save_tokenizer(tokenizer, target)
    return target


@pytest.fixture(scope="module")
def chat(folder):
    from internvl35.chat import load

    chat = load(folder, dtype=torch.float32)
    yield chat
    chat.engine.close()


@pytest.fixture(scope="module")
def requests(chat):
    """Each as a chat takes it and as a gateway does."""
    rng = np.random.default_rng(3)
    pairs = []
    for text, sizes in ASKED:
        pictures = [
            Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in sizes
        ]
        levels = [stack_tiles(cut_tiles(picture, chat.tiles)) for picture in pictures]
        message = Message("user", "<image>" * len(levels) + text)
        pairs.append(
            [
                chat.prepare(Conversation((message,), tuple(map(to_tiles, levels))))
                for to_tiles in (
                    normalize_levels,
                    lambda one: DecoupledAnswerer.to_tiles(None, one),
                )
            ]
        )
    return pairs


async def answer_all(
    folder, prompts, requests, policies, num_vision, *, can_restart, local_tiles=0
):
    """Answer all requests at once by services in this process; gives completions."""
    served = look_at(folder, "float32")
    async with AsyncExitStack() as stack:
        addresses = {}
        for role, start, count in (
            ("vision", start_vision, num_vision),
            ("language", start_language, 1),
        ):
            for number in range(count):
                service = stack.enter_context(closing(start(served)))
                token_id = prompts.builder.image_token_id
                profile = served.profile(role, f"{role}-{number}", image_token_id=token_id)
                server = LinkServer(service, Identity(profile, served.fingerprint))
                await server.start()
                stack.push_async_callback(server.close)
                addresses.setdefault(role, []).append(PeerAddress("127.0.0.1", server.port))
        token_id = prompts.builder.image_token_id
        own = Identity(
            served.profile("gateway", "gateway", image_token_id=token_id), served.fingerprint
        )
        patient = replace(FAST, patience_s=30, link=replace(FAST.link, dead_after_s=20, lease_s=30))
        servers = Servers(*(Pool(role, found, own, patient) for role, found in addresses.items()))
        await servers.start()
        stack.push_async_callback(servers.close)
        local = None
        if local_tiles:
            stage = VisionStage(load_vision_part(folder, dtype=served.dtype))
            thread = stack.enter_context(closing(VisionThread(stage)))
            local = LocalEncoder(thread, local_tiles, served.dtype)
        engine = DecoupledEngine(
            servers, prompts.model.config, can_restart=can_restart, local=local
        )

        async def answer(request, policy):
            updates = engine.stream(request, SAMPLING, flash=FlashSettings(policy))
            return [update async for update in updates][-1].completion

        return await asyncio.gather(
            *(answer(*pair) for pair in zip(requests, policies, strict=True))
        )


@pytest.mark.parametrize(
    ("num_vision", "can_restart", "local_tiles"),
    [(1, False, 0), (2, True, 0), (3, False, 0), (1, False, 4)],
)
def test_answers_are_those_of_a_chat(folder, chat, requests, num_vision, can_restart, local_tiles):
    pairs = [(pair, policy) for policy in POLICIES for pair in requests]
    policies = [policy for _, policy in pairs]
    alone = chat.engine.generate(
        [pair[0] for pair, _ in pairs], SAMPLING, flash=[FlashSettings(one) for one in policies]
    )
    through = asyncio.run(
        asyncio.wait_for(
            answer_all(
                folder, chat, [pair[1] for pair, _ in pairs], policies, num_vision,
                can_restart=can_restart, local_tiles=local_tiles,
            ),
            200,
        )
    )  # fmt: skip
    for mine, theirs in zip(through, alone, strict=True):
        assert mine.samples[0].token_ids == theirs.samples[0].token_ids
        assert mine.samples[0].text == theirs.samples[0].text
        assert mine.samples[0].finish_reason == theirs.samples[0].finish_reason
        assert len(mine.samples[0].logprobs) == len(mine.samples[0].token_ids)
        assert mine.request.prompt == theirs.request.prompt
        chosen = None if theirs.request.routing is None else theirs.request.routing.is_compressed
        found = None if mine.request.routing is None else mine.request.routing.is_compressed
        assert found == chosen
    assert any(one.request.routing and any(one.request.routing.is_compressed) for one in alone)


def test_a_gateway_builds_prompts_without_weights(folder, chat, requests):
    from internvl35.chat import load

    light = load(folder, device_map="meta")
    assert isinstance(light, Chat)
    assert {weight.device.type for weight in light.model.parameters()} == {"meta"}
    assert light.builder.settings == chat.builder.settings
    assert light.tiles == chat.tiles
    levels = torch.zeros(2, 3, 112, 112, dtype=torch.uint8)
    asked = Conversation((Message("user", "<image>What?"),), (levels,))
    request = light.prepare(asked)
    assert request.prompt == chat.prepare(asked).prompt
    assert request.pixel_values.dtype == torch.uint8
