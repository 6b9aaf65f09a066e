"""vLLM behind the common interface answers as we do: text, pictures, compressed tiles, settings.

``make test-vllm`` runs these in an environment of vLLM's own; one engine serves all of them.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from internvl35.config import TINY_FOLDER
from internvl35.data.prompt import Message, PromptBuilder, PromptSettings
from internvl35.data.tiles import make_pixel_values
from internvl35.data.tokenizer import load_tokenizer, save_tokenizer
from internvl35.errors import ConfigError, PromptError, ServerError
from internvl35.generate.flash import FlashSettings
from internvl35.generate.request import Request
from internvl35.generate.routing import route
from internvl35.generate.rules import stop_rules
from internvl35.generate.runner import generate, generation_options
from internvl35.generate.sampling import SamplingSettings, StructureSettings
from internvl35.model.composite import VisionLanguageModel
from internvl35.model.flash_parts import add_router

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None,
        reason="vLLM is not installed here; `make test-vllm` sets up an environment that has it",
    ),
]

OFF, ALL = FlashSettings("off"), FlashSettings("all")
POLICIES = [ALL, FlashSettings("released"), FlashSettings("absolute"), None]
LONG = SamplingSettings(max_tokens=24, ignore_end=True)
MAX_TOKENS = 2048
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else always the first core, whoever is there already
    "VLLM_NO_USAGE_STATS": "1",
}


class Ours:
    """The embedded checkpoint with a router added, and answers by transformers' own loop."""

    def __init__(self, folder: Path) -> None:
        model = VisionLanguageModel.from_pretrained(TINY_FOLDER, dtype=torch.float32).eval()
        self.tile = model.config.tile_settings.tile_size
        torch.manual_seed(2)
        add_router(model, relative_threshold=0.3)
        with torch.inference_mode():
            for parameter in model.router.parameters():  # so that it tells tiles apart
                parameter.add_(0.3 * torch.randn_like(parameter))
            tiles = make_pixel_values(self.draw(2, 2, 2), model.config.tile_settings)
            scores = model.score_tiles(model.encode_patches(tiles)).sort().values
        model.config.flash_absolute_threshold = float(scores[1] + scores[2]) / 2
        model.save_pretrained(folder, layout="remote-code")
        self.tokenizer = load_tokenizer(TINY_FOLDER)
        save_tokenizer(self.tokenizer, folder)
        self.model = model
        self.folder = folder
        settings = PromptSettings(
            template=model.config.template, tokens_per_tile=model.config.tokens_per_tile
        )
        self.builder = PromptBuilder(self.tokenizer, settings)
        self.rules = stop_rules(self.tokenizer, self.builder)

    def draw(self, columns: int, rows: int, seed: int) -> Image.Image:
        """A picture that takes about so many tiles."""
        rng = np.random.default_rng(seed)
        levels = rng.integers(0, 255, (rows * self.tile, columns * self.tile, 3), dtype=np.uint8)
        levels[: self.tile // 2, : self.tile // 2] = 40 * seed % 255
        return Image.fromarray(levels)

    @property
    def small(self) -> Image.Image:
        return self.draw(1, 1, 1)

    @property
    def large(self) -> Image.Image:
        return self.draw(2, 2, 2)

    def ask(self, question: str, *pictures: Image.Image) -> Request:
        tiles = [
            make_pixel_values(picture, self.model.config.tile_settings) for picture in pictures
        ]
        message = Message("user", "<image>\n" * len(pictures) + question)
        prompt = self.builder.build([message], [len(part) for part in tiles])
        return Request(prompt, torch.cat(tiles) if tiles else None)

    def options(self, sampling: SamplingSettings) -> dict[str, Any]:
        options = generation_options(sampling)
        never = list(self.rules.banned_token_ids)  # None would mean the model's own
        return options | {"eos_token_id": never} if sampling.ignore_end else options

    def decode(self, token_ids: list[int]) -> str:
        kept = [token for token in token_ids if token not in self.rules.end_token_ids]
        return str(self.tokenizer.decode(kept, skip_special_tokens=False))

    def answer(self, request: Request, sampling: SamplingSettings, flash: Any = OFF) -> list[int]:
        (routed,) = route(self.model, [request], flash)
        rules = replace(self.rules, end_token_ids=()) if sampling.ignore_end else self.rules
        return generate(self.model, [routed], self.options(sampling), rules)[0]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Ours:
    return Ours(tmp_path_factory.mktemp("flash") / "checkpoint")


@pytest.fixture(scope="module")
def engine(ours: Ours, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from internvl35.generate.vllm_engine import VLLMEngine, VLLMSettings

    settings = VLLMSettings(
        parts_folder=tmp_path_factory.mktemp("parts"),
        max_tokens=MAX_TOKENS,
        max_sequences=16,
        further={"enforce_eager": True},
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        engine = VLLMEngine(ours.folder, settings)
        yield engine
        engine.close()
        engine.close()  # a second call is harmless
    with pytest.raises(ServerError, match="closed"):
        engine.generate([ours.ask("Still there?")], LONG)


def questions(ours: Ours) -> list[Request]:
    return [
        ours.ask("How many red circles are there?"),
        ours.ask("What is this?", ours.small),
        ours.ask("What is written here?", ours.large),
        ours.ask("Are these the same?", ours.large, ours.small, ours.draw(2, 1, 3)),
    ]


# Equality with transformers' own loop -------------------------------------------------------------


def test_greedy_tokens_are_those_of_our_own_path(ours: Ours, engine: Any) -> None:
    requests = questions(ours)
    together = engine.generate(requests, LONG, flash=OFF)
    for request, found in zip(requests, together, strict=True):
        expected = ours.answer(request, LONG)
        assert list(found.samples[0].token_ids) == expected
        assert found.samples[0].finish_reason == "length"
        alone = engine.generate([request], LONG, flash=OFF)[0]
        assert list(alone.samples[0].token_ids) == expected
    assert len({found.samples[0].token_ids for found in together}) > 1


def test_answers_end_where_ours_do(ours: Ours, engine: Any) -> None:
    sampling = SamplingSettings(max_tokens=64)
    for request in questions(ours):
        (sample,) = engine.generate([request], sampling, flash=OFF)[0].samples
        expected = ours.answer(request, sampling)
        assert list(sample.token_ids) == expected
        is_ended = expected[-1] in ours.rules.end_token_ids
        assert sample.finish_reason == ("stop" if is_ended else "length")
        assert sample.text == ours.decode(expected)


@pytest.mark.parametrize("flash", POLICIES, ids=str)
def test_compressed_tiles_work_through_it(ours: Ours, engine: Any, flash: Any) -> None:
    requests = questions(ours)
    found = engine.generate(requests, LONG, flash=flash)
    routed = route(ours.model, requests, flash)
    for request, theirs, our in zip(requests, found, routed, strict=True):
        assert theirs.request.prompt == our.prompt
        assert (theirs.request.routing is None) == (our.routing is None)
        if our.routing is not None:
            assert theirs.request.routing.is_compressed == our.routing.is_compressed
            assert theirs.request.routing.scores == pytest.approx(our.routing.scores, abs=1e-5)
        assert list(theirs.samples[0].token_ids) == ours.answer(request, LONG, flash)
    counts = [one.routing.num_compressed for one in routed if one.routing is not None]
    num_tiles = [one.prompt.num_tiles for one in routed if one.routing is not None]
    assert counts == num_tiles if flash == ALL else 0 < sum(counts) < sum(num_tiles)


def test_a_request_of_a_list_may_have_settings_of_its_own(ours: Ours, engine: Any) -> None:
    request = ours.ask("What is written here?", ours.large)
    sampling = [replace(LONG, max_tokens=count) for count in (3, 9)]
    short, long = engine.generate([request, request], sampling, flash=[OFF, ALL])
    assert list(short.samples[0].token_ids) == ours.answer(request, sampling[0])
    assert list(long.samples[0].token_ids) == ours.answer(request, sampling[1], ALL)


def test_visual_tokens_may_come_with_the_request(ours: Ours, engine: Any) -> None:
    request = ours.ask("What is written here?", ours.large)
    features = ours.model.get_image_features(request.pixel_values).flatten(0, 1)
    given = Request(request.prompt, image_features=features)
    assert list(engine.generate([given], LONG)[0].samples[0].token_ids) == ours.answer(
        request, LONG
    )


def test_logprobs_are_those_of_a_full_forward(ours: Ours, engine: Any) -> None:
    request = ours.ask("What is this?", ours.small)
    sampling = replace(LONG, num_logprobs=3, num_prompt_logprobs=2, repetition_penalty=1.3)
    (found,) = engine.generate([request], sampling, flash=OFF)
    (sample,) = found.samples
    ids = torch.tensor([[*request.prompt.token_ids, *sample.token_ids]])
    with torch.no_grad():
        logits = ours.model(input_ids=ids, pixel_values=request.pixel_values).logits[0]
    expected = logits.log_softmax(-1)  # (T, W), of the token behind each
    first = len(request.prompt)
    for step, entry in enumerate(sample.logprobs):
        row = expected[first + step - 1]
        assert entry.token_id == sample.token_ids[step]
        assert entry.logprob == pytest.approx(row[entry.token_id].item(), abs=1e-4)
        assert [value for _, value in entry.top] == pytest.approx(
            row.topk(3).values.tolist(), abs=1e-4
        )
    (span,) = request.prompt.image_spans
    for place, entry in enumerate(found.prompt_logprobs):
        is_visual = span.start <= place < span.start + span.num_tokens
        assert (entry is None) == (place == 0 or is_visual)
        if entry is not None:
            assert entry.token_id == request.prompt.token_ids[place]
            assert entry.logprob == pytest.approx(
                expected[place - 1, entry.token_id].item(), abs=1e-4
            )
            assert len(entry.top) == 2
    rules = replace(ours.rules, end_token_ids=())
    (answer,) = generate(ours.model, [request], ours.options(sampling), rules)
    assert answer == list(sample.token_ids)


# Sampling settings --------------------------------------------------------------------------------


def test_seeds_reproduce_whatever_else_is_written(ours: Ours, engine: Any) -> None:
    request = ours.ask("What is written here?", ours.large)
    sampling = replace(LONG, temperature=1.5, seed=11, n=3)
    (alone,) = engine.generate([request], sampling, flash=OFF)
    busy = [ours.ask("How many?", ours.small)] * 5
    *_, beside = engine.generate([*busy, request], replace(sampling), flash=OFF)
    answers = [sample.token_ids for sample in alone.samples]
    assert answers == [sample.token_ids for sample in beside.samples]
    assert len(set(answers)) == 3
    (other,) = engine.generate([request], replace(sampling, seed=12345), flash=OFF)
    assert [sample.token_ids for sample in other.samples] != answers


def test_a_seed_is_refused_where_prompts_in_pieces_would_end_vllm(
    ours: Ours, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = engine._llm.vllm_config
    if config.device_config.device_type != "cpu":
        pytest.skip("only on a CPU does vLLM die of it")
    assert not config.scheduler_config.enable_chunked_prefill
    monkeypatch.setattr(config.scheduler_config, "enable_chunked_prefill", True)
    drawn = replace(LONG, temperature=1.0, seed=1)
    refused, greedy = engine.generate(
        [ours.ask("How many?")] * 2, [drawn, replace(drawn, temperature=0.0)]
    )
    assert isinstance(refused.failure, ConfigError)
    assert greedy.failure is None


def test_the_best_of_several_are_the_likeliest(ours: Ours, engine: Any) -> None:
    request = ours.ask("How many red circles are there?")
    sampling = replace(LONG, temperature=1.5, seed=3, max_tokens=6, num_logprobs=0)
    (whole,) = engine.generate([request], replace(sampling, n=6))
    (best,) = engine.generate([request], replace(sampling, n=2, best_of=6))
    likelihoods = {
        sample.token_ids: sum(entry.logprob for entry in sample.logprobs)
        for sample in whole.samples
    }
    expected = sorted(likelihoods, key=lambda ids: likelihoods[ids], reverse=True)[:2]
    assert [sample.token_ids for sample in best.samples] == expected


def test_several_greedy_answers_are_the_same(ours: Ours, engine: Any) -> None:
    request = ours.ask("What is this?", ours.small)
    (found,) = engine.generate([request], replace(LONG, n=2), flash=OFF)
    assert [list(sample.token_ids) for sample in found.samples] == [ours.answer(request, LONG)] * 2


def test_what_is_banned_biased_or_required_is_kept_to(ours: Ours, engine: Any) -> None:
    request = ours.ask("How many red circles are there?")
    plain = ours.answer(request, LONG)
    (banned,) = engine.generate([request], replace(LONG, banned_token_ids=(plain[0],)))
    assert plain[0] not in banned.samples[0].token_ids
    (biased,) = engine.generate([request], replace(LONG, logit_bias=((5, 100.0),)))
    assert set(biased.samples[0].token_ids) == {5}
    marks = tuple((token, 100.0) for token in ours.rules.banned_token_ids)
    (marked,) = engine.generate([request], replace(LONG, logit_bias=marks))
    assert list(marked.samples[0].token_ids) == plain  # pictures' marks are never chosen
    stop = SamplingSettings(max_tokens=24, ignore_end=True, stop_token_ids=(plain[2],))
    (stopped,) = engine.generate([request], stop)
    end = plain.index(plain[2]) + 1
    assert list(stopped.samples[0].token_ids) == plain[:end]
    assert stopped.samples[0].finish_reason == "stop"
    (longer,) = engine.generate([request], SamplingSettings(max_tokens=40, min_tokens=30))
    assert len(longer.samples[0].token_ids) >= 30


def test_stop_texts_end_an_answer_and_are_not_part_of_it(ours: Ours, engine: Any) -> None:
    request = ours.ask("How many red circles are there?")
    plain = ours.answer(request, LONG)
    text = ours.decode(plain)
    mark = text[3:5]
    (found,) = engine.generate([request], replace(LONG, stop=(mark,)))
    (sample,) = found.samples
    assert sample.text == text.split(mark)[0]
    assert sample.finish_reason == "stop"
    assert list(sample.token_ids) == plain[: len(sample.token_ids)]
    assert len(sample.token_ids) < len(plain)


def test_answers_follow_a_structure(ours: Ours, engine: Any) -> None:
    request = ours.ask("What is this?", ours.small)
    sampling = SamplingSettings(max_tokens=24, structure=StructureSettings(choices=("cat", "dog")))
    regex = replace(sampling, structure=StructureSettings(regex="[0-9]{3}-[a-c]{2}"))
    chosen, matched = engine.generate([request] * 2, [sampling, regex], flash=OFF)
    assert chosen.samples[0].text in ("cat", "dog")
    assert re.fullmatch("[0-9]{3}-[a-c]{2}", matched.samples[0].text)


def test_json_cannot_go_on_with_blanks_for_ever(ours: Ours, engine: Any) -> None:
    request = ours.ask("What is this?", ours.small)
    blanks = [ours.tokenizer.convert_tokens_to_ids(name) for name in ("Ġ", "Ċ")]
    wanted = tuple((token_id, 100.0) for token_id in blanks if token_id is not None)
    assert wanted
    schema = '{"type": "array", "items": {"enum": [1]}, "minItems": 2, "maxItems": 2}'
    structure = StructureSettings(json_schema=schema)
    sampling = SamplingSettings(max_tokens=300, structure=structure, logit_bias=wanted)
    (found,) = engine.generate([request], sampling, flash=OFF)
    text = found.samples[0].text
    assert json.loads(text) == [1, 1], text
    assert max(map(len, re.findall(r"\s+", text))) == 40


# What is shared, what fails, what ends early ------------------------------------------------------


def test_equal_pictures_share_the_cache_and_different_ones_do_not(ours: Ours, engine: Any) -> None:
    block = 128  # tokens of one of vLLM's blocks on a CPU
    pictures = [ours.draw(2, 2, seed) for seed in range(8, 12)]

    def ask(*numbers: int) -> Request:
        return ours.ask("What is shared?", *(pictures[number] for number in numbers))

    def cached(*numbers: int) -> int:
        found = engine.generate([ask(*numbers)], LONG, flash=OFF)
        return int(found[0].num_cached_tokens)

    prompt = ask(0, 1, 2).prompt
    first, _, last = (span.start // block * block for span in prompt.image_spans)
    whole = (len(prompt) - 1) // block * block
    assert first < last < whole
    assert cached(0, 1, 2) <= first
    assert cached(0, 1, 2) == whole
    assert cached(0, 1, 3) == last
    assert cached(3, 1, 2) == first


def test_a_bad_request_fails_alone(ours: Ours, engine: Any) -> None:
    good = ours.ask("What is this?", ours.small)
    (span,) = good.prompt.image_spans
    width = ours.model.config.text_config.hidden_size
    features = torch.zeros(span.num_tokens, width)
    holes = features.clone()
    holes[3, 5] = float("nan")
    ids = good.prompt.token_ids
    bad = {
        "ids": Request(replace(good.prompt, token_ids=(10**6, *ids[1:])), good.pixel_values),
        "wide": Request(good.prompt, image_features=torch.zeros(span.num_tokens, width + 1)),
        "finite": Request(good.prompt, image_features=holes),
        "shape": Request(good.prompt, good.pixel_values[..., :-14]),
        "long": ours.ask("word " * MAX_TOKENS),
    }
    found = engine.generate([good, *bad.values(), good], LONG, flash=OFF)
    expected = ours.answer(good, LONG)
    assert [list(one.samples[0].token_ids) for one in (found[0], found[-1])] == [expected] * 2
    for name, one in zip(bad, found[1:-1], strict=True):
        assert (one.samples[0].finish_reason, one.samples[0].token_ids) == ("error", ()), name
        assert one.samples[0].error, name
    hot = engine.generate([good], replace(LONG, temperature=3.0))[0].samples[0]
    assert hot.finish_reason == "error"
    assert "temperature is 3.0" in hot.error


async def read(stream: Any) -> list[Any]:
    return [update async for update in stream]


def test_a_stream_gives_the_answer_piece_by_piece(ours: Ours, engine: Any) -> None:
    request = ours.ask("What is written here?", ours.large)
    sampling = replace(LONG, n=2, num_logprobs=1, temperature=1.0, seed=4)
    updates = asyncio.run(read(engine.stream(request, sampling, flash=ALL, request_id="mine")))
    (whole,) = engine.generate([request], sampling, flash=ALL)
    assert len(updates) > 4
    for number, sample in enumerate(whole.samples):
        own = [update for update in updates if update.sample == number]
        assert sum((update.token_ids for update in own), ()) == sample.token_ids
        assert "".join(update.text for update in own) == sample.text
        assert len(sum((update.logprobs for update in own), ())) == len(sample.token_ids)
        assert [update.finish_reason for update in own[:-1]] == [None] * (len(own) - 1)
        assert own[-1].finish_reason == "length"
    assert {update.request_id for update in updates} == {"mine"}
    assert [update.completion is None for update in updates] == [True] * (len(updates) - 1) + [
        False
    ]
    assert updates[-1].completion.samples == whole.samples
    assert 0 < whole.seconds_to_visual_tokens < whole.seconds_to_first_token


def test_leaving_a_stream_ends_the_request(ours: Ours, engine: Any) -> None:
    async def leave() -> int:
        long = SamplingSettings(max_tokens=900, ignore_end=True)
        stream = engine.stream(ours.ask("How many?", ours.small), long, request_id="left")
        async for update in stream:
            if update.token_ids:
                break
        await stream.aclose()
        for _ in range(200):
            if not engine.num_requests:
                break
            await asyncio.sleep(0.05)
        return int(engine.num_requests)

    assert asyncio.run(leave()) == 0
    # the name is free again
    updates = asyncio.run(read(engine.stream(ours.ask("Hello"), LONG, request_id="left")))
    assert updates[-1].finish_reason == "length"


def test_a_stream_refuses_what_cannot_be_done(ours: Ours, engine: Any) -> None:
    request = ours.ask("What is this?", ours.small)
    with pytest.raises(ConfigError, match="temperature is 3"):
        asyncio.run(read(engine.stream(request, replace(LONG, temperature=3.0))))
    ids = (10**6,) * len(request.prompt)
    far = Request(replace(request.prompt, token_ids=ids), request.pixel_values)
    with pytest.raises(PromptError, match="1000000"):
        asyncio.run(read(engine.stream(far, LONG)))

    async def twice() -> None:
        first = engine.stream(request, LONG, request_id="one")
        await anext(first)
        try:
            with pytest.raises(ServerError, match="in work already"):
                await anext(engine.stream(request, LONG, request_id="one"))
        finally:
            await first.aclose()

    asyncio.run(twice())


def test_streams_of_several_readers_run_side_by_side(ours: Ours, engine: Any) -> None:
    requests = questions(ours)

    async def all_of_them() -> list[list[Any]]:
        return await asyncio.gather(
            *(read(engine.stream(request, LONG, flash=OFF)) for request in requests)
        )

    for request, updates in zip(requests, asyncio.run(all_of_them()), strict=True):
        tokens = sum((update.token_ids for update in updates), ())
        assert list(tokens) == ours.answer(request, LONG)


def test_this_process_holds_no_weight_of_the_language_model(ours: Ours, engine: Any) -> None:
    (stage,) = [engine._vision._encoder]
    assert not hasattr(stage._model, "language_model")
    assert (Path(engine.settings.parts_folder) / "language" / "config.json").is_file()
