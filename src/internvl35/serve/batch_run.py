"""Answers the rows of a file through an engine: many at once, each written as soon as it is ready.

Pictures are opened beside the engine's work, and no more rows are begun than the limits allow, so
that a long file takes no more memory than a short one. Files are left to
:mod:`internvl35.serve.batch_input` and :mod:`internvl35.serve.batch_output`. No counterpart in the
paper.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, BinaryIO

from internvl35.errors import ConfigError, MediaError, PromptError, ServerError
from internvl35.generate.answers import Completion
from internvl35.generate.engines import GenerationEngine
from internvl35.generate.flash import FlashSettings
from internvl35.generate.request import Request
from internvl35.generate.sampling import SamplingSettings
from internvl35.serve.batch_input import ROW_PREFIX, BatchInput, BatchRow
from internvl35.serve.batch_output import BatchOutput
from internvl35.serve.chat_answer import (
    INTERNAL,
    AnswerFormat,
    describe_error,
    find_failure,
    write_error,
)
from internvl35.serve.chat_body import ChatCall, prepare, read_body
from internvl35.serve.chat_messages import MediaRules
from internvl35.serve.fields import BodyError

if TYPE_CHECKING:
    from internvl35.chat import Chat

_OF_THE_ROW = (BodyError, ConfigError, MediaError, PromptError)
"""What is wrong with a row and nothing else; other errors end the run."""

_FAULTS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, OSError,
    RuntimeError, TypeError, ValueError,
)  # fmt: skip


@dataclass(frozen=True)
class BatchLimits:
    """How much is under way at once."""

    max_rows: int = 128
    """Most rows that are being answered."""
    max_tiles: int = 256
    """Most tiles of rows that are being answered; a row with more of them goes alone."""
    num_workers: int = 2
    """Rows whose pictures are opened at once."""

    def __post_init__(self) -> None:
        """Refuse limits under which nothing is answered."""
        for name in ("max_rows", "max_tiles", "num_workers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True)
class RowSettings:
    """How rows are answered that do not say it themselves, and what they may ask."""

    sampling: SamplingSettings
    """How answers are chosen."""
    flash: FlashSettings | None = None
    """Which tiles are compressed; None for what the checkpoint says."""
    media: MediaRules = field(default_factory=MediaRules)
    """Which pictures may be named."""
    limits: BatchLimits = field(default_factory=BatchLimits)
    """How much is under way at once."""


@dataclass
class BatchFigures:
    """What a run has done."""

    num_rows: int = 0
    """Rows that were written."""
    num_failed: int = 0
    """Those of them that could not be answered."""
    num_prompt_tokens: int = 0
    """Tokens of the answered prompts."""
    num_new_tokens: int = 0
    """Tokens of the answers."""
    num_tiles: int = 0
    """Tiles of the answered prompts."""
    seconds: float = 0.0
    """From the first row's beginning to the last one's end."""


class BatchRun:
    """Answers rows of one file.

    Args:
        source: the requests.
        output: takes the answers.
        chat: builds the prompts.
        engine: answers them.
        form: writes the answers.
        settings: what holds for all rows.
        on_row: called with every row that has been written, and what is wrong with it, if anything.
    """

    def __init__(
        self,
        source: BatchInput,
        output: BatchOutput,
        chat: Chat,
        engine: GenerationEngine,
        form: AnswerFormat,
        settings: RowSettings,
        *,
        on_row: Callable[[BatchRow, str | None], None] | None = None,
    ) -> None:
        """Begin nothing yet."""
        self.figures = BatchFigures()
        self._source, self._output = source, output
        self._chat, self._engine, self._form = chat, engine, form
        self._settings = settings
        self._on_row = on_row

    def answer(self) -> BatchFigures:
        """Answer all rows that the output does not hold yet.

        Returns:
            What was done.

        Raises:
            DataError: if the requests change meanwhile, or the answers cannot be written.
            ServerError: if the engine gives a row up that nothing is wrong with.
        """
        started = time.perf_counter()
        rows = (row for row in self._source.rows if row.row_id not in self._output.done)
        try:
            with self._source.path.open("rb") as file:
                asyncio.run(self._answer_all(rows, file))
        finally:
            self.figures.seconds = time.perf_counter() - started
        return self.figures

    async def _answer_all(self, rows: Iterable[BatchRow], file: BinaryIO) -> None:
        limits = self._settings.limits
        gate = _Gate(limits)
        with ThreadPoolExecutor(limits.num_workers, "pictures") as pool:
            try:
                async with asyncio.TaskGroup() as tasks:
                    for row in rows:
                        body = self._read(row, file)
                        if body is not None:
                            await gate.enter()
                            tasks.create_task(self._answer_row(row, body, gate, pool))
            except ExceptionGroup as group:
                raise group.exceptions[0] from None

    def _read(self, row: BatchRow, file: BinaryIO) -> Mapping[str, Any] | None:
        """Read the body of a row; where there is none, write that down."""
        try:
            return self._source.read(row, file)
        except BodyError as error:
            refusal = {"code": "invalid_row", "message": str(error)}
            self._write(row, {"response": None, "error": refusal}, str(error))
            return None

    async def _answer_row(
        self, row: BatchRow, body: Mapping[str, Any], gate: _Gate, pool: ThreadPoolExecutor
    ) -> None:
        loop, num_tiles = asyncio.get_running_loop(), 0
        try:
            try:
                call, request = await loop.run_in_executor(pool, self._prepare, body)
                num_tiles = request.prompt.num_tiles
            finally:
                gate.note_opened(num_tiles)
            completion = await self._complete(row, call, request)
        except _OF_THE_ROW as error:
            self._refuse(row, 400, describe_error(error))
        except _UnpreparedError as error:
            self._refuse(row, 500, write_error(str(error), INTERNAL))
        else:
            self._accept(row, call, completion, num_tiles)
        finally:
            gate.leave(num_tiles)

    def _prepare(self, body: Mapping[str, Any]) -> tuple[ChatCall, Request]:
        try:
            call = read_body(body, self._settings.sampling, self._settings.media)
            if call.is_streamed:
                raise BodyError("stream is true, and a row of a file has no stream", "stream")
            call = replace(call, flash=call.flash or self._settings.flash)
            return call, prepare(self._chat, call)
        except _FAULTS as error:  # in what one row holds; the others must not suffer
            raise _UnpreparedError(
                f"{type(error).__name__} while the prompt was built; a fault of this package"
            ) from error

    async def _complete(self, row: BatchRow, call: ChatCall, request: Request) -> Completion:
        completion = None
        updates = self._engine.stream(
            request, call.sampling, request_id=row.row_id, flash=call.flash
        )
        async for update in updates:
            completion = update.completion or completion
        if completion is None:
            raise ServerError(f"the engine ended without an answer to line {row.line}")
        return completion

    def _accept(
        self, row: BatchRow, call: ChatCall, completion: Completion, num_tiles: int
    ) -> None:
        failure = find_failure(completion.samples)
        if failure is not None:
            self._refuse(row, 400, write_error(failure))
            return
        name = f"chatcmpl-{_number_of(row)}"
        body = self._form.write(completion, name, int(time.time()), call.tools)
        self.figures.num_prompt_tokens += body["usage"]["prompt_tokens"]
        self.figures.num_new_tokens += body["usage"]["completion_tokens"]
        self.figures.num_tiles += num_tiles
        self._write(row, _respond(row, 200, body), None)

    def _refuse(self, row: BatchRow, status: int, body: Mapping[str, Any]) -> None:
        self._write(row, _respond(row, status, body), body["error"]["message"])

    def _write(self, row: BatchRow, line: Mapping[str, Any], failure: str | None) -> None:
        self._output.append(row, line)
        self.figures.num_rows += 1
        self.figures.num_failed += failure is not None
        if self._on_row is not None:
            self._on_row(row, failure)


class _UnpreparedError(Exception):
    """A prompt could not be built, and the row's sender can do nothing about it."""


class _Gate:
    """Lets rows in while there is room for them."""

    def __init__(self, limits: BatchLimits) -> None:
        self._rows = asyncio.Semaphore(limits.max_rows)
        self._workers = asyncio.Semaphore(limits.num_workers)
        self._has_room = asyncio.Event()
        self._max_tiles, self._num_tiles = limits.max_tiles, 0
        self._add_tiles(0)

    async def enter(self) -> None:
        """Wait until a row may begin."""
        await self._rows.acquire()
        await self._workers.acquire()
        await self._has_room.wait()

    def note_opened(self, num_tiles: int) -> None:
        """Note that a row's pictures are open and how many tiles they have."""
        self._workers.release()
        self._add_tiles(num_tiles)

    def leave(self, num_tiles: int) -> None:
        """Note that a row is answered."""
        self._rows.release()
        self._add_tiles(-num_tiles)

    def _add_tiles(self, count: int) -> None:
        self._num_tiles += count
        if self._num_tiles < self._max_tiles:
            self._has_room.set()
        else:
            self._has_room.clear()


def _respond(row: BatchRow, status: int, body: Mapping[str, Any]) -> dict[str, Any]:
    response = {"status_code": status, "request_id": f"req_{_number_of(row)}", "body": body}
    return {"response": response, "error": None}


def _number_of(row: BatchRow) -> str:
    return row.row_id.removeprefix(ROW_PREFIX)
