"""``internvl35 export``: merge adapters, change the layout, split into parts, publish on a hub.

Flags are read by :mod:`internvl35.commands.flags`, finding and loading is left to
:mod:`internvl35.commands.trained`, uploading to :mod:`internvl35.model.publish`. Paper section 2.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import typer

from internvl35.commands.convert import check_target, show_written
from internvl35.commands.flags import GivenFlags, spread_flags
from internvl35.commands.terminal import note, paused_collection, silence_libraries, spinner
from internvl35.commands.trained import Trained, find_trained, load_trained
from internvl35.errors import CheckpointError, ConfigError, DataError
from internvl35.train.run_folder import ARGUMENTS_FILE
from internvl35.train.settings import SECRET

_PARTIAL = ".partial-"

SPARE_BYTES = 64 * 2**20
"""Room that has to be left on a disk beside the weights, for the small files."""

_NOT_COPIED = (
    "trainer_state.json", "config.json", "generation_config.json", "*processor*",
    "configuration.json",
)  # fmt: skip
"""Files of the base that merged weights get anew, or that are of another training."""


@dataclass(frozen=True)
class ExportSettings:
    """What is made of a trained checkpoint, and where it is published."""

    adapters: tuple[str, ...] = ()
    """Folders of adapters, or a hub's names; others than the first are merged before it."""
    model: str | None = None
    """Checkpoint with all weights; with adapters, the one they are put on, by default the one they
    were trained on."""
    model_revision: str | None = None
    """Branch, tag or commit of the checkpoint on the hub."""
    torch_dtype: Literal["bfloat16", "float16", "float32"] | None = None
    """Number format of merged weights; by default that of the checkpoint."""
    merge_lora: bool = False
    """Merge the adapters into the weights and write a checkpoint of its own."""
    layout: Literal["hf", "remote-code"] | None = None
    """Layout of the weights that are written; by default that of the checkpoint."""
    split: bool = False
    """Write what sees (vision) and what speaks (language) into folders of their own."""
    output_dir: str | None = None
    """Folder to write; by default the folder's own name and -merged, -hf, -remote-code or
    -split."""
    overwrite: bool = False
    """Replace what is in a folder that is not empty; its other files stay."""
    max_shard_size: str = "5GB"
    """Most bytes a file of weights, for example 500MB."""
    push_to_hub: bool = False
    """Publish what was written, or else the folder of adapters or weights as it is."""
    hub_model_id: str | None = None
    """Repository to publish to: owner/name."""
    hub_token: str | None = field(default=None, metadata={SECRET: True}, repr=False)
    """Access token of the hub with the right to write; by default HF_TOKEN or MODELSCOPE_API_TOKEN
    of the environment, or the one stored by the hub's own login. Never put into a file."""
    use_hf: bool | None = None
    """Publish on the Hugging Face hub, else on ModelScope; by default as USE_HF says, or the form
    of the token."""
    hub_private_repo: bool = False
    """Make the repository a private one."""
    hub_revision: str | None = None
    """Branch of the repository to write to; by default its main one."""
    commit_message: str = "Upload by internvl35"
    """Message of the commit."""

    def __post_init__(self) -> None:
        """Refuse an export that would do nothing, or two things at once."""
        if not self.adapters and self.model is None:
            raise ConfigError("nothing to export; pass --adapters or --model")
        if self.merge_lora and not self.adapters:
            raise ConfigError("merge_lora is true but there are no adapters; pass --adapters")
        if self.adapters and not self.merge_lora and (self.split or self.layout):
            what = "split" if self.split else "layout"
            raise ConfigError(
                f"{what} is of weights but these are adapters; pass --merge_lora true too"
            )
        if self.push_to_hub and not self.hub_model_id:
            raise ConfigError("push_to_hub needs a repository; pass --hub_model_id owner/name")
        if self.hub_model_id and not self.push_to_hub:
            raise ConfigError("hub_model_id is given; pass --push_to_hub true to publish there")
        if not (self.writes or self.push_to_hub):
            raise ConfigError(
                "nothing to do; pass --merge_lora true, --layout, --split true or "
                "--push_to_hub true"
            )
        if self.output_dir is not None and not self.writes:
            raise ConfigError("output_dir is given but nothing is written; drop it")

    @property
    def writes(self) -> bool:
        """Whether weights are written, not just published as they are."""
        return self.merge_lora or self.split or self.layout is not None


@spread_flags(ExportSettings)
def export(flags: GivenFlags) -> None:
    """Merge adapters, change the layout, split into parts, publish on a hub.

    internvl35 export --adapters output/v0-.../checkpoint-50 --push_to_hub true --hub_model_id
    me/formulas publishes adapters as they are; with --merge_lora true, a checkpoint of its own.
    """
    names = {field.name for field in fields(ExportSettings)}
    settings = ExportSettings(**{k: v for k, v in flags.values.items() if k in names})
    with spinner("starting"), paused_collection():
        silence_libraries()
        trained = _find(settings)
    folder = write_export(trained, settings) if settings.writes else trained.folder
    if settings.push_to_hub:
        typer.echo(f"published: {push(folder, trained, settings)}")


def _find(settings: ExportSettings) -> Trained:
    given: dict[str, Any] = {
        name: getattr(settings, name)
        for name in ("model", "model_revision")
        if getattr(settings, name) is not None
    }
    # not as in the training: weights are merged whole, and keep their own number format
    given |= {"quant_bits": None, "torch_dtype": settings.torch_dtype}
    return find_trained(settings.adapters, given, needs_base=settings.writes)


def write_export(trained: Trained, settings: ExportSettings) -> Path:
    """Write a checkpoint, or its two parts.

    Args:
        trained: what to write.
        settings: what to make of it.

    Returns:
        The folder that was written.

    Raises:
        CheckpointError: if the folder is not empty, the disk too small, or the parts do not fit.
    """
    from internvl35.model.conversion import convert_checkpoint
    from internvl35.model.parts import split_checkpoint

    target = choose_target(trained, settings)
    check_target(target, is_overwritten=settings.overwrite)
    num_bytes = weight_bytes(trained.weights, settings.torch_dtype)
    size = settings.max_shard_size
    if not settings.split:
        check_room(target, num_bytes)
        if settings.merge_lora:
            _write_merged(trained, settings, target, num_bytes)
        else:
            assert settings.layout is not None
            with show_written(target, num_bytes):
                convert_checkpoint(trained.weights, target, settings.layout, max_shard_size=size)
        _write_card(target, trained)
        typer.echo(f"checkpoint: {target}")
        return target
    check_room(target, num_bytes * (2 if settings.merge_lora else 1))
    with _whole_checkpoint(trained, settings, target, num_bytes) as whole:
        with show_written(target, num_bytes):
            folders = split_checkpoint(whole, target, max_shard_size=size)
        _write_card(target, trained)
    for part, folder in folders.items():
        typer.echo(f"{part}: {folder}")
    return target


@contextmanager
def _whole_checkpoint(
    trained: Trained, settings: ExportSettings, target: Path, num_bytes: int
) -> Iterator[Path]:
    """The checkpoint to split; merged weights stand beside the parts until they are written."""
    for left_over in target.glob(f"{_PARTIAL}*"):  # of a process that was killed
        shutil.rmtree(left_over)
    if not settings.merge_lora:
        yield trained.weights
        return
    partial = target / f"{_PARTIAL}{os.getpid()}"
    try:
        _write_merged(trained, settings, partial, num_bytes)
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def choose_target(trained: Trained, settings: ExportSettings) -> Path:
    """Choose the folder that is written.

    Args:
        trained: what is exported.
        settings: as given.

    Returns:
        As given, else beside the folder that is exported, or in the working directory for one of a
        hub.
    """
    if settings.output_dir is not None:
        return Path(settings.output_dir).expanduser()
    ending = "split" if settings.split else "merged" if settings.merge_lora else settings.layout
    place = Path(trained.name).expanduser()
    if place.is_dir():
        place = place.resolve()
        return place.with_name(f"{place.name}-{ending}")
    return Path(f"{place.name}-{ending}")


def weight_bytes(folder: Path, dtype: str | None) -> int:
    """Tell how much room the weights of a checkpoint take.

    Args:
        folder: the checkpoint.
        dtype: number format in which they are written; None for their own.

    Returns:
        Bytes.
    """
    from internvl35.model.shards import Shards

    if dtype is None:
        return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    width = {"float32": 4}.get(dtype, 2)
    total = 0
    for info in Shards(folder).tensors.values():
        count = 1
        for side in info.shape:
            count *= side
        total += count * width
    return total


def check_room(target: Path, num_bytes: int) -> None:
    """Refuse to begin what the disk cannot take.

    Args:
        target: folder to write, which may not exist yet.
        num_bytes: of the weights.

    Raises:
        CheckpointError: if there is less room.
    """
    place = next(path for path in (target, *target.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    if free < num_bytes + SPARE_BYTES:
        raise CheckpointError(
            f"{target} needs {(num_bytes + SPARE_BYTES) / 1e9:.1f} GB but the disk has "
            f"{free / 1e9:.1f} GB left; free space or name another --output_dir"
        )


def _write_merged(trained: Trained, settings: ExportSettings, target: Path, num_bytes: int) -> None:
    from internvl35.model.configuration import read_config
    from internvl35.model.conversion import files_to_copy
    from internvl35.model.weights import save_checkpoint

    with spinner("merging"), paused_collection():
        model = load_trained(trained, merge=True, use_gpu=False)
    layout = settings.layout or read_config(trained.weights)[1]
    with show_written(target, num_bytes):
        # weights and config come last: a folder without them is taken for no checkpoint
        files = files_to_copy(trained.weights)
        if (trained.folder / ARGUMENTS_FILE).is_file():
            files[ARGUMENTS_FILE] = trained.folder / ARGUMENTS_FILE
        _copy(files, target)
        save_checkpoint(model, target, layout=layout, max_shard_size=settings.max_shard_size)


def _copy(files: Mapping[str, str | Path], target: Path) -> None:
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name, source in files.items():
            if not any(fnmatch.fnmatch(name, pattern) for pattern in _NOT_COPIED):
                shutil.copyfile(source, target / name)
    except OSError as error:
        raise CheckpointError(
            f"{target} cannot be written: {error}; free space or name another --output_dir"
        ) from error


def _write_card(target: Path, trained: Trained) -> None:
    from internvl35.train.card import write_card
    from internvl35.train.checkpoints import read_state

    try:
        state: Mapping[str, Any] = read_state(trained.folder)
    except DataError:
        state = {}  # adapters of another tool, or a checkpoint that no run of ours left
    if not trained.arguments and not state:
        return
    try:
        run_folder = trained.folder.resolve().parent
        card = write_card(target, trained.arguments, state, run_folder=run_folder)
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written: {error}; free space") from error
    note(f"card: {card}")


def push(folder: Path, trained: Trained, settings: ExportSettings) -> str:
    """Publish a folder.

    Args:
        folder: what was written, or what is exported as it is.
        trained: what is exported.
        settings: where to.

    Returns:
        Address of the repository's page.

    Raises:
        CheckpointError: if the hub cannot be reached or refuses.
    """
    from internvl35.model.publish import (
        HUB_TITLES,
        Destination,
        choose_hub,
        publish_folder,
        published_files,
    )

    assert settings.hub_model_id is not None
    hub, reason = choose_hub(settings.use_hf, settings.hub_token)
    if not (folder / "README.md").exists():
        _write_card(folder, trained)
    files = published_files(folder)
    num_bytes = sum(path.stat().st_size for path in files)
    note(
        f"publishing {len(files)} files ({num_bytes / 1e6:,.1f} MB) as {settings.hub_model_id} on "
        f"{HUB_TITLES[hub]} ({reason})"
    )
    return publish_folder(
        folder,
        Destination(
            settings.hub_model_id,
            hub=hub,
            token=settings.hub_token,
            is_private=settings.hub_private_repo,
            revision=settings.hub_revision,
            message=settings.commit_message,
        ),
    )
