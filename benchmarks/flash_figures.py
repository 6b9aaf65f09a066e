"""From answers under different ways of compressing to figures with their intervals.

All figures compare answers about the same pictures, so intervals are those of paired draws: whole
pictures are drawn anew within their families, together with all that was answered about them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.flash_answers import Answer, Answers
from internvl35.errors import ConfigError
from internvl35.scoring import wilson_interval
from internvl35.train.flash_recipe import share_threshold

NUM_DRAWS = 2000
"""Times that all pictures are drawn anew."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Columns:
    """A number a picture, of all families one after the other."""

    right: Values
    """1 for a right answer, or the share of several that were right."""
    tokens: Values
    """Visual tokens that were left."""
    compressed: Values
    """Tiles that were compressed."""
    tiles: Values
    """Tiles."""

    @classmethod
    def of(cls, answers: Sequence[Sequence[Answer]]) -> Columns:
        """Average several answers to each picture.

        Args:
            answers: lists about the same pictures; usually one.
        """

        def mean(value: Callable[[Answer], float]) -> Values:
            found: Values = np.array([[value(one) for one in given] for given in answers], float)
            return np.asarray(found.mean(axis=0))

        return cls(
            mean(lambda one: one.is_right),
            mean(lambda one: one.num_visual_tokens),
            mean(lambda one: one.num_compressed),
            mean(lambda one: one.num_tiles),
        )


Statistic = Callable[[Values], Values]
"""From counts ``(draws, pictures)``, how often each was drawn, to the figure of every draw."""


def bootstrap(sizes: Sequence[int], statistic: Statistic) -> dict[str, float]:
    """Compute a figure and its 95 % interval.

    Args:
        sizes: pictures of each family, which are drawn anew apart.
        statistic: the figure.

    Returns:
        ``value``, ``low`` and ``high``.
    """
    rng = np.random.default_rng(0)
    parts = [rng.multinomial(size, [1 / size] * size, NUM_DRAWS) for size in sizes]
    drawn = statistic(np.concatenate(parts, axis=1).astype(float))
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    value = statistic(np.ones((1, sum(sizes))))[0]
    return {"value": _round(value), "low": _round(low), "high": _round(high)}


def share(of: Values, base: Values) -> Statistic:
    """The statistic that divides the sum of one number by that of another.

    Args:
        of: a number a picture.
        base: what it is a share of.
    """

    def statistic(counts: Values) -> Values:
        with np.errstate(divide="ignore", invalid="ignore"):
            quotient: Values = (counts @ of) / (counts @ base)
        return quotient

    return statistic


def policy_figures(
    families: Mapping[str, Answers], policies: Sequence[str], base: str
) -> dict[str, float | dict[str, float]]:
    """Compare one way of compressing with the base over all families.

    Args:
        families: answers of each.
        policies: one name, or those of several draws, which are averaged.
        base: name of what is compared with.

    Returns:
        ``accuracy``, ``retention``, ``visual_token_share``, each with its interval, and
        ``compressed_share``.

    Raises:
        ConfigError: if the base has no right answer.
    """
    sizes = [len(found[base]) for found in families.values()]
    own, whole = pool(families, policies), pool(families, [base])
    if not whole.right.any():
        raise ConfigError(
            f"the base answered none of {len(whole.right)} questions rightly, so there is nothing "
            "to keep; ask about more pictures, or take a better base"
        )
    everything = np.ones(len(own.right))
    return {
        "accuracy": bootstrap(sizes, share(own.right, everything)),
        "retention": bootstrap(sizes, share(own.right, whole.right)),
        "visual_token_share": bootstrap(sizes, share(own.tokens, whole.tokens)),
        "compressed_share": _round(own.compressed.sum() / own.tiles.sum()),
    }


def margin(
    families: Mapping[str, Answers], better: Sequence[str], worse: Sequence[str], base: str
) -> dict[str, float]:
    """How much more of the base's accuracy one way keeps than another.

    Args:
        families: answers of each.
        better: name of the one, or of several draws.
        worse: name of the other, likewise.
        base: name of what both are compared with.

    Returns:
        ``value``, ``low`` and ``high``: a difference of two retentions.
    """
    sizes = [len(found[base]) for found in families.values()]
    gain = pool(families, better).right - pool(families, worse).right
    return bootstrap(sizes, share(gain, pool(families, [base]).right))


def pool(families: Mapping[str, Answers], policies: Sequence[str]) -> Columns:
    """Join all families' answers.

    Args:
        families: answers of each.
        policies: names of answers that are averaged.
    """
    joined = [[one for found in families.values() for one in found[name]] for name in policies]
    return Columns.of(joined)


def family_figures(answers: Answers, policies: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Say how a family did under every way of compressing.

    Args:
        answers: of the family.
        policies: names of answers that are averaged, by the name of the row.

    Returns:
        By name: ``accuracy`` with its Wilson interval, where it is one answer a picture, and
        ``visual_tokens`` a picture.
    """
    found: dict[str, Any] = {}
    for name, members in policies.items():
        columns = Columns.of([answers[member] for member in members])
        accuracy = {"value": _round(columns.right.mean())}
        if len(members) == 1:
            low, high = wilson_interval(int(columns.right.sum()), len(columns.right))
            accuracy |= {"low": _round(low), "high": _round(high)}
        found[name] = {"accuracy": accuracy, "visual_tokens": round(columns.tokens.mean(), 1)}
    return found


def spread_thresholds(scores: Sequence[float], rates: Sequence[float]) -> list[float]:
    """Find the thresholds at which the router compresses given shares of tiles.

    Args:
        scores: of tiles like those that will be asked about.
        rates: shares of tiles that are compressed, 0 to 1.

    Returns:
        A threshold for each rate, from 0 to 1; equal ones fall together.
    """
    return list(dict.fromkeys(share_threshold(scores, rate) for rate in rates))


def _round(value: float) -> float:
    return round(float(value), 4)
