"""A prompt as text with its special tokens, cut where loss begins and ends.

Showing it is left to :mod:`internvl35.commands.data`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from internvl35.data.token_writer import Prompt

TIMES = "\N{MULTIPLICATION SIGN}"
"""Stands between a token and how often it follows itself."""


@dataclass(frozen=True)
class Stretch:
    """Tokens that follow one another and all carry loss, or all do not."""

    text: str
    """What they say; visual tokens of a picture are written once, with their number."""
    num_tokens: int
    """How many there are."""
    has_loss: bool
    """Whether they carry loss."""


def read_stretches(prompt: Prompt, tokenizer: Any, image_token_id: int) -> list[Stretch]:
    """Write a prompt as text.

    Args:
        prompt: the prompt.
        tokenizer: the one it was built with.
        image_token_id: id of the visual token.

    Returns:
        Stretches in order, which alternate between tokens that carry loss and others.
    """
    marked = zip(prompt.token_ids, prompt.loss_mask, strict=True)
    stretches = []
    for has_loss, group in groupby(marked, key=lambda pair: pair[1]):
        token_ids = [token_id for token_id, _ in group]
        text = "".join(
            _read_run(list(run), tokenizer, is_visual=is_visual)
            for is_visual, run in groupby(token_ids, key=lambda i: i == image_token_id)
        )
        stretches.append(Stretch(text, len(token_ids), has_loss))
    return stretches


def _read_run(token_ids: list[int], tokenizer: Any, *, is_visual: bool) -> str:
    if is_visual:
        return f"{tokenizer.decode(token_ids[:1])}{TIMES}{len(token_ids)}"
    return str(tokenizer.decode(token_ids, skip_special_tokens=False))
