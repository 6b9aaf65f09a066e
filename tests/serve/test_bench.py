"""The load generator: what it sends, what it counts, what it makes of it."""

from __future__ import annotations

import asyncio
import base64
import io
import json

import httpx
import pytest
from batch_stubs import EchoEngine
from gateway_stubs import make_answerer
from PIL import Image

from internvl35.errors import ConfigError, ServerError
from internvl35.serve.bench.bodies import BodyMaker, draw_arrivals
from internvl35.serve.bench.report import describe_report, is_good, make_report, plot_report
from internvl35.serve.bench.run import run_load
from internvl35.serve.bench.settings import BenchSettings, Outcome
from internvl35.serve.gateway import build_app

SMALL = {"picture_width": 64, "picture_height": 32, "num_words": 3, "num_warm_up": 0}


def run(handler=None, answerer=None, **changes):
    settings = BenchSettings(**{**SMALL, "num_requests": 3, **changes})
    transport = (
        httpx.MockTransport(handler)
        if handler
        else httpx.ASGITransport(build_app(answerer or make_answerer()))
    )
    name, outcomes = asyncio.run(run_load(settings, transport=transport))
    return make_report(settings, name, outcomes)


def events(*chunks, end="data: [DONE]\n\n"):
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + end


def chunk(text=""):
    return {"choices": [{"delta": {"content": text}}]}


def answering(reply):
    def handle(request):
        if request.url.path.endswith("/models"):
            return httpx.Response(200, json={"data": [{"id": "m"}]})
        return reply(request)

    return handle


def test_a_server_of_ours_answers_a_load():
    report = run(num_pictures=2, num_warm_up=1)
    assert report["counts"] == {"sent": 3, "answered": 3, "refused": 0, "failed": 0, "lost": 0}
    assert report["model"] == "tiny"
    assert report["tokens"]["image"] == 3 * 2 * 2 * 4
    assert report["tokens"]["new"] == sum(one["num_new_tokens"] for one in report["requests"]) > 0
    assert report["first_token_s"]["p50"] <= report["answer_s"]["max"]
    json.dumps(report, allow_nan=False)


def test_every_request_is_counted_once_by_what_became_of_it():
    replies = iter([
        lambda: httpx.Response(200, text=events(chunk("hello"))),
        lambda: httpx.Response(429, json={"error": {"code": "too_many_requests", "type": "x"}}),
        lambda: httpx.Response(400, json={"error": {"code": None, "type": "invalid"}}),
        lambda: httpx.Response(500, text="oops"),
        lambda: httpx.Response(200, text=events({"error": {"code": "gone", "type": "x"}}, end="")),
        lambda: httpx.Response(200, text=events(chunk("half"), end="")),
        lambda: httpx.Response(200, text="data: no JSON\n\n"),
        None,
    ])  # fmt: skip

    def reply(request):
        make = next(replies)
        if make is None:
            raise httpx.ConnectError("secret")
        return make()

    report = run(answering(reply), num_requests=8)
    assert report["counts"] == {"sent": 8, "answered": 1, "refused": 1, "failed": 3, "lost": 3}
    assert report["errors"] == {
        "too_many_requests": 1, "invalid": 1, "status 500": 1, "gone": 1,
        "the answer has no end": 1, "JSONDecodeError": 1, "ConnectError": 1,
    }  # fmt: skip


def test_the_first_text_and_not_the_first_event_is_timed():
    async def parts():
        yield events(chunk(""), end="").encode()
        await asyncio.sleep(0.05)
        yield events(chunk("a"), end="").encode()
        usage = {"completion_tokens": 5, "prompt_tokens": 9}
        yield events({"choices": [], "usage": usage}).encode()

    report = run(answering(lambda request: httpx.Response(200, content=parts())), num_requests=1)
    (one,) = report["requests"]
    assert 0.05 <= one["first_token_s"] <= one["ended_s"]
    assert (one["num_new_tokens"], one["num_prompt_tokens"]) == (5, 9)


def test_no_more_are_open_than_may_be_and_waiting_counts():
    engine = EchoEngine(lambda text: 0.05)
    report = run(answerer=make_answerer(engine), num_requests=6, max_open=2, rate=1000.0)
    assert engine.num_most == 2
    assert report["counts"]["answered"] == 6
    assert report["requests"][-1]["first_token_s"] >= 0.1


def test_a_server_that_does_not_answer_is_told_of():
    def refuse(request):
        raise httpx.ConnectError("nobody there")

    with pytest.raises(ServerError, match="start a server there"):
        run(refuse)
    with pytest.raises(ServerError, match="look at address and API key"):
        run(lambda request: httpx.Response(401))
    with pytest.raises(ServerError, match="does not answer: failed, oh"):
        run(
            answering(lambda request: httpx.Response(500, json={"error": {"code": "oh"}})),
            num_warm_up=1,
        )


def test_loads_are_drawn_from_their_seed_and_share_no_picture():
    settings = BenchSettings(**SMALL)
    first, again, other = (BodyMaker(settings, "m", seed) for seed in (0, 0, 1))
    bodies = [first.make() for _ in range(20)]
    assert bodies == [again.make() for _ in range(20)]
    urls = [one["messages"][0]["content"][0]["image_url"]["url"] for one in bodies]
    assert len(set(urls)) == 20
    assert other.make() not in bodies
    data = base64.b64decode(urls[0].partition(",")[2])
    assert Image.open(io.BytesIO(data)).size == (64, 32)


def test_so_many_pictures_are_repeated_as_is_asked():
    maker = BodyMaker(BenchSettings(**SMALL, repeat_share=0.5), "m", 0)
    urls = [maker.make()["messages"][0]["content"][0]["image_url"]["url"] for _ in range(400)]
    assert 0.4 < len(set(urls)) / 400 < 0.6


def test_arrivals_have_the_rate_that_is_asked():
    assert draw_arrivals(BenchSettings(num_requests=5)) == [0.0] * 5
    moments = draw_arrivals(BenchSettings(num_requests=2000, rate=10.0))
    assert moments == sorted(moments)
    assert 180 < moments[-1] < 220


def outcome(first, new, seconds, kind="answered"):
    return Outcome(kind, 1.0, 1.0 + seconds, 200, None, first, new, 10)


def test_figures_are_those_of_the_answers():
    settings = BenchSettings(first_token_limit_s=1.0, token_limit_s=0.1)
    told = [
        outcome(0.5, 11, 1.0), outcome(1.5, 11, 2.0), outcome(0.5, 11, 2.0), outcome(None, 0, 0.5),
        outcome(0.1, 0, 0.2, "failed"),
    ]  # fmt: skip
    assert [is_good(settings, one) for one in told] == [True, False, False, True, False]
    report = make_report(settings, "m", told)
    assert report["limits"]["good_share"] == pytest.approx(2 / 5)
    assert report["token_s"]["max"] == pytest.approx(0.15)
    assert report["token_s"]["p50"] == pytest.approx(0.05)
    assert report["first_token_s"]["max"] == 1.5
    assert report["per_second"]["new_tokens"] == pytest.approx(33 / 3.0)
    lines = "\n".join(describe_report(report))
    assert "5 sent, 4 answered, 0 refused, 1 failed, 0 lost" in lines
    assert "40.0%" in lines


@pytest.mark.parametrize("told", [[outcome(0.5, 11, 1.0)], [outcome(None, 0, 0.1, "lost")]])
def test_a_picture_is_drawn_of_any_report(tmp_path, told):
    report = make_report(BenchSettings(), "m", told)
    plot_report(report, tmp_path / "figures.png")
    assert Image.open(tmp_path / "figures.png").size == (1200, 840)
    assert describe_report(report)


@pytest.mark.parametrize(
    "change",
    [{"url": "ftp://x"}, {"num_requests": 0}, {"rate": 0.0}, {"repeat_share": 1.5},
     {"max_open": 0}, {"timeout_s": float("nan")}],
)  # fmt: skip
def test_loads_that_there_are_not_are_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        BenchSettings(**change)
