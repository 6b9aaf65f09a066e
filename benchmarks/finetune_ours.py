"""The side of this package in the benchmark of fine-tuning: rows, network, steps, as ``sft`` does.

What ``sft`` does beside its steps (log lines, curves, checkpoints) is left out.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.finetune_job import Job, Measured, Stopwatch
from internvl35.data.dataset_settings import DatasetSettings
from internvl35.data.encoding import EncodingSettings
from internvl35.data.packing_settings import PackingSettings
from internvl35.train.assembly import assemble, find_start
from internvl35.train.distributed import start_workers
from internvl35.train.feed import feed_steps
from internvl35.train.loop import TrainingLoop
from internvl35.train.plan import Plan
from internvl35.train.rows import choose_rows, prepare_rows
from internvl35.train.schedule import Schedule
from internvl35.train.settings import (
    AdapterSettings,
    DistributedSettings,
    FinetuneSettings,
    ModelSettings,
    OptimizationSettings,
    RunSettings,
)
from internvl35.train.sft import batch_weight


def train(job: Job, folder: Path) -> Measured:
    """Train as a job says.

    Args:
        job: what is trained.
        folder: where sizes of rows may be kept.

    Returns:
        What was measured.
    """
    settings = make_settings(job)
    watch = Stopwatch(job)
    with start_workers(device="cpu") as workers:
        start = find_start(settings, workers)
        rows = prepare_rows(choose_rows(settings, workers), start, settings, workers, folder)
        assembly = assemble(start, settings, workers)
        loop = TrainingLoop(
            assembly.stepper,
            Schedule("cosine", rows.plan.num_steps, 0),
            workers,
            lambda batch: batch_weight(batch, settings.optimization.loss_reduction),
            compute_dtype=assembly.compute_dtype,
        )
        batches = feed_steps(rows.plan, workers, rows.train, rows.encoder, rows.pad_token_id)
        watch.start()
        for number, figures in enumerate(loop.run(batches)):
            watch.losses.append(figures.loss)
            watch.finish_step(
                int(figures.num_samples),
                int(figures.num_tokens),
                _count_padded(rows.plan, number, is_packed=job.pack_tokens > 0),
            )
        trainable = sum(p.numel() for p in assembly.model.parameters() if p.requires_grad)
    return watch.read(trainable)


def _count_padded(plan: Plan, step: int, *, is_packed: bool) -> int:
    """Tokens of a step with padding."""
    sizes = [[int(plan.sizes.tokens[row]) for row in batch] for batch in plan.step(step)]
    return sum(sum(batch) if is_packed else len(batch) * max(batch) for batch in sizes)


def make_settings(job: Job) -> FinetuneSettings:
    """Settings of a job: LoRA on the language model alone, float32, rows as they stand."""
    is_packed = job.pack_tokens > 0
    return FinetuneSettings(
        model=ModelSettings(torch_dtype="float32", attn_impl="sdpa"),
        dataset=DatasetSettings(dataset=(job.rows,), dataset_shuffle=False),
        encoding=EncodingSettings(system="none"),
        packing=PackingSettings(packing=is_packed, packing_length=job.pack_tokens or None),
        adapter=AdapterSettings(lora_rank=job.lora_rank, lora_dropout=0.0),
        optimization=OptimizationSettings(
            num_train_epochs=1.0,
            per_device_train_batch_size=1 if is_packed else job.batch_size,
            gradient_accumulation_steps=1,
            gradient_checkpointing=job.gradient_checkpointing,
            loss_reduction="token",
            weight_decay=0.0,
            group_by_length=job.is_grouped,
        ),
        run=RunSettings(dataloader_num_workers=0, report_to=("none",)),
        distributed=DistributedSettings(use_cpu=True),
    )
