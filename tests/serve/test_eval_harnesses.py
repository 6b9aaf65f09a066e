"""lmms-eval and EvalScope get an answer to every row from a server."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from serving import PICTURE, serving

pytestmark = pytest.mark.slow

KEY = "sk-0123456789abcdef"
ROWS = [{"question": "Say yes.", "answer": "yes"}, {"question": "Say no.", "answer": "no"}]
TASK = """
task: internvl35_local
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/rows.jsonl
test_split: test
output_type: generate_until
doc_to_visual: !function shown.show
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  max_new_tokens: 8
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""
SHOWN = """
from PIL import Image


def show(row):
    return [Image.new("RGB", (60, 60), "red")]
"""


def needs(package):
    is_missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(is_missing, reason=f"{package} is not installed")


@pytest.fixture(scope="module")
def address(random_checkpoint):
    with serving(random_checkpoint, keys=[KEY]) as address:
        yield f"{address}/v1"


def run(folder, *arguments):
    environment = os.environ | {"OPENAI_API_KEY": KEY, "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, env=environment, capture_output=True,
        text=True, timeout=600,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]


@needs("lmms_eval")
def test_lmms_eval_gets_an_answer_to_every_row(address, tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "task.yaml").write_text(TASK.format(folder=tmp_path))
    (tmp_path / "shown.py").write_text(SHOWN)
    run(
        tmp_path, "lmms_eval", "eval", "--model", "openai", "--model_args",
        f"model_version=random,base_url={address}", "--tasks", "internvl35_local",
        "--include_path", str(tmp_path), "--batch_size", "1", "--output_path", "out",
        "--log_samples",
    )  # fmt: skip
    (samples,) = (tmp_path / "out").rglob("*_samples_*.jsonl")
    answers = [json.loads(line)["filtered_resps"] for line in samples.read_text().splitlines()]
    assert len(answers) == len(ROWS)
    assert all(answer and "FAILED" not in answer for answer in answers)


@needs("evalscope")
def test_evalscope_gets_an_answer_to_every_row(address, tmp_path):
    parts = [{"type": "image_url", "image_url": {"url": PICTURE}}]
    rows = [
        {
            "messages": [
                {"role": "user", "content": [*parts, {"type": "text", "text": row["question"]}]}
            ],
            "answer": row["answer"],
        }
        for row in ROWS
    ]
    (tmp_path / "local.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(
        tmp_path, "evalscope.cli.cli", "eval", "--model", "random", "--api-url", address,
        "--api-key", KEY, "--eval-type", "openai_api", "--datasets", "general_vqa",
        "--dataset-args",
        json.dumps({"general_vqa": {"local_path": str(tmp_path), "subset_list": ["local"]}}),
        "--generation-config", '{"max_tokens": 8, "temperature": 0}', "--work-dir", "out",
    )  # fmt: skip
    (predictions,) = (tmp_path / "out").rglob("predictions/*/*.jsonl")
    outputs = [json.loads(line)["model_output"] for line in predictions.read_text().splitlines()]
    assert len(outputs) == len(ROWS)
    assert all(output["choices"][0]["message"]["content"] for output in outputs)
