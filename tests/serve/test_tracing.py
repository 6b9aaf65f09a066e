"""Spans: one a stage, under their request, without a word of its user."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
import torch
from batch_stubs import EchoEngine
from fake_servers import FakeLanguage, FakeVision, decoupled, make_request
from gateway_stubs import make_answerer
from PIL import Image

from internvl35 import load
from internvl35.errors import ConfigError
from internvl35.generate.sampling import SamplingSettings
from internvl35.serve import tracing
from internvl35.serve.answering import Answerer, Defaults
from internvl35.serve.chat_answer import AnswerFormat
from internvl35.serve.gateway import build_app
from internvl35.serve.gateway_settings import GatewaySettings
from internvl35.serve.media import MediaSettings
from internvl35.serve.media_loader import SafeMediaLoader

pytest.importorskip("opentelemetry.sdk", reason="needs the extra trace")

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def exporter():
    exporter = InMemorySpanExporter()
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider())  # once a process
    processor = SimpleSpanProcessor(exporter)
    trace.get_tracer_provider().add_span_processor(processor)
    yield exporter
    processor.shutdown()  # keeps nothing of the tests that follow


@pytest.fixture(autouse=True)
def empty(exporter):
    exporter.clear()


def spans_of(exporter):
    return {span.name: span for span in exporter.get_finished_spans()}


def ask(text, headers=None, answerer=None, url="data:a", **fields):
    answerer = answerer or make_answerer()

    async def send():
        transport = httpx.ASGITransport(build_app(answerer), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            picture = {"type": "image_url", "image_url": {"url": url}}
            content = [picture, {"type": "text", "text": text}]
            body = {"messages": [{"role": "user", "content": content}], **fields}
            try:
                return await client.post("/v1/chat/completions", json=body, headers=headers)
            finally:
                await answerer.loader.close()

    return asyncio.run(send())


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_has_a_span_for_each_stage_and_all_hang_under_it(exporter, stream):
    response = ask("my own words", {"traceparent": PARENT}, stream=stream)
    spans = spans_of(exporter)
    assert set(spans) == {"request", "media", "prompt", "generate"}
    root = spans["request"]
    assert f"{root.context.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{root.parent.span_id:016x}" == PARENT.split("-")[2]
    for name in ("media", "prompt", "generate"):
        assert spans[name].parent.span_id == root.context.span_id
    assert root.attributes["request"] == response.headers["x-request-id"]
    assert root.attributes["status"] == 200
    assert root.attributes["route"] == "/v1/chat/completions"
    assert spans["media"].attributes["pictures"] == 1
    assert spans["generate"].attributes["tiles"] == 2
    assert spans["generate"].attributes["new_tokens"] == len("\nmy own words") + 1
    assert "words" not in "".join(span.to_json() for span in spans.values())


def test_each_stage_of_a_picture_has_its_own_span_in_one_process(exporter, random_checkpoint):
    chat = load(random_checkpoint, dtype=torch.float32)
    file = io.BytesIO()
    Image.new("RGB", (40, 40)).save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    answerer = Answerer(
        chat, chat.engine, SafeMediaLoader(chat.tiles, MediaSettings(num_workers=1), chat.images),
        AnswerFormat(chat.tokenizer, chat.rules.end_token_ids, "random"),
        Defaults(SamplingSettings()), GatewaySettings(), ("random",),
    )  # fmt: skip
    try:
        assert ask("What?", answerer=answerer, url=url, max_tokens=2).status_code == 200
    finally:
        chat.engine.close()
    spans = spans_of(exporter)
    within = {"media": {"fetch", "tiling"}, "generate": {"vision", "prefill", "decode"}}
    assert set(spans) == {"request", "prompt", *within, *within["media"], *within["generate"]}
    for whole, parts in within.items():
        for part in parts:
            assert spans[part].parent.span_id == spans[whole].context.span_id
    assert spans["fetch"].end_time <= spans["tiling"].start_time
    assert spans["tiling"].end_time <= spans["media"].end_time
    times = [spans[name].start_time for name in ("generate", "vision", "prefill", "decode")]
    assert times == sorted(times)
    assert spans["vision"].end_time == spans["prefill"].start_time
    assert spans["prefill"].end_time == spans["decode"].start_time


def test_what_goes_wrong_is_told_by_its_kind_alone(exporter):
    assert ask("BROKEN words").status_code == 500
    spans = spans_of(exporter)
    assert spans["prompt"].status.description == "IndexError"
    assert "list index" not in "".join(span.to_json() for span in spans.values())
    assert spans["request"].attributes["status"] == 500


def test_a_stage_that_is_cancelled_ends_and_says_so(exporter):
    engine = EchoEngine(lambda text: 600.0)

    async def leave():
        transport = httpx.ASGITransport(build_app(make_answerer(engine)))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            body = {"messages": [{"role": "user", "content": "hello"}]}
            asking = asyncio.create_task(client.post("/v1/chat/completions", json=body))
            while not engine.num_now:
                await asyncio.sleep(0.01)
            asking.cancel()
            await asyncio.wait([asking])

    asyncio.run(leave())
    assert spans_of(exporter)["request"].attributes["is_cancelled"] is True
    assert spans_of(exporter)["generate"].attributes["is_cancelled"] is True


def test_servers_spans_hang_under_the_gateways_request(exporter):
    async def answer():
        async with decoupled([FakeVision()], [FakeLanguage()]) as (engine, _):
            with tracing.request_stage("request", {}):
                found = engine.stream(make_request([3, 4]), SamplingSettings())
                *_, last = [update async for update in found]
            whole = last.completion
            assert 0 <= whole.seconds_to_visual_tokens <= whole.seconds_to_first_token

    asyncio.run(answer())
    spans = spans_of(exporter)
    assert set(spans) == {"request", "vision", "language"}
    for name in ("vision", "language"):
        assert spans[name].parent.span_id == spans["request"].context.span_id
        assert spans[name].attributes["attempt"] == 0
    assert spans["vision"].attributes["request"] == spans["language"].attributes["request"]


def test_probes_leave_no_span(exporter):
    async def send():
        transport = httpx.ASGITransport(build_app(make_answerer()))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            await client.get("/health")

    asyncio.run(send())
    assert spans_of(exporter) == {}


def test_another_process_goes_on_with_the_current_span(exporter):
    with tracing.request_stage("request", {}):
        parent = tracing.write_parent()
    with tracing.stage("vision", parent=parent, tiles=3):
        pass
    spans = spans_of(exporter)
    assert spans["vision"].parent.span_id == spans["request"].context.span_id
    assert spans["vision"].context.trace_id == spans["request"].context.trace_id


@pytest.mark.parametrize("parent", ["", "nonsense", PARENT + "x" * 10_000, "00-0-0-00"])
def test_what_is_no_parent_begins_a_trace_of_its_own(exporter, parent):
    with tracing.request_stage("outer", {}), tracing.stage("vision", parent=parent):
        pass
    assert spans_of(exporter)["vision"].parent is None


def test_parts_that_are_known_afterwards_have_their_own_times(exporter):
    with tracing.stage("generate") as stage:
        stage.note_part("first_token", 0.0, 0.5)
        stage.note_part("answer", 0.5, 2.0)
    spans = spans_of(exporter)
    assert spans["answer"].start_time == spans["first_token"].end_time
    assert spans["answer"].end_time - spans["answer"].start_time == 1_500_000_000
    assert spans["answer"].parent.span_id == spans["generate"].context.span_id


def test_without_the_library_nothing_happens(monkeypatch):
    monkeypatch.setattr(tracing, "trace", None)
    with tracing.request_stage("request", {}), tracing.stage("x", tiles=1) as stage:
        stage.note(tiles=2)
        stage.note_part("y", 0, 1)
        assert tracing.write_parent() == ""


def test_an_endpoint_needs_the_library_and_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with (
        pytest.raises(ConfigError, match=r"internvl35\[trace\]"),
        tracing.sending("http://localhost:4318/v1/traces", 1.0, "gateway"),
    ):
        pass


def test_help_does_not_load_the_library():
    code = "import sys; import internvl35.cli; sys.exit('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_spans_reach_a_collector_before_the_process_ends():
    got = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            raw = self.rfile.read(int(self.headers["content-length"]))
            is_packed = self.headers.get("content-encoding") == "gzip"
            got.append((self.path, gzip.decompress(raw) if is_packed else raw))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    code = (
        "import sys\nfrom internvl35.serve.tracing import request_stage, sending, stage\n"
        "with sending(sys.argv[1], float(sys.argv[2]), 'internvl35-gateway'):\n"
        "    with request_stage('request', {}), stage('media', pictures=2): pass\n"
    )
    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/v1/traces"
        for share in ("0", "1"):
            subprocess.run([sys.executable, "-c", code, url, share], check=True)
        server.shutdown()
        thread.join()
    ((path, body),) = got  # nothing of the first, whose share is 0
    assert path == "/v1/traces"
    for name in (b"internvl35-gateway", b"request", b"media", b"pictures"):
        assert name in body
