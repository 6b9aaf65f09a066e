from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from internvl35.errors import CheckpointError
from internvl35.model.composite import VisionLanguageModel
from internvl35.train.adapters import add_adapters, load_adapters, save_adapters
from internvl35.train.run_folder import ADAPTER_FILE
from internvl35.train.settings import AdapterSettings, FreezeSettings

ModelBuilder = Callable[..., VisionLanguageModel]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "megatron_config is {'a': 1}"),
        ({"layer_replication": [[0, 2], [0, 2]]}, "layer_replication is"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens is [1], which is of no kind"),
        ({"use_qalora": True}, "use_qalora is True"),
        ({"bias": "all"}, "bias is all"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights is loftq"),
        ({"r": 10**9}, "r is 1000000000; needed: 1 to 65536"),
        ({"r": "8"}, "r is '8'; needed: 1 to 65536"),
    ],
)
def test_adapters_of_other_kinds_are_refused(
    tmp_path: Path, build_model: ModelBuilder, fields: dict[str, object], message: str
) -> None:
    save_adapters(add_adapters(build_model(), AdapterSettings(), FreezeSettings()), tmp_path)
    path = tmp_path / ADAPTER_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(CheckpointError, match=re.escape(message)):
        load_adapters(build_model(), tmp_path)
