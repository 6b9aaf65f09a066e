"""Which tokens end an answer and which must never stand in one.

Taken from tokenizer and template; the rules are kept by :mod:`internvl35.generate.runner`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from internvl35.data.prompt import IMAGE_END, IMAGE_START, PromptBuilder
from internvl35.errors import CheckpointError
from internvl35.model.composite import VisionLanguageModel


@dataclass(frozen=True)
class StopRules:
    """What ends an answer and what must never stand in one."""

    end_token_ids: tuple[int, ...]
    """Tokens that end an answer."""
    banned_token_ids: tuple[int, ...]
    """Tokens that are never sampled: the marks of pictures."""
    pad_token_id: int
    """Fills a batch."""


def check_tokens(model: VisionLanguageModel, builder: PromptBuilder) -> None:
    """Make the network look for pictures where the tokenizer puts them.

    Args:
        model: the network; its ``config.image_token_id`` follows the tokenizer, as in the released
            code.
        builder: knows the tokenizer's ids.

    Raises:
        CheckpointError: if the embedding has no row for an id.
    """
    num_rows = model.input_weight.shape[0]
    highest = max(builder.image_token_id, *builder.stop_token_ids)
    if highest >= num_rows:
        raise CheckpointError(
            f"the tokenizer has id {highest} but the embedding has {num_rows} rows; take the "
            "tokenizer of the same checkpoint"
        )
    model.config.image_token_id = builder.image_token_id


def stop_rules(tokenizer: Any, builder: PromptBuilder) -> StopRules:
    """Collect the ids that end an answer, that must not stand in one, and that pad a batch."""
    marks = [tokenizer.convert_tokens_to_ids(name) for name in (IMAGE_START, IMAGE_END)]
    pad = tokenizer.pad_token_id
    return StopRules(
        end_token_ids=builder.stop_token_ids,
        banned_token_ids=(builder.image_token_id, *marks),
        pad_token_id=builder.stop_token_ids[0] if pad is None else pad,
    )
