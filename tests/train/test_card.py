from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from internvl35.train.card import base_name, write_card

ARGS: dict[str, Any] = {
    "model": "8B",
    "dataset": ["AI-ModelScope/LaTeX_OCR:small#200", "hf::linxy/LaTeX_OCR", "ms::a/b"],
    "val_dataset": [],
    "learning_rate": 1e-4,
    "lora_rank": 8,
    "hub_token": "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",
    "internvl35_version": "0.2",
    "command": "sft",
    "world_size": 2,
    "resolved": {"gradient_accumulation_steps": 8},
}
STATE = {
    "global_step": 30, "epoch": 0.75, "best_metric": 0.4321, "eval_loss": 0.5,
    "num_train_rows": 19_800, "num_val_rows": 200,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "run" / "checkpoint-30"
    made.mkdir(parents=True)
    (made / "adapter_config.json").write_text("{}")
    return made


def read(folder: Path, args: dict[str, Any] = ARGS, state: dict[str, Any] = STATE) -> ModelCard:
    return ModelCard.load(write_card(folder, args, state))


def test_the_front_matter_is_what_the_hub_reads(folder: Path) -> None:
    data = read(folder).data
    assert data.base_model == "OpenGVLab/InternVL3_5-8B"
    assert data.library_name == "peft"
    assert data.license == "apache-2.0"
    assert data.pipeline_tag == "image-text-to-text"
    assert data.datasets == ["linxy/LaTeX_OCR"]  # which is the set of ModelScope's name too
    assert "lora" in data.tags


def test_data_figures_and_arguments_are_told(folder: Path) -> None:
    text = read(folder).text
    for part in (
        "| `AI-ModelScope/LaTeX_OCR:small#200` | training |",
        "Rows: 19,800 to train on, 200 to validate.",
        "| optimizer steps | 30 |",
        "| epochs | 0.75 |",
        "| best loss on the validation rows | 0.4321 |",
        '"lora_rank": 8',
        '"gradient_accumulation_steps": 8',
        "internvl35 infer --adapters",
        "# Adapters for OpenGVLab/InternVL3_5-8B",
        "Fine-tuned by adapters (LoRA), with internvl35 0.2.",
    ):
        assert part in text


def test_no_secret_enters_a_card(folder: Path) -> None:
    args = ARGS | {"commit_message": f"with {ARGS['hub_token']}", "resolved": {"api_key": "abc123"}}
    text = write_card(folder, args, STATE).read_text()
    assert ARGS["hub_token"] not in text
    assert "abc123" not in text


def test_folders_of_the_machine_are_not_told(folder: Path, tmp_path: Path) -> None:
    rows = tmp_path / "mine.jsonl"
    rows.touch()
    base = tmp_path / "base"
    base.mkdir()
    args = ARGS | {"model": str(base), "dataset": [f"{rows}#20"], "output_dir": str(tmp_path)}
    card = read(folder, args)
    assert card.data.base_model is None
    assert card.data.datasets is None
    assert "| `mine.jsonl#20` | training |" in card.text
    assert str(tmp_path) not in card.text
    assert base_name(args) is None


def test_files_that_have_gone_are_named_without_their_folders(folder: Path) -> None:
    gone = ["private/notes/rows.jsonl#20", "./private/rows.json", "~/private/rows.csv"]
    card = read(folder, ARGS | {"dataset": gone})
    assert "private" not in card.content
    assert "| `rows.jsonl#20` | training |" in card.text
    assert card.data.datasets is None


def test_a_set_of_modelscope_is_not_given_out_for_one_of_hugging_face(folder: Path) -> None:
    args = ARGS | {"dataset": ["owner/name", "hf::a/b"], "use_hf": False}
    assert read(folder, args).data.datasets == ["a/b"]
    assert read(folder, ARGS | {"dataset": ["ms::owner/name"]}).data.datasets is None


def test_arguments_stay_inside_their_fence(folder: Path) -> None:
    text = read(folder, ARGS | {"system": "```\n# Not a title\n````"}).text
    inside = text[text.index("`````json\n") :].removeprefix("`````json\n").partition("\n`````")[0]
    assert json.loads(inside)["system"].startswith("```\n# Not")


def test_a_checkpoint_with_all_weights_says_so(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()
    card = read(folder, ARGS | {"model": "tiny", "tuner_type": "full", "command": "pt"})
    assert card.data.library_name == "transformers"
    assert card.data.base_model is None  # the embedded checkpoint is on no hub
    assert card.data.license == "apache-2.0"
    assert "lora" not in card.data.tags
    assert 'load("THIS_FOLDER")' in card.text
    assert "Pre-trained further in all trained weights" in card.text
    merged = read(folder, ARGS | {"tuner_type": "lora"}).text
    assert "Fine-tuned by adapters (LoRA), which are merged into its weights" in merged


def test_the_curve_and_the_evaluations_come_from_the_run_folder(folder: Path) -> None:
    run = folder.parent
    (run / "images").mkdir()
    (run / "images" / "train_loss.png").write_bytes(b"picture")
    lines = [
        {"global_step/max_steps": f"{step}/100", **({"eval_loss": 1 / step} if step % 2 else {})}
        for step in range(1, 60)
    ]
    broken = '{"global_step/max_steps": "29/'
    text = "\n".join([*map(json.dumps, lines), broken])
    (run / "logging.jsonl").write_text(text)
    card = read(folder).text
    assert (folder / "train_loss.png").read_bytes() == b"picture"
    assert "![loss over the steps](train_loss.png)" in card
    assert "| 1 | 1.0000 |" in card
    assert "| 29 | 0.0345 |" in card
    assert "| 31 |" not in card  # after this checkpoint
    assert card.split("| step |")[1].count("\n| ") == 10


def test_nothing_known_makes_a_short_card(folder: Path) -> None:
    text = read(folder, {}, {}).text
    assert "## Use" in text
    assert "## Data" not in text
    assert "## Figures" not in text
    assert "## Arguments" not in text
