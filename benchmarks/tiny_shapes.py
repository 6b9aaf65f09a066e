"""What other shapes of the embedded checkpoint would cost in training.

Each takes steps on made-up rows: one picture of 190 pixels a side, cut as the shape's tiles need,
and 90 tokens of text. Speeds stand as shares of that of the chosen shape, in one run and in turns.
Writes ``results/tiny_shapes.json``; what a shape learns is not measured here.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.record import write_result
from internvl35.config import LanguageShape, VisionShape
from internvl35.data.batches import TrainingBatch
from internvl35.data.synthetic import MARK_LABELS
from internvl35.model.composite import VisionLanguageModel
from internvl35.train.tiny import shape
from internvl35.train.tiny.lessons import TinyTrainee

NUM_ROWS, NUM_TEXT, IMAGE_TOKEN = 16, 90, 5


@dataclass(frozen=True)
class Trial:
    """One shape."""

    tile: int
    """Side of a tile, pixels."""
    patch: int
    """Side of a patch, pixels."""
    tiles: int
    """Tiles that a picture of 190 pixels takes, thumbnail included."""
    tower: tuple[int, int]
    """Width and layers of the tower."""
    language: tuple[int, int]
    """Width and layers of the language model."""

    def __str__(self) -> str:
        """Name it."""
        tower, language = ("x".join(map(str, part)) for part in (self.tower, self.language))
        return f"{self.tiles} x {self.tile}/{self.patch}, tower {tower}, language {language}"


CHOSEN = Trial(192, 16, 1, (192, 4), (192, 6))
TRIALS = (
    CHOSEN,
    Trial(112, 14, 5, (192, 4), (192, 6)),
    Trial(224, 14, 1, (192, 4), (192, 6)),
    Trial(224, 28, 1, (192, 4), (192, 6)),
    Trial(192, 16, 1, (192, 4), (192, 4)),
    Trial(192, 16, 1, (192, 6), (192, 6)),
    Trial(192, 16, 1, (192, 4), (256, 6)),
    Trial(192, 16, 1, (256, 6), (256, 6)),
)


def main() -> None:
    """Measure all, in turns, and print their speeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5, help="measured steps of each")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    runs = {trial: Run(trial) for trial in TRIALS}
    seconds: dict[Trial, list[float]] = {trial: [] for trial in TRIALS}
    for number in range(arguments.steps + 1):
        for trial, run in runs.items():
            spent = run.step()
            if number:
                seconds[trial].append(spent)
    chosen = statistics.median(seconds[CHOSEN])
    found = {
        str(trial): {
            "relative_speed": round(chosen / statistics.median(seconds[trial]), 2),
            "parameters": runs[trial].num_parameters,
        }
        for trial in TRIALS
    }
    table = Table("shape", "speed, chosen = 1", "parameters")
    for name, figures in found.items():
        table.add_row(name, f"{figures['relative_speed']:.2f}", f"{figures['parameters']:,}")
    Console().print(table)
    Console().print(write_result("tiny_shapes", {"threads": arguments.threads, "shapes": found}))


class Run:
    """Training steps of one shape.

    Args:
        trial: the shape.
    """

    def __init__(self, trial: Trial) -> None:
        """Build the network and a batch."""
        width, layers = trial.tower
        vision = VisionShape(
            width=width, num_layers=layers, num_heads=width // 64, mlp_width=4 * width,
            tile_size=trial.tile, patch_size=trial.patch,
        )  # fmt: skip
        width, layers = trial.language
        heads, mlp = width // 64, width * 8 // 3
        language = LanguageShape(
            "qwen3", width, layers, heads, heads, 64, mlp, vocab_size=shape.VOCAB_SIZE
        )
        config = shape.tiny_config(IMAGE_TOKEN, 0, 1, vision, language)
        config._attn_implementation = "eager"
        torch.manual_seed(0)
        self.trainee = TinyTrainee(VisionLanguageModel(config))
        self.num_parameters = sum(p.numel() for p in self.trainee.model.parameters())
        self.optimizer = torch.optim.AdamW(self.trainee.parameters(), lr=1e-4, fused=True)
        places = config.tokens_per_tile * trial.tiles
        ids = torch.randint(6, shape.VOCAB_SIZE, (NUM_ROWS, places + NUM_TEXT))
        ids[:, 3 : 3 + places] = IMAGE_TOKEN
        labels = ids.clone()
        labels[:, : places + NUM_TEXT // 2] = -100
        num_tiles, grid = NUM_ROWS * trial.tiles, trial.tile // trial.patch
        tiles = torch.randint(0, 256, (num_tiles, 3, trial.tile, trial.tile), dtype=torch.uint8)
        marks = torch.zeros(num_tiles, grid, grid, len(MARK_LABELS), dtype=torch.uint8)
        self.batch = TrainingBatch(ids, torch.ones_like(ids), labels, tiles, marks)

    def step(self) -> float:
        """Take a step; return its seconds of processor time."""
        started = time.process_time()
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.trainee(self.batch, self.trainee.weigh(self.batch))["loss"]
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.process_time() - started


if __name__ == "__main__":
    main()
