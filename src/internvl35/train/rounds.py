"""The loop of drawn pictures: rounds of batches, a step a batch, resumable checkpoints.

What is trained and on what is decided by recipes such as :mod:`internvl35.train.tiny`; the losses
stand in files of their own. Nothing is pickled: a run's state is one safetensors file that is
replaced in one step, so a killed run goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from internvl35.errors import ConfigError, DataError

Batch = TypeVar("Batch")

STATE_FILE = "state.safetensors"
METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True)
class RoundSettings:
    """How long and how fast a run learns, and what it leaves behind."""

    num_rounds: int
    """Rounds in all; a round is one item of the data stream, a list of batches."""
    learning_rate: float = 1e-3
    """Peak learning rate of the matrices."""
    warmup_rounds: int = 4
    """Rounds over which the learning rate rises from zero."""
    decay_share: float = 0.3
    """Last share of the run over which the learning rate falls linearly to zero."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """``muon`` takes the hidden matrices to Muon and the rest to AdamW."""
    weight_decay: float = 0.05
    """Decoupled weight decay of matrices; vectors have none."""
    clip_norm: float = 1.0
    """Largest norm of the whole gradient."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Decay rates of AdamW's two moments."""
    checkpoint_every: int = 20
    """Rounds between two checkpoints."""
    evaluate_every: int = 100
    """Rounds between two evaluations; 0 for none."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Number format of the forward and backward pass; weights and moments stay float32."""

    def __post_init__(self) -> None:
        """Refuse a run that could not take a step."""
        if self.num_rounds < 1:
            raise ConfigError(f"num_rounds is {self.num_rounds}; it must be at least 1")
        if not 0 <= self.decay_share <= 1:
            raise ConfigError(f"decay_share is {self.decay_share}; needed: 0 to 1")

    def rate_at(self, position: float) -> float:
        """Learning rate as a share of its peak: rise, plateau, linear fall to zero.

        Args:
            position: rounds done, fractions allowed.

        Returns:
            A factor from 0 to 1.
        """
        rise = min(1.0, (position + 1e-9) / self.warmup_rounds) if self.warmup_rounds else 1.0
        fall_rounds = self.num_rounds * self.decay_share
        fall = (self.num_rounds - position) / fall_rounds if fall_rounds else 1.0
        return max(0.0, min(rise, fall, 1.0))


LossFunction = Callable[[Any], tuple[Tensor, dict[str, float]]]
"""From a batch to the loss to minimise and the figures to log."""


class RoundLoop(Generic[Batch]):
    """One resumable run.

    Args:
        module: everything that is trained, heads used only in training included.
        loss_function: called with a batch; returns the loss and figures to log.
        settings: the run's settings.
        folder: run folder; made if missing, resumed from if it holds a state.
        device: where batches are computed; the module has to be there.

    Raises:
        DataError: if the folder holds a state that does not fit the module.
    """

    def __init__(
        self,
        module: nn.Module,
        loss_function: LossFunction,
        settings: RoundSettings,
        folder: Path,
        device: torch.device | None = None,
    ) -> None:
        """Prepare optimizers and pick up the last checkpoint, if there is one."""
        self.module = module
        self.loss_function = loss_function
        self.settings = settings
        self.folder = folder
        self.device = device or torch.device("cpu")
        self.optimizers = make_optimizers(module, settings)
        self.round = 0
        self.num_samples = 0
        self.seconds = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / STATE_FILE).exists():
            self._restore()

    def run(
        self,
        rounds: Callable[[int], Iterable[list[Batch]]],
        evaluate: Callable[[int], dict[str, float]] | None = None,
        on_log: Callable[[dict[str, float]], None] | None = None,
    ) -> None:
        """Train until the last round, from wherever the folder's state stands.

        Args:
            rounds: called with the first round wanted; yields that round's batches and all later
                ones, the same for the same number however often it is asked.
            evaluate: called every ``evaluate_every`` rounds and at the end; its figures are logged.
            on_log: called with every line of figures.
        """
        every = self.settings.evaluate_every
        with _progress(self.settings.num_rounds, self.round) as advance:
            for batches in self._until_end(rounds(self.round)):
                started = time.perf_counter()
                figures = self._train_round(batches)
                self.round += 1
                self.seconds += time.perf_counter() - started
                is_last = self.round == self.settings.num_rounds
                if evaluate is not None and every and (self.round % every == 0 or is_last):
                    self.module.eval()
                    figures |= {f"eval/{k}": v for k, v in evaluate(self.round).items()}
                    self.module.train()
                self._log(figures, on_log)
                if self.round % self.settings.checkpoint_every == 0 or is_last:
                    self.save()
                advance(figures)

    def _until_end(self, rounds: Iterable[list[Batch]]) -> Iterator[list[Batch]]:
        stream = iter(rounds)
        while self.round < self.settings.num_rounds:
            batches = next(stream, None)
            if batches is None:
                raise DataError(
                    f"the data ended after round {self.round} of {self.settings.num_rounds}; lower "
                    "num_rounds or give more data"
                )
            yield batches

    def _train_round(self, batches: list[Batch]) -> dict[str, float]:
        sums: dict[str, float] = {}
        self.module.train()
        for index, batch in enumerate(batches):
            rate = self.settings.rate_at(self.round + index / len(batches))
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["peak_lr"] * rate
            for name, value in self._step(batch).items():
                sums[name] = sums.get(name, 0.0) + value
            self.num_samples += len(batch)  # type: ignore[arg-type]
        return {name: value / len(batches) for name, value in sums.items()}

    def _step(self, batch: Batch) -> dict[str, float]:
        is_mixed = self.settings.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=is_mixed):
            loss, figures = self.loss_function(batch)
        if not torch.isfinite(loss):
            raise DataError(
                f"the loss is {float(loss.detach())} in round {self.round}; lower the learning "
                f"rate, the last good checkpoint stands in {self.folder}"
            )
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.settings.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return figures | {"loss": float(loss.detach()), "gradient_norm": float(norm)}

    def _log(
        self, figures: dict[str, float], on_log: Callable[[dict[str, float]], None] | None
    ) -> None:
        line: dict[str, float] = {
            "round": self.round,
            "samples": self.num_samples,
            "seconds": round(self.seconds, 2),
            "samples_per_s": round(self.num_samples / max(self.seconds, 1e-9), 2),
            **{name: round(value, 5) for name, value in figures.items()},
        }
        with (self.folder / METRICS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if on_log is not None:
            on_log(line)

    def save(self) -> None:
        """Write weights, optimizer moments and position; the old state is replaced in one step."""
        tensors = {f"module.{name}": value for name, value in self.module.state_dict().items()}
        for number, optimizer in enumerate(self.optimizers):
            for index, moments in optimizer.state_dict()["state"].items():
                for name, value in moments.items():
                    tensors[f"optimizer.{number}.{index}.{name}"] = torch.as_tensor(value)
        progress = {"round": self.round, "samples": self.num_samples, "seconds": self.seconds}
        metadata = {"progress": json.dumps(progress), "settings": json.dumps(asdict(self.settings))}
        partial = self.folder / (STATE_FILE + ".partial")
        save_file(
            {name: value.contiguous().clone() for name, value in tensors.items()}, partial, metadata
        )
        os.replace(partial, self.folder / STATE_FILE)

    def _restore(self) -> None:
        path = self.folder / STATE_FILE
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            progress = json.loads(metadata["progress"])
        except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise DataError(f"{path} is not a training state: {error}; use a new folder") from error
        weights = {
            k.removeprefix("module."): v for k, v in tensors.items() if k.startswith("module.")
        }
        try:
            self.module.load_state_dict(weights)
        except RuntimeError as error:
            raise DataError(
                f"{path} belongs to another model: {error}; use a new folder or the same settings"
            ) from error
        for number, optimizer in enumerate(self.optimizers):
            optimizer.load_state_dict(_optimizer_state(optimizer, number, tensors))
        self.round = progress["round"]
        self.num_samples = progress["samples"]
        self.seconds = progress["seconds"]
        _drop_lines_after(self.folder / METRICS_FILE, self.round)


def make_optimizers(module: nn.Module, settings: RoundSettings) -> list[torch.optim.Optimizer]:
    """Sort parameters into optimizers and groups.

    Args:
        module: what is trained; parameters without ``requires_grad`` are left out.
        settings: names the optimizer, peak rate, decay and betas.

    Returns:
        AdamW alone, or Muon for the hidden matrices and AdamW for the rest. Every group carries its
        ``peak_lr``, which the schedule scales.
    """
    named = [(name, value) for name, value in module.named_parameters() if value.requires_grad]
    is_hidden = settings.optimizer == "muon"
    matrices = [
        v for n, v in named if is_hidden and v.ndim == 2 and "embed" not in n and "head" not in n
    ]
    taken = {id(value) for value in matrices}
    rest = [value for _, value in named if id(value) not in taken]
    rate, decay = settings.learning_rate, settings.weight_decay
    groups = [
        {"params": [v for v in rest if v.ndim >= 2], "weight_decay": decay, "peak_lr": rate},
        {"params": [v for v in rest if v.ndim < 2], "weight_decay": 0.0, "peak_lr": rate},
    ]
    groups = [group for group in groups if group["params"]]
    optimizers: list[torch.optim.Optimizer] = []
    if groups:
        optimizers.append(torch.optim.AdamW(groups, lr=rate, betas=settings.betas, fused=True))
    if matrices:
        hidden = [{"params": matrices, "peak_lr": rate}]
        optimizers.append(
            torch.optim.Muon(hidden, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
        )
    return optimizers


def _optimizer_state(
    optimizer: torch.optim.Optimizer, number: int, tensors: dict[str, Tensor]
) -> dict[str, Any]:
    state: dict[int, dict[str, Tensor]] = {}
    prefix = f"optimizer.{number}."
    for key, value in tensors.items():
        if key.startswith(prefix):
            index, name = key.removeprefix(prefix).split(".", 1)
            state.setdefault(int(index), {})[name] = value
    return optimizer.state_dict() | {"state": state}


def _drop_lines_after(path: Path, last_round: int) -> None:
    """Forget figures of rounds that a kill undid, so that the curve shows each round once."""
    if not path.exists():
        return
    kept: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            is_kept = json.loads(line)["round"] <= last_round
        except (json.JSONDecodeError, KeyError):
            is_kept = False  # a line cut short by the kill
        if is_kept:
            kept.append(line)
    partial = path.with_suffix(".partial")
    partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    os.replace(partial, path)


class _progress:
    """A bar on a terminal, nothing elsewhere."""

    def __init__(self, total: int, done: int) -> None:
        self._bar = Progress(
            TextColumn("round"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        )  # fmt: skip
        self._bar.disable = not self._bar.console.is_terminal
        self._task = self._bar.add_task("round", total=total, completed=done, figures="")

    def __enter__(self) -> Callable[[dict[str, float]], None]:
        self._bar.start()
        return self._advance

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _advance(self, figures: dict[str, float]) -> None:
        shown = f"loss {figures['loss']:.3f}" if "loss" in figures else ""
        self._bar.update(self._task, advance=1, figures=shown)
