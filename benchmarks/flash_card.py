"""The model card beside the embedded Flash weights, from what was measured.

Figures come from ``results/flash.json``, stages from ``results/flash_run.json``, sizes from the
checkpoint itself. ``--run runs/flash`` first writes ``flash_run.json`` from a run folder. Nothing
here is typed in by hand.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.flash_answers import ALL, BASE, OFF, RANDOM, RELEASED
from benchmarks.flash_tables import threshold_name
from benchmarks.tiny_card import CARD_FILE, FRONT_MATTER, count_parameters, fill, take_run
from benchmarks.tiny_table import percent, read_figures
from internvl35.commands.recipe import RECIPE_FILE, read_recipe
from internvl35.config import TINY_FLASH
from internvl35.model.hub import resolve_checkpoint
from internvl35.train.flash_recipe import STAGE_FOLDERS, FlashRecipe
from internvl35.train.run_folder import LOG_FILE, read_log

FIGURES_FILE, RUN_FILE = "flash", "flash_run"

ROW_TEXTS = {
    BASE: "the checkpoint it was made from",
    OFF: "all visual tokens",
    RELEASED: "routed as the released code does",
    ALL: "all tiles compressed",
    RANDOM: "as many tiles as under *, chosen by chance",
}
"""What a row of the table is; others are thresholds."""

USE = """## Use

```python
from internvl35 import FlashSettings, load

chat = load("tiny-flash")  # inside the package; or load("THIS_FOLDER")
reply = chat.ask("What is the total?", images=["a.png"], flash=FlashSettings("absolute"))
print(reply.text, reply.num_visual_tokens, reply.num_compressed_tiles)
```
"""

LIMITS = """## Limits

Those of `tiny`, whose card says what it knows and what it does not. The router has seen the tiles
of enlarged drawings and nothing else; what it does with photographs means nothing. Pictures of one
tile are compressed under `absolute` alone.

## Reproduce

```
make train-flash                            # draws its own rows; goes on after a kill
make bench-flash                            # measures the embedded one
python -m benchmarks.flash_card             # writes this card anew
```

## Licence

Apache-2.0, weights and code.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Write the card.

    Args:
        argv: arguments of the command line; those of this process by default.
    """
    run = take_run(argv, str(__doc__), RUN_FILE, "internvl35 train flash", describe_run)
    card = resolve_checkpoint(TINY_FLASH) / CARD_FILE
    text = write_card(card.parent, read_figures(FIGURES_FILE), run)
    card.write_text(text, encoding="utf-8")
    Console().print(card)


def describe_run(folder: Path) -> dict[str, Any]:
    """Sum a training run up.

    Args:
        folder: run folder with ``recipe.json`` and the logs of both stages.

    Returns:
        ``recipe``, and for each stage that was evaluated its steps and last figures.
    """
    path = folder / RECIPE_FILE
    recipe = read_recipe(path, FlashRecipe)
    stages = []
    for stage, name in STAGE_FOLDERS.items():
        tested = [line for line in read_log(folder / name / LOG_FILE) if "eval_loss" in line]
        if not tested:
            continue
        steps = recipe.consistency_steps if stage == "consistency" else recipe.router_steps
        last = {name: tested[-1][name] for name in tested[-1] if name.startswith("eval_")}
        stages.append(
            {"stage": stage, "steps": steps, "rows": steps * recipe.rows_per_step, "last": last}
        )
    return {"recipe": json.loads(path.read_text(encoding="utf-8")), "stages": stages}


def write_card(folder: Path, figures: dict[str, Any], run: dict[str, Any]) -> str:
    """Write the whole card.

    Args:
        folder: of the checkpoint.
        figures: content of ``results/flash.json``.
        run: content of ``results/flash_run.json``.

    Returns:
        Markdown with front matter for the Hugging Face hub.
    """
    full, few = figures["visual_tokens_a_tile"]
    summary = f"""`tiny` with a visual resolution router: each tile of a picture takes {full} visual
        tokens or {few}. {count_parameters(folder) / 1e6:.1f} million weights in bfloat16; those of
        the tower and the projector are `tiny`'s, the language model was trained on to read both
        lengths, compressed projector and router are new."""
    return "\n".join(
        [
            FRONT_MATTER,
            "# tiny-flash, the Flash checkpoint embedded in internvl35\n",
            fill(summary) + "\n",
            USE,
            _stage_section(run),
            _figures_section(figures),
            LIMITS,
        ]
    )


def _stage_section(run: dict[str, Any]) -> str:
    recipe = run["recipe"]
    texts = {
        "consistency": "language model and compressed projector learn to answer with few visual "
        "tokens what the base answers with all of them (ViCO, forward KL)",
        "router": "the router learns for which tiles that costs nothing "
        f"({recipe['attribution'].replace('_', ' ')} at a time, percentile "
        f"{recipe['percentile']:g})",
    }
    lines = ["## Training\n", "| stage | what happens | steps | rows |", "|---|---|---:|---:|"]
    lines += [
        f"| {stage['stage']} | {texts[stage['stage']]} | {stage['steps']:,} | {stage['rows']:,} |"
        for stage in run["stages"]
    ]
    drawn = f"""{recipe["num_rows"]:,} rows were drawn, three of four enlarged to several tiles. All
        settings stand in `benchmarks/results/flash_run.json`."""
    return "\n".join([*lines, "", fill(drawn), ""])


def _figures_section(figures: dict[str, Any]) -> str:
    own = threshold_name(figures["threshold"])
    asked = f"""Greedy answers about {figures["pictures"]} test drawings of each of
        {len(figures["families"])} tasks, enlarged {figures["enlarged"]:g} times to
        {figures["tiles_a_picture"]:g} tiles on average, {figures["date"]}. The threshold of the
        checkpoint is marked *. `benchmarks/results/flash.json` has intervals of everything, and
        the tasks one by one."""
    lines = [
        "## Figures\n",
        fill(asked) + "\n",
        "| policy | | right | of the base's | visual tokens |",
        "|---|---|---:|---:|---:|",
    ]
    for name, found in figures["policies"].items():
        kept = found["retention"]
        mark = " *" if name == own else ""
        lines.append(
            f"| {name}{mark} | {ROW_TEXTS.get(name, '')} | {percent(found['accuracy']['value'])} | "
            f"{percent(kept['value'])} ({percent(kept['low'])} to {percent(kept['high'])}) | "
            f"{percent(found['visual_token_share']['value'])} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
