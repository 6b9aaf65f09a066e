"""From answers to drawn tasks to the figures that are published, each with its interval.

Asking is left to :mod:`internvl35.evals.drawn`. Everything returned is ready for JSON. No
counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from internvl35.evals.calibration import auroc, expected_calibration_error, reliability
from internvl35.evals.drawn import Answered, Pace, Sampled
from internvl35.scoring import pass_at_k, wilson_interval

Figures = dict[str, Any]
"""Figures of JSON: numbers, and more of them by name."""

DIGITS = 4
NUM_RESAMPLES = 1000
"""Times that a mean is drawn anew for its bootstrap interval."""


def figure(values: Sequence[float]) -> Figures:
    """Average values and say how sure the average is.

    Args:
        values: at least one.

    Returns:
        ``value``, ``low`` and ``high`` of its 95 % interval, and ``n``. The interval is Wilson's
        where every value is 0 or 1, and otherwise that of a bootstrap with fixed draws.
    """
    mean = fmean(values)
    if all(value in (0, 1) for value in values):
        low, high = wilson_interval(round(sum(values)), len(values))
    else:
        low, high = _bootstrap(np.asarray(values, dtype=np.float64))
    return {"value": _round(mean), "low": _round(low), "high": _round(high), "n": len(values)}


def _bootstrap(values: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (NUM_RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def _round(value: float) -> float:
    return round(float(value), DIGITS)


def score_figures(answers: Sequence[Answered]) -> Figures:
    """Average every score.

    Args:
        answers: at least one.

    Returns:
        Name of the score to its :func:`figure`, ``right`` first; a score that only some answers
        have is averaged over those.
    """
    names = dict.fromkeys(["right", *(name for entry in answers for name in entry.scores)])
    return {
        name: figure([entry.scores[name] for entry in answers if name in entry.scores])
        for name in names
    }


def answer_figures(answers: Sequence[Answered]) -> Figures:
    """Say how a model did on the drawings of one family.

    Args:
        answers: at least one.

    Returns:
        ``figures`` of all answers, ``kinds`` with those of each kind, and ``unseen``: for every
        part that is kept for the test the share of right answers on drawings with something kept
        (``unseen``) and on the others (``seen``).
    """
    kinds = sorted({entry.kind for entry in answers})
    return {
        "figures": score_figures(answers),
        "kinds": {
            kind: score_figures([entry for entry in answers if entry.kind == kind])
            for kind in kinds
        },
        "unseen": {
            name: _split(answers, name)
            for name in sorted({name for entry in answers for name in entry.unseen})
        },
    }


def _split(answers: Sequence[Answered], name: str) -> Figures:
    parts = {
        part: [entry.scores["right"] for entry in answers if (name in entry.unseen) == is_unseen]
        for part, is_unseen in (("seen", False), ("unseen", True))
    }
    return {part: figure(values) for part, values in parts.items() if values}


def calibration_figures(answers: Sequence[Answered], *, with_bins: bool = False) -> Figures:
    """Say whether the probability of an answer tells if it is right.

    Args:
        answers: at least one, asked for with their probabilities.
        with_bins: whether to list the ten bins, too.

    Returns:
        ``calibration_error`` of the probability of the whole answer; ``auroc``: how well it gives
        wrong answers away, None where all are right or all wrong; ``token_auroc``: the same of the
        mean probability of a token; ``bins``.
    """
    is_right = [entry.is_right for entry in answers]
    # a sum of float32 logarithms may end a hair above 0
    whole = [min(1.0, entry.probability) for entry in answers]
    a_token = [min(1.0, entry.token_probability) for entry in answers]
    bins = reliability(whole, is_right)
    figures: Figures = {
        "calibration_error": _round(expected_calibration_error(bins)),
        "auroc": _maybe_round(auroc(whole, is_right)),
        "token_auroc": _maybe_round(auroc(a_token, is_right)),
    }
    if with_bins:
        figures["bins"] = [
            {
                "low": held.low, "high": held.high, "n": held.num_answers,
                "confidence": _round(held.confidence), "accuracy": _round(held.accuracy),
            }
            for held in bins
        ]  # fmt: skip
    return figures


def _maybe_round(value: float | None) -> float | None:
    return None if value is None else _round(value)


def sampled_figures(sampled: Sequence[Sampled]) -> Figures:
    """Say how often one of several drawn answers is right.

    Args:
        sampled: at least one, all of the same number of answers.

    Returns:
        ``pass@1`` and ``pass@n`` for n answers a question, and ``mixed``: the share of questions
        with right and wrong answers, from which alone reinforcement learning learns.
    """
    num_samples = sampled[0].num_samples
    chances = {
        f"pass@{k}": [pass_at_k(num_samples, entry.num_right, k) for entry in sampled]
        for k in dict.fromkeys((1, num_samples))
    }
    mixed = [float(0 < entry.num_right < num_samples) for entry in sampled]
    return {name: figure(values) for name, values in chances.items()} | {"mixed": figure(mixed)}


def pace_figures(pace: Pace) -> Figures:
    """Say how fast answers came, in absolute numbers.

    Args:
        pace: of at least one answer.

    Returns:
        ``pictures_per_s`` and ``tokens_per_s``.
    """
    return {
        "pictures_per_s": round(pace.num_pictures / pace.seconds, 1),
        "tokens_per_s": round(pace.num_tokens / pace.seconds, 1),
    }


def mean_right(parts: Iterable[Figures]) -> float:
    """Average the accuracy over families, each counting the same.

    Args:
        parts: of :func:`answer_figures`, at least one.

    Returns:
        The mean, 0 to 1.
    """
    return _round(fmean(part["figures"]["right"]["value"] for part in parts))
