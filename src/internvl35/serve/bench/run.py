"""Sends a load to a server and times the answers.

Figures are made of it in :mod:`internvl35.serve.bench.report`. No counterpart in the paper.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from internvl35.errors import ServerError
from internvl35.serve.bench.bodies import BodyMaker, draw_arrivals
from internvl35.serve.bench.settings import BenchSettings, Outcome

_FULL = (429, 503)
"""Statuses by which a server turns away what it has no room for."""

_PATIENCE_S = 30.0
"""Seconds for a connection, and for the list of models."""


@dataclass
class _Heard:
    """What has come of an answer so far."""

    first_s: float | None = None
    error: str | None = None
    is_whole: bool = False
    is_refused: bool = False
    """Whether the server said what went wrong."""
    usage: Mapping[str, Any] = field(default_factory=dict)


async def run_load(
    settings: BenchSettings,
    key: str | None = None,
    on_end: Callable[[Outcome], None] = lambda outcome: None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> tuple[str, list[Outcome]]:
    """Send all requests and wait for their ends.

    Args:
        settings: of the load.
        key: API key.
        on_end: hears of each request that is measured.
        transport: for tests; None for the network.

    Returns:
        The model's name, and what became of each request, in the order of their arrival.

    Raises:
        ServerError: if the server cannot be asked, or does not answer the first requests.
    """
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    limits = httpx.Limits(max_connections=settings.max_open, max_keepalive_connections=None)
    timeout = httpx.Timeout(settings.timeout_s, connect=_PATIENCE_S)
    async with httpx.AsyncClient(
        base_url=settings.url.rstrip("/"), headers=headers, limits=limits, timeout=timeout,
        transport=transport, trust_env=False,
    ) as client:  # fmt: skip
        name = settings.served_name or await _find_name(client)
        load = _Load(client, settings, on_end)
        warm_up = BodyMaker(settings, name, seed=-1 - settings.seed)
        for _ in range(settings.num_warm_up):
            outcome = await load.send(warm_up.make(), 0.0)
            if outcome.kind != "answered":
                raise ServerError(
                    f"the server does not answer: {outcome.kind}, {outcome.error}; look at its log"
                )
        return name, await load.run(BodyMaker(settings, name, settings.seed))


async def _find_name(client: httpx.AsyncClient) -> str:
    try:
        response = await client.get("/models", timeout=_PATIENCE_S)
        if response.status_code != 200:
            raise ServerError(
                f"{client.base_url} lists no models: status {response.status_code}; look at "
                "address and API key"
            )
        return str(response.json()["data"][0]["id"])
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        raise ServerError(
            f"{client.base_url} lists no models: {type(error).__name__}; start a server there, or "
            "name another --url"
        ) from error


class _Load:
    """Requests on their way."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        settings: BenchSettings,
        on_end: Callable[[Outcome], None],
    ) -> None:
        self._client, self._settings, self._on_end = client, settings, on_end
        self._room = asyncio.Semaphore(settings.max_open)
        self._begin = time.perf_counter()

    async def run(self, maker: BodyMaker) -> list[Outcome]:
        """Send the requests that are measured."""
        moments = draw_arrivals(self._settings)
        bodies = [maker.make() for _ in moments]  # before the clock runs
        self._begin = time.perf_counter()
        sending = [
            self._send_at(moment, body) for moment, body in zip(moments, bodies, strict=True)
        ]
        return list(await asyncio.gather(*sending))

    async def _send_at(self, moment: float, body: Mapping[str, Any]) -> Outcome:
        await asyncio.sleep(max(0.0, moment - self._now()))
        async with self._room:
            arrived = self._now() if self._settings.rate is None else moment
            outcome = await self.send(body, arrived)
        self._on_end(outcome)
        return outcome

    async def send(self, body: Mapping[str, Any], arrived: float) -> Outcome:
        """Send one request and read its answer."""
        heard, status = _Heard(), None
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                async with self._client.stream("POST", "/chat/completions", json=body) as response:
                    status = response.status_code
                    if status == 200:
                        await self._read(response.aiter_lines(), heard, arrived)
                    else:
                        heard.is_refused = True
                        heard.error = _kind_of(await response.aread()) or f"status {status}"
        except (httpx.HTTPError, TimeoutError, ValueError) as error:
            heard.error = type(error).__name__
        if heard.is_whole and heard.error is None:
            return Outcome(
                "answered", arrived, self._now(), status, None, heard.first_s,
                **_counts_of(heard.usage),
            )  # fmt: skip
        kind: Literal["refused", "failed", "lost"] = "failed" if heard.is_refused else "lost"
        if status in _FULL:
            kind = "refused"
        told = heard.error or "the answer has no end"
        return Outcome(kind, arrived, self._now(), status, told, heard.first_s)

    async def _read(self, lines: AsyncIterator[str], heard: _Heard, arrived: float) -> None:
        async for line in lines:
            if not line.startswith("data:"):
                continue
            data = line.removeprefix("data:").strip()
            if data == "[DONE]":
                heard.is_whole = True
                return
            event = json.loads(data)
            if "error" in event:
                heard.is_refused = True
                heard.error = _kind_of(data.encode()) or "error"
                return
            heard.usage = event.get("usage") or heard.usage
            deltas = [choice.get("delta", {}) for choice in event.get("choices", ())]
            has_text = any(one.get("content") or one.get("reasoning_content") for one in deltas)
            if heard.first_s is None and has_text:
                heard.first_s = self._now() - arrived

    def _now(self) -> float:
        return time.perf_counter() - self._begin


def _kind_of(raw: bytes) -> str | None:
    """The kind of an error of OpenAI's form; its text may repeat a request."""
    try:
        error = json.loads(raw)["error"]
        return str(error.get("code") or error["type"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def _counts_of(usage: Mapping[str, Any]) -> dict[str, int]:
    details = usage.get("prompt_tokens_details") or {}
    num_image_tokens = details.get("image_tokens", 0)
    return {
        "num_new_tokens": usage.get("completion_tokens", 0),
        "num_prompt_tokens": usage.get("prompt_tokens", 0),
        "num_cached_tokens": details.get("cached_tokens", 0),
        "num_image_tokens": num_image_tokens,
        "num_image_tokens_before": details.get("image_tokens_before_compression", num_image_tokens),
    }
