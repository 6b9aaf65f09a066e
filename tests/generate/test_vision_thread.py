"""The thread that encodes pictures: results, failures, giving up and closing."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, wait

import pytest
import torch

from internvl35.data.token_writer import Prompt
from internvl35.errors import MediaError, ServerError
from internvl35.generate.request import Request
from internvl35.generate.vision import EncodedRequest
from internvl35.generate.vision_thread import VisionThread


class SlowEncoder:
    """Takes one request a step, and each step waits to be let through."""

    def __init__(self, failing: BaseException | None = None) -> None:
        self.gate = threading.Semaphore(0)
        self.waiting: dict[str, Request] = {}
        self.cancelled: list[Request | None] = []
        self.threads: set[int] = set()
        self.failing = failing

    @property
    def has_work(self):
        return bool(self.waiting)

    @property
    def num_waiting_tiles(self):
        return len(self.waiting)

    def submit(self, key, request, flash=None, *, cache_salt="", priority=0):
        assert key not in self.waiting
        self.waiting[key] = request

    def cancel(self, key):
        self.cancelled.append(self.waiting.pop(key, None))

    def step(self, max_tiles=None, *, num_answers=None):
        self.gate.acquire()
        self.threads.add(threading.get_ident())
        if self.failing is not None and isinstance(self.failing, RuntimeError):
            raise self.failing
        key = next(iter(self.waiting))
        request = self.waiting.pop(key)
        if self.failing is not None:
            return [(key, self.failing)]
        return [(key, EncodedRequest(request, ()))]


def request_of(number):
    return Request(Prompt((number,), (), (False,)), image_features=torch.zeros(0, 4))


def test_each_request_gets_its_own_result_from_one_other_thread():
    encoder = SlowEncoder()
    thread = VisionThread(encoder)
    requests = [request_of(number) for number in range(5)]
    futures = [thread.encode(request) for request in requests]
    encoder.gate.release(5)
    assert [future.result(10).request for future in futures] == requests
    thread.close()
    assert len(encoder.threads) == 1
    assert threading.get_ident() not in encoder.threads


def test_what_is_wrong_with_a_request_reaches_who_asked():
    encoder = SlowEncoder(MediaError("blank"))
    thread = VisionThread(encoder)
    encoder.gate.release()
    with pytest.raises(MediaError, match="blank"):
        thread.encode(request_of(1)).result(10)
    thread.close()


def test_a_failing_step_fails_who_waits_and_the_thread_goes_on():
    encoder = SlowEncoder(RuntimeError("out of memory"))
    thread = VisionThread(encoder)
    first = thread.encode(request_of(1))
    encoder.gate.release()
    with pytest.raises(ServerError, match="out of memory"):
        first.result(10)
    encoder.failing = None
    second = thread.encode(request_of(2))
    encoder.gate.release()
    assert second.result(10).request.prompt.token_ids == (2,)
    thread.close()


def test_a_device_that_failed_for_good_ends_the_thread():
    encoder = SlowEncoder(torch.AcceleratorError("planted"))
    thread = VisionThread(encoder)
    first = thread.encode(request_of(1))
    encoder.gate.release()
    with pytest.raises(ServerError, match="has ended"):
        first.result(10)
    with pytest.raises(ServerError, match="has ended"):
        thread.encode(request_of(2)).result(10)
    assert isinstance(thread.ended.exception(10), torch.AcceleratorError)
    thread.close()


def test_who_gives_up_leaves_no_work_behind():
    encoder = SlowEncoder()
    thread = VisionThread(encoder)
    first, second = (thread.encode(request_of(number)) for number in (1, 2))
    assert second.cancel()
    encoder.gate.release(1)
    first.result(10)
    with pytest.raises(CancelledError):
        second.result(10)
    encoder.gate.release(9)
    thread.close()
    assert not encoder.waiting


def test_closing_fails_who_still_waits_and_who_comes_later():
    encoder = SlowEncoder()
    thread = VisionThread(encoder)
    late = [thread.encode(request_of(number)) for number in range(3)]
    closing = threading.Thread(target=thread.close)
    closing.start()
    encoder.gate.release(1)
    closing.join(10)
    assert not closing.is_alive()
    wait(late, 10)
    errors = [future.exception() for future in late if future.exception() is not None]
    assert errors
    assert all(isinstance(error, ServerError) for error in errors)
    with pytest.raises(ServerError, match="has ended"):
        thread.encode(request_of(9)).result(10)


def test_a_thread_that_breaks_tells_those_too_whom_it_has_not_taken_up():
    encoder = SlowEncoder()
    encoder.step = lambda max_tiles=None: (encoder.gate.acquire(), {}["a bug"])
    thread = VisionThread(encoder)
    first = thread.encode(request_of(0))
    while not encoder.waiting:  # the thread is in its step from now on, or just before
        threading.Event().wait(0.001)
    others = [thread.encode(request_of(number)) for number in range(1, 4)]
    encoder.gate.release()
    for future in (first, *others, thread.encode(request_of(9))):
        with pytest.raises(ServerError, match="has ended"):
            future.result(10)
    thread.close()


def test_it_ends_before_the_process_does(monkeypatch):
    at_exit = []
    monkeypatch.setattr("atexit.register", at_exit.append)
    thread = VisionThread(SlowEncoder())
    (end,) = at_exit
    end()
    assert not thread._thread.is_alive()
