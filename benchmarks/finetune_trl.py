"""TRL's side in the benchmark of fine-tuning: ``SFTTrainer`` on stock transformers' InternVL.

Needs ``trl``, ``peft`` and ``datasets``. Stock ``InternVLProcessor`` insists on a video processor,
which insists on torchvision; the one here is the same without videos, with the stock picture
processor that works on Pillow.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import peft
import transformers
import trl
from datasets import Dataset, Image
from transformers.models.internvl.processing_internvl import InternVLProcessor

from benchmarks.finetune_job import Job, Measured, Stopwatch
from internvl35.data.tokenizer import load_tokenizer
from internvl35.model.hub import resolve_checkpoint

_TARGETS = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"


class PictureProcessor(InternVLProcessor):  # type: ignore[misc]  # transformers' classes are Any
    """Stock processor of text and pictures, without videos."""

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        image_seq_length: int = 256,
        chat_template: str | None = None,
    ) -> None:
        self.video_processor = None
        super(InternVLProcessor, self).__init__(
            image_processor, tokenizer, chat_template=chat_template
        )
        self.image_seq_length = image_seq_length
        for name in ("start_image_token", "end_image_token", "video_token"):
            setattr(self, name, getattr(tokenizer, name))
        self.start_image_token_id = tokenizer.start_image_token_id
        self.end_image_token_id = tokenizer.end_image_token_id
        self.image_token = tokenizer.context_image_token
        self.image_token_id = tokenizer.context_image_token_id
        self.multimodal_pattern = re.compile(
            f"(?P<image>{re.escape(self.image_token)})|(?P<video>{re.escape(self.video_token)})"
        )


def train(job: Job, folder: Path) -> Measured:
    """Train as a job says.

    Args:
        job: what is trained; packs are not possible with pictures.
        folder: where the trainer may leave files.

    Returns:
        What was measured.
    """
    checkpoint = resolve_checkpoint("tiny")
    watch = Stopwatch(job)
    trainer = trl.SFTTrainer(
        model=transformers.InternVLForConditionalGeneration.from_pretrained(
            checkpoint, dtype="float32", attn_implementation="sdpa"
        ),
        args=trl.SFTConfig(
            output_dir=str(folder / "trl"),
            max_steps=job.num_rows // job.batch_size,
            per_device_train_batch_size=job.batch_size,
            gradient_accumulation_steps=1,
            gradient_checkpointing=job.gradient_checkpointing,
            train_sampling_strategy="sequential",
            learning_rate=1e-4,
            lr_scheduler_type="cosine",
            weight_decay=0.0,
            adam_beta2=0.95,
            max_length=None,
            bf16=False,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_num_workers=0,
            dataloader_pin_memory=False,
        ),
        train_dataset=_read_rows(Path(job.rows)),
        processing_class=make_processor(checkpoint),
        peft_config=peft.LoraConfig(
            r=job.lora_rank, lora_alpha=32, lora_dropout=0.0, target_modules=_TARGETS
        ),
        callbacks=[_Watcher(watch, job.batch_size)],
    )
    trainer.train()
    watch.losses += [line["loss"] for line in trainer.state.log_history if "loss" in line]
    trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    return watch.read(trainable)


def make_processor(checkpoint: Path) -> PictureProcessor:
    """Put tokenizer and picture processor of a checkpoint together.

    Args:
        checkpoint: folder in the layout of transformers.

    Returns:
        The processor.
    """
    pictures = json.loads((checkpoint / "preprocessor_config.json").read_text(encoding="utf-8"))
    texts = json.loads((checkpoint / "processor_config.json").read_text(encoding="utf-8"))
    return PictureProcessor(
        transformers.GotOcr2ImageProcessorPil.from_dict(pictures),
        load_tokenizer(checkpoint),
        texts["image_seq_length"],
        (checkpoint / "chat_template.jinja").read_text(encoding="utf-8"),
    )


def _read_rows(path: Path) -> Dataset:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    columns: dict[str, list[Any]] = {"prompt": [], "completion": [], "images": []}
    for row in rows:
        asked, answered = row["messages"]
        text = asked["content"].removeprefix("<image>")
        columns["prompt"].append([{"role": "user", "content": text}])
        columns["completion"].append([answered])
        columns["images"].append([str(path.parent / name) for name in row["images"]])
    return Dataset.from_dict(columns).cast_column("images", [Image()])


class _Watcher(transformers.TrainerCallback):  # type: ignore[misc]  # transformers' classes are Any
    """Tells the stopwatch of every step."""

    def __init__(self, watch: Stopwatch, batch_size: int) -> None:
        self.watch = watch
        self.batch_size = batch_size

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.watch.start()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.watch.finish_step(self.batch_size)
