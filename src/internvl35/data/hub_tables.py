"""Data sets of the Hugging Face hub and of ModelScope, by name.

Only data is fetched: sets that would need code of their own are taken from the Hugging Face hub's
Parquet copy of them, or refused. Rows of a hub's set may name no files but the set's own. No
counterpart in the paper.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants

from internvl35.data.arrow_tables import (
    ArrowTable,
    as_tables,
    choose_subsets,
    first_line,
    import_datasets,
    load_folder,
    loading_errors,
)
from internvl35.data.dataset_names import ALL_SUBSETS, DatasetName, Hub
from internvl35.data.own_files import check_folder, check_repository, load_own
from internvl35.data.records import DEFAULTS, RowDefaults
from internvl35.data.tables import Table
from internvl35.errors import ConfigError, DataError

PARQUET_COPY = "refs/convert/parquet"
"""Revision under which the Hugging Face hub keeps its Parquet copy of a set."""

_NO_CODE = ("*.py", "*.pkl", "*.pickle", "*.pt", "*.pth", "*.bin")
"""Files that are not fetched from ModelScope."""


@dataclass(frozen=True)
class KnownDataset:
    """A set whose rows are known to need reading in a certain way."""

    hf: str
    """Name on the Hugging Face hub."""
    ms: str
    """Name on ModelScope."""
    subsets: tuple[str, ...] = ("default",)
    """Its subsets."""
    splits: tuple[str, ...] = ("train",)
    """Splits that are taken, one behind the other, as far as a subset has them."""
    defaults: RowDefaults = field(default_factory=RowDefaults)
    """How its rows are read."""


KNOWN_DATASETS = (
    KnownDataset(
        hf="linxy/LaTeX_OCR",
        ms="AI-ModelScope/LaTeX_OCR",
        subsets=(
            "default", "human_handwrite", "human_handwrite_print", "synthetic_handwrite", "small",
        ),
        splits=("train", "validation", "test"),
        defaults=RowDefaults(
            columns={"text": "response"}, query="Using LaTeX to perform OCR on the image."
        ),
    ),
)  # fmt: skip
"""Sets that are read in a certain way, under the names of either hub."""


@dataclass(frozen=True)
class HubAccess:
    """How hubs are asked."""

    hub: Hub = "hf"
    """Hub of names that do not say which."""
    revision: str | None = None
    """Branch, tag or commit of the sets."""
    token: str | None = field(default=None, repr=False)
    """Access token, by default the one logged in with."""


def open_hub_tables(
    name: DatasetName, access: HubAccess, defaults: RowDefaults = DEFAULTS
) -> list[Table]:
    """Fetch a hub's data set, if it was not fetched before, and open it.

    Args:
        name: of the set, under its name on either hub if it is a known one.
        access: how the hub is asked.
        defaults: what holds for all rows.

    Returns:
        A table a split of each subset.

    Raises:
        DataError: if there is no such set or it cannot be fetched.
        ConfigError: if a package is missing.
    """
    hub = name.hub or access.hub
    known = next((one for one in KNOWN_DATASETS if name.place in (one.hf, one.ms)), None)
    place, subsets = name.place, name.subsets
    if known is not None:
        place = known.hf if hub == "hf" else known.ms
        subsets = tuple(choose_subsets(subsets, known.subsets, place))
        columns = {**known.defaults.columns, **defaults.columns}
        defaults = replace(defaults, columns=columns, query=known.defaults.query)
    wanted = _Wanted(place, subsets, known.splits if known else ())
    if hub == "hf":
        return [*_open_hugging_face(wanted, access, defaults)]
    return [*_open_modelscope(wanted, access, defaults)]


@dataclass(frozen=True)
class _Wanted:
    place: str
    subsets: tuple[str, ...]
    splits: tuple[str, ...]


def _open_hugging_face(
    wanted: _Wanted, access: HubAccess, defaults: RowDefaults
) -> list[ArrowTable]:
    datasets = import_datasets()
    place = wanted.place
    folders = (
        Path(huggingface_hub.constants.HF_HUB_CACHE),
        Path(datasets.config.DOWNLOADED_DATASETS_PATH),
        Path(datasets.config.EXTRACTED_DATASETS_PATH),
    )
    defaults = replace(defaults, confined_to=folders)
    if Path(place).is_dir():  # which the library takes for the set
        check_folder(Path(place), place)
    else:
        check_repository(place, revision=access.revision, token=access.token)
    tables: list[ArrowTable] = []
    try:
        subsets = wanted.subsets
        if not subsets or subsets == (ALL_SUBSETS,):
            names = datasets.get_dataset_config_names(
                place, revision=access.revision, token=access.token
            )
            subsets = tuple(choose_subsets(subsets, names, place))
        for subset in subsets:
            loaded = _load_hugging_face(datasets, place, subset, access)
            label = place if subset == "default" else f"{place}:{subset}"
            tables += as_tables(loaded, label, wanted.splits, root=None, defaults=defaults)
    except loading_errors(datasets) as error:
        raise DataError(_explain(error, place, datasets)) from error
    return tables


def _load_hugging_face(datasets: Any, place: str, subset: str, access: HubAccess) -> Any:
    name = None if subset == "default" else subset
    try:
        return load_own(
            datasets, place, place, name=name, revision=access.revision, token=access.token
        )
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error) or access.revision is not None:
            raise
        return load_own(
            datasets, place, place, data_dir=subset, revision=PARQUET_COPY, token=access.token
        )


def _explain(error: Exception, place: str, datasets: Any) -> str:
    if isinstance(error, datasets.exceptions.DatasetNotFoundError):
        return (
            f"no data set {place!r}: not on this machine, and the Hugging Face hub has none of "
            "this name or gives no access; check the name, or run 'hf auth login'"
        )
    if isinstance(error, ConnectionError) or "offline" in str(error).lower():
        return (
            f"{place} is not on this machine and the Hugging Face hub cannot be reached; go online "
            "once, or fetch the set elsewhere and pass its file or folder"
        )
    return f"{place} cannot be loaded from the Hugging Face hub ({first_line(error)})"


def _open_modelscope(wanted: _Wanted, access: HubAccess, defaults: RowDefaults) -> list[ArrowTable]:
    datasets = import_datasets()
    if importlib.util.find_spec("modelscope") is None:
        raise ConfigError(
            "data sets of ModelScope need the package modelscope; install it with: "
            "pip install 'internvl35[modelscope]'"
        )
    from modelscope.hub import errors as modelscope_errors
    from modelscope.hub.snapshot_download import dataset_snapshot_download

    where: dict[str, Any] = {"revision": access.revision, "ignore_patterns": list(_NO_CODE)}
    if access.token:
        where["token"] = access.token
    try:
        folder = Path(dataset_snapshot_download(wanted.place, **where))
    except (getattr(modelscope_errors, "HubError", OSError), *loading_errors(datasets)) as error:
        raise DataError(
            f"{wanted.place} cannot be fetched from ModelScope ({first_line(error)}); check name, "
            "revision and network, or pass a file or folder; hf:: in front of the name asks the "
            "Hugging Face hub"
        ) from error
    return load_folder(
        folder,
        wanted.place,
        wanted.subsets,
        splits=wanted.splits,
        defaults=replace(defaults, confined_to=(folder,)),
    )
