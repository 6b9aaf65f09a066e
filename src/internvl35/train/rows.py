"""The rows of a run, chosen, measured and planned: what it learns from, and in which order.

Choosing rows is left to :mod:`internvl35.data.mixture`, turning them into examples to
:mod:`internvl35.data.encoding`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from internvl35.data.encoding import Encoder
from internvl35.data.mixture import RecordSet, select_records
from internvl35.errors import ConfigError, DataError
from internvl35.train.assembly import Start
from internvl35.train.bad_rows import BadRows
from internvl35.train.distributed import Workers
from internvl35.train.measure import fingerprint, load_sizes, measure_rows, save_sizes
from internvl35.train.plan import Plan, PlanSettings, Rows, Sizes
from internvl35.train.resolution import resolve_accumulation
from internvl35.train.settings import FinetuneSettings

BAD_ROWS_FILE = "bad_rows.jsonl"
_SIZES_FILE = "row_sizes-{name}.safetensors"


ShowProgress = Callable[[str, int], Callable[[int], None]]
"""From what is counted, and how much there is, to what is told how far it is."""


@dataclass(frozen=True)
class ChosenRows:
    """Rows of a run, of which nothing is known yet."""

    train: RecordSet
    """Rows to train on."""
    val: RecordSet
    """Rows to evaluate on; may be empty."""


@dataclass(frozen=True)
class PreparedRows:
    """Rows of a run with everything that was found out about them beforehand."""

    train: RecordSet
    """Rows to train on."""
    val: RecordSet
    """Rows to evaluate on; may be empty."""
    encoder: Encoder
    """Turns rows into examples."""
    plan: Plan
    """Steps of the run."""
    good_val: NDArray[np.int64]
    """Indexes of the rows of ``val`` that can be used."""
    val_groups: tuple[Rows, ...]
    """Batches of the evaluation."""
    bad_train: BadRows
    """Rows of ``train`` that cannot be used."""
    bad_val: BadRows
    """Rows of ``val`` that cannot be used."""
    pad_token_id: int
    """Fills padded rows."""


def choose_rows(settings: FinetuneSettings, workers: Workers) -> ChosenRows:
    """Open the data sets of a run and choose their rows.

    Args:
        settings: of the run.
        workers: the main process downloads before the others look.

    Returns:
        The rows.

    Raises:
        ConfigError: if no data set is named.
        DataError: if a data set cannot be read.
    """
    if not settings.dataset.dataset:
        raise ConfigError(
            "no data set is given; pass --dataset with a file, a folder or a hub's owner/name"
        )
    if not workers.is_main:
        workers.wait()
    root = settings.encoding.media_root
    train, val = select_records(
        settings.dataset,
        token=settings.model.hub_token,
        media_root=Path(root) if root else None,
    )
    if workers.is_main:
        workers.wait()
    return ChosenRows(train, val)


def prepare_rows(
    chosen: ChosenRows,
    start: Start,
    settings: FinetuneSettings,
    workers: Workers,
    folder: Path,
    *,
    is_resumed: bool = False,
    show_progress: ShowProgress | None = None,
) -> PreparedRows:
    """Measure and plan the rows of a run.

    Args:
        chosen: the rows.
        start: the checkpoint begun from, whose tokenizer and tiles decide what a row takes.
        settings: of the run.
        workers: the processes of the run.
        folder: run folder; sizes of rows and reasons for bad ones are kept there.
        is_resumed: whether the rows have to be those of which sizes were kept.
        show_progress: where it is shown how far it is.

    Returns:
        Everything the run needs to know about its rows.

    Raises:
        ConfigError: if the settings leave the run without a step.
        DataError: if too many rows are bad, the rows have changed since the run began, or the
            folder cannot be written to.
    """
    encoder = Encoder.for_checkpoint(start.tokenizer, start.config, settings.encoding)
    measured, bad = {}, {}
    for name, records in (("train", chosen.train), ("val", chosen.val)):
        bad[name] = BadRows(len(records), settings.dataset.max_bad_share, folder / BAD_ROWS_FILE)
        digest = fingerprint(_what_sizes_depend_on(settings) | {"rows": records.fingerprint})
        path = folder / _SIZES_FILE.format(name=name)
        kept = load_sizes(path)
        is_same = kept is not None and kept[1] == digest
        (num_same,) = workers.sum([float(is_same)])
        if kept is not None and num_same == workers.world_size:  # else only some see the file
            sizes = kept[0]
        else:
            told = show_progress(name, len(records)) if show_progress else None
            sizes = measure_rows(
                records, encoder, bad[name], workers,
                num_processes=count_data_processes(settings), on_progress=told,
            )  # fmt: skip
            if is_resumed and kept is not None:
                _check_same_rows(name, sizes, kept[0])
            workers.wait()
            if workers.is_main:
                save_sizes(path, sizes, digest)
        bad[name].restore(np.flatnonzero(sizes.tokens == 0).tolist())
        measured[name] = sizes
    return PreparedRows(
        train=chosen.train,
        val=chosen.val,
        encoder=encoder,
        plan=make_plan(measured["train"], settings, workers, encoder.max_tokens),
        good_val=measured["val"].good,
        val_groups=group_for_evaluation(
            measured["val"], settings.optimization.per_device_eval_batch_size
        ),
        bad_train=bad["train"],
        bad_val=bad["val"],
        pad_token_id=int(start.tokenizer.pad_token_id),
    )


def _check_same_rows(name: str, now: Sizes, before: Sizes) -> None:
    """Refuse rows of other sizes, since batches and their order follow from them."""
    if len(now) != len(before):
        found = f"there are {len(now)} rows now and {len(before)} then"
    else:
        differs = (now.tokens != before.tokens) | (now.tiles != before.tiles)
        if not differs.any():
            return  # files that were copied, or written again as they were
        found = f"{int(differs.sum())} of {len(now)} rows have other sizes"
    raise DataError(
        f"the data sets ({name}) are not those that the run began with: {found}; put them back, or "
        "pass resume_only_model true for a new run that begins with these weights"
    )


def make_plan(
    sizes: Sizes, settings: FinetuneSettings, workers: Workers, longest: int | None
) -> Plan:
    """Plan the steps of a run.

    Args:
        sizes: of the rows to train on.
        settings: of the run.
        workers: the processes of the run.
        longest: most tokens of a row, and of a pack where the settings name no length.

    Returns:
        The plan.
    """
    chosen, packing = settings.optimization, settings.packing
    accumulation = resolve_accumulation(chosen, workers.world_size)
    return Plan(
        sizes,
        PlanSettings(
            num_epochs=chosen.num_train_epochs,
            max_steps=chosen.max_steps,
            batch_size=chosen.per_device_train_batch_size,
            batches_per_step=accumulation * workers.world_size,
            is_packed=packing.packing,
            pack_tokens=packing.packing_length or longest or PlanSettings.pack_tokens,
            pack_tiles=packing.packing_max_tiles,
            pack_window=packing.packing_window,
            is_shuffled=settings.dataset.dataset_shuffle,
            is_grouped=chosen.group_by_length,
            seed=chosen.seed,
        ),
    )


def group_for_evaluation(sizes: Sizes, batch_size: int) -> tuple[Rows, ...]:
    """Put rows of like length side by side.

    Args:
        sizes: of the rows.
        batch_size: rows of a batch.

    Returns:
        Batches, long rows first, so that memory that does not suffice shows at once.
    """
    order: Sequence[int] = sizes.good[np.argsort(-sizes.tokens[sizes.good], kind="stable")].tolist()
    return tuple(
        tuple(order[start : start + batch_size]) for start in range(0, len(order), batch_size)
    )


def count_data_processes(settings: FinetuneSettings) -> int:
    """Processes that prepare rows: as given, by default 1."""
    given = settings.run.dataloader_num_workers
    return 1 if given is None else given


def _what_sizes_depend_on(settings: FinetuneSettings) -> dict[str, object]:
    return {
        "columns": settings.dataset.columns,
        "encoding": asdict(settings.encoding),
        "model": settings.model.model,
    }
