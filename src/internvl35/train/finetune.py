"""A run of training on a data set, from settings to its last checkpoint.

Settings, objective, rows, plan, network, loop, figures and checkpoints have files of their own;
this one decides in which order they are used. Paper sections 2.2 and 2.3.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from internvl35.data.row_files import write_rows
from internvl35.errors import ConfigError, InternVLError
from internvl35.train.assembly import Assembly, Start, assemble, find_start
from internvl35.train.checkpoints import (
    partial_folder,
    remove_old,
    set_aside_later,
    write_checkpoint,
)
from internvl35.train.distributed import Workers, start_workers
from internvl35.train.facts import collect_facts
from internvl35.train.failures import explain_failure, is_consequence
from internvl35.train.feed import feed_once, feed_steps
from internvl35.train.figures import FigureWindow, peak_memory_gib
from internvl35.train.loop import StepFigures, TrainingLoop
from internvl35.train.objective import Objective, SupervisedObjective
from internvl35.train.packages import check_packages
from internvl35.train.plan import Plan
from internvl35.train.reports import CountingBar, TrainingReport
from internvl35.train.resolution import resolve_output
from internvl35.train.resuming import check_progress, settle_beginning
from internvl35.train.rows import (
    PreparedRows,
    choose_rows,
    count_data_processes,
    prepare_rows,
)
from internvl35.train.run_folder import VAL_FILE, RunFolder, make_run_folder
from internvl35.train.schedule import Schedule, count_warmup_steps
from internvl35.train.settings import FinetuneSettings
from internvl35.train.state import load_state, save_state, state_file
from internvl35.train.vico import choose_vico_objective
from internvl35.train.vico_settings import VicoRunSettings
from internvl35.train.writing import write_weights


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
        settings: of the run; their kind decides on what is learnt.
        command: ``sft``, ``pt`` or ``vico``, for the record.

    Returns:
        Where the run ended.

    Raises:
        InternVLError: for everything that the user can put right, among it memory that does not
            suffice and a loss that is not finite; the last checkpoint stays as it is.
        KeyboardInterrupt: if the user interrupts the run; it was said how to go on.
    """
    device = "cpu" if settings.distributed.use_cpu else None
    with start_workers(timeout_s=settings.distributed.ddp_timeout, device=device) as workers:
        run = _Run(settings, command, workers)
        try:
            return run.execute()
        except KeyboardInterrupt:
            run.tell(f"interrupted; {run.how_to_go_on()}")
            raise
        except (RuntimeError, MemoryError, OSError, SafetensorError) as error:
            reason = explain_failure(error)
            if reason is None:
                raise
            kind = InternVLError if is_consequence(error) else ConfigError
            raise kind(f"{reason}; {run.how_to_go_on()}") from error
        finally:
            run.close()


class _Run:
    """One process's part in a run."""

    def __init__(self, settings: FinetuneSettings, command: str, workers: Workers) -> None:
        self.workers = workers
        self.settings, self.checkpoint = settle_beginning(settings)
        self.objective = _choose_objective(self.settings)
        self.command = command
        self.folder = Path()
        self.report: TrainingReport | None = None
        self.window = FigureWindow.restore(others=self.objective.others)
        self.seconds = 0.0
        self.best_metric: float | None = None
        self.best_checkpoint: Path | None = None
        self.last_checkpoint: Path | None = self.checkpoint
        self.measured = (-1, math.inf)
        self.facts: dict[str, Any] = {}

    def execute(self) -> FinetuneResult:
        settings, workers = self.settings, self.workers
        # what is missing, or wrong with names and rows, is found before anything large is loaded
        check_packages(settings)
        chosen_rows = choose_rows(settings, workers)
        start = find_start(settings, workers)
        self.objective.check_start(start.config)
        self.folder = Path(workers.tell(str(self._choose_folder())))
        with CountingBar(is_shown=workers.is_main) as bar:
            rows = prepare_rows(
                chosen_rows, start, settings, workers, self.folder,
                is_resumed=self.checkpoint is not None, show_progress=bar.count,
            )  # fmt: skip
        self.objective.check_rows(rows.plan.sizes)
        assembly = assemble(start, settings, workers, self.objective)
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
            self.objective.weigh,
            compute_dtype=assembly.compute_dtype,
            others=self.objective.others,
        )
        if self.checkpoint is not None:
            self._restore(loop, assembly, rows)
        self._open_report(start, rows, assembly, loop.step)
        if loop.step < num_steps:
            self._train(loop, start, assembly, rows)
        return self._finish(num_steps)

    def _choose_folder(self) -> Path:
        if self.checkpoint is not None:
            return self.checkpoint.parent
        if not self.workers.is_main:
            return Path()
        output = resolve_output(self.settings)
        return make_run_folder(output, add_version=self.settings.run.add_version)

    def _open_report(self, start: Start, rows: PreparedRows, assembly: Assembly, step: int) -> None:
        plan = rows.plan
        self.facts = collect_facts(
            self.settings, self.command, start, rows, assembly, self.workers.world_size
        )
        if not self.workers.is_main:
            return
        RunFolder(self.folder).write_arguments(self.settings, self.facts)
        if rows.val_groups and not (self.folder / VAL_FILE).exists():
            write_rows(rows.val.take(rows.good_val), self.folder / VAL_FILE)
        self.report = TrainingReport(
            RunFolder(self.folder),
            plan.num_steps,
            epoch_at=plan.epoch_at,
            first_step=step,
            seconds_before=self.seconds,
            report_to=self.settings.run.report_to,
        )
        self.report.tell(self.facts["resolved"]["parameters"])
        if self.settings.dataset.split_dataset_ratio and not rows.val_groups:
            self.tell("no row is set aside to evaluate on; raise split_dataset_ratio")
        for name in set_aside_later(self.folder, step) if step else []:
            self.tell(f"the run goes on before {name}, which is now called undone-{name}")
        if step == plan.num_steps:
            self.tell(
                f"the run is done, it has {step} steps behind it; raise max_steps or "
                "num_train_epochs to train on"
            )

    def _restore(self, loop: TrainingLoop, assembly: Assembly, rows: PreparedRows) -> None:
        assert self.checkpoint is not None
        progress = load_state(
            self.checkpoint, assembly.model, assembly.stepper.optimizers, self.workers
        )
        batches_per_step = rows.plan.settings.batches_per_step
        if progress["batches_per_step"] != batches_per_step:
            raise ConfigError(
                f"a step has {batches_per_step} batches on all processes together, but "
                f"{progress['batches_per_step']} in the run that is resumed; with another number "
                "of processes set gradient_accumulation_steps so that the product stays"
            )
        loop.step = int(progress["step"])
        check_progress(self.checkpoint, loop.step, rows.plan.num_steps)
        rows.bad_train.restore(progress["bad_rows"])
        self.objective.restore(progress.get("objective", {}))
        self.window = FigureWindow.restore(progress["window"], self.objective.others)
        self.seconds = float(progress["seconds"])
        best = self.folder / str(progress["best_checkpoint"])
        if best.is_dir():  # a later and better one may have taken its place, and be undone now
            self.best_metric, self.best_checkpoint = progress["best_metric"], best

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
            self.objective.end_step(self.workers)
            self._after_step(loop, rows, figures, took)
            if rows.val_groups and self._is_due("eval", loop.step, rows.plan):
                self._evaluate(loop, rows)
            if self._is_due("save", loop.step, rows.plan):
                self._save(loop, start, assembly, rows)
            self.seconds += time.perf_counter() - started
            started = time.perf_counter()

    def _after_step(
        self, loop: TrainingLoop, rows: PreparedRows, figures: StepFigures, seconds: float
    ) -> None:
        if figures.num_failures:
            rows.bad_train.note(figures.failures)
            rows.bad_train.share(self.workers)
            rows.bad_train.check()
        self.window.add(figures, seconds)
        run, num_steps = self.settings.run, rows.plan.num_steps
        is_first = loop.step == 1 and run.logging_first_step
        if is_first or loop.step % run.logging_steps == 0 or loop.step == num_steps:
            describe = self.objective.figures
            line = self.window.close(figures.learning_rate, self.workers.device, describe)
            if self.report is not None:
                self.report.log_step(loop.step, self._named(line))
        if self.report is not None:
            self.report.advance(loop.step, {"loss": figures.loss})

    def _is_due(self, what: str, step: int, plan: Plan) -> bool:
        """Whether something happens after a step; after the last one everything does."""
        run = self.settings.run
        every = run.save_steps
        strategy = run.save_strategy
        if what == "eval":
            every, strategy = run.eval_steps or every, run.eval_strategy or strategy
            if strategy == "no":
                return False
        if step == plan.num_steps:
            return True
        if strategy == "epoch":
            return plan.is_epoch_end(step)
        return strategy == "steps" and step % every == 0

    def _named(self, line: dict[str, float]) -> dict[str, float]:
        """Figures by the names that fit what is learnt."""
        names = {"token_acc": self.objective.accuracy}
        return {names.get(name, name): value for name, value in line.items()}

    def _evaluate(self, loop: TrainingLoop, rows: PreparedRows) -> None:
        if not self.objective.can_evaluate:
            return
        batches = feed_once(
            rows.val_groups, self.workers, rows.val, rows.encoder, rows.pad_token_id,
            num_processes=count_data_processes(self.settings),
        )  # fmt: skip
        found, failures = loop.evaluate(batches)
        rows.bad_val.note(failures)
        if not found:
            self.tell(f"no row to evaluate on can be used; see {rows.bad_val.path}")
            return
        self.measured = (loop.step, found["loss"])
        if self.report is not None:
            self.report.log_eval(loop.step, self._named(found))

    def _save(
        self, loop: TrainingLoop, start: Start, assembly: Assembly, rows: PreparedRows
    ) -> None:
        """Write a checkpoint; every process takes part, the main one makes it whole."""
        step, workers, target = loop.step, self.workers, self.folder / f"checkpoint-{loop.step}"
        measured_at, loss = self.measured
        best_metric, best = self.best_metric, self.best_checkpoint
        is_measured = measured_at == step and math.isfinite(loss)
        if is_measured and (best_metric is None or loss < best_metric):
            best_metric, best = loss, target
        progress = {
            "step": step, "batches_per_step": rows.plan.settings.batches_per_step,
            "window": self.window.keep(), "seconds": self.seconds,
            "best_metric": best_metric, "best_checkpoint": best.name if best else None,
            "bad_rows": rows.bad_train.rows, "objective": self.objective.keep(),
        }  # fmt: skip
        state = {
            "global_step": step, "max_steps": rows.plan.num_steps,
            "epoch": rows.plan.epoch_at(step), "best_metric": best_metric,
            "best_model_checkpoint": best.name if best else None,
            "last_model_checkpoint": target.name, "eval_loss": loss if is_measured else None,
            "num_train_rows": len(rows.train), "num_val_rows": len(rows.val),
            "log_history": self.report.history if self.report else [],
        }  # fmt: skip

        if self.report is not None:
            self.report.draw()  # the curve of the loss goes into the checkpoint's card

        def fill(folder: Path) -> None:
            workers.wait()  # the folder is there
            write_weights(
                folder, start, assembly, self.settings, workers, self.facts, state,
                as_adapters=self.objective.writes_adapters,
            )  # fmt: skip
            is_deepspeed = self.settings.distributed.deepspeed is not None  # pickles its state
            if not (self.settings.run.save_only_model or is_deepspeed):
                path, optimizers = folder / state_file(workers), assembly.stepper.optimizers
                save_state(path, assembly.model, optimizers, workers, progress)
            workers.wait()

        if workers.is_main:
            write_checkpoint(self.folder, step, fill, state)
        else:
            fill(partial_folder(self.folder, step))
        self.last_checkpoint, self.best_metric, self.best_checkpoint = target, best_metric, best
        if workers.is_main:
            self._tidy_up()

    def _tidy_up(self) -> None:
        """Remove checkpoints that are no longer wanted, and let links lead to the others."""
        run, folder = self.settings.run, RunFolder(self.folder)
        remove_old(self.folder, run.save_total_limit, self.best_checkpoint)
        links = {"last": self.last_checkpoint, "best": self.best_checkpoint}
        for name, checkpoint in links.items():
            if run.create_checkpoint_symlink and checkpoint is not None:
                folder.link_checkpoint(name, checkpoint)

    def _finish(self, num_steps: int) -> FinetuneResult:
        assert self.last_checkpoint is not None
        if untaught := self.objective.untaught():
            self.tell(untaught)
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

    def tell(self, text: str) -> None:
        """Say something on the screen, once however many processes there are."""
        if self.report is not None:
            self.report.tell(text)

    def how_to_go_on(self) -> str:
        """What to do after a run that did not come to its end."""
        if self.last_checkpoint is None:
            return "there is no checkpoint yet, begin anew"
        return (
            f"go on from the last checkpoint by internvl35 {self.command} "
            f"--resume_from_checkpoint {self.last_checkpoint}"
        )

    def close(self) -> None:
        """End the progress bar and close files, however the run ended."""
        if self.report is not None:
            self.report.close()


def _choose_objective(settings: FinetuneSettings) -> Objective:
    if isinstance(settings, VicoRunSettings):
        return choose_vico_objective(settings)
    return SupervisedObjective(settings)
