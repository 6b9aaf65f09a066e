"""A server on a real port: the official client, readers who leave, and a stop by signal."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest
from batch_stubs import EchoEngine
from gateway_stubs import make_answerer

from internvl35.errors import ServerError
from internvl35.serve.gateway import build_app
from internvl35.serve.listening import Listener, _heeding, bind, serve

ROOT = Path(__file__).parents[2]
KEY = "sk-0123456789abcdef"

SERVER = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests" / "shared")!r})
from batch_stubs import EchoEngine
from gateway_stubs import make_answerer
from internvl35.serve.gateway import build_app
from internvl35.serve.listening import bind, serve

engine = EchoEngine(lambda text: 1.5)
answerer = make_answerer(engine)
taken = bind("127.0.0.1", 0)
print(taken.getsockname()[1], flush=True)
serve(build_app(answerer, [{KEY!r}]), answerer, answerer.settings, taken)
print(engine.num_now, answerer.room.num_requests, answerer.loader.is_closed, flush=True)
"""


@pytest.fixture(scope="module")
def url():
    """A server in a thread of this process."""
    answerer = make_answerer(EchoEngine(delay))
    taken = bind("127.0.0.1", 0)
    listener = Listener(build_app(answerer, [KEY]), answerer, answerer.settings)
    thread = threading.Thread(target=listener.run, kwargs={"sockets": [taken]})
    thread.start()
    until(lambda: listener.started)
    yield f"http://127.0.0.1:{taken.getsockname()[1]}"
    listener.should_exit = True
    thread.join()
    taken.close()
    assert answerer.loader.is_closed
    assert answerer.room.num_requests == 0


@contextmanager
def started():
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True, cwd=ROOT / "src"
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        until(lambda: not is_refused(port))
        yield process, port
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def delay(text):
    return float(text.split()[1]) if text.startswith("wait") else 0.0


def make_client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)


def ask(text, **fields):
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **fields}


def until(is_so, seconds=20.0):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def figure(url, name):
    headers = {"authorization": f"Bearer {KEY}"}
    lines = httpx.get(f"{url}/metrics", headers=headers).text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


def test_the_official_client_and_its_errors(url):
    client = make_client(url)
    assert [model.id for model in client.models.list()] == ["tiny", "other"]
    whole = client.chat.completions.create(**ask("hello", n=2))
    assert [choice.message.content for choice in whole.choices] == ["HELLO", "HELLO"]
    chunks = list(client.chat.completions.create(**ask("hello"), stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "HELLO"
    with pytest.raises(openai.BadRequestError) as found:
        client.chat.completions.create(**ask("hello", top_p=3))
    assert found.value.param == "top_p"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**ask("hello") | {"model": "gpt"})
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{url}/v1", api_key="wrong").models.list()
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(**ask("REFUSE"))
    with pytest.raises(openai.APIError, match="the answer broke off"):
        list(client.chat.completions.create(**ask("REFUSE"), stream=True))


@pytest.mark.parametrize("stream", [False, True])
def test_a_reader_who_leaves_ends_his_request(url, stream):
    before = figure(url, "internvl35_gone_readers_total")
    client = make_client(url).with_options(timeout=0.3)
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(**ask("wait 600"), stream=stream)
    until(lambda: figure(url, "internvl35_requests") == 0)
    assert figure(url, "internvl35_gone_readers_total") == before + 1


def test_a_stop_lets_answers_under_way_end_and_takes_no_others():
    with started() as (process, port):
        check_stop(process, port)


def test_a_signal_that_comes_before_the_first_connection_stops_too():
    answerer = make_answerer()
    taken = bind("127.0.0.1", 0)
    begin = answerer.start
    raised = []

    async def start():  # uvicorn has not begun to listen
        raised.append(signal.raise_signal(signal.SIGTERM))
        await begin()

    answerer.start = start
    serve(build_app(answerer), answerer, answerer.settings, taken)
    assert (len(raised), answerer.loader.is_closed) == (1, True)
    answerer, taken = make_answerer(), bind("127.0.0.1", 0)
    with _heeding(
        signal.SIGTERM, listener := Listener(build_app(answerer), answerer, answerer.settings)
    ):
        signal.raise_signal(signal.SIGTERM)  # nor has it looked for signals
        listener.run(sockets=[taken])
    assert answerer.loader.is_closed


def check_stop(process, port):
    url = f"http://127.0.0.1:{port}"
    body = json.dumps(ask("wait 1.5", stream=True)).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(head + body)
        until(lambda: figure(url, "internvl35_requests") == 1)
        process.send_signal(signal.SIGTERM)
        until(lambda: is_refused(port))
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"WAIT 1.5" in answer
    assert b"data: [DONE]" in answer
    assert process.wait(20) == 0
    assert process.stdout.read() == "0 0 True\n"


def is_refused(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return True
    return False


def test_who_is_told_that_it_listens_is_answered():
    answerer, told = make_answerer(), []
    taken = bind("127.0.0.1", 0)
    port = taken.getsockname()[1]
    assert is_refused(port)

    def tell():
        told.append(is_refused(port))
        signal.raise_signal(signal.SIGTERM)

    serve(build_app(answerer), answerer, answerer.settings, taken, tell)
    assert told == [False]


def test_a_port_that_is_taken_is_an_error_of_one_line():
    taken = bind("127.0.0.1", 0)
    taken.listen()
    try:
        with pytest.raises(ServerError, match="cannot be had"):
            bind("127.0.0.1", taken.getsockname()[1])
    finally:
        taken.close()
    with pytest.raises(ServerError, match="name another"):
        bind("no.such.host.invalid", 0)
