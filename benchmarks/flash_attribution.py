"""Which way of labelling tiles gives the best router: attribution, percentile, and loss of ratios.

Trains a router for each way on the same rows, behind the same first stage, and lets all routers
compress the same share of the tiles of enlarged validation drawings; chance compresses as many for
comparison. What is answered then, and how likely the right answers are, is compared. Writes
``results/flash_attribution.json``. Routers that are trained, or half trained, in the folder are
gone on with.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import record
from benchmarks.flash_answers import (
    ALL,
    BASE,
    OFF,
    RANDOM,
    SINGLE_PICTURE,
    Answers,
    Asking,
    Inquiry,
    load_alike,
    random_settings,
    routed_at_random,
    tile_scores,
)
from benchmarks.flash_figures import margin, policy_figures, spread_thresholds
from benchmarks.flash_losses import FamilyLosses, compare_losses, loss_figures
from benchmarks.flash_tables import show_interval
from benchmarks.kept_answers import hash_weights
from internvl35.chat import Chat
from internvl35.commands.recipe import RECIPE_FILE, read_recipe
from internvl35.commands.terminal import silence_libraries
from internvl35.data.drawn_rows import ROWS_FILE
from internvl35.generate.flash import FlashSettings
from internvl35.train.checkpoints import find_checkpoint
from internvl35.train.flash_recipe import ROWS_FOLDER, STAGE_FOLDERS, FlashRecipe, run_stage

WAYS: dict[str, dict[str, Any]] = {
    "one tile, 50": {"background": 0.0},
    "one tile, 30": {"background": 0.0, "percentile": 30.0},
    "one tile, 70": {"background": 0.0, "percentile": 70.0},
    "all tiles, 50": {"background": 0.0, "attribution": "all_tiles"},
    "one tile, 50, divergence": {"background": 0.0, "ratio_loss": "divergence"},
    "one tile, 50, others drawn": {},
    "one tile, 70, others drawn": {"percentile": 70.0},
}
"""Settings of the recipe that are compared, by the name of the row: attribution, percentile,
whether others are compressed beside the tile that is judged, and the loss in the ratio where it is
not that of the answers."""

DEFAULT = "one tile, 50, others drawn"


def main(argv: Sequence[str] | None = None) -> None:
    """Train, ask, print the table, write the results.

    Args:
        argv: arguments of the command line; those of this process by default.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of internvl35 train flash")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/flash-attribution"))
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), metavar="WAY")
    parser.add_argument("--steps", type=int, default=600, help="steps of each router")
    parser.add_argument("--pictures", type=int, default=60, help="validation pictures a family")
    parser.add_argument("--share", type=float, default=0.68, help="tiles that are compressed")
    parser.add_argument("--no-write", action="store_true", help="print figures only")
    given = parser.parse_args(argv)
    silence_libraries()
    recipe = replace(read_settings(given.run), router_steps=given.steps)
    first_stage = newest_checkpoint(given.run)
    asking = Asking(SINGLE_PICTURE, given.pictures, split="validation")
    routers = {
        way: train_router(way, recipe, first_stage, given.run, given.output_dir)
        for way in given.ways
    }
    chats = {way: load_alike(str(checkpoint)) for way, checkpoint in routers.items()}
    thresholds = {way: find_threshold(chat, asking, given.share) for way, chat in chats.items()}
    base = load_alike(recipe.model)
    losses = compare_losses(base, chats, thresholds, asking, given.share)
    families = ask_all(base, chats, thresholds, asking, given.share)
    figures = {
        "base_weights": hash_weights(recipe.model),
        "first_stage_weights": hash_weights(str(first_stage)),
        "router_steps": given.steps,
        "pictures": given.pictures,
        "compressed_share": given.share,
        "ways": describe(families, given.ways),
        **describe_losses(losses, DEFAULT if DEFAULT in given.ways else given.ways[0]),
    }
    show(figures)
    if not given.no_write:
        Console().print(record.write_result("flash_attribution", figures))


def read_settings(run: Path) -> FlashRecipe:
    """Read the recipe of a run folder."""
    return read_recipe(run / RECIPE_FILE, FlashRecipe)


def newest_checkpoint(run: Path) -> Path:
    """Find where the first stage of a run ended."""
    return find_checkpoint(run / STAGE_FOLDERS["consistency"])


def train_router(way: str, recipe: FlashRecipe, start: Path, run: Path, folder: Path) -> Path:
    """Train a router in one way.

    Args:
        way: key of ``WAYS``.
        recipe: all else.
        start: where the first stage ended.
        run: folder with the rows.
        folder: the router gets a folder in there.

    Returns:
        Its checkpoint.
    """
    place = folder / way.replace(", ", "-").replace(" ", "-")
    rows = run / ROWS_FOLDER / ROWS_FILE
    return run_stage("router", str(start), rows, place, replace(recipe, **WAYS[way]))


def ask_all(
    base: Chat,
    chats: Mapping[str, Chat],
    thresholds: Mapping[str, float],
    asking: Asking,
    share: float,
) -> dict[str, Answers]:
    """Ask the base, every router, and one that judges by chance.

    Args:
        base: checkpoint without compression.
        chats: Flash checkpoint of every way.
        thresholds: score of each from which on a tile is compressed.
        asking: pictures.
        share: of the tiles that chance compresses, 0 to 1.

    Returns:
        Answers of each family by way, base and chance among them.
    """
    families: dict[str, Answers] = {}
    for family in asking.families:
        inquiry = Inquiry(asking, asking.drawings(family))
        found = {BASE: inquiry.ask(base, FlashSettings("off"))}
        for way, chat in chats.items():
            settings = FlashSettings("absolute", absolute_threshold=thresholds[way])
            found[way] = inquiry.ask(chat, settings)
        chat = next(iter(chats.values()))
        with routed_at_random(chat, family):
            found[RANDOM] = inquiry.ask(chat, random_settings(share))
        families[family] = found
    return families


def find_threshold(chat: Chat, asking: Asking, share: float) -> float:
    """Find the threshold at which a router compresses a share of the tiles of all pictures."""
    scores = [score for name in asking.families for score in tile_scores(chat, asking, name)]
    return spread_thresholds(scores, [share])[0]


def describe(families: dict[str, Answers], ways: Sequence[str]) -> dict[str, Any]:
    """Say how every way did.

    Args:
        families: answers of each family.
        ways: those that were tried.

    Returns:
        By way: accuracy, retention and visual tokens with intervals, and how much more it keeps
        than chance and, but for the default, than the default.
    """
    found: dict[str, Any] = {}
    for way in (BASE, *ways, RANDOM):
        found[way] = policy_figures(families, [way], BASE)
        if way in ways:
            found[way]["margin_over_random"] = margin(families, [way], [RANDOM], BASE)
        if way in ways and DEFAULT in ways and way != DEFAULT:
            found[way]["margin_over_default"] = margin(families, [way], [DEFAULT], BASE)
    return found


def describe_losses(families: Mapping[str, FamilyLosses], default: str) -> dict[str, Any]:
    """Say how hard right answers are under every way.

    Args:
        families: losses of each.
        default: way that the others are compared with.
    """
    ways = next(iter(families.values())).sums
    return {
        "losses": {way: loss_figures(families, way, default) for way in ways},
        "losses_of_families": {
            family: {way: round(found.mean(way), 4) for way in ways}
            for family, found in families.items()
        },
    }


def show(figures: Mapping[str, Any]) -> None:
    """Print a line a way."""
    table = Table(
        "", "of the base's right answers", "more than chance", "visual tokens", "nats a token",
        "more than default",
    )  # fmt: skip
    losses = {
        way: (
            f"{found['nats_a_token']:.4f}",
            "{value:.4f} ({low:.4f} to {high:.4f})".format_map(found["more_than_default"]),
        )
        for way, found in figures["losses"].items()
    }
    for way, found in figures["ways"].items():
        gain = found.get("margin_over_random")  # chance has none over itself
        table.add_row(
            way, show_interval(found["retention"]), show_interval(gain) if gain else "",
            f"{found['visual_token_share']['value']:.1%}", *losses[way],
        )  # fmt: skip
    for way in (OFF, ALL):
        table.add_row(way, "", "", "", *losses[way])
    Console().print(table)


if __name__ == "__main__":
    main()
