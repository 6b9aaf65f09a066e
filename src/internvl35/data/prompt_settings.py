"""How messages become a prompt: what is set once for all conversations of a builder.

The prompt itself is left to :mod:`internvl35.data.prompt`. Paper section 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from internvl35.data.messages import FrameLabel, LossScale
from internvl35.data.templates import find_template
from internvl35.errors import PromptError


@dataclass(frozen=True)
class PromptSettings:
    """How messages become a prompt."""

    template: str = "internvl2_5"
    """Name of the conversation template."""
    system_prompt: str = "official"
    """System prompt: ``official``, ``none`` (no system turn), or a text of your own."""
    is_thinking: bool = False
    """Whether the system prompt asks for reasoning in front of the answer."""
    keep_past_thinking: bool = False
    """Whether the reasoning of past answers stays in the prompt; Qwen3 and GPT-OSS drop it."""
    frame_label: FrameLabel = "Frame1: <image>\n"
    """How a video's frames are labelled: the form of inference, of supervised training, of MPO."""
    loss_scale: LossScale = "default"
    """Which turns carry loss: all answers (``default``), those behind the last question
    (``last_round``), or every token but those of pictures (``all``)."""
    max_tokens: int | None = None
    """Longest prompt in tokens; None for no limit."""
    tokens_per_tile: int = 256
    """Visual tokens V of one tile."""

    def __post_init__(self) -> None:
        """Refuse settings under which no prompt can be built."""
        find_template(self.template)
        if self.frame_label not in get_args(FrameLabel):
            raise PromptError(
                f"frame label {self.frame_label!r} is unknown; known: {get_args(FrameLabel)}"
            )
        if self.loss_scale not in get_args(LossScale):
            raise PromptError(
                f"loss_scale is {self.loss_scale!r}; known: {', '.join(get_args(LossScale))}"
            )
        if self.max_tokens is not None and self.max_tokens < 1:
            raise PromptError(f"max_tokens is {self.max_tokens}; it must be at least 1")
        if self.tokens_per_tile < 1:
            raise PromptError(f"tokens_per_tile is {self.tokens_per_tile}; it must be at least 1")
