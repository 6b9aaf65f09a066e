"""What a training step of the embedded checkpoint gains from plain attention and bfloat16.

Compares, in one run and on the same step of drawings, samples/s of transformers' eager attention
and of torch's fused one, in float32 and under bfloat16 autocast. Writes ``results/tiny_step.json``
with ratios.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedTokenizerBase

from benchmarks.record import write_result
from internvl35.model.composite import VisionLanguageModel
from internvl35.train.feed import FedBatch
from internvl35.train.tiny.examples import DrawnExamples, Steps
from internvl35.train.tiny.lessons import TinyTrainee
from internvl35.train.tiny.recipe import TinyRecipe
from internvl35.train.tiny.shape import named_token_ids, tiny_config, tiny_tokenizer

STEP = 5000
"""The step of the third stage whose drawings are taken."""


def main() -> None:
    """Measure all four, in turns, and print samples/s as shares of the slowest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6, help="measured steps of each")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    kinds = list(itertools.product(("eager", "sdpa"), ("bfloat16", "float32")))
    tokenizer = tiny_tokenizer()
    config = tiny_config(*named_token_ids(tokenizer))
    recipe = TinyRecipe()
    drawn = DrawnExamples(recipe, "pretrain", tokenizer, config)
    batches = Steps(drawn, recipe, recipe.pretrain.num_steps, 0)[STEP]
    steps = {kind: Step(*kind, tokenizer, batches) for kind in kinds}
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
        tokenizer: of the network.
        batches: of the step.
    """

    def __init__(
        self,
        attention: str,
        precision: str,
        tokenizer: PreTrainedTokenizerBase,
        batches: Sequence[FedBatch],
    ) -> None:
        """Build network and optimizer."""
        config = tiny_config(*named_token_ids(tokenizer))
        config._attn_implementation = attention
        torch.manual_seed(0)
        self.trainee = TinyTrainee(VisionLanguageModel(config))
        self.optimizer = torch.optim.AdamW(self.trainee.parameters(), lr=1e-4, fused=True)
        self.is_mixed = precision == "bfloat16"
        self.batches = [fed.batch for fed in batches]
        self.weight = sum(self.trainee.weigh(batch) for batch in self.batches)

    def run(self) -> float:
        """Take a step; return its seconds of processor time."""
        started = time.process_time()
        for batch in self.batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=self.is_mixed):
                loss = self.trainee(batch, self.weight)["loss"]
            loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.process_time() - started


if __name__ == "__main__":
    main()
