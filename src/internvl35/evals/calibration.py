"""Whether a model knows what it knows: probabilities of answers against their being right.

Plain numbers in and out; asking a model is left to others. No counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean

NUM_BINS = 10
"""Bins of equal width from 0 to 1."""


@dataclass(frozen=True)
class Bin:
    """Answers of about the same probability."""

    low: float
    """Lower end of their probabilities."""
    high: float
    """Upper end; belongs to the next bin, but for 1."""
    num_answers: int
    """How many there are."""
    confidence: float
    """Mean of their probabilities; the middle of the bin if there are none."""
    accuracy: float
    """Share that is right; 0 if there are none."""


def reliability(
    probabilities: Sequence[float], is_right: Sequence[bool], num_bins: int = NUM_BINS
) -> list[Bin]:
    """Sort answers by how probable the model found them and count the right ones of each bin.

    Args:
        probabilities: of each answer, 0 to 1.
        is_right: whether it was right.
        num_bins: bins of equal width.

    Returns:
        All bins, empty ones included, lowest first.

    Raises:
        ValueError: if the two differ in length or a probability lies outside 0 to 1.
    """
    _check(probabilities, is_right)
    members: list[list[tuple[float, bool]]] = [[] for _ in range(num_bins)]
    for probability, right in zip(probabilities, is_right, strict=True):
        members[min(int(probability * num_bins), num_bins - 1)].append((probability, right))
    return [
        Bin(
            low=number / num_bins,
            high=(number + 1) / num_bins,
            num_answers=len(held),
            confidence=fmean(p for p, _ in held) if held else (number + 0.5) / num_bins,
            accuracy=fmean(right for _, right in held) if held else 0.0,
        )
        for number, held in enumerate(members)
    ]


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Mean gap between confidence and accuracy, each bin weighted by its answers.

    M. P. Naeini et al., Obtaining Well Calibrated Probabilities Using Bayesian Binning, AAAI 2015.

    Args:
        bins: of :func:`reliability`, with at least one answer.

    Returns:
        0 for a model whose probabilities mean what they say, at most 1.
    """
    num_answers = sum(held.num_answers for held in bins)
    if not num_answers:
        raise ValueError("there are no answers; needed: at least one")
    gaps = (held.num_answers * abs(held.confidence - held.accuracy) for held in bins)
    return sum(gaps) / num_answers


def auroc(probabilities: Sequence[float], is_right: Sequence[bool]) -> float | None:
    """Tell how well a low probability gives wrong answers away.

    Area under the receiver operating characteristic, by the rank sum of Mann and Whitney.

    Args:
        probabilities: of each answer.
        is_right: whether it was right.

    Returns:
        Share of pairs of a right and a wrong answer in which the right one is the more probable,
        ties counting half: 1 if probabilities separate them, 0.5 if they say nothing. None if all
        answers are right, or all wrong.

    Raises:
        ValueError: if the two differ in length or a probability lies outside 0 to 1.
    """
    _check(probabilities, is_right)
    num_right = sum(is_right)
    num_wrong = len(is_right) - num_right
    if not num_right or not num_wrong:
        return None
    ranked = sorted(zip(probabilities, is_right, strict=True))
    rank_sum, rank = 0.0, 1
    for _, group in groupby(ranked, key=lambda pair: pair[0]):
        tied = [right for _, right in group]
        rank_sum += sum(tied) * (rank + (len(tied) - 1) / 2)  # tied ranks are shared
        rank += len(tied)
    return (rank_sum - num_right * (num_right + 1) / 2) / (num_right * num_wrong)


def _check(probabilities: Sequence[float], is_right: Sequence[bool]) -> None:
    if len(probabilities) != len(is_right):
        raise ValueError(f"{len(probabilities)} probabilities but {len(is_right)} answers")
    if not all(0 <= probability <= 1 for probability in probabilities):
        raise ValueError("a probability lies outside 0 to 1")
