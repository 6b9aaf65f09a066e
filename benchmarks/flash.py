"""What a Flash checkpoint keeps of its base's accuracy on many-tile pictures, and what it saves.

Asks both about enlarged test drawings: the base with all visual tokens, the Flash checkpoint with
its own threshold and others, as released, with all tiles compressed, and with a router that judges
by chance and compresses as many. Writes ``results/flash.json``; a run that is killed goes on behind
the last family that it finished. Prefill is measured on a released shape by
:mod:`benchmarks.flash_prefill`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks import record
from benchmarks.flash_answers import (
    ALL,
    BASE,
    OFF,
    RANDOM,
    RELEASED,
    SINGLE_PICTURE,
    Answers,
    Asking,
    Inquiry,
    keep_answers,
    load_alike,
    of_split,
    random_settings,
    routed_at_random,
    tile_scores,
)
from benchmarks.flash_figures import (
    family_figures,
    margin,
    policy_figures,
    spread_thresholds,
)
from benchmarks.flash_prefill import (
    FEWEST,
    PrefillSettings,
    measure_prefill,
    show,
    without_times,
)
from benchmarks.flash_tables import family_table, policy_table, threshold_name
from benchmarks.kept_answers import KeptAnswers, hash_weights
from internvl35.chat import Chat
from internvl35.commands.terminal import silence_libraries
from internvl35.config import TINY
from internvl35.errors import ConfigError
from internvl35.generate.flash import FlashSettings
from internvl35.generate.routing import resolve_settings

RATES = (0.5, 0.8)
"""Shares of the tiles of validation drawings that the other thresholds compress."""

NUM_JUDGED = 30
"""Validation drawings a family that these thresholds are found on."""

AIMS = {"retention": 0.99, "visual_token_share": 0.5, "prefill_speedup": 1.4}
"""Least, most, least."""


@dataclass(frozen=True)
class Measurement:
    """What is measured."""

    model: str
    """Flash checkpoint."""
    base: str
    """What it was made from."""
    asking: Asking = field(default_factory=Asking)
    """Pictures of the test."""
    threshold: float | None = None
    """Score from which on tiles are compressed; None for the checkpoint's."""
    num_random: int = 3
    """Times that a router which judges by chance is asked."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the tables, write the results.

    Args:
        argv: arguments of the command line; those of this process by default.

    Returns:
        Exit status: 1 if ``--check`` found an aim that is not reached.
    """
    arguments = parse(argv)
    silence_libraries()
    measurement = read_measurement(arguments)
    flash, base = load_alike(measurement.model), load_alike(measurement.base)
    check_models(measurement, flash, base)
    kept = kept_answers(measurement)
    figures = measure(measurement, flash, base, kept)
    console = Console()
    console.print(policy_table(figures), family_table(figures))
    if not arguments.no_prefill:
        prefill = measure_prefill(PrefillSettings(repeats=arguments.prefill_repeats))
        show(prefill)
        figures |= prefill_figures(prefill)
    verdicts = judge(figures)
    for text, is_reached in verdicts:
        console.print(f"{'reached' if is_reached else 'missed'}: {text}")
    if not arguments.no_write:
        console.print(record.write_result("flash", figures))
    kept.remove()
    return int(arguments.check and not all(is_reached for _, is_reached in verdicts))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line.

    Args:
        argv: arguments; those of this process by default.
    """
    asking = Asking()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="Flash checkpoint to measure")
    parser.add_argument("--base", default=TINY, help="checkpoint that it was made from")
    parser.add_argument(
        "--families", nargs="+", metavar="NAME", choices=SINGLE_PICTURE,
        help=f"only these of {', '.join(SINGLE_PICTURE)}",
    )  # fmt: skip
    parser.add_argument(
        "--pictures", type=int, default=asking.num_pictures, help="test pictures a family"
    )
    parser.add_argument(
        "--enlarge", type=float, default=asking.factor, help="times that drawings are enlarged"
    )
    parser.add_argument("--threshold", type=float, help="in place of the checkpoint's own, 0 to 1")
    parser.add_argument("--random-draws", type=int, default=3, help="routers that judge by chance")
    parser.add_argument(
        "--prefill-repeats", type=int, default=FEWEST, help="measurements of prefill"
    )
    parser.add_argument("--no-prefill", action="store_true", help="leave prefill out")
    parser.add_argument("--no-write", action="store_true", help="print figures only")
    parser.add_argument("--check", action="store_true", help="fail if an aim is not reached")
    given = parser.parse_args(argv)
    if min(given.pictures, given.random_draws) < 1 or given.prefill_repeats < FEWEST:
        parser.error(f"needed: at least 1 picture, 1 draw and {FEWEST} repeats")
    return given


def read_measurement(given: argparse.Namespace) -> Measurement:
    """Say what the command line asks for.

    Args:
        given: arguments.
    """
    asking = Asking(tuple(given.families or SINGLE_PICTURE), given.pictures, given.enlarge)
    return Measurement(given.model, given.base, asking, given.threshold, given.random_draws)


def kept_answers(measurement: Measurement) -> KeptAnswers[Answers]:
    """Open what an earlier run of the same measurement has left, if it left anything.

    Args:
        measurement: what is asked.
    """
    models = [measurement.model, measurement.base]
    return keep_answers(record.RESULTS, models, [asdict(measurement), RATES])


def measure(
    measurement: Measurement, flash: Chat, base: Chat, kept: KeptAnswers[Answers]
) -> dict[str, Any]:
    """Ask everything that was not asked before and turn the answers into figures.

    Args:
        measurement: what is asked.
        flash: the Flash checkpoint.
        base: what it was made from.
        kept: answers of families that are done.

    Returns:
        What ``results/flash.json`` holds, prefill apart.
    """
    own = resolve_settings(
        FlashSettings("absolute", absolute_threshold=measurement.threshold), flash.model.config
    ).absolute_threshold
    assert own is not None
    asking = measurement.asking
    judged = of_split(asking, "validation", NUM_JUDGED)
    scores = [score for name in asking.families for score in tile_scores(flash, judged, name)]
    thresholds = sorted({own, *spread_thresholds(scores, RATES)}, reverse=True)
    a_picture = 1 + len(thresholds) + 3 + measurement.num_random
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(file=sys.stderr)) as progress:
        a_family = asking.num_pictures * a_picture
        task = progress.add_task("answers", total=len(asking.families) * a_family)
        for family in asking.families:
            progress.update(task, description=family)
            if family in kept.done:
                progress.advance(task, a_family)
                continue
            inquiry = Inquiry(
                asking, asking.drawings(family), lambda num: progress.advance(task, num)
            )
            kept.keep(
                family,
                ask_base(base, inquiry)
                | ask_flash(flash, inquiry, thresholds, own, measurement.num_random),
            )
    answers = {family: kept.done[family] for family in asking.families}
    return describe(measurement, flash, answers, thresholds, own)


def check_models(measurement: Measurement, flash: Chat, base: Chat) -> None:
    """Refuse checkpoints that cannot be compared.

    Args:
        measurement: names them.
        flash: the Flash checkpoint.
        base: what it was made from.

    Raises:
        ConfigError: if there is no router, or tiles or visual tokens differ.
    """
    if not flash.model.config.flash_mode:
        raise ConfigError(
            f"{measurement.model} has no router; needed: a Flash checkpoint (make train-flash)"
        )
    sizes = [(chat.tiles, chat.model.config.tokens_per_tile) for chat in (flash, base)]
    if sizes[0] != sizes[1]:
        raise ConfigError(
            f"{measurement.model} cuts pictures into {sizes[0]} and {measurement.base} into "
            f"{sizes[1]}; name the checkpoint that the Flash one was made from (--base)"
        )


def ask_base(base: Chat, inquiry: Inquiry) -> Answers:
    """Ask the base about a family's pictures.

    Args:
        base: what the Flash checkpoint was made from.
        inquiry: the pictures.
    """
    return {BASE: inquiry.ask(base, FlashSettings("off"))}


def ask_flash(
    flash: Chat, inquiry: Inquiry, thresholds: Sequence[float], own: float, num_random: int
) -> Answers:
    """Ask the Flash checkpoint about a family's pictures in every way.

    Args:
        flash: the Flash checkpoint.
        inquiry: the pictures.
        thresholds: scores from which on tiles are compressed.
        own: the one of them that is compared with chance, which compresses as many of this family's
            tiles.
        num_random: routers that judge by chance.
    """
    policies = {
        OFF: FlashSettings("off"),
        **{
            threshold_name(threshold): FlashSettings("absolute", absolute_threshold=threshold)
            for threshold in thresholds
        },
        RELEASED: FlashSettings("released"),
        ALL: FlashSettings("all"),
    }
    found = {name: inquiry.ask(flash, settings) for name, settings in policies.items()}
    chosen = found[threshold_name(own)]
    rate = sum(one.num_compressed for one in chosen) / sum(one.num_tiles for one in chosen)
    family = inquiry.drawings[0].family
    for number in range(num_random):
        with routed_at_random(flash, f"{family}/{number}"):
            found[f"{RANDOM} {number}"] = inquiry.ask(flash, random_settings(rate))
    return found


def describe(
    measurement: Measurement,
    flash: Chat,
    families: Mapping[str, Answers],
    thresholds: Sequence[float],
    own: float,
) -> dict[str, Any]:
    """Turn answers into what is kept.

    Args:
        measurement: what was asked.
        flash: the Flash checkpoint.
        families: answers of each family.
        thresholds: those that were tried.
        own: the one of them that figures are given for.

    Returns:
        The four figures of that threshold but prefill, all policies, all families.
    """
    draws = [f"{RANDOM} {number}" for number in range(measurement.num_random)]
    rows = {name: [name] for name in (BASE, OFF, *map(threshold_name, thresholds), RELEASED, ALL)}
    rows[RANDOM] = draws
    row = threshold_name(own)
    policies = {name: policy_figures(families, members, BASE) for name, members in rows.items()}
    some = [one for found in families.values() for one in found[BASE]]
    config = flash.model.config
    return {
        "model": measurement.model,
        "weights": hash_weights(measurement.model),
        "base": measurement.base,
        "base_weights": hash_weights(measurement.base),
        "pictures": measurement.asking.num_pictures,
        "enlarged": measurement.asking.factor,
        "tiles_a_picture": round(sum(one.num_tiles for one in some) / len(some), 2),
        "visual_tokens_a_tile": [config.tokens_per_tile, config.compressed_tokens_per_tile],
        "policy": "absolute",
        "threshold": own,
        "retention": policies[row]["retention"],
        "visual_token_share": policies[row]["visual_token_share"],
        "retention_random_routing": policies[RANDOM]["retention"],
        "margin_over_random": margin(families, rows[row], draws, BASE),
        "policies": policies,
        "families": {family: family_figures(found, rows) for family, found in families.items()},
    }


def prefill_figures(found: dict[str, Any]) -> dict[str, Any]:
    """Say what prefill gains, in the form of the other figures.

    Args:
        found: of :func:`benchmarks.flash_prefill.measure_prefill`.
    """
    low, high = found["prefill"]["interval"]
    is_gpu = found["device"] != "cpu"
    return {
        "prefill_speedup": {"value": found["prefill"]["speedup"], "low": low, "high": high},
        "prefill": found if is_gpu else without_times(found),
    }


def judge(figures: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """Compare figures with the aims.

    Args:
        figures: of :func:`measure`, with prefill if that was measured.

    Returns:
        A line for each aim, and whether it is reached.
    """
    rules: dict[str, Callable[[float, float], bool]] = {
        "retention": lambda value, aim: value >= aim,
        "visual_token_share": lambda value, aim: value <= aim,
        "prefill_speedup": lambda value, aim: value >= aim,
    }
    verdicts = []
    for name, aim in AIMS.items():
        if name in figures:
            value = figures[name]["value"]
            verdicts.append((f"{name} {value:.3f}, aim {aim:g}", rules[name](value, aim)))
    low = figures["margin_over_random"]["low"]
    verdicts.append((f"margin over random routing at least {low:.3f}, aim above 0", low > 0))
    return verdicts


if __name__ == "__main__":
    sys.exit(main())
