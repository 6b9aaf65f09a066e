"""What a language server writes is what a chat writes, from visual tokens that came over a wire."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from flash_models import make_flash_model
from PIL import Image

from internvl35.chat import Chat
from internvl35.commands.serve_engine import adapt
from internvl35.conversation import Conversation
from internvl35.data.messages import Message
from internvl35.data.tokenizer import load_tokenizer
from internvl35.errors import CheckpointError, ConfigError
from internvl35.generate import engine_thread
from internvl35.generate.answers import FinishReason, TokenLogprob
from internvl35.generate.engine import Engine
from internvl35.generate.engine_settings import EngineSettings
from internvl35.generate.engine_thread import EngineThread
from internvl35.generate.flash import FlashSettings
from internvl35.generate.request import Request
from internvl35.generate.routing import route
from internvl35.generate.sampling import SamplingSettings, StructureSettings
from internvl35.model.composite import LanguagePart, VisionLanguageModel
from internvl35.serve.frames import NackCode, WireError
from internvl35.serve.handshake import Identity, make_fingerprint
from internvl35.serve.language.no_vision import NoVision
from internvl35.serve.language.service import LanguageService
from internvl35.serve.language.settings import LanguageServerSettings
from internvl35.serve.link import Link, open_link
from internvl35.serve.link_server import LinkServer
from internvl35.serve.messages import (
    Features,
    Finished,
    Generate,
    Load,
    Profile,
    Progress,
    PromptLogprobs,
    new_request_id,
    to_block,
)
from internvl35.serve.parts import start_language
from internvl35.serve.served_checkpoint import look_at
from internvl35.train.adapters import add_adapters, save_adapters
from internvl35.train.settings import AdapterSettings, FreezeSettings

OFF = FlashSettings("off")
BRIEF = SamplingSettings(max_tokens=8)
FINGERPRINT = make_fingerprint(b"same")


@pytest.fixture(scope="module")
def chat(random_checkpoint):
    return Chat(make_flash_model(), load_tokenizer(random_checkpoint))


@pytest.fixture(scope="module")
def part(chat, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    chat.model.save_pretrained(folder)
    return LanguagePart.from_pretrained(folder)


@pytest.fixture(scope="module")
def requests(chat):
    """Of no picture, one tile, five tiles, and two pictures with a shared beginning."""
    rng = np.random.default_rng(1)
    shown = [
        chat.cut(Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)))[0]
        for size in ((100, 100, 3), (220, 230, 3), (110, 240, 3))
    ]
    asked = {"Hello": [], "Who?": shown[:1], "Describe it": shown[1:2], "Describe both": shown[1:]}
    return [
        chat.prepare(Conversation((Message("user", "<image>" * len(own) + text),), tuple(own)))
        for text, own in asked.items()
    ]


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 60))


def profile(chat: Chat) -> Profile:
    config = chat.model.config
    sizes = config.force_image_size, config.tokens_per_tile, config.compressed_tokens_per_tile
    return Profile(
        "gateway", "gate", *sizes, config.text_config.hidden_size, config.image_token_id, "f32"
    )


@asynccontextmanager
async def serving(
    chat: Chat, part: LanguagePart, *, max_waiting: int = 100, **settings: Any
) -> AsyncIterator[tuple[LanguageService, Link]]:
    engine = EngineThread(
        Engine(
            part, chat.rules, tokenizer=chat.tokenizer, encoder=NoVision(),
            settings=EngineSettings(max_batch_tokens=24, max_waiting=max_waiting, is_checked=True),
        )
    )  # fmt: skip
    own = LanguageServerSettings(**settings)
    gateway = Identity(profile(chat), FINGERPRINT)
    service = LanguageService({None: engine}, part.config, own, dtype=torch.float32)
    with closing(service):
        server = LinkServer(
            service, replace(gateway, profile=replace(gateway.profile, role="language"))
        )
        await server.start()
        link = await open_link("127.0.0.1", server.port, gateway)
        try:
            yield service, link
        finally:
            await link.close()
            await server.close()
        assert service.load == Load(0, 0, 0)
        async with asyncio.timeout(20):
            while engine.engine.num_requests:
                await asyncio.sleep(0.01)


def test_a_step_that_does_not_end_is_told(chat, part, requests, monkeypatch) -> None:
    entered, go_on = threading.Event(), threading.Event()

    async def main() -> None:
        async with serving(chat, part) as (service, link):
            (thread,) = service._engines.values()
            step, now = thread.engine.step, 100.0
            clock = SimpleNamespace(monotonic=lambda: now)
            monkeypatch.setattr(engine_thread, "time", clock)
            monkeypatch.setattr(
                thread.engine, "step", lambda: (entered.set(), go_on.wait(20), step())[-1]
            )
            asking = asyncio.create_task(ask(link, chat, requests[0]))
            assert await asyncio.to_thread(entered.wait, 20)
            now = 150.5
            assert service.load.stalled_s == 50
            go_on.set()
            await asking
            while service.load.stalled_s:
                await asyncio.sleep(0.01)

    run(main())


def encode(
    chat: Chat, request: Request, flash: FlashSettings
) -> tuple[Request, list[torch.Tensor]]:
    """What a vision server makes of a request: its prompt, and the visual tokens of each tile."""
    (routed,) = route(chat.model, [request], flash)
    if routed.pixel_values is not None:
        with torch.inference_mode():
            features = chat.model.get_image_features(routed.pixel_values).flatten(0, 1)
        routed = Request(routed.prompt, image_features=features)
    if routed.image_features is None:
        return routed, []
    choices = choices_of(routed)
    config = chat.model.config
    whole, few = config.tokens_per_tile, config.compressed_tokens_per_tile
    return routed, list(routed.image_features.split([few if one else whole for one in choices]))


def choices_of(request: Request) -> tuple[bool, ...]:
    if request.routing is not None:
        return request.routing.is_compressed
    return (False,) * request.prompt.num_tiles


def opening_of(request: Request, sampling: SamplingSettings, **fields: Any) -> Generate:
    ids = to_block(torch.tensor(request.prompt.token_ids, dtype=torch.int32))
    own = Generate(
        new_request_id(), 0, request.prompt.image_spans, choices_of(request), sampling, "", 0,
        None, ids,
    )  # fmt: skip
    return replace(own, **fields)


class Answer:
    """Puts together what a language server sends, as a gateway does."""

    def __init__(self, num_samples: int = 1) -> None:
        self.token_ids: list[list[int]] = [[] for _ in range(num_samples)]
        self.texts = [""] * num_samples
        self.logprobs: list[list[TokenLogprob]] = [[] for _ in range(num_samples)]
        self.reasons: list[FinishReason | None] = [None] * num_samples
        self.prompt_logprobs: list[TokenLogprob | None] = []
        self.end: Finished | None = None

    async def read(self, stream: Any) -> Answer:
        while self.end is None:
            message = await stream.receive()
            if isinstance(message, Progress):
                self.token_ids[message.sample] += message.token_ids
                self.texts[message.sample] += message.text
                self.logprobs[message.sample] += message.logprobs or ()
                self.reasons[message.sample] = message.finish_reason
            elif isinstance(message, PromptLogprobs):
                assert message.start == len(self.prompt_logprobs)
                self.prompt_logprobs += message.logprobs
            else:
                assert isinstance(message, Finished)
                self.end = message
        return self


async def ask(
    link: Link,
    chat: Chat,
    request: Request,
    sampling: SamplingSettings = BRIEF,
    flash: FlashSettings = OFF,
    *,
    is_reversed: bool = False,
    **fields: Any,
) -> Answer:
    routed, tiles = encode(chat, request, flash)
    opening = opening_of(routed, sampling, **fields)
    stream = await link.open(opening)
    numbers = range(len(tiles))
    for number in reversed(numbers) if is_reversed else numbers:
        choice = opening.is_compressed[number : number + 1]
        block = to_block(tiles[number])
        await stream.send(Features(opening.request_id, number, 1, choice, None, block))
    return await Answer(sampling.num_samples).read(stream)


@pytest.mark.parametrize(
    ("policy", "is_reversed"),
    [("off", False), ("off", True), ("all", False), ("released", True), ("absolute", True)],
)
def test_greedy_answers_are_those_of_a_chat(chat, part, requests, policy, is_reversed) -> None:
    flash = FlashSettings(policy)
    expected = chat.engine.generate(requests, BRIEF, flash=flash)

    async def main() -> None:
        async with serving(chat, part) as (_, link):
            asked = [
                ask(link, chat, request, flash=flash, is_reversed=is_reversed)
                for request in requests
            ]
            for answer, completion in zip(await asyncio.gather(*asked), expected, strict=True):
                (sample,) = completion.samples
                assert answer.token_ids == [[*sample.token_ids]]
                assert answer.texts == [sample.text]
                assert answer.reasons == [sample.finish_reason]
            again = await ask(link, chat, requests[2], flash=flash)
            assert again.token_ids == [[*expected[2].samples[0].token_ids]]
            assert again.end is not None
            assert again.end.num_cached_tokens > 0
            other = await ask(link, chat, requests[2], flash=flash, cache_salt="other")
            assert other.end is not None
            assert other.end.num_cached_tokens == 0

    run(main())


def test_log_probabilities_and_several_answers_come_as_from_an_engine(chat, part, requests) -> None:
    sampling = SamplingSettings(
        max_tokens=6, temperature=1.0, seed=3, n=2, best_of=3, num_logprobs=2,
        num_prompt_logprobs=1,
    )  # fmt: skip
    (expected,) = chat.engine.generate(requests[1:2], sampling)

    async def main() -> None:
        async with serving(chat, part) as (_, link):
            answer = await ask(link, chat, requests[1], sampling)
            for number, sample in enumerate(expected.samples):
                assert answer.token_ids[number] == [*sample.token_ids]
                assert answer.texts[number] == sample.text
                found = answer.logprobs[number]
                assert [one.token_id for one in found] == [*sample.token_ids]
                assert [len(one.top) for one in found] == [2] * len(found)
            assert len(answer.prompt_logprobs) == len(requests[1].prompt)
            assert [one is None for one in answer.prompt_logprobs] == [
                one is None for one in expected.prompt_logprobs or ()
            ]
            assert answer.end is not None
            assert 0 <= (answer.end.seconds_to_first_token or -1) <= answer.end.seconds

    run(main())


def test_a_prompt_is_computed_while_its_last_picture_is_under_way(chat, part, requests) -> None:
    routed, tiles = encode(chat, requests[3], OFF)
    expected = chat.engine.generate([requests[3]], BRIEF, flash=OFF)[0]

    async def main() -> None:
        async with serving(chat, part) as (service, link):
            opening = opening_of(routed, BRIEF)
            stream = await link.open(opening)

            async def send(number: int) -> None:
                block = to_block(tiles[number])
                await stream.send(Features(opening.request_id, number, 1, (False,), None, block))

            for number in range(len(tiles) - 1):
                await send(number)
            engine = service._engines[None].engine
            last = routed.prompt.image_spans[-1]
            needed = last.start + last.num_tokens - tiles[-1].shape[0]
            async with asyncio.timeout(30):
                while (
                    max([one.num_computed for one in engine.scheduler.running], default=0) < needed
                ):
                    await asyncio.sleep(0.01)
            assert service.load.num_waiting_tokens == len(routed.prompt)
            await send(len(tiles) - 1)
            answer = await Answer().read(stream)
            assert answer.token_ids == [[*expected.samples[0].token_ids]]

    run(main())


async def refusal(answer: Coroutine[Any, Any, Any]) -> WireError:
    with pytest.raises(WireError) as caught:
        await answer
    return caught.value


def test_a_full_server_says_when_to_come_back(chat, part, requests) -> None:
    async def main() -> None:
        async with serving(chat, part, max_tokens_in_work=90, retry_after_s=0.5) as (service, link):
            routed, _ = encode(chat, requests[1], OFF)
            waiting = await link.open(opening_of(routed, BRIEF))
            while not service.load.num_requests:
                await asyncio.sleep(0.01)
            assert service.load.num_waiting_tokens == len(routed.prompt)
            error = await refusal(ask(link, chat, requests[2]))
            assert (error.code, error.retry_after_s) == (NackCode.BUSY, 0.5)
            waiting.close()
            while service.load.num_requests:
                await asyncio.sleep(0.01)
            assert (await ask(link, chat, requests[2])).reasons != [None]

    run(main())


def test_more_answers_than_an_engine_takes_are_refused_for_now(chat, part, requests) -> None:
    async def main() -> None:
        async with serving(chat, part, max_waiting=2) as (service, link):
            held = await link.open(opening_of(encode(chat, requests[1], OFF)[0], BRIEF))
            while not service.load.num_requests:
                await asyncio.sleep(0.01)
            pair = replace(BRIEF, temperature=1.0, n=2)
            error = await refusal(ask(link, chat, requests[0], pair))
            assert (error.code, error.retry_after_s) == (NackCode.BUSY, 1.0)
            assert (await ask(link, chat, requests[0])).reasons != [None]
            held.close()

    run(main())


def test_what_cannot_be_answered_anywhere_says_so(chat, part, requests) -> None:
    async def main() -> None:
        async with serving(chat, part) as (_, link):
            cases = {
                "no adapter 'red'": {"adapter": "red"},
                "regex": {
                    "sampling": SamplingSettings(structure=StructureSettings(regex="(")),
                },
            }
            for text, fields in cases.items():
                error = await refusal(ask(link, chat, requests[0], **fields))
                assert (error.code, text in str(error)) == (NackCode.WRONG_REQUEST, True)
            too_long = replace(
                requests[0], prompt=replace(
                    requests[0].prompt, token_ids=(5,) * 3000, loss_mask=(False,) * 3000
                )
            )  # fmt: skip
            error = await refusal(ask(link, chat, too_long))
            assert (error.code, "3000 tokens" in str(error)) == (NackCode.WRONG_REQUEST, True)

    run(main())


def test_the_end_of_an_engine_is_told(chat, part, requests, monkeypatch) -> None:
    def die() -> None:
        raise KeyError("planted")

    async def main() -> None:
        async with serving(chat, part) as (service, link):
            failing = asyncio.create_task(service.wait_failed())
            await asyncio.sleep(0)
            monkeypatch.setattr(service._engines[None].engine, "step", die)
            assert (await refusal(ask(link, chat, requests[0]))).code is NackCode.INTERNAL
            with pytest.raises(KeyError, match="planted"):
                await asyncio.wait_for(failing, 10)
            assert (await refusal(ask(link, chat, requests[0]))).code is NackCode.INTERNAL
            service._engines[None].engine._jobs.clear()

    run(main())


@pytest.mark.parametrize(
    "fields", [{"max_tokens_in_work": 0}, {"cache_gib": 0.0}, {"retry_after_s": 0.0}]
)
def test_settings_under_which_nothing_is_answered_are_refused(fields) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        LanguageServerSettings(**fields)


def save_adapter(checkpoint: Path, folder: Path, *, is_visual: bool = False) -> Path:
    """An adapter that changes answers."""
    model = VisionLanguageModel.from_pretrained(checkpoint, dtype=torch.float32)
    add_adapters(model, AdapterSettings(lora_dropout=0.0), FreezeSettings(freeze_vit=not is_visual))
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    save_adapters(model, folder)
    return folder


def test_an_adapter_answers_under_its_name(random_checkpoint, tmp_path) -> None:
    folder = save_adapter(random_checkpoint, tmp_path / "red")
    whole = VisionLanguageModel.from_pretrained(random_checkpoint, dtype=torch.float32)
    chats = {
        name: Chat(model, load_tokenizer(random_checkpoint))
        for name, model in ((None, whole), ("red", adapt(whole, folder)))
    }
    request = chats[None].prepare(Conversation((Message("user", "Hello, who are you?"),), ()))
    expected = {
        name: [*chat.engine.generate([request], BRIEF)[0].samples[0].token_ids]
        for name, chat in chats.items()
    }
    assert expected[None] != expected["red"]
    service = start_language(look_at(random_checkpoint), adapt=lambda m: {"red": adapt(m, folder)})

    async def main() -> None:
        with closing(service):
            own = Identity(profile(chats[None]), FINGERPRINT)
            server = LinkServer(
                service, replace(own, profile=replace(own.profile, role="language"))
            )
            await server.start()
            link = await open_link("127.0.0.1", server.port, own)
            for name, tokens in expected.items():
                answer = await ask(link, chats[None], request, adapter=name)
                assert answer.token_ids == [tokens]
            await link.close()
            await server.close()

    run(main())


def test_an_adapter_of_the_tower_is_refused_where_there_is_none(
    random_checkpoint, tmp_path
) -> None:
    folder = save_adapter(random_checkpoint, tmp_path / "red", is_visual=True)
    part = LanguagePart.from_pretrained(random_checkpoint)
    with pytest.raises(CheckpointError, match="which the network does not have"):
        adapt(part, folder)
