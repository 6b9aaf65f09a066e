"""``internvl35 data``: look at a data set before anything is trained on it.

What is wrong with a row and what it takes is decided by :mod:`internvl35.data`; how figures reach
the screen by :mod:`internvl35.commands.data_report`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from internvl35.commands.checkpoint import HubOptions
from internvl35.commands.options import FLAGS, spread_settings
from internvl35.commands.terminal import note, paused_collection, silence_libraries, spinner
from internvl35.config import TINY
from internvl35.errors import ConfigError, DataError

if TYPE_CHECKING:
    from internvl35.data.check import DataReport
    from internvl35.data.encoding import Encoder
    from internvl35.data.mixture import RecordSet

app = typer.Typer(
    name="data", help="Look at data sets.", no_args_is_help=True, rich_markup_mode=None
)

REPORT_FILE, HISTOGRAM_FILE, SAMPLES_FILE = "report.json", "histograms.png", "samples.png"

DataSets = Annotated[
    list[str],
    typer.Argument(
        metavar="DATASET",
        help="Files, folders or hub names, each as [hf::|ms::]name[:subset1/subset2][#count].",
    ),
]


@dataclass(frozen=True)
class RowOptions:
    """How rows are read and what they would be trained with, under the names of sft's flags."""

    model: str = field(default=TINY, metadata={FLAGS: ("--model", "-m")})
    """Checkpoint to be trained, whose tokenizer and tiles decide what a row takes; one from a hub
    is fetched whole."""
    columns: str = ""
    """JSON object that renames columns of rows, for example {"caption": "response"}."""
    media_root: str = ""
    """Folder that relative paths in rows start from; by default that of their file."""
    system: str = "official"
    """System prompt of rows without one: official, none (no system turn), or a text."""
    max_length: int | None = None
    """Most tokens of a row, visual ones included; by default what the checkpoint allows."""
    truncation_strategy: Literal["delete", "left", "right"] = "delete"
    """What becomes of longer rows: delete calls them bad, left and right cut text at that end."""
    max_dynamic_patch: int | None = field(
        default=None, metadata={FLAGS: ("--max-dynamic-patch", "--max-num")}
    )
    """Most tiles of a picture, thumbnail not counted; by default as the checkpoint says."""
    video_segments: int = 8
    """Frames taken from a video, evenly spread."""
    loss_scale: Literal["default", "last_round", "all"] = "default"
    """Which turns carry loss: all answers, those behind the last question, or every token."""
    allow_urls: bool = False
    """Fetch pictures and videos that rows name by http and https URLs."""

    def select(self, names: list[str]) -> RecordSet:
        """Open data sets, rows as they stand.

        Args:
            names: data sets.

        Returns:
            Their rows.

        Raises:
            DataError: if a set cannot be read or fetched, or has no rows.
        """
        from internvl35.data.dataset_settings import DatasetSettings
        from internvl35.data.mixture import select_records

        settings = DatasetSettings(
            dataset=tuple(names), dataset_shuffle=False, columns=self.columns
        )
        root = Path(self.media_root) if self.media_root else None
        records, _ = select_records(settings, media_root=root)
        if not len(records):
            raise DataError(f"{', '.join(names)} holds no rows; needed: at least one")
        return records

    def make_encoder(self, hub: HubOptions) -> tuple[Encoder, Any]:
        """Make what turns rows into examples.

        Args:
            hub: where the checkpoint is looked for.

        Returns:
            The encoder and the checkpoint's tokenizer.

        Raises:
            CheckpointError: if there is no such checkpoint.
        """
        from internvl35.data.encoding import Encoder, EncodingSettings
        from internvl35.data.tokenizer import load_tokenizer
        from internvl35.model.configuration import read_config

        settings = EncodingSettings(
            system=self.system,
            max_length=self.max_length,
            truncation_strategy=self.truncation_strategy,
            max_dynamic_patch=self.max_dynamic_patch,
            video_segments=self.video_segments,
            loss_scale=self.loss_scale,
            allow_urls=self.allow_urls,
        )
        folder = hub.find_folder(self.model)
        tokenizer, (config, _) = load_tokenizer(folder), read_config(folder)
        return Encoder.for_checkpoint(tokenizer, config, settings), tokenizer


class DashedCommand(TyperCommand):
    """A command whose options may also be written with underscores, as those of sft are."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Write dashes for underscores in the names of options."""
        return list(super().parse_args(ctx, [_with_dashes(item) for item in args]))


def _with_dashes(item: str) -> str:
    if not item.startswith("--"):
        return item
    name, equals, value = item.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}"


@app.command("check", cls=DashedCommand)
@spread_settings
def check(
    datasets: DataSets,
    options: RowOptions,
    hub: HubOptions,
    fast: Annotated[
        bool, typer.Option("--fast", help="Read headers alone; damaged pictures are not found.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes that look at rows; by default up to 8, as CPUs there are."),
    ] = None,
    max_bad_share: Annotated[
        float,
        typer.Option(min=0, max=1, help="Part of the rows, 0 to 1, that may be bad; exit code 2."),
    ] = 0.01,
    list_bad: Annotated[int, typer.Option(min=0, help="Bad rows that are listed.")] = 20,
    output_dir: Annotated[
        Path | None,
        typer.Option(help="Folder for report.json, histograms.png and samples.png."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON instead.")
    ] = False,
) -> None:
    """Read every row as training would: counts, sizes, and what is wrong with which row.

    Ends with exit code 2 if more rows are bad than --max-bad-share allows, as training would not
    begin then.
    """
    with spinner("starting"), paused_collection():
        silence_libraries()
        from internvl35.commands.data_report import describe_report
        from internvl35.data.check import check_records

        encoder, _ = options.make_encoder(hub)
    with spinner("opening"):
        records = options.select(datasets)
    with _progress(len(records)) as advance:
        report = check_records(
            records,
            encoder,
            is_fast=fast,
            num_processes=_count_workers(workers),
            max_listed=list_bad,
            on_progress=advance,
        )
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2, ensure_ascii=False))
    else:
        typer.echo(describe_report(report))
    if output_dir is not None:
        _write_files(output_dir, report, records, encoder)
    if report.bad_share > max_bad_share:
        raise DataError(
            f"{report.num_bad} of {report.num_rows} rows are bad ({report.bad_share:.1%}), more "
            f"than --max-bad-share {max_bad_share:g} allows; mend them, or raise it"
        )


@app.command("preview", cls=DashedCommand)
@spread_settings
def preview(
    datasets: DataSets,
    options: RowOptions,
    hub: HubOptions,
    row: Annotated[int, typer.Option(min=1, help="Row to show, counted from 1.")] = 1,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="PNG file for the row's tiles.")
    ] = None,
) -> None:
    """Show a row as the model sees it: text with special tokens, what carries loss, and tiles.

    Tokens that carry loss are green on a terminal; elsewhere they stand in [[double brackets]].
    """
    with spinner("starting"), paused_collection():
        silence_libraries()
        from internvl35.commands.data_report import describe_row, mark_loss
        from internvl35.data.preview import read_stretches

        encoder, tokenizer = options.make_encoder(hub)
        records = options.select(datasets)
    if row > len(records):
        raise ConfigError(f"--row is {row} but there are {len(records)} rows")
    record = records[row - 1]
    prompt, size = encoder.preview(record), encoder.measure(record)
    stretches = read_stretches(prompt, tokenizer, encoder.builder.image_token_id)
    typer.echo(mark_loss(stretches, is_colored=sys.stdout.isatty(), encoding=sys.stdout.encoding))
    typer.echo(describe_row(record.origin, size, prompt))
    if output is not None:
        pixel_values = encoder.encode(record).pixel_values
        if pixel_values is None:
            raise DataError(f"{record.origin} has no pictures, so there are no tiles to draw")
        from internvl35.data.pages import draw_tiles

        num_tiles = [span.num_tiles for span in prompt.image_spans]
        draw_tiles(pixel_values, num_tiles, output, has_thumbnails=encoder.tiles.use_thumbnail)
        note(f"tiles: {output}")


def _write_files(folder: Path, report: DataReport, records: RecordSet, encoder: Encoder) -> None:
    from internvl35.data.pages import draw_histograms, draw_samples, take_samples

    text = json.dumps(report.to_json(), indent=2, ensure_ascii=False) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / REPORT_FILE).write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"nothing can be written to {folder}: {error.strerror}") from error
    if report.num_bad < report.num_rows:
        draw_histograms(report, folder / HISTOGRAM_FILE)
        draw_samples(take_samples(records, encoder, report.good.tolist()), folder / SAMPLES_FILE)
    note(f"written to {folder}")


def _count_workers(wanted: int | None) -> int:
    if wanted is not None and wanted < 0:
        raise ConfigError(f"--workers is {wanted}; it must be at least 0")
    if wanted is not None:
        return wanted
    from internvl35.commands.data_report import count_cpus

    return min(8, count_cpus())


@contextmanager
def _progress(num_rows: int) -> Iterator[Callable[[int], None] | None]:
    """Draw a bar on stderr, if that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("checking"), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=num_rows)
        yield lambda num_done: progress.update(task, completed=num_done)
