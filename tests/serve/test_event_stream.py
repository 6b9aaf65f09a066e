"""Events reach their reader one by one, and every way in which a stream can end gives back all."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, suppress

import pytest

from internvl35.errors import PromptError
from internvl35.serve.event_stream import EventStream, ReaderGoneError, while_read
from internvl35.serve.refusals import refuse


class Connection:
    """Keeps what is sent; the client goes when it is told to."""

    def __init__(self):
        self.gone, self.sent = asyncio.Event(), []

    async def receive(self):
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.sent.append(message)

    @property
    def data(self):
        parts = [message.get("body", b"") for message in self.sent]
        return b"".join(parts).decode()


async def serve(events, ending=None, seconds=60.0):
    """Send a stream; gives the connection, how often what it held was given back, its error."""
    connection, given_back, noted = Connection(), [], []

    def tell(error):
        noted.append(error)
        return refuse(error, "req_1").body

    held = AsyncExitStack()
    held.callback(given_back.append, True)
    until = asyncio.get_running_loop().time() + seconds
    stream = EventStream(events, tell, held, until)
    task = asyncio.create_task(stream({}, connection.receive, connection.send))
    if ending is not None:
        await ending(connection, task)
    with suppress(asyncio.CancelledError):
        await task
    assert given_back == [True]
    return connection, noted


async def count(number, then=None):
    for value in range(number):
        yield {"value": value}
    if isinstance(then, Exception):
        raise then
    if then is not None:
        await asyncio.sleep(then)


def test_events_are_sent_as_they_come_and_named_after_their_type():
    async def both():
        yield {"type": "begun", "text": "ä\n"}
        yield "[DONE]"

    connection, noted = asyncio.run(serve(both()))
    assert connection.data == (
        'event: begun\ndata: {"type": "begun", "text": "ä\\n"}\n\ndata: [DONE]\n\n'
    )
    assert noted == []
    assert connection.sent[0]["status"] == 200
    assert dict(connection.sent[0]["headers"])[b"content-type"].startswith(b"text/event-stream")
    assert b"content-length" not in dict(connection.sent[0]["headers"])
    assert connection.sent[-1]["more_body"] is False


def test_half_a_character_is_sent_as_its_escape():
    async def half():
        yield {"text": "\ud83d"}

    connection, _ = asyncio.run(serve(half()))
    assert json.loads(connection.data.removeprefix("data: ")) == {"text": "\ud83d"}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PromptError("too long"), "too long"),
        (KeyError("x"), "a fault of the server; request req_1"),
    ],
)
def test_an_error_behind_the_first_event_is_the_last_one(error, message):
    connection, noted = asyncio.run(serve(count(1, error)))
    last = connection.data.split("\n\n")[-2]
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == message
    assert noted == [error]


def test_a_stream_whose_time_is_up_says_so():
    connection, _ = asyncio.run(serve(count(1, 60.0), seconds=0.02))
    assert "took too long" in connection.data


def test_a_reader_who_goes_ends_the_stream_and_is_told_nothing():
    async def go(connection, task):
        await asyncio.sleep(0.01)
        connection.gone.set()

    connection, noted = asyncio.run(serve(count(1, 60.0), go))
    assert "error" not in connection.data
    assert [type(error) for error in noted] == [ReaderGoneError]


def test_a_server_that_stops_says_so():
    async def stop(connection, task):
        await asyncio.sleep(0.01)
        task.cancel()

    connection, _ = asyncio.run(serve(count(1, 60.0), stop))
    assert "the server stopped before the end" in connection.data


def test_work_is_cancelled_when_nobody_waits_for_it():
    async def run():
        connection, cancelled = Connection(), []

        async def work():
            try:
                await asyncio.sleep(60)
            finally:
                cancelled.append(True)

        until = asyncio.get_running_loop().time() + 60
        waiting = asyncio.create_task(while_read(connection.receive, work(), until))
        await asyncio.sleep(0.01)
        connection.gone.set()
        with pytest.raises(ReaderGoneError):
            await waiting
        assert cancelled == [True]
        with pytest.raises(TimeoutError):
            await while_read(Connection().receive, work(), until - 60)
        assert await while_read(Connection().receive, asyncio.sleep(0, "done"), until) == "done"

    asyncio.run(run())
