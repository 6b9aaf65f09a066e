"""A checkpoint that was trained: which settings it came from, which weights it stands on.

``infer`` and ``export`` begin here. Settings are left to :mod:`internvl35.train.settings`, adapters
to :mod:`internvl35.train.adapters`, downloads to :mod:`internvl35.model.hub`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from internvl35.commands.terminal import note
from internvl35.config import EMBEDDED
from internvl35.errors import CheckpointError, ConfigError, DataError
from internvl35.train.arguments import build_settings, setting_groups
from internvl35.train.checkpoints import list_checkpoints
from internvl35.train.run_folder import ADAPTER_FILE, ARGUMENTS_FILE, read_arguments
from internvl35.train.settings import FinetuneSettings

if TYPE_CHECKING:
    from internvl35.model.composite import VisionLanguageModel

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_VERSION = "internvl35_version"
_GROUPS = {"model", "encoding"}
_OF_ADAPTERS = {"quant_bits", "quant_method"}
_OF_THE_BASE = {"model", "model_revision"}
_ALSO = {*_OF_ADAPTERS, "use_hf"}
_OF_TRAINING_ALONE = {"max_length", "truncation_strategy", "data_augment", "loss_scale"}
_FOR_THE_USER_ALONE = {"allow_urls", "hub_token"}
_OF_DATA = {"media_root"}
_OF_ANY_TOOL = {"model", "torch_dtype"}


@dataclass(frozen=True)
class Trained:
    """Adapters on a base, or a checkpoint with weights of its own."""

    folder: Path
    """The folder that was named first: adapters, or the checkpoint."""
    name: str
    """As it was named."""
    adapters: tuple[Path, ...]
    """Folders of adapters; empty for a checkpoint with weights of its own."""
    base: Path | None
    """Folder of the weights; None where it was not looked for."""
    settings: FinetuneSettings
    """Settings it was trained with as far as they matter now, and what was given instead."""
    arguments: Mapping[str, Any]
    """Content of its ``args.json``; empty without one."""

    @property
    def weights(self) -> Path:
        """Folder of the weights, where it was looked for."""
        assert self.base is not None
        return self.base


def find_trained(
    adapters: Sequence[str],
    given: Mapping[str, Any],
    *,
    load_args: bool = True,
    load_data_args: bool = False,
    needs_base: bool = True,
) -> Trained:
    """Find folders and settings, downloading what is named by a hub's name.

    Args:
        adapters: folders of adapters or names of a hub, the first one bringing the settings.
        given: flags that the user gave; they go before those of ``args.json``.
        load_args: whether ``args.json`` is read at all.
        load_data_args: whether the data sets of the training are taken from it too.
        needs_base: whether the weights under adapters are looked for, and downloaded if need be.

    Returns:
        What was found.

    Raises:
        CheckpointError: if a folder cannot be found.
        ConfigError: if a folder holds no adapters, or a setting is out of range.
        DataError: if ``args.json`` is needed and missing or broken.
    """
    own = build_settings(dict(given))
    folders = tuple(_find_adapters(name, own) for name in adapters)
    for name, folder in zip(adapters, folders, strict=True):
        if not (folder / ADAPTER_FILE).is_file():
            if checkpoints := list_checkpoints(folder):
                raise ConfigError(
                    f"{name} is a run folder; pass one of its checkpoints, for example "
                    f"{checkpoints[-1]}"
                )
            raise ConfigError(
                f"{name} holds no {ADAPTER_FILE}, so it is no folder of adapters; pass a "
                "checkpoint with all weights as --model"
            )
    folder = folders[0] if folders else _find(own.model.model, own)
    arguments = _read_arguments(folder, is_needed=load_data_args) if load_args else {}
    values = _chosen(arguments, given, load_data_args=load_data_args, is_adapter=bool(folders))
    _check_values(values, folder)
    values |= given
    if folders and "model" not in given:
        values["model"] = _base_of(folders[0], arguments)
    settings = build_settings(values)
    base: Path | None = folder
    if folders:
        base = _find_base(adapters[0], settings) if needs_base else None
    name = adapters[0] if folders else own.model.model
    return Trained(folder, name, folders, base, settings, arguments)


def _find_adapters(name: str, settings: FinetuneSettings) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    from internvl35.model.hub import released_name

    if path.is_file():
        raise ConfigError(f"{name} is a file; pass the folder that it is in")
    if name in EMBEDDED or released_name(name):
        raise ConfigError(f"{name} is a checkpoint with all weights; pass it as --model")
    if not _HUB_NAME.fullmatch(name):
        raise ConfigError(
            f"no adapters {name!r}: no such folder (looked at {path.absolute()}) and not of the "
            "form owner/name; pass a checkpoint-N folder of a training"
        )
    return _find(name, settings, marker=ADAPTER_FILE)


def _find_base(name: str, settings: FinetuneSettings) -> Path:
    model = settings.model.model
    note(f"{name} stands on {model}")
    try:
        return _find(model, settings)
    except CheckpointError as error:
        raise CheckpointError(
            f"the checkpoint under {name} cannot be found: {error}; pass it as --model"
        ) from error


def _find(name: str, settings: FinetuneSettings, marker: str = "config.json") -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    from internvl35.model.hub import resolve_checkpoint
    from internvl35.model.publish import choose_hub

    is_model = marker == "config.json"
    return resolve_checkpoint(
        name,
        hub=choose_hub(settings.dataset.use_hf, settings.model.hub_token)[0],
        revision=settings.model.model_revision if is_model else None,
        token=settings.model.hub_token,
        marker=marker,
    )


def _read_arguments(folder: Path, *, is_needed: bool) -> dict[str, Any]:
    if not is_needed and not any(
        (place / ARGUMENTS_FILE).is_file() for place in (folder, folder.resolve().parent)
    ):
        return {}
    return read_arguments(folder)


def _check_values(values: Mapping[str, Any], folder: Path) -> None:
    """Blame settings that could never be on the file they come from."""
    try:
        build_settings(values)
    except ConfigError as error:
        raise ConfigError(
            f"{ARGUMENTS_FILE} of {folder}: {error}; give this flag yourself, or pass "
            "--load_args false"
        ) from error


def _chosen(
    arguments: Mapping[str, Any],
    given: Mapping[str, Any],
    *,
    load_data_args: bool,
    is_adapter: bool,
) -> dict[str, Any]:
    """What of a training matters afterwards, as far as the user has not said it.

    The file may be a stranger's: it may name a model and data, which are data and no code, but it
    may not have addresses fetched, nor lead a token that was given to a hub that was not.
    """
    values = {name: value for name, value in arguments.items() if value is not None}
    if arguments and _VERSION not in arguments:
        note(f"{ARGUMENTS_FILE} is not of internvl35; only model and torch_dtype are taken from it")
        if load_data_args:
            raise DataError(
                f"{ARGUMENTS_FILE} is not of internvl35, so its data sets are not understood; pass "
                "--val_dataset instead of --load_data_args true"
            )
        return {
            name: value
            for name, value in values.items()
            if name in _OF_ANY_TOOL and name not in given
        }
    groups = _GROUPS | ({"dataset"} if load_data_args else set())
    left_out = _OF_TRAINING_ALONE | _FOR_THE_USER_ALONE | given.keys()
    if not load_data_args:
        left_out |= _OF_DATA
    if not is_adapter:  # weights that adapters were merged into stand on nothing
        left_out |= _OF_ADAPTERS
    if "model" in given:
        left_out |= _OF_THE_BASE
    if given.get("hub_token"):
        left_out |= {"use_hf"}
    return {
        name: values[name]
        for name, group in setting_groups().items()
        if name in values and (group in groups or name in _ALSO) and name not in left_out
    }


def _base_of(adapters: Path, arguments: Mapping[str, Any]) -> str:
    """Name the checkpoint under adapters: as the training was told, or as PEFT noted it."""
    try:
        noted = json.loads((adapters / ADAPTER_FILE).read_text(encoding="utf-8"))
        peft_name = noted.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{adapters / ADAPTER_FILE} cannot be read: {error}") from error
    names = [str(name) for name in (arguments.get("model"), peft_name) if name]
    # a relative path of the training's working directory may not lead there from here
    here = [name for name in names if name in EMBEDDED or Path(name).expanduser().is_dir()]
    if not names:
        raise ConfigError(
            f"{adapters} does not say on which checkpoint it was trained; pass it as --model"
        )
    return (here or names)[0]


def load_trained(
    trained: Trained,
    *,
    merge: bool = False,
    dtype: Literal["bfloat16", "float16", "float32"] | None = None,
    use_gpu: bool = True,
) -> VisionLanguageModel:
    """Load weights and adapters.

    Args:
        trained: what to load.
        merge: whether adapters become part of the weights. All but the first do in any case.
        dtype: number format of the weights; None for that of the settings.
        use_gpu: whether it goes to the GPU, if there is one.

    Returns:
        The network in evaluation mode.

    Raises:
        CheckpointError: if weights or adapters do not fit.
        ConfigError: if a package that they need is missing.
    """
    import torch

    from internvl35.train.adapters import load_adapters, load_base, merge_adapters

    settings = trained.settings
    if dtype is not None:
        settings = replace(settings, model=replace(settings.model, torch_dtype=dtype))
    device = torch.device("cuda" if use_gpu and torch.cuda.is_available() else "cpu")
    model = load_base(trained.weights, settings, device)
    first, others = trained.adapters[:1], trained.adapters[1:]
    for folder in others:
        merge_adapters(load_adapters(model, folder))
    for folder in first:
        load_adapters(model, folder)
        if merge:
            merge_adapters(model)
    model.eval().requires_grad_(False)
    return model
