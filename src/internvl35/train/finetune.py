"""A run of supervised fine-tuning or pre-training, from settings to its last checkpoint.

Settings, rows, plan, network, loop, figures and checkpoints have files of their own; this one
decides in which order they are used. Paper section 2.2.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from internvl35.data.row_files import write_rows
from internvl35.errors import ConfigError
from internvl35.train.arguments import flatten_settings
from internvl35.train.assembly import Assembly, Start, assemble, load_start
from internvl35.train.checkpoints import (
    find_checkpoint,
    partial_folder,
    remove_old,
    write_checkpoint,
)
from internvl35.train.distributed import Workers, start_workers
from internvl35.train.feed import feed_once, feed_steps
from internvl35.train.figures import FigureWindow, peak_memory_gib
from internvl35.train.loop import StepFigures, TrainingLoop
from internvl35.train.plan import Plan
from internvl35.train.reports import TrainingReport
from internvl35.train.resolution import resolve_learning_rate, resolve_output
from internvl35.train.rows import PreparedRows, count_data_processes, prepare_rows
from internvl35.train.run_folder import RunFolder, make_run_folder, read_settings
from internvl35.train.schedule import Schedule, count_warmup_steps
from internvl35.train.settings import FinetuneSettings
from internvl35.train.sft import batch_weight
from internvl35.train.state import load_state, save_state, state_file
from internvl35.train.trainable import count_parameters, describe_counts
from internvl35.train.writing import write_weights

VAL_FILE = "val_dataset.jsonl"


@dataclass(frozen=True)
class FinetuneResult:
    """Where a run ended."""

    run_folder: Path
    """Everything the run left behind."""
    last_checkpoint: Path
    """The newest checkpoint."""
    best_checkpoint: Path | None
    """The checkpoint with the least loss on the validation rows; None without such rows."""
    best_metric: float | None
    """That loss."""
    num_steps: int
    """Steps of the whole run."""


def finetune(settings: FinetuneSettings, *, command: str = "sft") -> FinetuneResult:
    """Train, from the start or from where a checkpoint stands.

    Every process of a run started by torchrun calls this.

    Args:
        settings: of the run.
        command: ``sft`` or ``pt``, for the record.

    Returns:
        Where the run ended.

    Raises:
        InternVLError: for everything that the user can put right, among it memory that does not
            suffice and a loss that is not finite; the last checkpoint stays as it is.
    """
    device = "cpu" if settings.distributed.use_cpu else None
    with start_workers(timeout_s=settings.distributed.ddp_timeout, device=device) as workers:
        run = _Run(settings, command, workers)
        try:
            return run.execute()
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise ConfigError(
                f"memory does not suffice ({_first_line(error)}); lower "
                "per_device_train_batch_size, max_length or max_dynamic_patch, keep "
                "gradient_checkpointing true, or spread the weights (fsdp full_shard, "
                f"quant_bits 4); the last checkpoint in {run.folder} is whole"
            ) from error
        finally:
            run.close()


class _Run:
    """One process's part in a run."""

    def __init__(self, settings: FinetuneSettings, command: str, workers: Workers) -> None:
        self.workers = workers
        self.checkpoint = _checkpoint_to_resume(settings)
        if self.checkpoint is not None and settings.run.resume_only_model:
            settings = _begin_from(settings, self.checkpoint)
            self.checkpoint = None
        if self.checkpoint is not None:
            check_resumed(settings, self.checkpoint)
        self.settings = settings
        self.command = command
        self.folder = Path(workers.tell(str(self._choose_folder())))
        self.report: TrainingReport | None = None
        self.has_validation = False
        self.window = FigureWindow.restore()
        self.seconds = 0.0
        self.best_metric: float | None = None
        self.best_checkpoint: Path | None = None
        self.last_checkpoint: Path | None = None
        self.measured = (-1, 0.0)
        self.facts: dict[str, Any] = {}

    def _choose_folder(self) -> Path:
        if self.checkpoint is not None:
            return self.checkpoint.resolve().parent
        if not self.workers.is_main:
            return Path()
        output = resolve_output(self.settings)
        return make_run_folder(output, add_version=self.settings.run.add_version)

    def execute(self) -> FinetuneResult:
        settings, workers = self.settings, self.workers
        start = load_start(settings, workers)
        rows = prepare_rows(start, settings, workers, self.folder)
        self.has_validation = len(rows.val_groups) > 0
        assembly = assemble(start, settings, workers)
        chosen = settings.optimization
        num_steps = rows.plan.num_steps
        loop = TrainingLoop(
            assembly.stepper,
            Schedule(
                chosen.lr_scheduler_type,
                num_steps,
                count_warmup_steps(num_steps, chosen.warmup_ratio, chosen.warmup_steps),
                chosen.wsd_decay_ratio,
            ),
            workers,
            lambda batch: batch_weight(batch, chosen.loss_reduction),
            compute_dtype=assembly.compute_dtype,
        )
        if self.checkpoint is not None:
            self._restore(loop, assembly, rows.plan.settings.batches_per_step)
        self._open_report(start, rows, assembly, loop.step)
        self._train(loop, start, assembly, rows)
        return self._finish(num_steps)

    def _open_report(self, start: Start, rows: PreparedRows, assembly: Assembly, step: int) -> None:
        plan, counts = rows.plan, count_parameters(assembly.model)
        self.facts = {
            "internvl35_version": _version(),
            "command": self.command,
            "world_size": self.workers.world_size,
            "resolved": {
                "learning_rate": resolve_learning_rate(self.settings),
                "gradient_accumulation_steps": plan.settings.batches_per_step
                // self.workers.world_size,
                "max_steps": plan.num_steps,
                "torch_dtype": str(assembly.compute_dtype).removeprefix("torch."),
                "model_folder": str(start.folder),
                "num_train_rows": len(rows.train),
                "num_val_rows": len(rows.val),
                "num_bad_rows": rows.bad_rows.num_bad,
                "parameters": describe_counts(counts),
            },
        }
        if not self.workers.is_main:
            return
        RunFolder(self.folder).write_arguments(self.settings, self.facts)
        if self.has_validation and not (self.folder / VAL_FILE).exists():
            write_rows(rows.val.take(rows.good_val), self.folder / VAL_FILE)
        self.report = TrainingReport(
            RunFolder(self.folder),
            plan.num_steps,
            steps_per_epoch=plan.num_steps / plan.epoch_at(plan.num_steps),
            first_step=step,
            seconds_before=self.seconds,
            report_to=self.settings.run.report_to,
        )
        self.report.tell(describe_counts(counts))

    def _restore(self, loop: TrainingLoop, assembly: Assembly, batches_per_step: int) -> None:
        assert self.checkpoint is not None
        progress = load_state(
            self.checkpoint, assembly.model, assembly.stepper.optimizers, self.workers
        )
        loop.step = int(progress["step"])
        if progress["batches_per_step"] != batches_per_step:
            raise ConfigError(
                f"a step has {batches_per_step} batches on all processes together, but "
                f"{progress['batches_per_step']} in the run that is resumed; with another number "
                "of processes set gradient_accumulation_steps so that the product stays"
            )
        self.window = FigureWindow.restore(progress["window"])
        self.seconds = float(progress["seconds"])
        self.best_metric = progress["best_metric"]
        if progress["best_checkpoint"] is not None:
            self.best_checkpoint = self.folder / progress["best_checkpoint"]
        self.last_checkpoint = self.checkpoint

    def _train(
        self, loop: TrainingLoop, start: Start, assembly: Assembly, rows: PreparedRows
    ) -> None:
        steps = feed_steps(
            rows.plan, self.workers, rows.train, rows.encoder, rows.pad_token_id,
            start=loop.step, num_processes=count_data_processes(self.settings),
        )  # fmt: skip
        started = time.perf_counter()
        for figures in loop.run(steps):
            took, started = time.perf_counter() - started, time.perf_counter()
            self.seconds += took
            self._after_step(loop, rows, figures, took)
            if self._is_due("eval", loop.step, rows.plan):
                self._evaluate(loop, rows)
            if self._is_due("save", loop.step, rows.plan):
                self._save(loop, start, assembly, rows)
            self.seconds += time.perf_counter() - started
            started = time.perf_counter()

    def _after_step(
        self, loop: TrainingLoop, rows: PreparedRows, figures: StepFigures, seconds: float
    ) -> None:
        if figures.failures:
            rows.bad_rows.add(figures.failures)
            rows.bad_rows.check(len(rows.train))
        self.window.add(figures, seconds)
        run, num_steps = self.settings.run, rows.plan.num_steps
        is_first = loop.step == 1 and run.logging_first_step
        if is_first or loop.step % run.logging_steps == 0 or loop.step == num_steps:
            line = self.window.close(figures.learning_rate, self.workers.device)
            if self.report is not None:
                self.report.log_step(loop.step, line)
        if self.report is not None:
            self.report.advance(loop.step, {"loss": figures.loss})

    def _is_due(self, what: str, step: int, plan: Plan) -> bool:
        """Whether something happens after a step; after the last one everything does."""
        run = self.settings.run
        every = run.save_steps
        strategy = run.save_strategy
        if what == "eval":
            if not self.has_validation:
                return False
            every, strategy = run.eval_steps or every, run.eval_strategy or strategy
            if strategy == "no":
                return False
        if step == plan.num_steps:
            return True
        if strategy == "epoch":
            return plan.is_epoch_end(step)
        return strategy == "steps" and step % every == 0

    def _evaluate(self, loop: TrainingLoop, rows: PreparedRows) -> None:
        batches = feed_once(
            rows.val_groups, self.workers, rows.val, rows.encoder, rows.pad_token_id,
            num_processes=count_data_processes(self.settings),
        )  # fmt: skip
        found = loop.evaluate(batches)
        self.measured = (loop.step, found["loss"])
        if self.report is not None:
            self.report.log_eval(loop.step, found)

    def _save(
        self, loop: TrainingLoop, start: Start, assembly: Assembly, rows: PreparedRows
    ) -> None:
        """Write a checkpoint; every process takes part, the main one makes it whole."""
        step, workers = loop.step, self.workers
        self.last_checkpoint = self.folder / f"checkpoint-{step}"
        measured_at, loss = self.measured
        if measured_at == step and (self.best_metric is None or loss < self.best_metric):
            self.best_metric, self.best_checkpoint = loss, self.last_checkpoint
        best = self.best_checkpoint.name if self.best_checkpoint else None
        progress = {
            "step": step, "batches_per_step": rows.plan.settings.batches_per_step,
            "window": self.window.keep(), "seconds": self.seconds,
            "best_metric": self.best_metric, "best_checkpoint": best,
        }  # fmt: skip
        state = {
            "global_step": step, "max_steps": rows.plan.num_steps,
            "epoch": rows.plan.epoch_at(step), "best_metric": self.best_metric,
            "best_model_checkpoint": best, "eval_loss": loss if measured_at == step else None,
            "num_train_rows": len(rows.train), "num_val_rows": len(rows.val),
        }  # fmt: skip

        def fill(folder: Path) -> None:
            workers.wait()  # the folder is there
            write_weights(folder, start, assembly, self.settings, workers, self.facts, state)
            is_deepspeed = self.settings.distributed.deepspeed is not None  # pickles its state
            if not (self.settings.run.save_only_model or is_deepspeed):
                path, optimizers = folder / state_file(workers), assembly.stepper.optimizers
                save_state(path, assembly.model, optimizers, workers, progress)
            workers.wait()

        if not workers.is_main:
            fill(partial_folder(self.folder, step))
            return
        write_checkpoint(self.folder, step, fill, state)
        remove_old(self.folder, self.settings.run.save_total_limit, self.best_checkpoint)
        if self.settings.run.create_checkpoint_symlink:
            RunFolder(self.folder).link_checkpoint("last", self.last_checkpoint)
            if self.best_checkpoint is not None:
                RunFolder(self.folder).link_checkpoint("best", self.best_checkpoint)

    def _finish(self, num_steps: int) -> FinetuneResult:
        assert self.last_checkpoint is not None
        if self.report is not None:
            self.report.finish(
                num_steps,
                {
                    "model_parameter_info": self.facts["resolved"]["parameters"],
                    "last_model_checkpoint": str(self.last_checkpoint),
                    "best_model_checkpoint": self.best_checkpoint and str(self.best_checkpoint),
                    "best_metric": self.best_metric,
                    "memory": peak_memory_gib(self.workers.device),
                },
            )
        return FinetuneResult(
            self.folder, self.last_checkpoint, self.best_checkpoint, self.best_metric, num_steps
        )

    def close(self) -> None:
        """End the progress bar and close files, however the run ended."""
        if self.report is not None:
            self.report.close()


FIXED = (
    "model", "dataset", "val_dataset", "split_dataset_ratio", "data_seed", "dataset_shuffle",
    "interleave_prob", "stopping_strategy", "columns", "template", "system", "max_length",
    "truncation_strategy", "max_dynamic_patch", "share_tiles", "video_segments", "video_max_num",
    "frame_label", "loss_scale", "packing", "packing_length", "packing_max_tiles",
    "packing_window", "tuner_type", "lora_rank", "lora_alpha", "target_modules",
    "modules_to_save", "use_dora", "use_rslora", "freeze_vit", "freeze_aligner", "freeze_llm",
    "per_device_train_batch_size", "optim", "loss_reduction", "group_by_length", "seed",
)  # fmt: skip
"""Settings that a run keeps when it is resumed, since rows, weights or moments hang on them."""


def check_resumed(settings: FinetuneSettings, checkpoint: Path) -> None:
    """Refuse to go on with a run in another way than it began.

    Args:
        settings: of the run now.
        checkpoint: holds those that it began with.

    Raises:
        ConfigError: if one of :data:`FIXED` differs.
    """
    now, before = flatten_settings(settings), flatten_settings(read_settings(checkpoint))
    for name in FIXED:
        if now[name] != before[name]:
            raise ConfigError(
                f"{name} is {now[name]!r} but the run of {checkpoint} began with "
                f"{before[name]!r}; leave it out, or pass resume_only_model true for a new run "
                "that begins with these weights"
            )


def _checkpoint_to_resume(settings: FinetuneSettings) -> Path | None:
    place = settings.run.resume_from_checkpoint
    return None if place is None else find_checkpoint(Path(place).expanduser())


def _begin_from(settings: FinetuneSettings, checkpoint: Path) -> FinetuneSettings:
    """Let a new run begin with the weights of a checkpoint."""
    if settings.adapter.tuner_type == "lora":
        return replace(settings, adapter=replace(settings.adapter, adapters=(str(checkpoint),)))
    return replace(settings, model=replace(settings.model, model=str(checkpoint)))


def _version() -> str:
    try:
        return version("internvl35")
    except PackageNotFoundError:
        return "not installed"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
