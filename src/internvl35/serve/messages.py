"""What gateway, vision and language servers say to each other, and all that their rooms share.

A message is a frozen dataclass. Its tensor, its request and its tiles travel in a frame's header
(:mod:`internvl35.serve.frames`), the other fields as JSON: :mod:`internvl35.serve.message_frames`.
Which numbers a request may send is checked by :mod:`internvl35.serve.plans`, connections are left
to :mod:`internvl35.serve.link`. No counterpart in the paper.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, TypeAlias

from internvl35.data.token_writer import ImageSpan
from internvl35.errors import ConfigError
from internvl35.generate.answers import FinishReason, TokenLogprob
from internvl35.generate.flash import FlashSettings
from internvl35.generate.sampling import SamplingSettings
from internvl35.serve.frames import Block, DType, NackCode, WireError
from internvl35.serve.tensors import to_block, to_tensor

__all__ = [
    "Block", "Cancel", "Channel", "Credit", "Encode", "Encoded", "Features", "Finished", "Freed",
    "Generate", "Goodbye", "Load", "Message", "Nack", "NackCode", "Ping", "Pong", "Profile",
    "Progress", "PromptLogprobs", "Role", "Service", "Tiles", "WireError", "new_request_id",
    "to_block", "to_tensor",
]  # fmt: skip

Role: TypeAlias = Literal["gateway", "vision", "language"]
"""What a process does."""


@dataclass(frozen=True)
class Profile:
    """What a process tells its peers about itself once they have proved who they are."""

    role: Role
    """What it does."""
    name: str
    """What logs call it."""
    tile_side: int
    """Pixels of a tile's side."""
    tokens_per_tile: int
    """Visual tokens of a tile."""
    compressed_tokens: int
    """Visual tokens of a compressed one; 0 for a checkpoint without router."""
    width: int
    """Numbers of a visual token, D."""
    image_token_id: int
    """What stands in a prompt where visual tokens go."""
    dtype: DType = "bf16"
    """Of visual tokens on the wire."""
    max_tiles: int = 512
    """Most tiles of a request."""
    max_prompt_tokens: int = 262_144
    """Most tokens of a prompt."""
    max_requests: int = 256
    """Most requests that it takes at once, from all its peers."""
    window_bytes: int = 8 * 2**20
    """Bytes of a request that may be on their way to it, unread."""

    def __post_init__(self) -> None:
        """Refuse sizes of nothing, and names that a log would not show."""
        for name in (
            "tile_side", "tokens_per_tile", "width", "max_tiles", "max_prompt_tokens",
            "max_requests", "window_bytes",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; needed: 1 or more")
        if not 0 <= self.compressed_tokens < self.tokens_per_tile:
            raise ConfigError(
                f"compressed_tokens is {self.compressed_tokens}; needed: 0 to less than "
                f"tokens_per_tile, which is {self.tokens_per_tile}"
            )
        if not (self.name.isprintable() and 0 < len(self.name) <= 128):
            raise ConfigError("name is empty, long or not printable; needed: 1 to 128 characters")


@dataclass(frozen=True)
class Encode:
    """Gateway to vision: opens a request, whose tiles follow."""

    KIND: ClassVar[int] = 16
    request_id: str
    """Of the request."""
    attempt: int
    """How often it was sent before, to 65,535; a later attempt ends earlier ones."""
    tiles: tuple[int, ...]
    """Tiles of each picture, in order."""
    flash: FlashSettings | None
    """Which tiles are compressed; None as the checkpoint says."""
    cache_salt: str
    """Only requests of equal salt share visual tokens."""
    priority: int
    """Lower numbers are served first."""
    trace: str = ""
    """The gateway's span in the form of ``traceparent``; empty for none."""


@dataclass(frozen=True)
class Tiles:
    """Gateway to vision: some tiles of a request, each once and in any order."""

    KIND: ClassVar[int] = 17
    request_id: str
    """Of the request."""
    first_tile: int
    """Number of the first, counted over all pictures."""
    num_tiles: int
    """How many."""
    values: Block
    """``(num_tiles, side, side, 3)`` u8, red first, not normalised."""


@dataclass(frozen=True)
class Features:
    """Vision to gateway, gateway to language: visual tokens of some tiles, each once."""

    KIND: ClassVar[int] = 18
    request_id: str
    """Of the request."""
    first_tile: int
    """Number of the first, counted over all pictures."""
    num_tiles: int
    """How many."""
    is_compressed: tuple[bool, ...]
    """Which of them take fewer tokens."""
    scores: tuple[float, ...] | None
    """The router's probability for each; None if it was not asked."""
    values: Block
    """``(tokens, D)``, tile after tile."""


@dataclass(frozen=True)
class Encoded:
    """Vision to gateway: all visual tokens of the request were sent; ends it."""

    KIND: ClassVar[int] = 19
    request_id: str
    """Of the request."""
    num_cached_tiles: int
    """Tiles that had not to be computed."""
    seconds: float
    """From the last tile's arrival to the end."""


@dataclass(frozen=True)
class Generate:
    """Gateway to language: opens a request, whose visual tokens follow."""

    KIND: ClassVar[int] = 32
    request_id: str
    """Of the request."""
    attempt: int
    """How often it was sent before, to 65,535; a later attempt ends earlier ones."""
    spans: tuple[ImageSpan, ...]
    """Places of each picture's visual tokens, compression counted."""
    is_compressed: tuple[bool, ...]
    """Which tiles take fewer tokens, over all pictures."""
    sampling: SamplingSettings
    """How the answers are chosen."""
    cache_salt: str
    """Only requests of equal salt share cached prefixes."""
    priority: int
    """Lower numbers are served first."""
    adapter: str | None
    """Name of the LoRA adapter; None for the checkpoint alone."""
    values: Block
    """``(T,)`` i32 token ids of the prompt."""
    trace: str = ""
    """The gateway's span in the form of ``traceparent``; empty for none."""


@dataclass(frozen=True)
class Progress:
    """Language to gateway: what one step added to one answer."""

    KIND: ClassVar[int] = 33
    request_id: str
    """Of the request."""
    sample: int
    """Which answer, from 0."""
    token_ids: tuple[int, ...]
    """New tokens, end token included."""
    text: str
    """New text."""
    logprobs: tuple[TokenLogprob, ...] | None
    """Of the new tokens, if they were asked for."""
    finish_reason: FinishReason | None
    """Set in the last of an answer."""
    error: str | None
    """What went wrong, if the reason is ``error``."""


@dataclass(frozen=True)
class PromptLogprobs:
    """Language to gateway: how likely some tokens of the prompt were."""

    KIND: ClassVar[int] = 34
    request_id: str
    """Of the request."""
    start: int
    """Position of the first."""
    logprobs: tuple[TokenLogprob | None, ...]
    """One a token; None for the prompt's first and for places of pictures."""


@dataclass(frozen=True)
class Finished:
    """Language to gateway: every answer was sent; ends the request."""

    KIND: ClassVar[int] = 35
    request_id: str
    """Of the request."""
    num_cached_tokens: int
    """Prompt tokens that had not to be computed."""
    seconds_to_first_token: float | None
    """From the last visual token's arrival to the first token of an answer."""
    seconds: float
    """From there to the end of the last answer."""


@dataclass(frozen=True)
class Nack:
    """To whoever opened a request: it is refused or lost; ends it. Of no request: ends the link."""

    KIND: ClassVar[int] = 48
    request_id: str
    """Of the request."""
    code: NackCode
    """Why."""
    text: str
    """The same for people; holds nothing that a user must not see."""
    retry_after_s: float | None
    """When to try again; None if that is not known."""


@dataclass(frozen=True)
class Cancel:
    """From whoever opened a request: its answer is not wanted any more; ends it."""

    KIND: ClassVar[int] = 49
    request_id: str
    """Of the request."""


@dataclass(frozen=True)
class Credit:
    """From a reader: so many bytes of a request were read, and as many more may come."""

    KIND: ClassVar[int] = 50
    request_id: str
    """Of the request."""
    num_bytes: int
    """Bytes of fields and tensors."""


@dataclass(frozen=True)
class Freed:
    """From a reader: so many bytes of the shared memory may be written again."""

    KIND: ClassVar[int] = 51
    num_bytes: int
    """Counted from the oldest that are in use."""


@dataclass(frozen=True)
class Load:
    """How busy a server is."""

    num_requests: int
    """Requests in work."""
    num_waiting_tiles: int
    """Tiles that are not encoded yet."""
    num_waiting_tokens: int
    """Prompt tokens that are not computed yet."""
    stalled_s: int = 0
    """Whole seconds for which work has stood still; 0 while it goes on, or there is none."""


@dataclass(frozen=True)
class Ping:
    """To a peer: answer, and keep these requests."""

    KIND: ClassVar[int] = 52
    number: int
    """Comes back in the answer."""
    values: Block | None
    """``(requests, 16)`` u8: the ids of those that its sender opened and still waits for."""


@dataclass(frozen=True)
class Pong:
    """The answer to a ping."""

    KIND: ClassVar[int] = 53
    number: int
    """Of the ping."""
    load: Load
    """How busy its sender is."""


@dataclass(frozen=True)
class Goodbye:
    """From a server that drains: open nothing new here; what is in work is finished."""

    KIND: ClassVar[int] = 54


Message: TypeAlias = (
    Encode | Tiles | Features | Encoded | Generate | Progress | PromptLogprobs | Finished
    | Nack | Cancel | Credit | Freed | Ping | Pong | Goodbye
)  # fmt: skip


class Channel(Protocol):
    """One request between the two who work on it."""

    @property
    def request_id(self) -> str:
        """Of the request."""
        ...

    async def send(self, message: Message) -> None:
        """Send a message, once the other side has room for it.

        Raises:
            WireError: if the request ended or the connection broke.
        """
        ...

    async def receive(self) -> Message:
        """Wait for the next message.

        Raises:
            WireError: if the request was refused, ended, or the connection broke.
        """
        ...


class Service(Protocol):
    """What a vision or a language server is for its connections."""

    @property
    def load(self) -> Load:
        """How busy it is."""
        ...

    async def answer(self, opening: Encode | Generate, channel: Channel) -> None:
        """Work on one request; it is cancelled when nobody waits for it any more.

        Args:
            opening: what is asked.
            channel: brings what follows and takes the answer, whose last message is
                :class:`Encoded` or :class:`Finished`.

        Raises:
            WireError: if the request is refused; the other side gets its code.
        """
        ...


def new_request_id() -> str:
    """Make an id that nobody can guess."""
    return secrets.token_hex(16)
