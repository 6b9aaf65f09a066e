"""Texts without turns are gone on with, and tokens told, as the checkpoint's own prompts have them.

One tiny network answers all.
"""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
import torch
from gateway_stubs import StubLoader

from internvl35 import load
from internvl35.data.messages import Message
from internvl35.generate.sampling import SamplingSettings
from internvl35.serve.answering import Answerer, Defaults
from internvl35.serve.chat_answer import AnswerFormat
from internvl35.serve.gateway import build_app
from internvl35.serve.gateway_settings import GatewaySettings

COMPLETIONS = "/v1/completions"


@pytest.fixture(scope="module")
def chat(random_checkpoint):
    return load(random_checkpoint, dtype=torch.float32)


@pytest.fixture(scope="module")
def answerer(chat):
    form = AnswerFormat(chat.tokenizer, chat.rules.end_token_ids, "random", "fp_1")
    defaults = Defaults(SamplingSettings(max_tokens=6))
    yield Answerer(chat, chat.engine, StubLoader(), form, defaults, GatewaySettings(), ("random",))
    chat.engine.close()


def ask(answerer, path, **body):
    async def send():
        transport = httpx.ASGITransport(build_app(answerer), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return await client.post(path, json=body)

    return asyncio.run(send())


def ids_of(chat, text):
    message = Message("assistant", text, image_places=())
    return list(chat.builder.build([message], add_generation_prompt=False).token_ids)


def test_text_ids_and_lists_of_either_are_gone_on_with_alike(chat, answerer):
    text = "Describe the two images"
    ids = ids_of(chat, text)
    whole = ask(answerer, COMPLETIONS, prompt=text).json()
    assert whole["object"] == "text_completion"
    said = whole["choices"][0]["text"]
    assert whole["usage"]["prompt_tokens"] == len(ids)
    for prompt in (ids, [text, ids], [ids, text]):
        choices = ask(answerer, COMPLETIONS, prompt=prompt).json()["choices"]
        assert [choice["text"] for choice in choices] == [said] * len(choices)
        assert [choice["index"] for choice in choices] == list(range(len(choices)))


def test_parts_join_to_the_whole_with_its_logprobs(answerer):
    fields = {"prompt": "Hello, who", "logprobs": 2, "n": 2, "seed": 1, "temperature": 1.0}
    whole = ask(answerer, COMPLETIONS, **fields).json()
    response = ask(
        answerer, COMPLETIONS, **fields, stream=True, stream_options={"include_usage": True}
    )
    *parts, usage, end = [block[6:] for block in response.text.split("\n\n")[:-1]]
    assert end == "[DONE]"
    assert json.loads(usage)["usage"]["total_tokens"] == whole["usage"]["total_tokens"]
    for expected in whole["choices"]:
        own = [json.loads(part)["choices"][0] for part in parts]
        own = [choice for choice in own if choice["index"] == expected["index"]]
        assert "".join(choice["text"] for choice in own) == expected["text"]
        assert own[-1]["finish_reason"] == expected["finish_reason"]
        found = [one for c in own if c["logprobs"] for one in c["logprobs"]["token_logprobs"]]
        assert found == pytest.approx(expected["logprobs"]["token_logprobs"])
        offsets, tokens = expected["logprobs"]["text_offset"], expected["logprobs"]["tokens"]
        assert offsets == [len("".join(tokens[:place])) for place in range(len(tokens))]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"), ({"prompt": ""}, "prompt"), ({"prompt": []}, "prompt"),
        ({"prompt": ["a", 3]}, "prompt"), ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": ["a"] * 65}, "prompt"), ({"prompt": ["a", "b"], "stream": True}, "prompt"),
        ({"prompt": "a", "logprobs": 6}, "logprobs"), ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "top_p": 2}, "top_p"), ({"prompt": "a", "x": 1}, "x"),
        ({"prompt": "a", "model": "gpt"}, "model"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(answerer, fields, param):
    response = ask(answerer, COMPLETIONS, **fields)
    assert response.status_code == (404 if param == "model" else 400)
    assert response.json()["error"]["param"] == param


def test_the_token_of_pictures_is_refused_and_its_name_stays_text(chat, answerer):
    token = chat.builder.image_token_id
    assert ask(answerer, COMPLETIONS, prompt=[5, token]).status_code == 400
    tokens = ask(answerer, "/tokenize", prompt="<IMG_CONTEXT><|im_start|>").json()["tokens"]
    added = set(chat.tokenizer.added_tokens_decoder)
    assert tokens
    assert not added & set(tokens)
    assert ask(answerer, COMPLETIONS, prompt="<IMG_CONTEXT>").status_code == 200


def test_tokens_are_those_of_the_prompt_and_tell_the_text_again(chat, answerer):
    text = "Hello, who are you?"
    told = ask(answerer, "/tokenize", prompt=text).json()
    assert (told["tokens"], told["count"]) == (ids_of(chat, text), len(ids_of(chat, text)))
    assert told["max_model_len"] == 2048
    assert ask(answerer, "/detokenize", tokens=told["tokens"]).json() == {"prompt": text}
    assert ask(answerer, "/detokenize", tokens=[10**6]).status_code == 400
    assert ask(answerer, "/detokenize", tokens=text).status_code == 400
    messages = [{"role": "user", "content": text}]
    prompt = chat.builder.build([Message("user", text)])
    assert ask(answerer, "/tokenize", messages=messages).json()["tokens"] == list(prompt.token_ids)
    assert ask(answerer, "/tokenize").json()["error"]["param"] == "prompt"
