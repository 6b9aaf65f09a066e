"""Rows that cannot be used: counted once each, kept with their reason, and too many end a run.

What is wrong with a row is found by :mod:`internvl35.train.measure` before a run, and by
:mod:`internvl35.train.feed` when pictures turn out to be damaged inside.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from internvl35.errors import DataError
from internvl35.train.distributed import Workers

Failure = tuple[int, str]
"""Place of a row in its set, and why it cannot be used, beginning with where it comes from."""


class BadRows:
    """The rows of one set that cannot be used, as far as this process knows.

    Args:
        num_rows: of the set.
        max_share: largest share of rows that may be bad, 0 to 1.
        path: reasons are added to this file as JSON lines; None keeps none.
    """

    def __init__(self, num_rows: int, max_share: float, path: Path | None = None) -> None:
        """Start with none."""
        self.max_share = max_share
        self.path = path
        self.first: list[str] = []
        self._is_bad: NDArray[np.bool_] = np.zeros(num_rows, dtype=np.bool_)

    @property
    def num_bad(self) -> int:
        """Bad rows."""
        return int(self._is_bad.sum())

    @property
    def rows(self) -> list[int]:
        """Places of the bad rows."""
        found: list[int] = np.flatnonzero(self._is_bad).tolist()
        return found

    def restore(self, rows: Iterable[int]) -> None:
        """Count rows whose reasons were noted before.

        Args:
            rows: their places.
        """
        self._is_bad[list(rows)] = True

    def note(self, failures: Sequence[Failure]) -> None:
        """Count rows and keep why; a row that is known to be bad is not counted again.

        Args:
            failures: rows with their reasons.

        Raises:
            DataError: if the reasons cannot be written.
        """
        new = {row: reason for row, reason in failures if not self._is_bad[row]}
        self._is_bad[list(new)] = True
        self.first = [*self.first, *new.values()][:3]
        if self.path is None or not new:
            return
        lines = (json.dumps({"reason": reason}, ensure_ascii=False) for reason in new.values())
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in lines))
        except OSError as error:
            raise DataError(f"{self.path} cannot be written: {error}; free space") from error

    def share(self, workers: Workers) -> None:
        """Learn which rows other processes found to be bad; every process has to call this.

        Args:
            workers: the processes of the run.
        """
        flags = workers.add_up(torch.from_numpy(self._is_bad.astype(np.int64)))
        self._is_bad = flags.numpy() > 0

    def check(self) -> None:
        """End the run if too many rows are bad.

        Raises:
            DataError: if the share of bad ones is above the limit.
        """
        num_bad, num_rows = self.num_bad, len(self._is_bad)
        if num_bad > self.max_share * num_rows:
            first = f"; the first: {' | '.join(self.first)}" if self.first else ""
            where = f"; all of them: {self.path}" if self.path else ""
            raise DataError(
                f"{num_bad} of {num_rows} rows cannot be used, more than max_bad_share "
                f"({self.max_share:g}) allows{first}{where}"
            )
