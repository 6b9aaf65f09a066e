"""``internvl35 batch``: answers a file of chat-completions requests, many at once.

Rows are answered by :mod:`internvl35.serve.batch_run`. No counterpart in the paper.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from internvl35.commands.answer_screen import show_bar
from internvl35.commands.chat import SystemOptions, load_chat
from internvl35.commands.checkpoint import HubOptions, ModelOptions
from internvl35.commands.flash import CompressionOptions
from internvl35.commands.options import METAVAR, spread_settings
from internvl35.commands.pictures import PictureOptions
from internvl35.commands.terminal import note, paused_collection, silence_libraries, spinner
from internvl35.errors import ConfigError, DataError
from internvl35.generate.sampling import SamplingSettings

if TYPE_CHECKING:
    from internvl35.chat import Chat
    from internvl35.generate.engines import GenerationEngine
    from internvl35.serve.batch_input import BatchInput, BatchRow
    from internvl35.serve.batch_output import BatchOutput
    from internvl35.serve.batch_run import BatchFigures, RowSettings

_MAX_NOTES = 5
"""Failed rows of which the reason is shown on the screen."""


@dataclass(frozen=True)
class RowOptions:
    """Which pictures rows may name, and how many rows are answered at once."""

    media_root: str | None = field(default=None, metadata={METAVAR: "FOLDER"})
    """Folder whose files rows may name as pictures; without it, none."""
    allow_http: bool = False
    """Fetch pictures that rows name as http or https URLs."""
    max_tiles: int | None = None
    """Most tiles a picture, thumbnail not counted; by default as the checkpoint says."""
    reference_images: bool = False
    """Open pictures as the released code does: EXIF orientation ignored, alpha dropped."""
    max_rows: int = 128
    """Most rows that are answered at once."""
    json: bool = False
    """Print the summary as one JSON object."""

    def __post_init__(self) -> None:
        """Refuse a folder that is none, and a number of rows that leaves nothing to do."""
        if self.media_root is not None and not Path(self.media_root).expanduser().is_dir():
            raise ConfigError(f"media_root is {self.media_root!r}, which is no folder")
        if self.max_rows < 1:
            raise ConfigError(f"max_rows is {self.max_rows}; it must be at least 1")
        _ = self.pictures

    def settings(self, sampling: SamplingSettings, flash: CompressionOptions) -> RowSettings:
        """Put together what holds for all rows."""
        from internvl35.serve.batch_run import BatchLimits, RowSettings
        from internvl35.serve.chat_messages import MediaRules

        root = None if self.media_root is None else Path(self.media_root).expanduser()
        media = MediaRules(root, self.allow_http)
        limits = BatchLimits(self.max_rows, num_workers=min(8, os.cpu_count() or 1))
        return RowSettings(sampling, flash.settings(), media, limits)

    @property
    def pictures(self) -> PictureOptions:
        """How pictures are opened and cut."""
        return PictureOptions(
            max_tiles=self.max_tiles,
            reference_images=self.reference_images,
            allow_http=self.allow_http,
        )


@spread_settings
def batch(
    rows: RowOptions,
    system: SystemOptions,
    sampling: SamplingSettings,
    flash: CompressionOptions,
    model: ModelOptions,
    hub: HubOptions,
    source: Annotated[
        Path, typer.Argument(metavar="IN.jsonl", help="Requests, one a line, as OpenAI's batches.")
    ],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="OUT.jsonl",
            help="Answers, a line each, in the order in which they are ready; a file of an earlier "
            "run is gone on with.",
        ),
    ],
) -> None:
    """Answer a file of chat-completions requests, many at once; goes on after a kill."""
    if source.exists() and target.exists() and source.samefile(target):
        raise DataError(f"{target} holds the requests; name another file for the answers")
    with spinner(f"reading {source}"), paused_collection():
        silence_libraries()
        from internvl35.serve.batch_input import BatchInput
        from internvl35.serve.batch_output import BatchOutput

        requests = BatchInput(source)
    fingerprint = describe_settings(rows, system, sampling, flash, model, hub)
    with closing(BatchOutput(target, requests.rows, fingerprint)) as output:
        if output.done:
            note(f"{target} holds {len(output.done)} of {len(requests.rows)} answers; going on")
        figures = None
        if len(output.done) < len(requests.rows):
            chat = load_chat(model, hub, rows.pictures, system)
            settings = rows.settings(sampling, flash)
            figures = _answer(requests, output, chat, settings, model.model, fingerprint)
        facts = summarize(figures, len(requests.rows), output.num_failed)
    if rows.json:
        typer.echo(json.dumps(facts))
        return
    for line in describe_summary(facts):
        typer.echo(line)


def _answer(
    requests: BatchInput,
    output: BatchOutput,
    chat: Chat,
    settings: RowSettings,
    name: str,
    fingerprint: str,
) -> BatchFigures:
    from internvl35.serve.batch_run import BatchRun
    from internvl35.serve.chat_answer import AnswerFormat

    tokens_per_tile = chat.model.config.tokens_per_tile
    form = AnswerFormat(
        chat.tokenizer, chat.rules.end_token_ids, name, fingerprint, tokens_per_tile
    )
    num_noted = 0
    with (
        start_engine(chat) as engine,
        show_bar(len(requests.rows), len(output.done), is_shown=True) as advance,
    ):

        def show(row: BatchRow, failure: str | None) -> None:
            nonlocal num_noted
            advance()
            num_noted += failure is not None
            if failure is not None and num_noted <= _MAX_NOTES:
                note(f"line {row.line}: {failure}")

        try:
            return BatchRun(requests, output, chat, engine, form, settings, on_row=show).answer()
        except KeyboardInterrupt:
            note(
                f"stopped with {len(output.done)} answers in {output.path}; the same command "
                "goes on"
            )
            raise


@contextmanager
def start_engine(chat: Chat) -> Iterator[GenerationEngine]:
    """Start what answers, and end it.

    Args:
        chat: whose model it is.

    Yields:
        The engine.
    """
    from internvl35.generate.engine import Engine
    from internvl35.generate.engine_thread import EngineThread

    engine = EngineThread(Engine(chat.model, chat.rules, tokenizer=chat.tokenizer))
    with closing(engine):
        yield engine


def describe_settings(*options: Any) -> str:
    """Make a short name of what decides on answers, for ``system_fingerprint``.

    Args:
        options: dataclasses of plain values.

    Returns:
        Equal for equal options.
    """
    facts = {name: value for own in options for name, value in asdict(own).items()}
    for name in ("max_rows", "json", "offline"):  # which change no answer
        facts.pop(name, None)
    text = json.dumps(facts, sort_keys=True)
    return f"fp_{blake2b(text.encode(), digest_size=6).hexdigest()}"


def summarize(figures: BatchFigures | None, num_rows: int, num_failed: int) -> dict[str, Any]:
    """Put figures of a run into a JSON-ready dict.

    Args:
        figures: of the rows that this run wrote; None if there was nothing left to do.
        num_rows: of the whole file.
        num_failed: rows of the whole file that could not be answered.

    Returns:
        ``num_rows``, ``num_failed``, counts of this run, and its speeds: ``tokens_per_second`` of
        new tokens, ``prompt_tokens_per_second``, ``tiles_per_second``; None where nothing was done.
    """
    facts: dict[str, Any] = {"num_rows": num_rows, "num_failed": num_failed}
    if figures is None or not figures.seconds:
        return facts
    facts["this_run"] = {
        **asdict(figures),
        "tokens_per_second": figures.num_new_tokens / figures.seconds,
        "prompt_tokens_per_second": figures.num_prompt_tokens / figures.seconds,
        "tiles_per_second": figures.num_tiles / figures.seconds,
    }
    return facts


def describe_summary(facts: Mapping[str, Any]) -> list[str]:
    """Put a summary into lines.

    Args:
        facts: as of :func:`summarize`.

    Returns:
        The lines.
    """
    failed = f", {facts['num_failed']:,} of them could not be answered"
    lines = [f"rows: {facts['num_rows']:,}{failed if facts['num_failed'] else ''}"]
    run = facts.get("this_run")
    if run is not None:
        lines += [
            f"this run: {run['num_rows']:,} rows in {run['seconds']:.1f} s",
            f"new tokens: {run['num_new_tokens']:,}, {run['tokens_per_second']:,.1f} a second",
            f"prompt tokens: {run['num_prompt_tokens']:,}, "
            f"{run['prompt_tokens_per_second']:,.1f} a second",
            f"tiles: {run['num_tiles']:,}, {run['tiles_per_second']:,.1f} a second",
        ]
    return lines
