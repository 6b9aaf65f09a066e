"""Adapters answer under their own names and share every weight that they do not change."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack, closing

import httpx
import pytest
import torch
from gateway_stubs import StubLoader

from internvl35 import SamplingSettings, load
from internvl35.commands.serve_engine import adapt
from internvl35.errors import CheckpointError, ConfigError
from internvl35.generate.engine import Engine
from internvl35.generate.engine_thread import EngineThread
from internvl35.serve.adapters import AdaptedEngines, AdapterAnswerer
from internvl35.serve.answering import Defaults
from internvl35.serve.chat_answer import AnswerFormat
from internvl35.serve.gateway import build_app
from internvl35.serve.gateway_settings import GatewaySettings
from internvl35.train.adapters import add_adapters, merge_adapters, save_adapters
from internvl35.train.settings import AdapterSettings, FreezeSettings

GREEDY = SamplingSettings(max_tokens=12)
BODY = {"messages": [{"role": "user", "content": "Hello, who are you? " * 3}]}


@pytest.fixture(scope="module")
def chat(random_checkpoint):
    chat = load(random_checkpoint, dtype=torch.float32)
    yield chat
    chat.engine.close()


@pytest.fixture(scope="module")
def folders(random_checkpoint, tmp_path_factory):
    """Two adapters that change answers."""
    found = {}
    for number, name in enumerate(("red", "blue")):
        model = load(random_checkpoint, dtype=torch.float32).model
        settings = AdapterSettings(lora_dropout=0.0, use_dora=name == "blue")
        add_adapters(model, settings, FreezeSettings(freeze_vit=False))
        torch.manual_seed(number)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.add_(0.3 * torch.randn_like(parameter))
        found[name] = tmp_path_factory.mktemp("adapters") / name
        save_adapters(model, found[name])
    return found


def merged_answer(checkpoint, folder):
    """What a checkpoint says into which an adapter was merged."""
    chat = load(checkpoint, dtype=torch.float32)
    chat.model = merge_adapters(adapt(chat.model, folder))
    with closing(chat.engine):
        return chat.ask(BODY["messages"][0]["content"], sampling=GREEDY).text


def ask(chat, folders, bodies, path="/v1/chat/completions"):
    async def send(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            models = await client.get("/v1/models")
            asked = [client.post(path, json=body, timeout=60) for body in bodies]
            return models.json(), await asyncio.gather(*asked)

    with ExitStack() as stack:
        adapters = {}
        for name, folder in folders.items():
            engine = Engine(adapt(chat.model, folder), chat.rules, tokenizer=chat.tokenizer)
            adapters[name] = stack.enter_context(closing(EngineThread(engine)))
        form = AnswerFormat(chat.tokenizer, chat.rules.end_token_ids, "base")
        answerer = AdapterAnswerer(
            chat, AdaptedEngines(chat.engine, adapters), StubLoader(), form, Defaults(GREEDY),
            GatewaySettings(), ("base", "other"),
        )  # fmt: skip
        return asyncio.run(send(build_app(answerer)))


def test_each_name_answers_as_the_checkpoint_with_its_adapter_merged(
    chat, folders, random_checkpoint
):
    expected = {name: merged_answer(random_checkpoint, path) for name, path in folders.items()}
    expected["base"] = chat.ask(BODY["messages"][0]["content"], sampling=GREEDY).text
    assert len(set(expected.values())) == 3
    order = ["red", "base", "blue", "red", "base"]
    models, answers = ask(chat, folders, [{**BODY, "model": name} for name in order])
    assert [model["id"] for model in models["data"]] == ["base", "other", "red", "blue"]
    for name, answer in zip(order, answers, strict=True):
        body = answer.json()
        assert body["choices"][0]["message"]["content"] == expected[name]
        assert body["model"] == name
    nothing = ask(chat, {}, [{**BODY, "model": "red"}])[1][0]
    assert nothing.status_code == 404


def test_texts_and_responses_are_answered_by_adapters_too(chat, folders):
    for path, field in (("/v1/completions", "prompt"), ("/v1/responses", "input")):
        bodies = [{field: "Hello", "model": name} for name in ("red", "base")]
        _, answers = ask(chat, folders, bodies, path)
        red, base = (answer.json() for answer in answers)
        assert (red["model"], base["model"]) == ("red", "base")
        parts = [
            json.dumps(one.get("choices") or one["output"][0]["content"]) for one in (red, base)
        ]
        assert parts[0] != parts[1]


def test_an_adapter_shares_the_weights_and_leaves_the_model_as_it_was(chat, folders):
    before = {name: value.clone() for name, value in chat.model.state_dict().items()}
    adapted = adapt(chat.model, folders["red"])
    own = {id(value) for value in chat.model.parameters()}
    others = [name for name, value in adapted.named_parameters() if id(value) not in own]
    assert others
    assert all("lora_" in name for name in others)
    assert len(list(adapted.parameters())) - len(others) == len(own)
    after = chat.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_an_adapter_that_would_change_shared_weights_is_refused(chat, folders, tmp_path):
    config = json.loads((folders["red"] / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({**config, "init_lora_weights": "pissa"})
    )
    (tmp_path / "adapter_model.safetensors").write_bytes(
        (folders["red"] / "adapter_model.safetensors").read_bytes()
    )
    with pytest.raises(CheckpointError, match="began with pissa change the weights under them"):
        adapt(chat.model, tmp_path)


def test_an_adapter_with_the_name_of_the_model_is_refused(chat):
    form = AnswerFormat(chat.tokenizer, chat.rules.end_token_ids, "base")
    engines = AdaptedEngines(chat.engine, {"base": chat.engine})
    with pytest.raises(ConfigError, match="the model's name base"):
        AdapterAnswerer(
            chat, engines, StubLoader(), form, Defaults(GREEDY), GatewaySettings(), ("base",)
        )
