"""Cuts a prompt to fewer tokens without touching its pictures.

Whether a row is cut at all is decided by :mod:`internvl35.data.encoding`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from internvl35.data.token_writer import Prompt
from internvl35.errors import DataError


def truncate(prompt: Prompt, max_tokens: int, side: Literal["left", "right"]) -> Prompt:
    """Leave out text tokens at one end until a prompt is short enough.

    Visual tokens, and the tokens in front of and behind each picture, all stay, even those that
    stand further towards the end that is cut.

    Args:
        prompt: any.
        max_tokens: most tokens that are left.
        side: the end at which text is left out.

    Returns:
        The prompt, unchanged if it is short enough.

    Raises:
        DataError: if the pictures alone take more tokens.
    """
    num_cut = len(prompt) - max_tokens
    if num_cut <= 0:
        return prompt
    is_kept = [False] * len(prompt)
    for span in prompt.image_spans:
        end = span.start + span.num_tokens
        is_kept[span.start - 1 : end + 1] = [True] * (span.num_tokens + 2)
    num_visual = sum(is_kept)
    if num_visual > max_tokens:
        raise DataError(
            f"too long: the pictures alone take {num_visual} tokens, but at most {max_tokens} are "
            "allowed (max_length); lower max_dynamic_patch"
        )
    texts = [place for place, kept in enumerate(is_kept) if not kept]
    left_out = set(texts[:num_cut] if side == "left" else texts[-num_cut:])
    kept = [place for place in range(len(prompt)) if place not in left_out]
    moved = {place: index for index, place in enumerate(kept)}
    return Prompt(
        tuple(prompt.token_ids[place] for place in kept),
        tuple(replace(span, start=moved[span.start]) for span in prompt.image_spans),
        tuple(prompt.loss_mask[place] for place in kept),
    )
