"""A first request of a server's own: what it computes, and what others see of it."""

from __future__ import annotations

from contextlib import closing
from random import Random

import pytest
import torch
from engine_requests import RULES, make_request

from internvl35.errors import PromptError, ServerError
from internvl35.generate import decode_attention
from internvl35.generate.engine import Engine
from internvl35.generate.engine_thread import EngineThread
from internvl35.generate.sampling import SamplingSettings
from internvl35.generate.warm_up import warm_up
from internvl35.model.composite import VisionLanguageModel
from internvl35.serve import parts
from internvl35.serve.language.no_vision import NoVision
from internvl35.serve.served_checkpoint import look_at


@pytest.fixture(scope="module")
def model(build_model):
    return build_model()


def make_engine(model, **parts):
    return EngineThread(Engine(model, RULES, **parts))


def test_tower_prompt_and_single_token_are_computed_before_anybody_asks(model, monkeypatch):
    attended, seen = decode_attention.attend_decode, []

    def attend(*given, **named):
        seen.append("single token")
        return attended(*given, **named)

    monkeypatch.setattr("internvl35.generate.paged_attention.attend_decode", attend)
    handle = model.vision_tower.register_forward_hook(lambda *_: seen.append("tower"))
    with closing(make_engine(model)) as engine:
        warm_up(engine, model.config, 2, has_vision=True)
    handle.remove()
    assert seen[0] == "tower"
    assert "single token" in seen


def test_a_language_server_warms_up_without_a_tower(model):
    with closing(make_engine(model, encoder=NoVision())) as engine:
        warm_up(engine, model.config, 2, has_vision=False)
        with pytest.raises(PromptError, match="without a vision part"):
            warm_up(engine, model.config, 2, has_vision=True)


def test_nobody_finds_it_in_a_cache(model):
    request = make_request(Random(1), 40, (2,))
    with closing(make_engine(model)) as engine:
        warm_up(engine, model.config, 2, has_vision=True)
        (completion,) = engine.generate([request], SamplingSettings(max_tokens=3))
    assert completion.num_cached_tokens == 0


def test_an_engine_that_computes_nonsense_does_not_begin(model, monkeypatch):
    with closing(make_engine(model)) as engine, torch.no_grad():
        weight = model.language_model.lm_head.weight
        monkeypatch.setattr(weight, "data", torch.full_like(weight, torch.nan))
        with pytest.raises(ServerError, match="a first answer failed: "):
            warm_up(engine, model.config, 2, has_vision=True)


def test_servers_of_both_kinds_are_warm_before_they_begin(random_checkpoint, monkeypatch):
    seen = []
    monkeypatch.setattr(parts, "warm_up", lambda *_, has_vision: seen.append(has_vision))
    encode = VisionLanguageModel.get_image_features

    def encode_seen(model, tiles):
        seen.append(len(tiles))
        return encode(model, tiles)

    monkeypatch.setattr(VisionLanguageModel, "get_image_features", encode_seen)
    served = look_at(random_checkpoint)
    with closing(parts.start_language(served)), closing(parts.start_vision(served)):
        assert seen == [False, 1]
