"""What is asked and what comes back: questions, conversations, replies.

Plain records; asking is left to :mod:`internvl35.chat`. No counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, Literal

from torch import Tensor

from internvl35.data.compression import TileRouting
from internvl35.data.images import ImageSource
from internvl35.data.messages import Message
from internvl35.data.tiles import Grid
from internvl35.generate.flash import FlashSettings


@dataclass(frozen=True)
class Video:
    """A video and which part of it to look at."""

    source: Any
    """Path, bytes, or open binary file."""
    num_frames: int = 8
    """Frames taken, evenly spread."""
    bound: tuple[float, float] | None = None
    """First and last second; None for all of it."""


@dataclass(frozen=True)
class Conversation:
    """What has been said and shown so far."""

    messages: tuple[Message, ...] = ()
    """Turns, oldest first."""
    pictures: tuple[Tensor, ...] = field(default=(), repr=False)
    """``(N, 3, tile, tile)`` tiles of each picture or frame, in the order of their places."""
    grids: tuple[Grid, ...] = ()
    """Into how many tiles each of them was cut along each side, thumbnail not counted."""


@dataclass(frozen=True)
class Question:
    """One question of a batch."""

    text: str
    """What is asked; ``<image>`` marks say where pictures stand, without any they come first."""
    images: Sequence[ImageSource] = ()
    """Pictures in any form."""
    video: Video | str | PathLike[str] | None = None
    """A video, shown in front of the text; pictures come before it."""
    conversation: Conversation = field(default_factory=Conversation)
    """What went before."""
    flash: FlashSettings | None = None
    """Which tiles are compressed; None for ``released`` on Flash checkpoints, for none on others.
    """


@dataclass(frozen=True)
class Reply:
    """An answer and what it took."""

    text: str
    """The answer, without reasoning."""
    thinking: str | None
    """The reasoning in front of it, if there was any."""
    finish_reason: Literal["stop", "length"]
    """``length`` if the answer was cut at ``max_tokens``."""
    num_prompt_tokens: int
    """Tokens of the prompt, visual tokens included, after compression."""
    num_visual_tokens: int
    """Visual tokens among them, after compression."""
    num_tiles: int
    """Tiles of all pictures and frames."""
    num_new_tokens: int
    """Tokens of the answer, reasoning and end token included."""
    seconds: float
    """From the question to the end of the answer; in a batch, of the whole batch."""
    seconds_to_first_token: float | None
    """From the question to the first token; None in a batch."""
    conversation: Conversation
    """What to pass on to ask a further question."""
    logprobs: tuple[float, ...] | None = None
    """Natural log-probability of each of the ``num_new_tokens`` tokens, before temperature and
    penalties; None unless they were asked for."""
    num_compressed_tiles: int = 0
    """Tiles that took fewer visual tokens."""
    routing: TileRouting | None = None
    """Which tiles these were, and the router's scores; None if none could be."""


@dataclass(frozen=True)
class Piece:
    """A part of an answer as it is written."""

    text: str
    """What came."""
    is_thinking: bool
    """Whether it belongs to the reasoning."""
