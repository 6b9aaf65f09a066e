"""Answers that come in parts, and what becomes of them, for tests of routes."""

from __future__ import annotations

import asyncio
import json
import re

import httpx
from gateway_stubs import make_answerer

from internvl35.generate.answers import Completion, Sample, Update
from internvl35.serve.gateway import build_app


class SayingEngine:
    """Says a text, a few characters at a time; tags of reasoning are one token."""

    def __init__(self, text):
        self.parts = re.findall(r"</?think>|[^<]{1,3}|<", text)

    async def stream(self, request, sampling, *, request_id, **options):
        for part in self.parts:
            yield Update(request_id, 0, (5,), part)
        sample = Sample((5,) * len(self.parts), "".join(self.parts), "stop")
        done = Completion(request_id, request, (sample,), 0)
        yield Update(request_id, 0, finish_reason="stop", completion=done)


def ask_gateway(path, body, engine):
    async def send():
        transport = httpx.ASGITransport(build_app(make_answerer(engine)))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return await client.post(path, json=body)

    return asyncio.run(send())


def join_chunks(response):
    """Join the deltas of a chat's only choice, as clients do."""
    events = [line[6:] for line in response.text.split("\n") if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    joined = {}
    for event in events:
        (choice,) = json.loads(event)["choices"]
        for name, part in choice["delta"].items():
            joined[name] = joined[name] + part if name in joined else part
        if choice["finish_reason"] is not None:
            joined["finish_reason"] = choice["finish_reason"]
    return joined
