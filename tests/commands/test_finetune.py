"""``internvl35 sft`` and ``pt``: from flags to settings, several processes, and what is printed."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.main import get_command

from internvl35 import cli
from internvl35.commands import finetune
from internvl35.commands.finetune import choose_settings
from internvl35.commands.launch import LAUNCH_VARIABLES, hand_over_failure, torchrun_options
from internvl35.errors import ConfigError
from internvl35.train.arguments import build_settings, flatten_settings
from internvl35.train.settings import FinetuneSettings

ROOT = Path(__file__).parents[2]
ANNOUNCEMENTS = [
    folder / "shared" / "announcement" / "finetune_commands.sh" for folder in (ROOT, ROOT.parent)
]

COMMAND = """
internvl35 sft --model OpenGVLab/InternVL3_5-8B
--dataset 'AI-ModelScope/LaTeX_OCR:human_handwrite#20000' --split_dataset_ratio 0.01
--train_type lora --torch_dtype bfloat16 --num_train_epochs 1 --per_device_train_batch_size 1
--per_device_eval_batch_size 1 --learning_rate 1e-4 --lora_rank 8 --lora_alpha 32
--target_modules all-linear --freeze_vit true --gradient_accumulation_steps 16 --eval_steps 50
--save_steps 50 --save_total_limit 2 --logging_steps 5 --max_length 4096 --output_dir output
--warmup_ratio 0.05 --dataloader_num_workers 4
"""
"""The announcement's command, with the program's name changed."""

MEANING = {
    "model": "OpenGVLab/InternVL3_5-8B",
    "dataset": ["AI-ModelScope/LaTeX_OCR:human_handwrite#20000"], "split_dataset_ratio": 0.01,
    "tuner_type": "lora", "torch_dtype": "bfloat16", "num_train_epochs": 1.0,
    "per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "learning_rate": 1e-4,
    "lora_rank": 8, "lora_alpha": 32, "target_modules": ["all-linear"], "freeze_vit": True,
    "gradient_accumulation_steps": 16, "eval_steps": 50, "save_steps": 50, "save_total_limit": 2,
    "logging_steps": 5, "max_length": 4096, "output_dir": "output", "warmup_ratio": 0.05,
    "dataloader_num_workers": 4,
}  # fmt: skip

FLAG_NAMES = """
model model_revision torch_dtype attn_impl hub_token
dataset val_dataset split_dataset_ratio data_seed dataset_shuffle interleave_prob stopping_strategy
columns max_bad_share use_hf dataset_revision
template system max_length truncation_strategy max_dynamic_patch share_tiles video_segments
video_max_num frame_label data_augment loss_scale allow_urls media_root
packing packing_length packing_max_tiles packing_window
tuner_type lora_rank lora_alpha lora_dropout target_modules modules_to_save use_dora use_rslora
init_weights adapters quant_bits quant_method
freeze_vit freeze_aligner freeze_llm
num_train_epochs max_steps per_device_train_batch_size per_device_eval_batch_size
gradient_accumulation_steps global_batch_size learning_rate vit_lr aligner_lr lr_scheduler_type
wsd_decay_ratio warmup_ratio warmup_steps weight_decay adam_beta1 adam_beta2 adam_epsilon
max_grad_norm optim loss_reduction router_aux_loss_coef gradient_checkpointing drop_path_rate
ce_chunk_size group_by_length seed
output_dir add_version logging_steps logging_first_step eval_strategy eval_steps save_strategy
save_steps save_total_limit save_only_model save_layout resume_from_checkpoint resume_only_model
report_to create_checkpoint_symlink dataloader_num_workers
fsdp deepspeed ddp_timeout use_cpu
recipe help train_type sft_type dtype max_num lora_dropout_p
"""
"""All flags of ``sft``; whoever adds one adds it here."""

FLAGS = FLAG_NAMES.split()


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    for name in (*LAUNCH_VARIABLES, "TORCHELASTIC_RUN_ID", "RANK", "MAX_NUM", "USE_HF"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def train(run, monkeypatch, tmp_path):
    """Run a command whose training does nothing; gives the settings that it would use."""
    monkeypatch.chdir(tmp_path)
    calls = []

    def pretend(settings, *, command):
        calls.append((settings, command))
        return SimpleNamespace(
            run_folder=tmp_path / "v0", last_checkpoint=tmp_path / "v0" / "checkpoint-5",
            best_checkpoint=None, best_metric=None,
        )  # fmt: skip

    fake = SimpleNamespace(finetune=pretend)
    monkeypatch.setitem(sys.modules, "internvl35.train.finetune", fake)

    def start(*arguments):
        calls.clear()
        code, out, err = run(*arguments)
        assert code == 0, err
        return calls[0][0], calls[0][1], out

    return start


def test_the_announcement_s_command_means_what_it_says(train):
    _, *arguments = shlex.split(COMMAND)
    settings, command, _ = train(*arguments)
    assert command == "sft"
    flat = flatten_settings(settings)
    assert {name: flat[name] for name in MEANING} == MEANING
    defaults = flatten_settings(FinetuneSettings())
    assert all(flat[name] == defaults[name] for name in set(defaults) - set(MEANING))


def test_the_announcement_s_file_holds_that_command():
    file = next((path for path in ANNOUNCEMENTS if path.is_file()), None)
    if file is None:
        pytest.skip("the announcement is not here")
    lines = file.read_text().replace("\\\n", " ").splitlines()
    (line,) = [line for line in lines if line.startswith("swift sft")]
    assert shlex.split(line)[1:] == shlex.split(COMMAND)[1:]


def test_a_data_set_is_enough(train):
    settings, _, out = train("sft", "--model", "tiny", "--dataset", "mine.jsonl")
    assert settings == build_settings({"dataset": ["mine.jsonl"]})
    run_folder, last = out.splitlines()
    assert run_folder.startswith("run folder: ")
    assert run_folder.endswith("v0")
    assert last.startswith("last checkpoint: ")
    assert last.endswith("checkpoint-5")


def test_pre_training_differs_by_what_carries_loss(train):
    settings, command, _ = train("pt", "--dataset", "mine.jsonl")
    assert command == "pt"
    assert settings == build_settings({"dataset": ["mine.jsonl"], "loss_scale": "all"})
    settings, *_ = train("pt", "--dataset", "mine.jsonl", "--loss_scale", "default")
    assert settings.encoding.loss_scale == "default"


def test_the_template_has_the_name_that_others_give_it(train):
    settings, *_ = train("sft", "--dataset", "mine.jsonl", "--template", "internvl3_5")
    assert settings.encoding.template == "internvl2_5"


def test_flags_go_before_a_file_and_a_file_before_a_recipe(train, tmp_path):
    (tmp_path / "mine.yaml").write_text("recipe: 8B-sft\nlearning_rate: 3e-5\nseed: 7\n")
    settings, *_ = train("sft", "mine.yaml", "--seed", "8", "--dataset", "meta.json")
    chosen = settings.optimization
    assert (chosen.seed, chosen.learning_rate, chosen.max_steps) == (8, 3e-5, 8000)
    assert settings.model.model == "OpenGVLab/InternVL3_5-8B-Pretrained"


def test_what_replaces_a_setting_of_a_recipe_takes_its_place():
    given = {"gradient_accumulation_steps": 4, "deepspeed": "zero3"}
    settings = choose_settings("sft", given, "8B-sft")
    assert settings.optimization.global_batch_size is None
    assert settings.optimization.gradient_accumulation_steps == 4
    assert (settings.distributed.fsdp, settings.distributed.deepspeed) == ("", "zero3")


@pytest.fixture
def begun(tmp_path):
    """A run with a recipe that was begun with the weights of another."""
    settings = choose_settings("sft", {"dataset": ("a.jsonl",), "seed": 7}, "8B-sft")
    folder = tmp_path / "v0" / "checkpoint-2"
    folder.mkdir(parents=True)
    facts = {"internvl35_version": "0", "command": "sft", "world_size": 1, "resolved": {}}
    values = flatten_settings(settings) | facts
    values |= {"resume_from_checkpoint": "elsewhere", "resume_only_model": True}
    (folder / "args.json").write_text(json.dumps(values))
    (folder / "trainer_state.json").write_text("{}")
    return folder


def test_a_run_that_is_gone_on_with_keeps_its_settings(begun):
    given = {"resume_from_checkpoint": str(begun.parent), "learning_rate": 1e-6}
    settings = choose_settings("sft", given, "8B-lora")
    assert settings.optimization.seed == 7
    assert settings.optimization.learning_rate == 1e-6
    assert settings.adapter.tuner_type == "full"
    assert settings.run.resume_from_checkpoint == str(begun.parent)
    assert not settings.run.resume_only_model  # of the run that it began as


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"gradient_accumulation_steps": 4}, (4, None, "full_shard", None)),
        ({"global_batch_size": 64}, (None, 64, "full_shard", None)),
        ({"deepspeed": "zero3"}, (None, 512, "", "zero3")),
    ],
)
def test_other_numbers_of_processes_can_be_given_to_a_run_that_is_gone_on_with(begun, given, found):
    settings = choose_settings("sft", {"resume_from_checkpoint": str(begun), **given}, None)
    chosen, spread = settings.optimization, settings.distributed
    assert (
        chosen.gradient_accumulation_steps, chosen.global_batch_size, spread.fsdp, spread.deepspeed
    ) == found  # fmt: skip


def test_a_mistake_is_told_before_anything_heavy_is_loaded(run):
    code, out, err = run("sft", "--lora_rnk", "8", "--dataset", "mine.jsonl")
    assert (code, out) == (2, "")
    assert err == "ConfigError: unknown flag --lora_rnk; did you mean --lora_rank?\n"
    code, _, err = run("sft", "--lora_rank", "0")
    assert (code, err) == (2, "ConfigError: lora_rank is 0; needed: at least 1\n")
    code, _, err = run("sft", "--recipe", "8B-stf")
    assert (code, err) == (2, "ConfigError: there is no recipe '8B-stf'; did you mean 8B-sft?\n")


@pytest.mark.parametrize("name", ["sft", "pt"])
def test_the_list_of_flags_is_complete(name, run):
    command = get_command(cli.app).commands[name]
    flags = [flag for p in command.params if p.param_type_name == "option" for flag in p.opts]
    assert sorted([*flags, "--help"]) == sorted(f"--{flag}" for flag in FLAGS)
    code, out, _ = run(name, "--help")
    assert code == 0
    assert [flag for flag in FLAGS if f"--{flag}" not in out] == []


def test_every_flag_has_a_sentence_in_the_help():
    for parameter in get_command(cli.app).commands["sft"].params:
        assert parameter.help.strip(), parameter.name
        assert parameter.help.strip().endswith("."), parameter.name


def test_one_process_is_not_launched():
    assert torchrun_options({}, ["sft"]) is None
    assert torchrun_options({"MASTER_PORT": "29500", "NODE_RANK": "0"}, ["sft"]) is None


def test_a_process_of_torchrun_does_not_launch_again():
    environment = {"NPROC_PER_NODE": "4", "TORCHELASTIC_RUN_ID": "x"}
    assert torchrun_options(environment, ["sft"]) is None


def test_several_processes_are_torchrun_s_business():
    options = torchrun_options({"NPROC_PER_NODE": "4"}, ["sft", "--dataset", "a b"])
    assert options == [
        "--nproc_per_node=4", "--standalone", "--module", "internvl35.cli", "sft", "--dataset",
        "a b",
    ]  # fmt: skip


def test_several_machines_are_told_where_they_meet():
    environment = {
        "NPROC_PER_NODE": "8", "NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "node0",
        "MASTER_PORT": "29500", "HOME": "/root",
    }  # fmt: skip
    options = torchrun_options(environment, ["pt"])
    assert options is not None
    assert options[:-3] == [
        "--nproc_per_node=8", "--nnodes=2", "--node_rank=1", "--master_addr=node0",
        "--master_port=29500",
    ]  # fmt: skip


def test_torchrun_understands_what_it_is_given():
    from torch.distributed.run import parse_args

    environment = dict.fromkeys(LAUNCH_VARIABLES, "2") | {"MASTER_ADDR": "node0"}
    options = torchrun_options(environment, ["sft", "--dataset", "a"])
    assert options is not None
    parsed = parse_args(options)
    assert (parsed.nproc_per_node, parsed.nnodes, parsed.node_rank) == ("2", "2", 2)
    assert (parsed.module, parsed.training_script) == (True, "internvl35.cli")
    assert parsed.training_script_args == ["sft", "--dataset", "a"]


@pytest.mark.parametrize(
    "environment", [{"NPROC_PER_NODE": "0"}, {"NPROC_PER_NODE": "many"}, {"NNODES": "two"}]
)
def test_a_number_of_processes_that_is_none_is_refused(environment):
    with pytest.raises(ConfigError, match="needed: a number of at least 1"):
        torchrun_options(environment, ["sft"])


@pytest.fixture
def torchrun(monkeypatch, tmp_path):
    """Ask for two processes, and note what torchrun is given; they may fail, one after the other.

    A failure is an exit code and the error of which the process tells, if it does.
    """
    from torch.distributed import run as module
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    given, failures = [], []

    def pretend(options):
        given.append(options.training_script_args)
        found = {}
        for place, (rank, code, error) in enumerate(failures):
            path = tmp_path / f"{rank}.json"
            if error is not None:
                environment = dict(os.environ) | {"TORCHELASTIC_ERROR_FILE": str(path)}
                kind, _, text = error.partition(": ")
                assert hand_over_failure(kind, f"process {rank}: {kind}: {text}", environment)
                facts = json.loads(path.read_text())
                path.write_text(json.dumps(facts | {"time_ns": place}))
            found[rank] = ProcessFailure(
                local_rank=rank, pid=0, exitcode=code, error_file=str(path)
            )
        if found:
            raise ChildFailedError("internvl35.cli", found)

    monkeypatch.setattr(module, "run", pretend)
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    monkeypatch.setenv("INTERNVL35_LAUNCHED", "")  # is put back behind the test
    return SimpleNamespace(given=given, failures=failures)


def test_torchrun_gets_what_was_typed(run, torchrun):
    code, out, err = run("sft", "--train_type", "lora", "--dataset", "a b", "--debug")
    assert (code, out, err) == (0, "", "")
    assert torchrun.given == [["sft", "--train_type", "lora", "--dataset", "a b", "--debug"]]


def test_a_mistake_is_told_once_and_not_by_every_process(run, torchrun):
    code, _, err = run("sft", "--lora_rank", "0")
    assert (code, err) == (2, "ConfigError: lora_rank is 0; needed: at least 1\n")
    assert torchrun.given == []


@pytest.mark.parametrize(
    ("failures", "code", "told"),
    [
        (
            [(1, 2, "DataError: bad"), (0, 2, "InternVLError: another process has ended")],
            2, "process 1: DataError: bad",
        ),
        (
            [(0, 2, "InternVLError: another process has ended"), (1, 1, "KeyError: x")],
            1, "process 1: KeyError: x",
        ),
        ([(1, 2, "DataError: 1 bad"), (0, 2, "DataError: 1 bad, the first: x")],
         2, "process 0: DataError: 1 bad, the first: x"),
        ([(0, -15, None), (1, -9, None)],
         1, "process 1 was killed (SIGKILL), perhaps for lack of memory"),
        ([(0, -15, None), (1, 1, None)], 1, "process 1 has ended with exit code 1"),
        ([(1, 2, "InternVLError: another process has ended")],
         2, "process 1: InternVLError: another process has ended"),
    ],
)  # fmt: skip
def test_what_ended_first_is_told_once(run, torchrun, failures, code, told):
    torchrun.failures[:] = failures
    found, out, err = run("sft", "--dataset", "a")
    assert (found, out) == (code, "")
    assert err.startswith(told)
    assert len(err.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "found"),
    [("{broken\n", "DataError: 1 of 1 rows cannot be used"), (None, "DataError: data set")],
)
def test_two_real_processes_tell_of_a_failure_once(tmp_path, text, found):
    rows = tmp_path / "rows.jsonl"
    if text is not None:
        rows.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "internvl35.cli", "sft", "--dataset", rows, "--use_cpu", "true"],
        env=os.environ | {"NPROC_PER_NODE": "2", "OMP_NUM_THREADS": "1"}, cwd=tmp_path,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert len([line for line in done.stderr.splitlines() if "Error" in line]) == 1
    assert done.stderr.count(f"process 0: {found}") == 1


def test_an_interrupt_of_several_processes_is_no_failure(run, torchrun, monkeypatch):
    from torch.distributed import run as module
    from torch.distributed.elastic.multiprocessing.api import SignalException

    def interrupt(_):
        raise SignalException("Process 1 got signal: 2", signal.SIGINT)

    monkeypatch.setattr(module, "run", interrupt)
    assert run("sft", "--dataset", "a") == (130, "", "")


def test_a_process_that_nobody_launched_tells_of_its_failure_itself(tmp_path):
    environment = {"TORCHELASTIC_ERROR_FILE": str(tmp_path / "error.json")}
    assert not hand_over_failure("DataError", "x", environment)
    assert not hand_over_failure("DataError", "x", {"INTERNVL35_LAUNCHED": "1"})
    assert not list(tmp_path.iterdir())


def test_only_the_main_process_prints_the_result(train, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("RANK", "1")
    assert train("sft", "--dataset", "a")[2] == ""
    monkeypatch.setenv("RANK", "0")
    assert train("sft", "--dataset", "a")[2] != ""


def test_a_process_says_which_it_is_when_it_fails(run, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    _, _, err = run("sft", "--lora_rank", "0")
    assert err.startswith("process 1: ConfigError: lora_rank is 0")


def test_a_best_checkpoint_is_named_with_its_loss(capsys):
    finetune.print_result(
        SimpleNamespace(
            run_folder="v0", last_checkpoint="v0/checkpoint-9", best_checkpoint="v0/checkpoint-5",
            best_metric=0.125,
        )
    )  # fmt: skip
    assert capsys.readouterr().out.splitlines() == [
        "run folder: v0", "last checkpoint: v0/checkpoint-9", "best checkpoint: v0/checkpoint-5",
        "best metric: 0.125",
    ]  # fmt: skip
