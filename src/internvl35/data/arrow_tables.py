"""Rows that the ``datasets`` library reads: Parquet, folders of pictures, saved sets, hubs' files.

Rows are taken as they are stored, so no picture is decoded here; nothing but data is ever loaded,
never code. Which sets there are on hubs is left to :mod:`internvl35.data.hub_tables`. No
counterpart in the paper.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from internvl35.data.dataset_names import ALL_SUBSETS
from internvl35.data.own_files import HTTP_ERROR, check_folder, load_own
from internvl35.data.records import DEFAULTS, RowDefaults
from internvl35.data.tables import stamp_file
from internvl35.errors import ConfigError, DataError

TRAIN = "train"
"""Split that is taken where a set has several."""

_ERRORS = (OSError, ValueError, TypeError, LookupError, RuntimeError, ImportError, HTTP_ERROR)


class ArrowTable:
    """Rows of one split of a set.

    Args:
        rows: a ``datasets.Dataset``.
        name: what messages call it.
        root: folder that relative paths start from.
        defaults: what holds for all rows.
        version: text that changes with the files, where the rows' own fingerprint does not.
    """

    def __init__(
        self, rows: Any, name: str, *, root: Path | None = None, defaults: RowDefaults = DEFAULTS,
        version: str = "",
    ) -> None:  # fmt: skip
        self.name = name
        self.root = root
        self.defaults = defaults
        self._features = dict(rows.features)
        self._rows = rows.with_format("arrow")
        self.stamp = f"{name} {rows._fingerprint} {version}".rstrip()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        row: dict[str, Any] = self._rows[index].to_pylist()[0]
        return {name: _restore(value, self._features[name]) for name, value in row.items()}

    def locate(self, index: int) -> str:
        """Name the set and the row, counted from 1."""
        return f"{self.name} row {index + 1}"


def import_datasets() -> Any:
    """Import the ``datasets`` library.

    Returns:
        The module.

    Raises:
        ConfigError: if it is not installed, or so old that it would run code of data sets.
    """
    if importlib.util.find_spec("datasets") is None:
        raise ConfigError(
            "Parquet files, folders and hubs' data sets need the package datasets; install it "
            "with: pip install 'internvl35[train]'"
        )
    datasets = importlib.import_module("datasets")
    if int(datasets.__version__.split(".")[0]) < 4:
        raise ConfigError(
            f"datasets {datasets.__version__} may run code of data sets; install 4.0 or newer"
        )
    return datasets


def loading_errors(datasets: Any) -> tuple[type[Exception], ...]:
    """Name what ``datasets`` raises for files that are missing, damaged or out of reach.

    Args:
        datasets: the module.

    Returns:
        Kinds of exceptions.
    """
    return (*_ERRORS, datasets.exceptions.DatasetsError)


def open_parquet(
    path: Path, *, root: Path | None = None, defaults: RowDefaults = DEFAULTS
) -> ArrowTable:
    """Open a Parquet file.

    Args:
        path: the file.
        root: folder that relative paths start from; by default the file's.
        defaults: what holds for all rows.

    Returns:
        Its rows.

    Raises:
        DataError: if it cannot be read.
        ConfigError: if ``datasets`` is not installed.
    """
    datasets = import_datasets()
    try:
        rows = datasets.load_dataset("parquet", data_files=str(path.absolute()), split=TRAIN)
    except loading_errors(datasets) as error:
        raise DataError(f"{path} cannot be read as Parquet: {first_line(error)}") from error
    return ArrowTable(rows, path.name, root=root or path.parent, defaults=defaults)


def open_saved(
    folder: Path,
    *,
    splits: Sequence[str] = (),
    root: Path | None = None,
    defaults: RowDefaults = DEFAULTS,
) -> list[ArrowTable]:
    """Open what ``datasets`` wrote with ``save_to_disk``.

    Args:
        folder: where it lies.
        splits: splits to take; by default as :func:`pick_splits` does.
        root: folder that relative paths start from; by default the set's.
        defaults: what holds for all rows.

    Returns:
        A table a split.

    Raises:
        DataError: if it cannot be read.
        ConfigError: if ``datasets`` is not installed.
    """
    datasets = import_datasets()
    try:
        loaded = datasets.load_from_disk(str(folder))
    except loading_errors(datasets) as error:
        raise DataError(f"{folder} cannot be loaded: {first_line(error)}") from error
    if not isinstance(loaded, dict):
        return [ArrowTable(loaded, folder.name, root=root or folder, defaults=defaults)]
    return as_tables(loaded, folder.name, splits, root=root or folder, defaults=defaults)


def load_folder(
    folder: Path,
    label: str,
    subsets: Sequence[str],
    *,
    splits: Sequence[str] = (),
    root: Path | None = None,
    defaults: RowDefaults = DEFAULTS,
) -> list[ArrowTable]:
    """Open a folder as ``datasets`` understands it: by its README, by names of files, by pictures.

    The library keeps what it has read, and takes a folder whose README declares its files for the
    same as long as their names and those of the folder are; so each state of the files has a place
    of its own in the cache.

    Args:
        folder: the folder.
        label: what messages call it.
        subsets: which of its configurations, or folders in it; the only or default one if empty.
        splits: splits to take; by default as :func:`pick_splits` does.
        root: folder that relative paths start from; by default the folder itself.
        defaults: what holds for all rows.

    Returns:
        A table a split of each subset.

    Raises:
        DataError: if there is no such subset, or nothing that can be read.
        ConfigError: if ``datasets`` is not installed.
    """
    datasets = import_datasets()
    path = str(folder.absolute())
    is_foreign = defaults.confined_to is not None
    if is_foreign:
        check_folder(folder, label)
    tables = []
    try:
        known = datasets.get_dataset_config_names(path)
        for subset in choose_subsets(subsets, known, label, folder=folder):
            where = {"name": subset} if subset in known else {"data_dir": subset}
            files = datasets.load_dataset_builder(path, **where).config.data_files
            version = _stamp_files(files or {})
            where["cache_dir"] = str(Path(datasets.config.HF_DATASETS_CACHE) / "folders" / version)
            if is_foreign:
                loaded = load_own(datasets, path, label, **where)
            else:
                loaded = datasets.load_dataset(path, **where)
            named = label if subset == "default" else f"{label}:{subset}"
            tables += as_tables(
                loaded, named, splits, root=root or folder, defaults=defaults, version=version
            )
    except loading_errors(datasets) as error:
        raise DataError(f"{label} cannot be loaded: {first_line(error)}") from error
    return tables


def choose_subsets(
    wanted: Sequence[str], known: Sequence[str], label: str, *, folder: Path | None = None
) -> list[str]:
    """Decide which subsets of a set are taken.

    Args:
        wanted: as the name says; ``("all",)`` for every one, empty for the only or default one.
        known: what the set has.
        label: what messages call the set.
        folder: where it lies, if its folders may stand for subsets that it does not declare.

    Returns:
        Names of subsets.

    Raises:
        DataError: if there is no such subset, or none is named and there is no default.
    """
    if tuple(wanted) == (ALL_SUBSETS,) and ALL_SUBSETS not in known:
        return list(known)
    if wanted:
        for subset in wanted:
            is_folder = folder is not None and subset in _folders_in(folder)
            if subset not in known and not is_folder:
                raise DataError(
                    f"{label} has no subset {subset!r}; it has {', '.join(known) or 'none'}"
                )
        return list(wanted)
    if len(known) == 1:
        return list(known)
    if "default" in known:
        return ["default"]
    raise DataError(
        f"{label} has the subsets {', '.join(known)}; name one: {label}:{next(iter(known), '')}"
    )


def pick_splits(available: Sequence[str], wanted: Sequence[str], label: str) -> list[str]:
    """Decide which splits of a set are taken.

    Args:
        available: what the set has.
        wanted: splits that are taken if they are there; if empty, ``train`` or the only one.
        label: what messages call the set.

    Returns:
        Names of splits.

    Raises:
        DataError: if there are several and none of them is for training.
    """
    found = [split for split in wanted or (TRAIN,) if split in available]
    if not found and len(available) == 1:
        found = list(available)
    if not found:
        raise DataError(f"{label} has the splits {', '.join(available)} but none named {TRAIN!r}")
    return found


def as_tables(
    loaded: Mapping[str, Any],
    label: str,
    splits: Sequence[str],
    *,
    root: Path | None,
    defaults: RowDefaults,
    version: str = "",
) -> list[ArrowTable]:
    """Make tables of the splits that are taken.

    Args:
        loaded: ``datasets.DatasetDict``.
        label: what messages call the set.
        splits: as for :func:`pick_splits`.
        root: folder that relative paths start from.
        defaults: what holds for all rows.
        version: as for :class:`ArrowTable`.

    Returns:
        A table a split.
    """
    return [
        ArrowTable(
            loaded[split], f"{label}[{split}]", root=root, defaults=defaults, version=version
        )
        for split in pick_splits(list(loaded), splits, label)
    ]


def first_line(error: BaseException) -> str:
    """Give the first line of an error's message, and its kind.

    Args:
        error: where it only says that something failed, what it came from is described.
    """
    if type(error).__name__ == "DatasetGenerationError" and error.__cause__ is not None:
        return first_line(error.__cause__)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _stamp_files(data_files: Mapping[Any, Sequence[str]]) -> str:
    """Digest of the places, sizes and times of the files of a set; of an address, the place."""
    digest = sha256()
    for file in sorted(file for files in data_files.values() for file in files):
        try:
            digest.update(stamp_file(Path(file)).encode())
        except OSError:
            digest.update(str(file).encode())
    return digest.hexdigest()[:16]


def _folders_in(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir() if entry.is_dir()}


def _restore(value: Any, feature: Any) -> Any:
    """Give back what is stored in another form: JSON as text, classes as numbers."""
    if value is None:
        return None
    kind = type(feature).__name__
    if kind == "Json":
        return json.loads(value) if isinstance(value, str) else value
    if kind == "ClassLabel":
        return feature.names[value] if 0 <= value < len(feature.names) else None
    if isinstance(feature, dict) and isinstance(value, dict):
        return {name: _restore(part, feature.get(name)) for name, part in value.items()}
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    if inner is not None and isinstance(value, list):
        return [_restore(part, inner) for part in value]
    return value
