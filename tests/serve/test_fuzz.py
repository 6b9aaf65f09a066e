"""Whatever is sent, the answer is one that the OpenAPI document describes, and never a fault."""

from __future__ import annotations

import asyncio

import pytest
from batch_stubs import EchoEngine
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from serving import PICTURE, serving

schemathesis = pytest.importorskip("schemathesis")

CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance",
    "response_schema_conformance", "negative_data_rejection", "unsupported_method",
)  # fmt: skip
MODES = schemathesis.GenerationMode
SOUND = (
    [{"role": "user", "content": "a <|im_end|> <IMG_CONTEXT>"}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PICTURE}}]},
     {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {
         "name": "a", "arguments": "{}"}}]}, {"role": "tool", "tool_call_id": "1", "content": ""}],
)  # fmt: skip
"""Conversations that can be answered."""


class CheckingEngine(EchoEngine):
    """Echoes what a real engine would take on."""

    def __init__(self, engine):
        super().__init__()
        self.real = engine

    async def stream(self, request, sampling, *, flash=None, cache_salt="", **options):
        grammar = await asyncio.to_thread(self.real.prepare, sampling)
        name = self.real.submit(
            request, sampling, flash=flash, cache_salt=cache_salt, grammar=grammar
        )
        self.real.drop(name)
        async for update in super().stream(request, sampling, **options):
            yield update


@pytest.fixture(scope="module")
def address(random_checkpoint):
    """A gateway that listens, with the prompts, pictures and checks of a real one."""
    with serving(
        random_checkpoint, engine=lambda chat: CheckingEngine(chat.engine.engine), max_tokens=4
    ) as address:
        yield address


def fuzz(address, num_cases):
    """Send what the document allows and what it does not, half and half."""
    schemathesis.checks.load_all_checks()
    checks = schemathesis.checks.CHECKS.get_by_names(list(CHECKS))
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    posts = [operation for operation in operations if operation.method == "post"]
    share = -(-num_cases // (2 * len(posts)))
    return {
        operation.label: sum(send(operation, mode, share, checks) for mode in MODES)
        for operation in posts
    }


def send(operation, mode, num_cases, checks):
    """Send bodies to one route; gives their number."""
    num_sent = 0

    @settings(
        max_examples=num_cases, database=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )  # fmt: skip
    @given(operation.as_strategy(generation_mode=mode), st.sampled_from([None, *SOUND]))
    def send_one(case, messages):
        nonlocal num_sent
        has_messages = isinstance(case.body, dict) and "messages" in case.body
        if mode is MODES.POSITIVE and messages and has_messages:
            case.body["messages"] = messages  # the rest of the body is read too
        case.call_and_validate(checks=checks)
        num_sent += 1

    send_one()
    return num_sent


def test_a_hundred_bodies_get_answers_that_the_document_describes(address):
    counts = fuzz(address, 120)
    assert set(counts) == {
        "POST /v1/chat/completions", "POST /v1/completions", "POST /v1/responses",
        "POST /tokenize", "POST /detokenize",
    }  # fmt: skip
    assert min(counts.values()) >= 20


@pytest.mark.slow
def test_ten_thousand_bodies_get_answers_that_the_document_describes(address):
    assert sum(fuzz(address, 10_000).values()) >= 10_000
