from __future__ import annotations

from typing import Any

import pytest

from internvl35.data.dataset_settings import DatasetSettings, read_columns
from internvl35.errors import ConfigError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"split_dataset_ratio": 1.5}, "split_dataset_ratio is 1.5; needed: 0 to 1"),
        ({"split_dataset_ratio": float("nan")}, "split_dataset_ratio is nan"),
        ({"max_bad_share": -0.1}, "max_bad_share is -0.1"),
        ({"data_seed": -1}, "data_seed is -1"),
        ({"stopping_strategy": "never"}, "known: first_exhausted, all_exhausted"),
        ({"dataset": ("a",), "interleave_prob": (0.5, 0.5)}, "2 weights for 1 data sets"),
        ({"dataset": ("a",), "interleave_prob": (0.0,)}, "every weight must be above 0"),
        ({"columns": "{"}, "columns is not valid JSON"),
        ({"columns": "[1]"}, "needed: an object such as"),
        ({"columns": '{"a": 1}'}, "needed: an object such as"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DatasetSettings(**fields)


def test_columns_are_read_from_json() -> None:
    assert read_columns(' {"a": "b"} ') == {"a": "b"}
    assert read_columns("") == {}
