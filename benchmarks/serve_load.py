"""Many clients of a gateway at once, and what became of each of their requests."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeAlias

import httpx

End: TypeAlias = Literal["answered", "refused", "broken", "lost", "doubled", "wrong", "left"]
"""What became of a request: its whole answer came once; a status or event said why there is none
(``broken``: after a part of it); nothing said so; parts came twice; another answer came; its client
went away as planned."""

_PAUSE_S = 0.1
_RESENDS = 100


@dataclass
class Counts:
    """What became of the requests of one case."""

    sent: int = 0
    """Requests."""
    answered: int = 0
    """Whole answers, right and once."""
    refused: int = 0
    """Those that got a status that says when to try again."""
    broken: int = 0
    """Streams that ended with an error event."""
    lost: int = 0
    """Those that got neither."""
    doubled: int = 0
    """Those that got something twice."""
    wrong: int = 0
    """Those that got another answer."""
    left: int = 0
    """Those whose client went away."""
    resent: int = 0
    """Times that a client asked again since the gateway itself was gone."""

    def note(self, end: End) -> None:
        """Count a request."""
        self.sent += 1
        setattr(self, end, getattr(self, end) + 1)

    @property
    def is_complete(self) -> bool:
        """Whether every request is counted once."""
        ends: list[int] = [getattr(self, one.name) for one in fields(self)[1:-1]]
        return self.sent == sum(ends)

    def as_dict(self) -> dict[str, int]:
        """Write it as JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Question:
    """A request whose answer is known."""

    body: dict[str, Any]
    """Of a chat completion."""
    answer: str
    """What has to come."""


@dataclass(frozen=True)
class Load:
    """How questions are asked."""

    questions: Sequence[Question]
    """They are asked in turn."""
    num_requests: int = 40
    """How many."""
    at_once: int = 12
    """Most clients at once."""
    leave_share: float = 0.0
    """Share of clients that go away before the end."""
    timeout_s: float = 60.0
    """Longest time that a client waits."""
    seed: int = 7
    """Of who goes away."""

    async def run(self, url: str, counts: Counts | None = None) -> Counts:
        """Ask everything.

        Args:
            url: of the gateway, without a path.
            counts: is added to; None for new ones.

        Returns:
            What became of the requests.
        """
        counts = counts or Counts()
        turn, chance = asyncio.Semaphore(self.at_once), random.Random(self.seed)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        leaves = [chance.random() < self.leave_share for _ in range(self.num_requests)]
        async with httpx.AsyncClient(
            base_url=url, limits=limits, timeout=self.timeout_s, trust_env=False
        ) as client:

            async def ask(number: int) -> None:
                question = self.questions[number % len(self.questions)]
                async with turn:
                    asker = _Asker(client, question, counts, leaves=leaves[number])
                    asked = asker.stream() if number % 2 else asker.complete()
                    counts.note(await asked)

            await asyncio.gather(*(ask(number) for number in range(self.num_requests)))
        assert counts.is_complete
        return counts


@dataclass(frozen=True)
class _Asker:
    """One client."""

    client: httpx.AsyncClient
    question: Question
    counts: Counts
    leaves: bool

    async def complete(self) -> End:
        """Ask for a whole answer; ask again if the gateway itself is gone."""
        body = {**self.question.body, "stream": False}
        for _ in range(_RESENDS):
            asking = self.client.post("/v1/chat/completions", json=body)
            try:
                if self.leaves:
                    async with asyncio.timeout(0.05):
                        await asking
                    return "left"
                response = await asking
            except httpx.TimeoutException:
                return "lost"
            except TimeoutError:
                return "left"
            except httpx.TransportError:
                await self._pause()
                continue
            if response.status_code != 200:
                return _judge_refusal(response)
            text = response.json()["choices"][0]["message"]["content"]
            return self._judge(text)
        return "lost"

    async def stream(self) -> End:
        """Ask for an answer in parts."""
        body = {**self.question.body, "stream": True}
        for _ in range(_RESENDS):
            text, ends = "", 0
            try:
                async with self.client.stream("POST", "/v1/chat/completions", json=body) as answer:
                    if answer.status_code != 200:
                        await answer.aread()
                        return _judge_refusal(answer)
                    async for line in answer.aiter_lines():
                        data = line.removeprefix("data: ")
                        if data == "[DONE]":
                            ends += 1
                        elif data and not line.startswith("event:"):
                            event = json.loads(data)
                            if "error" in event:
                                return "doubled" if ends else "broken"
                            text += event["choices"][0]["delta"].get("content") or ""
                        if self.leaves and text:
                            return "left"
            except httpx.TimeoutException:
                return "lost"
            except httpx.TransportError:
                if text:
                    return "broken"  # its connection says so
                await self._pause()
                continue
            if ends != 1:
                return "doubled" if ends else "lost"
            return self._judge(text)
        return "lost"

    def _judge(self, text: str) -> End:
        wanted = self.question.answer
        if text.strip() == wanted.strip():
            return "answered"
        return "doubled" if text.count(wanted) > 1 else "wrong"

    async def _pause(self) -> None:
        self.counts.resent += 1
        await asyncio.sleep(_PAUSE_S)


def _judge_refusal(response: httpx.Response) -> End:
    is_told = response.status_code in (429, 503) and "retry-after" in response.headers
    return "refused" if is_told else "lost"
