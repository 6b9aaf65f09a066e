"""Figures of a load: how fast, how many, how good; as JSON, as lines and as a picture.

No counterpart in the paper.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from internvl35.errors import DataError
from internvl35.serve.bench.settings import BenchSettings, Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
"""Names of what is told of a series, and the share of it that is no larger."""


def make_report(settings: BenchSettings, name: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Make figures of what became of a load.

    Args:
        settings: of the load.
        name: of the model.
        outcomes: one a request.

    Returns:
        JSON values: ``counts`` (``sent`` is the sum of the others), ``errors``, ``seconds``,
        ``per_second``, ``first_token_s``, ``token_s`` and ``answer_s`` with their quantiles,
        ``limits`` with the share of requests within them, ``tokens``, and ``requests``.
    """
    answered = [one for one in outcomes if one.kind == "answered"]
    seconds = max(one.ended_s for one in outcomes)
    good = [one for one in answered if is_good(settings, one)]
    kinds = Counter(one.kind for one in outcomes)
    tokens = {
        "new": sum(one.num_new_tokens for one in answered),
        "prompt": sum(one.num_prompt_tokens for one in answered),
        "cached": sum(one.num_cached_tokens for one in answered),
        "image": sum(one.num_image_tokens for one in answered),
        "image_before_compression": sum(one.num_image_tokens_before for one in answered),
    }
    return {
        "settings": asdict(settings),
        "model": name,
        "counts": {
            "sent": len(outcomes),
            **{kind: kinds[kind] for kind in ("answered", "refused", "failed", "lost")},
        },
        "errors": dict(Counter(one.error for one in outcomes if one.error is not None)),
        "seconds": seconds,
        "per_second": {
            "answers": len(answered) / seconds,
            "good_answers": len(good) / seconds,
            "pictures": len(answered) * settings.num_pictures / seconds,
            "new_tokens": tokens["new"] / seconds,
            "prompt_tokens": tokens["prompt"] / seconds,
        },
        "first_token_s": _spread([one.first_token_s for one in answered]),
        "token_s": _spread([one.token_s for one in answered]),
        "answer_s": _spread([one.seconds for one in answered]),
        "limits": {
            "first_token_s": settings.first_token_limit_s,
            "token_s": settings.token_limit_s,
            "good_share": len(good) / len(outcomes),
        },
        "tokens": tokens,
        "requests": [asdict(one) for one in outcomes],
    }


def is_good(settings: BenchSettings, outcome: Outcome) -> bool:
    """Tell whether an answer came within the limits."""
    if outcome.kind != "answered":
        return False
    first, later = outcome.first_token_s, outcome.token_s
    first = outcome.seconds if first is None else first
    return first <= settings.first_token_limit_s and (later or 0.0) <= settings.token_limit_s


def _spread(values: Sequence[float | None]) -> dict[str, float] | None:
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    places = {name: math.ceil(share * len(known)) - 1 for name, share in QUANTILES.items()}
    mean = sum(known) / len(known)
    return {"mean": mean, **{name: known[place] for name, place in places.items()}}


def describe_report(report: dict[str, Any]) -> list[str]:
    """Put figures into lines.

    Args:
        report: of :func:`make_report`.

    Returns:
        The lines.
    """
    counts, speeds, limits = report["counts"], report["per_second"], report["limits"]
    told = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    lines = [f"requests: {told}, in {report['seconds']:.1f} s"]
    for name, text in (
        ("first_token_s", "first token"), ("token_s", "later tokens"), ("answer_s", "answer"),
    ):  # fmt: skip
        spread = report[name]
        if spread is not None:
            figures = ", ".join(f"{key} {spread[key]:.3f} s" for key in QUANTILES)
            lines.append(f"{text}: {figures}")
    lines.append(
        f"a second: {speeds['answers']:.2f} answers, {speeds['new_tokens']:.1f} new tokens, "
        f"{speeds['prompt_tokens']:.1f} prompt tokens, {speeds['pictures']:.2f} pictures"
    )
    lines.append(
        f"within the limits (first token {limits['first_token_s']:g} s, later ones "
        f"{limits['token_s']:g} s each): {limits['good_share']:.1%}, "
        f"{speeds['good_answers']:.2f} a second"
    )
    tokens = report["tokens"]
    if tokens["image_before_compression"]:
        kept = tokens["image"] / tokens["image_before_compression"]
        lines.append(f"visual tokens: {tokens['image']:,}, {kept:.0%} of those before compression")
    if tokens["prompt"]:
        lines.append(f"prompt tokens not computed again: {tokens['cached'] / tokens['prompt']:.0%}")
    return lines


def plot_report(report: dict[str, Any], target: Path) -> None:
    """Draw how long answers took, and how many requests were under way.

    Args:
        report: of :func:`make_report`.
        target: picture to write, its format by its suffix.

    Raises:
        DataError: if the disk does not take it.
    """
    from matplotlib.figure import Figure  # takes a second, which the measuring need not wait for

    requests = [one for one in report["requests"] if one["kind"] == "answered"]
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2).flatten()
    outcomes = [Outcome(**one) for one in requests]
    _draw_shares(axes[0], "seconds to the first token", [one.first_token_s for one in outcomes])
    _draw_shares(axes[1], "seconds of each later token", [one.token_s for one in outcomes])
    _draw_shares(axes[2], "seconds of an answer", [one.seconds for one in outcomes])
    for place, limit in enumerate(("first_token_s", "token_s")):
        axes[place].axvline(report["limits"][limit], color="tab:red", linestyle="--")
    events = sorted(
        [(one["arrived_s"], 1) for one in report["requests"]]
        + [(one["ended_s"], -1) for one in report["requests"]]
    )
    moments, open_now = [0.0], [0]
    for moment, change in events:
        moments.append(moment)
        open_now.append(open_now[-1] + change)
    axes[3].plot(moments, open_now, drawstyle="steps-post")
    axes[3].set(xlabel="seconds", ylabel="requests under way", ylim=(0, None))
    for one in axes:
        one.grid(alpha=0.3)
    counts = report["counts"]
    figure.suptitle(f"{report['model']}: {counts['answered']} of {counts['sent']} answered")
    try:
        figure.savefig(target, dpi=120)
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error}; free space or move") from error


def _draw_shares(axes: Axes, label: str, values: Sequence[float | None]) -> None:
    known = sorted(value for value in values if value is not None)
    shares = [number / len(known) for number in range(len(known) + 1)] if known else []
    axes.plot(known[:1] + known, shares, drawstyle="steps-post")
    axes.set(xlabel=label, ylabel="share of answers", ylim=(0, 1.02), xlim=(0, None))
