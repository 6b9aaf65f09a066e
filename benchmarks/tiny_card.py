"""The model card beside the embedded weights, and the README's table, from what was measured.

Figures come from ``results/tiny.json``, stages from ``results/tiny_run.json``, sizes from the
checkpoint itself, tasks from the families. ``--run runs/tiny`` first writes ``tiny_run.json`` from
a run folder. Nothing here is typed in by hand.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from safetensors import safe_open

from benchmarks import record
from benchmarks.tiny_table import (
    family_table,
    percent,
    read_figures,
    sampling_table,
    write_table,
)
from internvl35.config import TINY
from internvl35.data.synthetic import FAMILIES
from internvl35.model.hub import resolve_checkpoint

CARD_FILE = "README.md"
RUN_FILE = "tiny_run"
README = Path(__file__).parents[1] / "README.md"

STAGE_TEXTS = {
    "tower": "the tower alone learns what stands in which patch",
    "projector": "projector and language model learn to read a frozen tower",
    "pretrain": "everything learns, drawings get harder",
    "sft": "everything learns from drawings as hard as the test's",
}
"""What a stage of the recipe is for."""

FRONT_MATTER = """---
license: apache-2.0
pipeline_tag: image-text-to-text
library_name: transformers
language:
- en
- zh
tags:
- internvl
- internvl3.5
- vision-language
- internvl35
- synthetic-data
- tiny
---
"""

USE = """## Use

```python
from internvl35 import load

chat = load("tiny")  # inside the package; or load("THIS_FOLDER")
print(chat.ask("How many triangles are there?", images=["a.png"]).text)
```

The files are in the layout of transformers, whose own `InternVLForConditionalGeneration` reads them
too.
"""

LIMITS = """## Limits

- It has never seen a photograph, a person, a street or a scanned page: everything it knows is drawn
  by `internvl35.data.synthetic`. On other pictures it may say that it does not know, and may as
  well be wrong.
- Questions are understood in wordings like those of the families; others may be answered as if
  another question had been asked. Chinese is limited to small talk.
- A tile has few pixels: small print and crowded pictures are lost.
- The figures hold for drawings of the test's distribution and for nothing else. They say nothing
  about the released InternVL3.5 models, whose form alone this one has.
- It exists so that the package can be tried and tested offline, and is not meant for any decision
  about people or things.
"""

REPRODUCE = """## Reproduce

```
internvl35 train tiny --output-dir runs/tiny   # draws its own data; goes on after a kill
make bench-tiny                                # measures, and writes this card anew
```

## Licence

Apache-2.0, weights and code. The training data is drawn by the code; the fonts it is printed in
come with packages under free licences and are no part of the weights.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Write the card and the README's table.

    Args:
        argv: arguments of the command line; those of this process by default.
    """
    run = take_run(argv, str(__doc__), RUN_FILE, "internvl35 train tiny", describe_run)
    figures = read_figures()
    card = resolve_checkpoint(TINY) / CARD_FILE
    card.write_text(write_card(card.parent, figures, run), encoding="utf-8")
    write_table(README, figures)
    Console().print(card, README)


def take_run(
    argv: Sequence[str] | None,
    description: str,
    name: str,
    command: str,
    describe: Callable[[Path], dict[str, Any]],
) -> dict[str, Any]:
    """Read what was kept of a training run, and keep it anew if ``--run`` names its folder.

    Args:
        argv: arguments of the command line; those of this process by default.
        description: of the program.
        name: of the file with the run's results, without ending.
        command: that leaves such folders.
        describe: sums a run folder up.

    Returns:
        The file's content; empty if nothing was kept.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--run", type=Path, help=f"run folder of {command}")
    folder = parser.parse_args(argv).run
    if folder is not None:
        Console().print(record.write_result(name, describe(folder)))
    return read_figures(name)


def describe_run(folder: Path) -> dict[str, Any]:
    """Sum a training run up.

    Args:
        folder: run folder with ``recipe.json`` and the logs of the stages.

    Returns:
        ``recipe`` and, for every stage that was trained, its steps, drawings and last figures.
    """
    from internvl35.commands.recipe import RECIPE_FILE, read_recipe
    from internvl35.train.tiny.recipe import STAGES, TinyRecipe
    from internvl35.train.tiny.run import read_curve

    path = folder / RECIPE_FILE
    recipe = read_recipe(path, TinyRecipe)
    curve = read_curve(folder, recipe)
    stages: list[dict[str, Any]] = []
    for name in STAGES:
        lines = [line for line in curve if line["stage"] == name]
        if not lines:
            continue
        steps = max(line["step"] for line in lines)
        stage = recipe.stage(name)
        losses = [line["loss"] for line in lines if "loss" in line]
        stages.append(
            {
                "stage": name,
                "steps": steps,
                "drawings": steps * recipe.samples_per_step,
                "families": [family for family, _ in stage.shares],
                "learning_rate": stage.learning_rate,
                "last_loss": round(losses[-1], 4) if losses else None,
            }
        )
    return {"recipe": json.loads(path.read_text(encoding="utf-8")), "stages": stages}


def write_card(folder: Path, figures: dict[str, Any], run: dict[str, Any]) -> str:
    """Write the whole card.

    Args:
        folder: of the checkpoint.
        figures: content of ``results/tiny.json``.
        run: content of ``results/tiny_run.json``; empty leaves the stages out.

    Returns:
        Markdown with front matter for the Hugging Face hub.
    """
    sections = [
        FRONT_MATTER,
        _summary(folder),
        USE,
        _data_section(figures),
        _stage_section(run),
        _figures_section(figures),
        LIMITS,
        REPRODUCE,
    ]
    return "\n".join(section for section in sections if section)


def count_parameters(folder: Path) -> int:
    """Count the numbers in a checkpoint's weight files.

    Args:
        folder: of the checkpoint.
    """
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it has no other iterator
                size = 1
                for side in tensors.get_slice(name).get_shape():
                    size *= side
                total += size
    return total


def _summary(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    vision, text = config["vision_config"], config["text_config"]
    tile, patch = (_first(vision[name]) for name in ("image_size", "patch_size"))
    weights = f"{count_parameters(folder) / 1e6:.1f} million weights"
    return f"""# tiny, the checkpoint embedded in internvl35

An InternVL3.5 in small, so that everything runs offline.

| part | size |
|---|---|
| all | {weights} in {config.get("dtype", "bfloat16")} |
| tower (InternViT) | {vision["num_hidden_layers"]} layers, width {vision["hidden_size"]} |
| language model (Qwen3) | {text["num_hidden_layers"]} layers, width {text["hidden_size"]} |
| vocabulary | {text["vocab_size"]} tokens |
| tile | {tile} pixels, patches of {patch}, {config["image_seq_length"]} visual tokens |
| picture | at most {config["max_dynamic_patch"]} tiles and a thumbnail |
"""


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) else value


def _data_section(figures: dict[str, Any]) -> str:
    lines = [
        "## Data\n",
        fill(
            """Only what the package draws, with the questions it asks about it; nothing was
            downloaded, labelled by people or written by another model. A test drawing takes half
            of its wordings, fonts and the like from a part that training never uses."""
        ),
        "",
        "| task | what it is | kinds of question | kept for the test |",
        "|---|---|---|---|",
    ]
    for family, found in figures["families"].items():
        about = (type(FAMILIES[family]).__doc__ or "").splitlines()[0] if family in FAMILIES else ""
        kinds = ", ".join(found["direct"]["kinds"])
        kept = ", ".join(found["direct"]["unseen"])
        lines.append(f"| {family} | {about} | {kinds} | {kept} |")
    return "\n".join(lines) + "\n"


def _stage_section(run: dict[str, Any]) -> str:
    if not run:
        return ""
    lines = ["## Training\n", "| stage | what happens | steps | drawings |", "|---|---|---:|---:|"]
    lines += [
        f"| {stage['stage']} | {STAGE_TEXTS.get(stage['stage'], '')} | {stage['steps']:,} | "
        f"{stage['drawings']:,} |"
        for stage in run["stages"]
    ]
    total = sum(stage["drawings"] for stage in run["stages"])
    optimizer = run["recipe"].get("optimizer")
    lines.append(f"\n{total:,} drawings in all, each seen once; optimizer {optimizer}.")
    lines.append("All settings stand in `benchmarks/results/tiny_run.json`.")
    return "\n".join(lines) + "\n"


def _figures_section(figures: dict[str, Any]) -> str:
    overall = figures["calibration"]
    k = figures["samples"]
    area = overall["auroc"]
    everywhere = f"; of all tasks together {area:.3f}" if area is not None else ""
    asked = f"""Greedy answers to the first question of {figures["pictures"]} drawings a task, none
        of which was trained on, under the official system prompt, {figures["date"]}. Mean over the
        tasks: {percent(figures["mean_right"])}. `benchmarks/results/tiny.json` has them by kind of
        question, too."""
    drawn = f"""pass@{k}: one of {k} answers drawn at temperature 1 is right, on
        {figures["sampled_pictures"]} drawings a task. Calibration error: gap between how probable
        answers were and how often they are right, over ten bins; of all tasks together
        {overall["calibration_error"]:.3f}. AUROC: how well a low probability gives wrong answers
        away, 0.5 for not at all{everywhere}."""
    return f"""## Figures

{fill(asked)}

{family_table(figures)}

{fill(drawn)}

{sampling_table(figures)}
"""


def fill(text: str) -> str:
    """Break a paragraph into lines of the width that this project writes Markdown in.

    Args:
        text: line breaks in it do not count.
    """
    words = " ".join(text.split())
    return textwrap.fill(words, 100, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    main()
