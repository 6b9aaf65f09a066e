"""The run of the embedded checkpoint: stage after stage, resumable at any step.

Every stage has a folder with figures, curves and its last checkpoints, and begins from the weights
that the one before left behind. Nothing is pickled. What is learned is left to the other files of
this folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from internvl35.data.tokenizer import save_tokenizer
from internvl35.errors import DataError
from internvl35.model.composite import VisionLanguageModel
from internvl35.train.checkpoints import list_checkpoints, remove_old, write_checkpoint
from internvl35.train.distributed import Workers
from internvl35.train.feed import FedBatch, load_ahead
from internvl35.train.figures import FigureWindow
from internvl35.train.loop import TrainingLoop
from internvl35.train.optimizers import build_optimizers
from internvl35.train.reports import TrainingReport
from internvl35.train.run_folder import RunFolder, read_log, step_of
from internvl35.train.schedule import Schedule
from internvl35.train.settings import OptimizationSettings, ScheduleName
from internvl35.train.state import (
    load_state,
    open_parts,
    save_parts,
    save_state,
    state_file,
)
from internvl35.train.stepping import Stepper
from internvl35.train.tiny.examples import DrawnExamples, Examples, Steps
from internvl35.train.tiny.lessons import FIGURES, TinyTrainee
from internvl35.train.tiny.recipe import STAGES, Stage, StageName, TinyRecipe
from internvl35.train.tiny.shape import named_token_ids, run_tokenizer, tiny_config
from internvl35.train.tiny.shards import ShardedExamples, ShardSet, render_shards
from internvl35.train.trainable import parameter_groups

WEIGHTS_FILE = "weights.safetensors"
"""All weights at the end of a stage, those of the head for dense labels included, in float32."""

CHECKPOINT = "checkpoint"
"""Folder of the finished checkpoint in the run folder."""

KEPT_CHECKPOINTS = 2
"""Checkpoints of a stage that stay on the disk."""

Evaluate = Callable[[VisionLanguageModel, PreTrainedTokenizerBase], dict[str, float]]
"""From the model and its tokenizer to figures for the log."""


@dataclass(frozen=True)
class RunPlace:
    """Where a run is computed, and how long."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where the network is."""
    num_workers: int = 1
    """Processes that draw; 0 draws in this one."""
    stop_after_s: float | None = None
    """Seconds after which the run writes a checkpoint and stops; None for no limit."""
    max_file_bytes: int | None = None
    """Most bytes of tensors in a file of a checkpoint of the run; None for one file."""
    num_shards: int = 0
    """Shards of drawings that are rendered ahead of every stage and then used again and again; 0
    draws every example anew."""


class TinyRun:
    """Trains the embedded checkpoint, or goes on where its folder's run was stopped.

    Args:
        folder: run folder; stages, tokenizer and at the end ``checkpoint/`` are written there.
        recipe: what is learned, in which order, and how long.
        place: where it is computed.
        evaluate: called now and then; its figures are logged.
    """

    def __init__(
        self,
        folder: Path,
        recipe: TinyRecipe,
        place: RunPlace | None = None,
        evaluate: Evaluate | None = None,
    ) -> None:
        """Settle the tokenizer, which takes a moment in a new run."""
        self.folder = folder
        self.recipe = recipe
        self.place = place or RunPlace()
        self.evaluate = evaluate
        self.workers = Workers(device=self.place.device)
        self.started = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer = run_tokenizer(folder / "tokenizer")
        self.config = tiny_config(*named_token_ids(self.tokenizer))
        # torch's fused CPU attention is slower than plain products at these sizes (docs/log.md)
        is_on_cpu = self.place.device.type == "cpu"
        self.config._attn_implementation = "eager" if is_on_cpu else "sdpa"

    def execute(self, last: StageName = "sft") -> bool:
        """Train until the end of a stage, or until time is up.

        Args:
            last: the stage to stop behind.

        Returns:
            Whether everything up to there is done.
        """
        names = STAGES[: STAGES.index(last) + 1]
        for name in names:
            is_wanted = self.recipe.stage(name).num_steps and not self._stage_file(name).exists()
            if is_wanted and not self._train(name):
                return False
        if last == STAGES[-1]:
            self._write_checkpoint()
        return True

    def _stage_file(self, name: StageName) -> Path:
        return stage_folder(self.folder, name) / WEIGHTS_FILE

    def _build(self, name: StageName) -> TinyTrainee:
        """Make what a stage trains, with the weights that those before it left behind."""
        stage = self.recipe.stage(name)
        torch.manual_seed(self.recipe.seed)
        trainee = TinyTrainee(
            VisionLanguageModel(self.config),
            averaging=stage.averaging,
            patch_loss_weight=stage.patch_loss_weight,
            has_frozen_tower=name == "projector",
            light_jitter=self.recipe.light_jitter if self.place.num_shards else 0.0,
        )
        self._load_latest(trainee, STAGES[: STAGES.index(name)])
        choose_trained(trainee, name)
        return trainee.to(self.place.device)

    def _load_latest(self, trainee: TinyTrainee, stages: Sequence[StageName]) -> None:
        """Take the weights of the last of some stages that was trained; without any, stay fresh."""
        files = [self._stage_file(name) for name in reversed(stages)]
        path = next((path for path in files if path.exists()), None)
        if path is not None:
            trainee.load_state_dict(read_weights(path, trainee))

    def _train(self, name: StageName) -> bool:
        recipe, stage = self.recipe, self.recipe.stage(name)
        folder = stage_folder(self.folder, name)
        folder.mkdir(exist_ok=True)
        if self.place.num_shards and not self._render(name):
            return False
        trainee = self._build(name)
        optimization = OptimizationSettings(
            optim=recipe.optimizer, weight_decay=recipe.weight_decay, adam_beta2=0.98,
            max_grad_norm=recipe.clip_norm,
        )  # fmt: skip
        groups = parameter_groups(trainee.model, optimization, stage.learning_rate)
        if name != "projector":
            head = {"params": list(trainee.patch_head.parameters()), "weight_decay": 0.0}
            groups.append(head | {"peak_lr": stage.learning_rate})
        loop = TrainingLoop(
            Stepper(trainee, build_optimizers(groups, optimization), recipe.clip_norm),
            stage_schedule(stage),
            self.workers,
            trainee.weigh,
            compute_dtype=getattr(torch, recipe.precision),
            others=FIGURES,
        )
        progress = self._restore(folder, loop)
        seconds = float(progress.get("seconds", 0.0))
        with TrainingReport(
            RunFolder(folder),
            stage.num_steps,
            epoch_at=lambda step: step / stage.num_steps,
            first_step=loop.step,
            seconds_before=seconds,
        ) as report:
            report.tell(f"stage {name}: step {loop.step} of {stage.num_steps}")
            is_done = self._take_steps(name, loop, report)
        if is_done:
            state = {key: value.cpu().contiguous() for key, value in trainee.state_dict().items()}
            save_parts(state, self._stage_file(name), max_file_bytes=self.place.max_file_bytes)
        return is_done

    def _restore(self, folder: Path, loop: TrainingLoop) -> dict[str, Any]:
        found = list_checkpoints(folder)
        if not found:
            return {}
        progress = load_state(found[-1], loop.module, loop.stepper.optimizers, self.workers)
        loop.step = int(progress["step"])
        return progress

    def _take_steps(self, name: StageName, loop: TrainingLoop, report: TrainingReport) -> bool:
        recipe, stage = self.recipe, self.recipe.stage(name)
        window = FigureWindow.restore(others=FIGURES)
        began = time.perf_counter()
        if loop.step >= stage.num_steps:
            return True
        for figures in loop.run(self._feed(name, loop.step)):
            window.add(figures, time.perf_counter() - began)
            began = time.perf_counter()
            is_last = loop.step == stage.num_steps
            if loop.step % recipe.log_every == 0 or is_last:
                rate, device = figures.learning_rate, self.place.device
                report.log_step(loop.step, window.close(rate, device, describe_patches))
            report.advance(loop.step, {"loss": figures.loss})
            every = recipe.evaluate_every
            if every and name != "tower" and (loop.step % every == 0 or is_last):
                self._evaluate(loop, report)
            is_late = self._is_late()
            if loop.step % recipe.save_every == 0 or is_last or is_late:
                self._save(name, loop, report)
            if is_late and not is_last:
                report.tell(f"stopped after {loop.step} steps: the time is up; run again to go on")
                return False
            began = time.perf_counter()
        return True

    def _is_late(self) -> bool:
        limit = self.place.stop_after_s
        return limit is not None and time.monotonic() - self.started > limit

    def _feed(self, name: StageName, start: int) -> Iterator[list[FedBatch]]:
        steps = Steps(
            self._examples(name), self.recipe, self.recipe.stage(name).num_steps,
            int(self.config.text_config.pad_token_id),
        )  # fmt: skip
        numbers = iter(range(start, len(steps)))
        return load_ahead(steps, numbers, self.place.num_workers, self.workers)

    def _examples(self, name: StageName) -> Examples:
        if self.place.num_shards:
            return ShardedExamples(self._shards(name), self.recipe.seed)
        return self._drawn(name)

    def _drawn(self, name: StageName) -> DrawnExamples:
        return DrawnExamples(self.recipe, name, self.tokenizer, self.config)

    def _shards(self, name: StageName) -> ShardSet:
        folder = self.folder / "shards" / name
        return ShardSet(folder, self.place.num_shards, settings=self._drawn(name).settings)

    def _render(self, name: StageName) -> bool:
        """Draw a stage's shards; whether all of them are there."""
        shards = self._shards(name)
        rendering = render_shards(
            shards, self._drawn(name), max(1, self.place.num_workers),
            keep_going=lambda: not self._is_late(),
        )  # fmt: skip
        for _ in track(rendering, f"drawing for {name}", total=shards.num_shards):
            pass
        return not shards.missing

    def _evaluate(self, loop: TrainingLoop, report: TrainingReport) -> None:
        if self.evaluate is None:
            return
        trainee = loop.module
        assert isinstance(trainee, TinyTrainee)
        trainee.eval()
        report.log_eval(loop.step, self.evaluate(trainee.model, self.tokenizer))
        trainee.train()

    def _save(self, name: StageName, loop: TrainingLoop, report: TrainingReport) -> None:
        folder = stage_folder(self.folder, name)
        progress = {"step": loop.step, "seconds": report.seconds}
        state = {"global_step": loop.step, "max_steps": self.recipe.stage(name).num_steps}

        def fill(target: Path) -> None:
            path = target / state_file(self.workers)
            save_state(
                path, loop.module, loop.stepper.optimizers, self.workers, progress,
                max_file_bytes=self.place.max_file_bytes,
            )  # fmt: skip

        write_checkpoint(folder, loop.step, fill, state)
        remove_old(folder, KEPT_CHECKPOINTS, None)

    def _write_checkpoint(self) -> None:
        trainee = TinyTrainee(VisionLanguageModel(self.config))
        self._load_latest(trainee, STAGES)
        target = self.folder / CHECKPOINT
        trainee.model.to(dtype=torch.bfloat16).save_pretrained(target)
        save_tokenizer(self.tokenizer, target)


def stage_folder(folder: Path, name: StageName) -> Path:
    """Folder of a stage in a run folder."""
    return folder / f"{STAGES.index(name) + 1}-{name}"


def read_curve(folder: Path, recipe: TinyRecipe) -> list[dict[str, Any]]:
    """Read the figures of all stages of a run.

    Args:
        folder: run folder.
        recipe: of the run.

    Returns:
        Lines in order, each with ``stage``, ``step`` of the stage and ``samples`` of the run.
    """
    lines: list[dict[str, Any]] = []
    before = 0
    for name in STAGES:
        found = read_log(RunFolder(stage_folder(folder, name)).log_file)
        steps = [(step, line) for line in found if (step := step_of(line)) is not None]
        for step, line in steps:
            samples = (before + step) * recipe.samples_per_step
            lines.append(line | {"stage": name, "step": step, "samples": samples})
        before += max((step for step, _ in steps), default=0)
    return lines


def stage_schedule(stage: Stage) -> Schedule:
    """Course of a stage's learning rate."""
    name: ScheduleName = "wsd" if stage.decay_share else "constant"
    return Schedule(name, stage.num_steps, stage.num_warmup_steps, stage.decay_share or 1.0)


def choose_trained(trainee: TinyTrainee, name: StageName) -> None:
    """Let exactly the parts train that a stage is for.

    Args:
        trainee: changed in place.
        name: of the stage.
    """
    trainee.requires_grad_(name != "tower")
    if name == "tower":
        trainee.model.vision_tower.requires_grad_(True)
        trainee.patch_head.requires_grad_(True)
    elif name == "projector":
        trainee.model.vision_tower.requires_grad_(False)
        trainee.patch_head.requires_grad_(False)


def describe_patches(told: Mapping[str, float]) -> dict[str, float]:
    """Turn sums into figures of the dense labels; none if there were no such lessons."""
    if not told["num_tiles_seen"]:
        return {}
    return {
        "patch_loss": told["patch_loss"] / told["num_tiles_seen"],
        "patch_acc": told["num_patches_right"] / max(1.0, told["num_patches"]),
    }


def read_weights(path: Path, trainee: TinyTrainee) -> dict[str, Tensor]:
    """Read the weights of a stage.

    Args:
        path: a stage's file.
        trainee: what they are for.

    Returns:
        All weights by name.

    Raises:
        DataError: if they are those of another network.
    """
    with open_parts(path) as file:
        state: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    wanted = {name: value.shape for name, value in trainee.state_dict().items()}
    if {name: value.shape for name, value in state.items()} != wanted:
        raise DataError(
            f"{path} holds the weights of another network; use a new folder, or the version of the "
            "package that began this run"
        )
    return state
