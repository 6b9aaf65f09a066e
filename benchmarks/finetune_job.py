"""One timed training of the benchmark of fine-tuning, in a process of its own.

``python -m benchmarks.finetune_job JOB.json`` trains as the file says and writes what it measured
beside it. What is compared with what is decided by :mod:`benchmarks.finetune`.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Trainer = Literal["ours", "trl"]


@dataclass(frozen=True)
class Job:
    """What is trained, and how."""

    trainer: Trainer
    """Ours, or TRL's ``SFTTrainer``."""
    rows: str
    """Data set, a JSONL file."""
    num_rows: int
    """Its rows; every job passes over all of them once, in the order of the file."""
    warmup_steps: int
    """First steps, which are not timed."""
    batch_size: int
    """Rows of a padded batch; packs are batches of their own."""
    threads: int
    """CPU threads."""
    gradient_checkpointing: bool
    """Whether activations are computed twice instead of kept; both trainers' default."""
    pack_tokens: int = 0
    """Most tokens of a pack; 0 for padded batches."""
    is_grouped: bool = False
    """Whether padded batches hold rows of like length."""
    lora_rank: int = 8
    """Rank of the adapters on every linear layer of the language model."""


@dataclass(frozen=True)
class Measured:
    """What a job came to."""

    seconds: float
    """Time of the steps behind the warm-up; of the processor, with one thread."""
    samples: int
    """Rows of those steps."""
    tokens: int
    """Their tokens, padding not counted; 0 where the trainer does not say."""
    padded_tokens: int
    """Their tokens with padding; 0 where the trainer does not say."""
    num_trainable: int
    """Weights that were trained."""
    mean_loss: float
    """Mean of the loss over all steps, to see that both learn the same."""
    memory_before_mib: float
    """Memory of the process when the first step begins."""
    peak_memory_mib: float
    """Most memory that the process ever had."""


def main() -> None:
    """Run one job."""
    path = Path(sys.argv[1])
    job = Job(**json.loads(path.read_text(encoding="utf-8")))
    import torch

    torch.set_num_threads(job.threads)
    if job.trainer == "ours":
        from benchmarks.finetune_ours import train
    else:
        from benchmarks.finetune_trl import train
    measured = train(job, path.parent)
    path.with_suffix(".measured").write_text(json.dumps(asdict(measured)), encoding="utf-8")


class Stopwatch:
    """Counts time, rows and tokens behind the warm-up."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.memory_before = 0.0
        self.samples = self.tokens = self.padded_tokens = 0
        self.losses: list[float] = []
        self._steps = 0
        # With one thread, time of the processor: what else the machine does is not counted.
        self._clock = time.process_time if job.threads == 1 else time.perf_counter
        self._started = self._ended = 0.0

    def start(self) -> None:
        """The first step is about to begin."""
        self.memory_before = current_memory_mib()
        self._started = self._clock()

    def finish_step(self, samples: int, tokens: int = 0, padded_tokens: int = 0) -> None:
        """A step has ended.

        Args:
            samples: its rows.
            tokens: its tokens, padding not counted.
            padded_tokens: its tokens with padding.
        """
        self._steps += 1
        self._ended = self._clock()
        if self._steps == self.job.warmup_steps:
            self._started = self._ended
        if self._steps > self.job.warmup_steps:
            self.samples += samples
            self.tokens += tokens
            self.padded_tokens += padded_tokens

    def read(self, num_trainable: int) -> Measured:
        """What was measured until now."""
        return Measured(
            seconds=self._ended - self._started,
            samples=self.samples,
            tokens=self.tokens,
            padded_tokens=self.padded_tokens,
            num_trainable=num_trainable,
            mean_loss=sum(self.losses) / max(1, len(self.losses)),
            memory_before_mib=self.memory_before,
            peak_memory_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        )


def current_memory_mib() -> float:
    """Memory of this process now."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    main()
