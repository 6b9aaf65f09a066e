"""Runs of fine-tuning that take a moment: rows, settings, and processes forked from this one.

Importing everything anew would take longer than what the processes do.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import socket
import traceback
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from internvl35.errors import InternVLError
from internvl35.train.arguments import build_settings, flatten_settings
from internvl35.train.finetune import finetune
from internvl35.train.run_folder import read_log
from internvl35.train.settings import FinetuneSettings
from internvl35.train.vico_settings import VicoRunSettings

NUM_ROWS = 20


def write_rows(folder: Path) -> Path:
    """Write rows in the announcement's form: pictures of one to three tiles, and text alone."""
    generator = random.Random(3)
    lines = []
    for index in range(NUM_ROWS):
        word = generator.choice(("user", "assistant", "image", "detail"))
        row: dict[str, Any] = {
            "messages": [
                {"role": "user", "content": f"Hello, who are you? {word}"},
                {"role": "assistant", "content": f"{word} {index} " * (1 + index % 3)},
            ]
        }
        if index % 4 != 3:
            size = (56 * (1 + index % 2), 56)
            pixels = generator.randbytes(3 * size[0] * size[1])
            Image.frombytes("RGB", size, pixels).save(folder / f"{index}.png")
            row["images"] = [f"{index}.png"]
        lines.append(json.dumps(row))
    path = folder / "rows.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def small_settings(model: Path, rows: Path, output: Path, **changes: Any) -> FinetuneSettings:
    """Six steps of two batches of two rows, with a checkpoint after every second one."""
    values = {
        "model": str(model), "dataset": (str(rows),), "output_dir": str(output),
        "add_version": False, "torch_dtype": "float32", "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2, "max_steps": 6, "save_steps": 2, "logging_steps": 1,
        "learning_rate": 1e-3, "report_to": ("none",), "dataloader_num_workers": 0,
        "use_cpu": True,
    }  # fmt: skip
    return build_settings(values | changes)


def small_vico_settings(model: Path, rows: Path, output: Path, **changes: Any) -> FinetuneSettings:
    """A run of ViCO of the size of the other small runs."""
    small = flatten_settings(small_settings(model, rows, output))
    usual = flatten_settings(FinetuneSettings())
    values = {name: value for name, value in small.items() if value != usual[name]}
    return build_settings(values | {"window_warmup": 4} | changes, VicoRunSettings())


def read_curve(folder: Path, name: str = "loss") -> list[float]:
    """Values of a figure, line by line."""
    return [line[name] for line in read_log(folder / "logging.jsonl") if name in line]


class RunProcesses:
    """Processes that train together, or one alone.

    Args:
        settings: of the run.
        num_processes: how many.
        folder: what each of them writes to the screen goes to a file there.
    """

    def __init__(self, settings: FinetuneSettings, num_processes: int, folder: Path) -> None:
        """Fork them."""
        context = multiprocessing.get_context("fork")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.screens = [folder / f"screen-{rank}.txt" for rank in range(num_processes)]
        self.processes = [
            context.Process(target=_train, args=(settings, rank, num_processes, port, screen))
            for rank, screen in enumerate(self.screens)
        ]
        for process in self.processes:
            process.start()

    def wait(self) -> list[int | None]:
        """Wait for their ends; exit codes."""
        for process in self.processes:
            process.join()
        return [process.exitcode for process in self.processes]

    def read_screens(self) -> list[str]:
        """What each of them said."""
        return [screen.read_text() for screen in self.screens]


def _train(
    settings: FinetuneSettings, rank: int, num_processes: int, port: int, screen: Path
) -> None:
    torch.set_num_threads(1)  # a forked process has lost the threads of its parent
    handle = os.open(screen, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    try:
        finetune(settings)
        os._exit(0)  # nothing of the parent's, such as pytest's files, is to be closed here
    except (InternVLError, RuntimeError):
        os.write(2, traceback.format_exc().encode())
        os._exit(1)  # while the error holds the replicas: taking them down may take for ever
    finally:
        os._exit(3)
