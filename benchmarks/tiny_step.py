"""What a training step of the embedded checkpoint gains from plain attention and bfloat16.

Compares, in one run and on the same batch, samples/s of transformers' eager attention and of
torch's fused one, in float32 and under bfloat16 autocast. Writes ``results/tiny_step.json`` with
ratios.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.record import write_result
from internvl35.data.batches import TrainingBatch
from internvl35.model.composite import VisionLanguageModel
from internvl35.train.rounds import make_optimizers
from internvl35.train.tiny import TinyRecipe, Trainee, tiny_config

NUM_EXAMPLES, NUM_TOKENS, IMAGE_TOKEN = 48, 64, 5


def main() -> None:
    """Measure all four, in turns, and print samples/s as shares of the slowest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6, help="measured steps of each")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    kinds = list(itertools.product(("eager", "sdpa"), ("bfloat16", "float32")))
    steps = {kind: Step(*kind) for kind in kinds}
    seconds: dict[tuple[str, str], list[float]] = {kind: [] for kind in kinds}
    for number in range(arguments.steps + 1):
        for kind in kinds:  # in turns, so that a slow minute of the machine meets all of them
            spent = steps[kind].run()
            if number:
                seconds[kind].append(spent)
    medians = {kind: statistics.median(times) for kind, times in seconds.items()}
    slowest = max(medians.values())
    speedups = {f"{a}, {p}": round(slowest / medians[a, p], 2) for a, p in kinds}
    table = Table("attention, precision", "speed, slowest = 1")
    for name, speedup in speedups.items():
        table.add_row(name, f"{speedup:.2f}")
    Console().print(table)
    Console().print(
        write_result("tiny_step", {"threads": arguments.threads, "relative_speed": speedups})
    )


class Step:
    """One training step that can be repeated.

    Args:
        attention: name of transformers' attention implementation.
        precision: number format of the forward and backward pass.
    """

    def __init__(self, attention: str, precision: str) -> None:
        """Build model, optimizers and a batch of pictures of one tile each."""
        config = tiny_config(IMAGE_TOKEN, 0, 1)
        config._attn_implementation = attention
        torch.manual_seed(0)
        self.trainee = Trainee(VisionLanguageModel(config))
        self.optimizers = make_optimizers(self.trainee, TinyRecipe().loop)
        self.is_mixed = precision == "bfloat16"
        tile = config.force_image_size
        ids = torch.randint(6, config.text_config.vocab_size, (NUM_EXAMPLES, NUM_TOKENS))
        ids[:, 3 : 3 + config.tokens_per_tile] = IMAGE_TOKEN
        pixels = torch.randn(NUM_EXAMPLES, 3, tile, tile)
        self.batch = TrainingBatch(ids, torch.ones_like(ids), ids, pixels, None)

    def run(self) -> float:
        """Take a step; return its seconds of processor time."""
        started = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.is_mixed):
            loss, _ = self.trainee.loss(self.batch, 0.3)
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return time.process_time() - started


if __name__ == "__main__":
    main()
