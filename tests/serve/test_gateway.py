"""Routes answer chats, turn away what they cannot answer, and say which field is wrong."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import httpx
import pytest
from batch_stubs import EchoEngine
from gateway_stubs import make_answerer

from internvl35.errors import BusyError, ConfigError
from internvl35.serve.gateway import build_app

KEY = "sk-0123456789abcdef"
CHAT = "/v1/chat/completions"


@asynccontextmanager
async def client_of(answerer, keys=()):
    transport = httpx.ASGITransport(build_app(answerer, keys), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


def ask(path, body=None, *, answerer=None, keys=(), headers=None, method="POST", content=None):
    """Send one request; gives the response."""

    async def send():
        async with client_of(answerer or make_answerer(), keys) as client:
            raw = content if content is not None else json.dumps(body).encode()
            return await client.request(method, path, content=raw, headers=headers)

    return asyncio.run(send())


def make_body(text="hello", **fields):
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **fields}


def events_of(response):
    blocks = response.text.split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") for block in blocks)
    return [block.removeprefix("data: ") for block in blocks]


def test_a_chat_is_answered_whole():
    answerer = make_answerer()
    response = ask(CHAT, make_body(n=2), answerer=answerer)
    assert response.status_code == 200
    body = response.json()
    assert [choice["message"]["content"] for choice in body["choices"]] == ["HELLO", "HELLO"]
    assert body["usage"]["prompt_tokens"] == 5
    assert body["usage"]["completion_tokens"] == 12
    assert body["model"] == "tiny"
    assert body["id"] == f"chatcmpl-{response.headers['x-request-id'].removeprefix('req_')}"
    assert (answerer.room.num_requests, answerer.room.num_tiles) == (0, 0)


def test_a_chat_is_answered_in_parts_that_join_to_the_whole():
    options = {"include_usage": True}
    response = ask(CHAT, make_body(stream=True, stream_options=options))
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, usage, end = events_of(response)
    assert end == "[DONE]"
    deltas = [json.loads(chunk)["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == "HELLO"
    reasons = [json.loads(chunk)["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]
    assert json.loads(usage)["choices"] == []
    assert json.loads(usage)["usage"]["total_tokens"] == 11
    plain = ask(CHAT, make_body(stream=True))
    assert all("usage" not in json.loads(event) for event in events_of(plain)[:-1])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temprature": 1}, "temprature"), ({"n": "two"}, "n"), ({"messages": []}, "messages"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"), ({"stream_options": {"x": 1}},
        "stream_options.x"), ({"model": "gpt"}, "model"), ({"stream": 1}, "stream"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(fields, param):
    response = ask(CHAT, make_body(**fields))
    assert response.status_code == (404 if param == "model" else 400)
    assert response.json()["error"]["param"] == param
    assert "x-request-id" in response.headers


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b'{"n": NaN}', b"[" * 100_000, b"[]", b"null"]
)
def test_a_body_that_is_no_object_is_refused(content):
    response = ask(CHAT, content=content)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_a_body_that_is_too_large_is_refused():
    response = ask(CHAT, make_body("x" * 2**20), answerer=make_answerer(max_body_mib=1))
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "body_too_large"


def test_a_fault_of_ours_tells_its_sender_nothing_but_an_id():
    for text in ("BROKEN", "CRASH"):
        answerer = make_answerer()
        response = ask(CHAT, make_body(text), answerer=answerer)
        assert response.status_code == 500
        name = response.headers["x-request-id"]
        assert response.json()["error"]["message"] == f"a fault of the server; request {name}"
        assert answerer.room.num_requests == 0
        assert answerer.has_failed == (text == "CRASH")


def test_what_the_engine_refuses_gets_a_status_even_in_parts():
    for stream in (False, True):
        response = ask(CHAT, make_body("RAISE", stream=stream))
        assert response.status_code == 400
        assert response.json()["error"]["message"] == "this engine cannot do that"


def test_an_answer_that_breaks_off_says_so():
    response = ask(CHAT, make_body("REFUSE"))
    assert response.status_code == 500
    assert response.json()["error"]["message"] == "the answer broke off: refused"
    answerer = make_answerer()
    *_, last = events_of(ask(CHAT, make_body("REFUSE", stream=True), answerer=answerer))
    assert json.loads(last) == response.json()
    assert answerer.room.num_requests == 0


def test_every_path_but_health_needs_a_key():
    answerer = make_answerer()
    paths = ["/v1/models", "/metrics", "/openapi.json", "/nothing", CHAT, "/v1/models/tiny"]
    for path in paths:
        for header in ({}, {"authorization": KEY}, {"authorization": f"Bearer {KEY}x"}):
            response = ask(path, {}, answerer=answerer, keys=[KEY], headers=header)
            assert response.status_code == 401, path
            assert KEY not in response.text
    for path in ("/health", "/ready"):
        assert ask(path, method="GET", answerer=answerer, keys=[KEY]).status_code == 200
    header = {"authorization": f"Bearer {KEY}"}
    assert ask(CHAT, make_body(), keys=["sk-another-key-of-16", KEY], headers=header).is_success


def test_keys_that_can_be_guessed_are_refused():
    for key in ("short", "sk-0123456789abcdef with blanks", "ключ-из-многих-букв-да"):
        with pytest.raises(ConfigError, match="API key 1 has") as found:
            build_app(make_answerer(), [key])
        assert key not in str(found.value)


def test_requests_beyond_the_limit_are_refused_at_once_and_the_others_answered():
    answerer = make_answerer(EchoEngine(lambda text: 0.05), max_requests=4)

    async def flood():
        async with client_of(answerer) as client:
            calls = [client.post(CHAT, json=make_body(str(number))) for number in range(50)]
            return await asyncio.gather(*calls)

    responses = asyncio.run(flood())
    statuses = [response.status_code for response in responses]
    assert statuses.count(200) == 4
    assert statuses.count(429) == 46
    refused = responses[statuses.index(429)]
    assert refused.headers["retry-after"] == "2"
    assert refused.json()["error"]["code"] == "too_many_requests"
    assert answerer.room.num_requests == 0


def test_a_server_about_to_stop_takes_no_requests_and_says_so():
    answerer = make_answerer()
    answerer.room.is_draining = True
    response = ask(CHAT, make_body(), answerer=answerer)
    assert (response.status_code, response.headers["retry-after"]) == (503, "2")
    assert ask("/ready", method="GET", answerer=answerer).status_code == 503
    assert ask("/health", method="GET", answerer=answerer).status_code == 200


def test_a_request_that_takes_too_long_ends():
    engine = EchoEngine(lambda text: 60.0)
    answerer = make_answerer(engine, request_timeout_s=0.05)
    response = ask(CHAT, make_body(), answerer=answerer)
    assert response.status_code == 504
    assert (engine.num_now, answerer.room.num_requests) == (0, 0)


def test_models_are_listed_and_figures_counted():
    answerer = make_answerer()
    models = ask("/v1/models", method="GET", answerer=answerer).json()["data"]
    assert [model["id"] for model in models] == ["tiny", "other"]
    assert ask("/v1/models/other", method="GET", answerer=answerer).json()["id"] == "other"
    assert ask("/v1/models/gpt", method="GET", answerer=answerer).status_code == 404
    ask(CHAT, make_body(), answerer=answerer)
    ask("/secret/path", method="GET", answerer=answerer)
    figures = ask("/metrics", method="GET", answerer=answerer).text
    assert 'internvl35_answers_total{route="/v1/chat/completions",status="200"} 1.0' in figures
    assert "internvl35_new_tokens_total 6.0" in figures
    assert "secret" not in figures


def picture(url, **more):
    return {"type": "image_url", "image_url": {"url": url, **more}}


def video(url, **more):
    return {"type": "video_url", "video_url": {"url": url, **more}}


def test_an_engine_that_is_full_says_so_and_when_to_come_back():
    engine = EchoEngine()

    async def stream(*_, **__):
        raise BusyError("4 answers are in work; at most 4 may be", 3.0)
        yield

    engine.stream = stream
    response = ask(CHAT, make_body(), answerer=make_answerer(engine))
    assert (response.status_code, response.headers["retry-after"]) == (503, "3")
    assert "4 answers are in work" in response.json()["error"]["message"]


def test_pictures_and_videos_reach_the_loader_in_order_and_their_tiles_the_engine():
    answerer = make_answerer()
    content = [
        picture("data:a", max_dynamic_patch=5), video("https://h/v.mp4", num_frames=4),
        picture("data:b"), {"type": "text", "text": "ok"}, video("data:v", bound=[1, 2.5]),
    ]  # fmt: skip
    response = ask(CHAT, make_body(content), answerer=answerer)
    assert response.status_code == 200
    items = answerer.loader.items
    assert [(i.source, i.kind, i.max_tiles, i.num_frames, i.bound) for i in items] == [
        ("data:a", "image", 5, None, None), ("https://h/v.mp4", "video", None, 4, None),
        ("data:b", "image", None, None, None), ("data:v", "video", None, None, (1.0, 2.5)),
    ]  # fmt: skip
    assert items[1].where == "messages[0].content[1].video_url"
    assert answerer.engine.tiles_most == 5 + 4 + 2 + 3
    details = response.json()["usage"]["prompt_tokens_details"]
    assert details["image_tokens"] == details["image_tokens_before_compression"] == 14 * 4
    assert answerer.room.num_tiles == 0


@pytest.mark.parametrize(
    ("part", "status", "param"),
    [
        (picture("data:BAD"), 400, "messages[0].content[0].image_url"),
        (video("data:BAD"), 400, "messages[0].content[0].video_url"),
        (picture("file:///etc/passwd"), 400, "messages[0].content[0].image_url"),
        (picture("/etc/passwd"), 400, "messages[0].content[0].image_url"),
        (video("data:a", bound=[2, 1]), 400, "messages[0].content[0].video_url.bound"),
        (video("data:a", fps=2), 400, "messages[0].content[0].video_url.fps"),
        (picture("data:BUSY"), 503, None),
    ],
)
def test_media_that_cannot_be_had_are_named(part, status, param):
    answerer = make_answerer()
    response = ask(CHAT, make_body([part]), answerer=answerer)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)
    assert response.headers.get("retry-after") == ("7" if status == 503 else None)
    assert (answerer.room.num_requests, answerer.room.num_opening) == (0, 0)
