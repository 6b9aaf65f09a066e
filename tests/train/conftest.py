"""Small runs of fine-tuning on a random checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import small_settings, small_vico_settings, write_rows

from internvl35.data.tokenizer import load_tokenizer, save_tokenizer
from internvl35.model.composite import VisionLanguageModel
from internvl35.model.configuration import InternVLChatConfig
from internvl35.train import plots, reports
from internvl35.train.finetune import finetune
from internvl35.train.settings import FinetuneSettings

MakeSettings = Callable[..., FinetuneSettings]

EXPERTS = {
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
}


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty rows in the announcement's form."""
    return write_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture
def make_settings(
    random_checkpoint: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> MakeSettings:
    """Settings of a run into a folder, with changes; no curves are drawn, which takes longest."""
    monkeypatch.setattr(reports, "plot_figures", lambda *_: None)

    def make(output: Path, **changes: Any) -> FinetuneSettings:
        return small_settings(changes.pop("model", random_checkpoint), rows, output, **changes)

    return make


@pytest.fixture
def curves(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw curves all the same."""
    monkeypatch.setattr(reports, "plot_figures", plots.plot_figures)


@pytest.fixture(scope="session")
def make_mixture(
    random_checkpoint: Path,
    build_config: Callable[..., InternVLChatConfig],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Path]:
    """A checkpoint of a family with experts, with random weights."""

    def make(family: str) -> Path:
        tokenizer = load_tokenizer(random_checkpoint)
        folder = tmp_path_factory.mktemp(family)
        config = build_config(
            family,
            text={"vocab_size": 640, "max_position_embeddings": 2048, **EXPERTS[family]},
            image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        )
        VisionLanguageModel(config).save_pretrained(folder)
        save_tokenizer(tokenizer, folder)
        return folder

    return make


@pytest.fixture
def make_run(random_checkpoint: Path, rows: Path, monkeypatch: pytest.MonkeyPatch) -> MakeSettings:
    """The same for a run of ViCO."""
    monkeypatch.setattr(reports, "plot_figures", lambda *_: None)

    def make(output: Path, **changes: Any) -> FinetuneSettings:
        model = Path(changes.pop("model", random_checkpoint))
        return small_vico_settings(model, rows, output, **changes)

    return make


@pytest.fixture(scope="session")
def flash_checkpoint(
    random_checkpoint: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What a short first stage of ViCO leaves."""
    output = tmp_path_factory.mktemp("flash")
    changes = {"tuner_type": "full", "max_steps": 1}
    settings = small_vico_settings(random_checkpoint, rows, output, **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reports, "plot_figures", lambda *_: None)
        return finetune(settings, command="vico").last_checkpoint
