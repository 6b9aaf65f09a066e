"""Settings that choose the rows of a run; nothing heavy is imported, so they can be named quickly.

Choosing rows by them is left to :mod:`internvl35.data.mixture`. Paper section 3.1, data mixture.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from internvl35.errors import ConfigError

StoppingStrategy: TypeAlias = Literal["first_exhausted", "all_exhausted"]
"""When sets that are drawn from by turns end: with the first that has no row left, or only when
every row of every set was drawn."""


@dataclass(frozen=True)
class DatasetSettings:
    """Which rows are trained on and evaluated on."""

    dataset: tuple[str, ...] = ()
    """Data sets: files, folders or hub names, each as [hf::|ms::]name[:subset1/subset2][#count]."""
    val_dataset: tuple[str, ...] = ()
    """Data sets to evaluate on, named like dataset; nothing is then split off dataset."""
    split_dataset_ratio: float = 0.0
    """Part of each data set, 0 to 1, that is set aside to evaluate on."""
    data_seed: int = 42
    """Seed of drawing, splitting and mixing rows."""
    dataset_shuffle: bool = True
    """Whether rows are drawn and ordered at random; else they are taken as they stand."""
    interleave_prob: tuple[float, ...] = ()
    """Weight of each data set when rows are drawn from them by turns; by default all rows of all
    data sets are used."""
    stopping_strategy: StoppingStrategy = "first_exhausted"
    """With interleave_prob, stop when the first data set is used up, or only when all are."""
    columns: str = ""
    """JSON object that renames columns of rows, for example {"caption": "response"}."""
    max_bad_share: float = 0.01
    """Part of the rows, 0 to 1, that may be unusable; a run with more of them does not begin."""
    use_hf: bool | None = None
    """Whether names are looked up on the Hugging Face hub, else on ModelScope; by default as the
    environment variable USE_HF says, or a token's form, or else on Hugging Face."""
    dataset_revision: str | None = None
    """Branch, tag or commit of the data sets on the hub."""

    def __post_init__(self) -> None:
        """Refuse settings that no rows could meet."""
        for name in ("split_dataset_ratio", "max_bad_share"):
            value = getattr(self, name)
            if not 0 <= value <= 1:  # not-a-number too
                raise ConfigError(f"{name} is {value}; needed: 0 to 1")
        if self.data_seed < 0:
            raise ConfigError(f"data_seed is {self.data_seed}; it must be at least 0")
        if self.stopping_strategy not in get_args(StoppingStrategy):
            raise ConfigError(
                f"stopping_strategy is {self.stopping_strategy!r}; known: "
                f"{', '.join(get_args(StoppingStrategy))}"
            )
        weights = self.interleave_prob
        if weights and len(weights) != len(self.dataset):
            raise ConfigError(
                f"interleave_prob has {len(weights)} weights for {len(self.dataset)} data sets; "
                "needed: one each"
            )
        if not all(math.isfinite(weight) and weight > 0 for weight in weights):
            raise ConfigError(f"interleave_prob is {weights}; every weight must be above 0")
        read_columns(self.columns)


def read_columns(text: str) -> Mapping[str, str]:
    """Read the setting that renames columns.

    Args:
        text: a JSON object of old and new names; may be empty.

    Returns:
        Old name to new name.

    Raises:
        ConfigError: if it is no such object.
    """
    if not text.strip():
        return {}
    try:
        names = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"columns is not valid JSON: {text!r}") from error
    if not isinstance(names, dict) or not all(isinstance(new, str) for new in names.values()):
        raise ConfigError(f'columns is {text!r}; needed: an object such as {{"caption": "text"}}')
    return names
