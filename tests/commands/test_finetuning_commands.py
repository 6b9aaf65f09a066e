"""The announcement's three commands one after the other, as they stand, beside a stand-in hub."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stand_in_hubs import HuggingFaceHandler, ModelScopeHandler, StandIn, serve

from internvl35.config import TINY_FOLDER
from internvl35.data.synthetic import draw

Run = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).parents[2]
COMMANDS = """
swift sft --model OpenGVLab/InternVL3_5-8B --dataset 'AI-ModelScope/LaTeX_OCR:human_handwrite#20000'
--split_dataset_ratio 0.01 --train_type lora --torch_dtype bfloat16 --num_train_epochs 1
--per_device_train_batch_size 1 --per_device_eval_batch_size 1 --learning_rate 1e-4 --lora_rank 8
--lora_alpha 32 --target_modules all-linear --freeze_vit true --gradient_accumulation_steps 16
--eval_steps 50 --save_steps 50 --save_total_limit 2 --logging_steps 5 --max_length 4096
--output_dir output --warmup_ratio 0.05 --dataloader_num_workers 4
swift infer --adapters output/vx-xxx/checkpoint-xxx --stream true --load_data_args true
--max_new_tokens 2048
swift export --adapters output/vx-xxx/checkpoint-xxx --push_to_hub true
--hub_model_id '<your-model-id>' --hub_token '<your-sdk-token>'
"""
NUM_ROWS = 34


def announced() -> list[list[str]]:
    """Words of the three commands: from the announcement where it is at hand, else from here."""
    places = [base / "shared" / "announcement" / "finetune_commands.sh"
              for base in (ROOT, ROOT.parent)]  # fmt: skip
    text = next((place.read_text() for place in places if place.is_file()), COMMANDS)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    words = shlex.split(" ".join(lines).replace("\\ ", " "))
    commands: list[list[str]] = []
    for word in words:
        if word == "swift":
            commands.append([])
        else:
            commands[-1].append(word)
    return commands


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory in which the announcement's model and data are folders of these names."""
    shutil.copytree(TINY_FOLDER, tmp_path / "OpenGVLab" / "InternVL3_5-8B")
    data = tmp_path / "AI-ModelScope" / "LaTeX_OCR"
    (data / "human_handwrite").mkdir(parents=True)
    lines = []
    for index in range(NUM_ROWS):
        drawing = draw("counting", "train", 8_000_000 + index, 0.0)
        (image,) = drawing.images
        image.save(data / "human_handwrite" / f"{index}.png")
        messages = [{"role": "user", "content": "<image>Using LaTeX to perform OCR on the image."},
                    {"role": "assistant", "content": drawing.turns[0].answer}]  # fmt: skip
        picture = str(data / "human_handwrite" / f"{index}.png")
        lines.append(json.dumps({"messages": messages, "images": [picture]}))
    (data / "human_handwrite" / "train.jsonl").write_text("\n".join(lines) + "\n")
    (data / "README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: human_handwrite\n"
        "  data_files: human_handwrite/*.jsonl\n---\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for variable in ("HF_TOKEN", "MODELSCOPE_API_TOKEN", "MODELSCOPE_DOMAIN", "USE_HF"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "modelscope"))
    return tmp_path


@pytest.fixture
def hubs(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, StandIn]]:
    with serve(HuggingFaceHandler) as hugging_face, serve(ModelScopeHandler) as modelscope:
        for hub in (hugging_face, modelscope):
            hub.exists = False
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hugging_face.address)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", hugging_face.address)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", modelscope.address)
        yield {"hf": hugging_face, "modelscope": modelscope}


def test_the_three_commands_run_as_they_stand(
    run: Run, desk: Path, hubs: dict[str, StandIn]
) -> None:
    sft, infer, export = announced()
    # 20000 rows take an hour on a small machine; the count alone is changed
    sft = [word.replace("#20000", f"#{NUM_ROWS}") for word in sft]
    code, out, err = run(*sft)
    assert code == 0, err
    (folder,) = (desk / "output").iterdir()
    assert re.fullmatch(r"v0-\d{8}-\d{6}", folder.name)
    checkpoint = folder / "checkpoint-3"  # 33 rows, 16 a step
    assert f"last checkpoint: {checkpoint.relative_to(desk)}" in out
    lines = [json.loads(line) for line in (folder / "logging.jsonl").read_text().splitlines()]
    positions = [line["global_step/max_steps"] for line in lines if "loss" in line]
    assert positions == ["1/3", "3/3"]

    made = {"output/vx-xxx/checkpoint-xxx": str(checkpoint.relative_to(desk))}
    code, out, err = run(*(made.get(word, word) for word in infer))
    assert code == 0, err
    (held_out,) = (folder / "val_dataset.jsonl").read_text().splitlines()
    (result,) = checkpoint.glob("infer_result/*.jsonl")
    (answer,) = (json.loads(line) for line in result.read_text().splitlines())
    assert answer["labels"] == json.loads(held_out)["messages"][-1]["content"]
    assert "[QUERY]" in out
    assert answer["response"] in out

    made |= {"<your-model-id>": "somebody/formulas", "<your-sdk-token>": "ms-0123456789abcdef"}
    code, out, err = run(*(made.get(word, word) for word in export))
    assert code == 0, err
    assert "ModelScope" in out + err
    names = set(hubs["modelscope"].commits[hubs["modelscope"].names["master"]])
    assert {"adapter_model.safetensors", "adapter_config.json", "args.json", "README.md"} <= names
    assert not any("training_state" in name for name in names)


def test_a_token_of_hugging_face_pushes_there(
    run: Run, desk: Path, hubs: dict[str, StandIn]
) -> None:
    code, out, err = run(
        "sft", "--dataset", "AI-ModelScope/LaTeX_OCR:human_handwrite#8", "--max_steps", "1",
        "--output_dir", "output", "--add_version", "false", "--report_to", "none",
    )  # fmt: skip
    assert code == 0, err
    export = announced()[2]
    made = {
        "output/vx-xxx/checkpoint-xxx": "output/checkpoint-1",
        "<your-model-id>": "somebody/formulas", "<your-sdk-token>": "hf_abcdefghij",
    }  # fmt: skip
    code, out, err = run(*(made.get(word, word) for word in export))
    assert code == 0, err
    assert "Hugging Face" in out + err
    assert "adapter_model.safetensors" in hubs["hf"].commits[hubs["hf"].names["main"]]
