"""Refuses requests that an engine cannot answer, with what is wrong and what to do.

Tiles and features that are here are checked where tiles are encoded,
:mod:`internvl35.generate.vision`. No counterpart in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

from internvl35.errors import PromptError
from internvl35.generate.encoders import check_pictures
from internvl35.generate.flash import FlashSettings
from internvl35.generate.request import Request
from internvl35.generate.routing import fewest_tokens
from internvl35.generate.sampling import SamplingSettings
from internvl35.model.configuration import InternVLChatConfig


@dataclass(frozen=True)
class Limits:
    """What model and cache hold."""

    num_rows: int
    """Rows of the embedding; ids are lower."""
    num_places: int
    """Most tokens of a prompt and its answer."""
    max_prompt_tokens: int
    """Most tokens of a prompt; at least one place is left for an answer."""
    has_tokenizer: bool
    """Whether texts can be told from tokens."""


def check_request(
    request: Request,
    sampling: SamplingSettings,
    flash: FlashSettings | None,
    config: InternVLChatConfig,
    limits: Limits,
) -> None:
    """Check a request before anything is computed for it.

    Args:
        request: not routed yet.
        sampling: how its answers are chosen.
        flash: which tiles are compressed.
        config: of the checkpoint.
        limits: what model and cache hold.

    Raises:
        ConfigError: if the settings do not fit the checkpoint.
        MediaError: if visual tokens of another width are to arrive.
        PromptError: if ids are out of range, the prompt is empty or too long, or texts are named
            that nobody can tell.
    """
    ids = request.prompt.token_ids
    if not ids:
        raise PromptError("the prompt has no tokens; needed: at least one")
    if not 0 <= min(ids) <= max(ids) < limits.num_rows:
        raise PromptError(
            f"the prompt has ids from {min(ids)} to {max(ids)} but the embedding has "
            f"{limits.num_rows} rows; take the tokenizer of the same checkpoint"
        )
    if sampling.stop and not limits.has_tokenizer:
        raise PromptError("stop texts need a tokenizer; give the engine one")
    if request.arriving is not None:
        check_pictures(request, config)
    is_encoded = request.features is not None
    check_length(len(ids) if is_encoded else fewest_tokens(request, flash, config), limits)


def check_length(num_tokens: int, limits: Limits) -> None:
    """Check that a prompt leaves room for an answer.

    Args:
        num_tokens: of the prompt.
        limits: what model and cache hold.

    Raises:
        PromptError: if it does not.
    """
    if num_tokens > limits.max_prompt_tokens:
        raise PromptError(
            f"the prompt has {num_tokens} tokens but at most {limits.max_prompt_tokens} fit beside "
            "an answer into the positions of the model and the cache, or are allowed; shorten it"
        )
