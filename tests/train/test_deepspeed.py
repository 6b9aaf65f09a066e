"""DeepSpeed configs: what the flags decide is filled in, what contradicts them is refused."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch

from internvl35.errors import ConfigError
from internvl35.train.arguments import build_settings
from internvl35.train.deepspeed import read_config, settle_config, start_deepspeed
from internvl35.train.distributed import Workers


def _settle(config, **changes):
    values = {"per_device_train_batch_size": 2, "max_grad_norm": 0.5}
    return settle_config(
        config, build_settings(values | changes), accumulation=4, world_size=8,
        compute_dtype=torch.bfloat16,
    )  # fmt: skip


def test_a_stage_can_be_named():
    settled = _settle(read_config("zero3"))
    assert settled["zero_optimization"] == {"stage": 3}
    assert settled["train_batch_size"] == 64
    assert settled["train_micro_batch_size_per_gpu"] == 2
    assert settled["gradient_accumulation_steps"] == 4
    assert settled["gradient_clipping"] == 0.5
    assert settled["bf16"] == {"enabled": True}


def test_a_file_as_other_trainers_take_it_is_filled_in(tmp_path):
    path = tmp_path / "zero3.json"
    path.write_text(
        json.dumps(
            {
                "zero_optimization": {"stage": 3, "reduce_bucket_size": "auto",
                                      "overlap_comm": True},
                "train_batch_size": "auto", "gradient_clipping": "auto",
                "optimizer": {"type": "AdamW"}, "scheduler": {"type": "WarmupLR"},
                "fp16": {"enabled": "auto"},
            }
        )
    )  # fmt: skip
    settled = _settle(read_config(str(path)))
    assert settled["zero_optimization"] == {"stage": 3, "overlap_comm": True}
    assert "auto" not in json.dumps(settled)
    assert not {"optimizer", "scheduler", "fp16"} & settled.keys()


def test_a_file_that_contradicts_the_flags_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"train_batch_size 7 but the flags say 64"):
        _settle({"train_batch_size": 7})


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.json cannot be read"):
        read_config(str(tmp_path / "absent.json"))
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ConfigError, match="holds a list"):
        read_config(str(tmp_path / "list.json"))


@pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is not None, reason="deepspeed is installed"
)
def test_a_missing_package_is_named():
    settings = build_settings({"deepspeed": "zero3"})
    with pytest.raises(ConfigError, match="pip install deepspeed"):
        start_deepspeed(torch.nn.Linear(1, 1), settings, Workers(), 1, 1e-3, torch.float32)


_SCRIPT = """
import json, sys, torch
from internvl35.data.batches import Example, collate
from internvl35.model.composite import VisionLanguageModel
from internvl35.train.arguments import build_settings
from internvl35.train.deepspeed import gather_partitioned, start_deepspeed
from internvl35.train.distributed import start_workers
from internvl35.train.feed import FedBatch
from internvl35.train.loop import TrainingLoop
from internvl35.train.schedule import Schedule
from internvl35.train.sft import Trainee, batch_weight
from internvl35.train.stepping import Stepper
from internvl35.train.optimizers import build_optimizers
from internvl35.train.trainable import parameter_groups

def example(number):
    ids = torch.randint(10, 500, (8 + number % 5,), generator=torch.Generator().manual_seed(number))
    return Example(ids.tolist(), [True] * len(ids))

with start_workers(device="cpu") as workers:
    model = VisionLanguageModel.from_pretrained("tiny", dtype=torch.float32)
    trainee = Trainee(model, keep_dummy_tile=True)
    stage = sys.argv[1]
    settings = build_settings({"deepspeed": "zero0" if stage == "none" else stage})
    if stage == "none":
        groups = parameter_groups(trainee, settings.optimization, 1e-3)
        stepper = Stepper(trainee, build_optimizers(groups, settings.optimization), 1.0)
    else:
        stepper = start_deepspeed(trainee, settings, workers, 2, 1e-3, torch.float32)
    loop = TrainingLoop(
        stepper, Schedule("constant", 3), workers, lambda batch: batch_weight(batch, "square")
    )
    for step in range(3):
        own = range(workers.rank, 4, workers.world_size)
        figures = loop.take_step(
            [FedBatch(collate([example(4 * step + n)], 0), ()) for n in own]
        )
        loop.step += 1
        if workers.is_main:
            print("LOSS", figures.loss, flush=True)
    head = gather_partitioned(model.language_model.lm_head.weight)
    if workers.is_main:
        print("SHAPE", *head.shape, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["zero0", "zero2", "zero3"])
def test_two_processes_under_deepspeed_have_the_losses_of_one(tmp_path, stage):
    pytest.importorskip("deepspeed")
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    found = {}
    for name, launcher in (
        ("none", []),
        (stage, ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]),
    ):
        run = subprocess.run(
            [sys.executable, *launcher, str(script), name], capture_output=True, text=True,
            check=False, env=os.environ | {"DS_ACCELERATOR": "cpu"},
        )  # fmt: skip
        assert run.returncode == 0, run.stderr[-3000:]
        lines = [line.split() for line in run.stdout.splitlines()]
        found[name] = [float(words[1]) for words in lines if words[:1] == ["LOSS"]]
        assert ["SHAPE", "832", "192"] in lines
    assert len(found[stage]) == 3
    assert found[stage] == pytest.approx(found["none"], rel=1e-4)
