"""From records to what a network is trained on: tokens, which of them carry loss, and tiles.

Reading records is left to :mod:`internvl35.data.records`, the form of a conversation to
:mod:`internvl35.data.prompt`. Nothing heavy is imported before an encoder is made, so that settings
can be named quickly. Paper section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from internvl35.config import TileSettings
from internvl35.data.messages import FrameLabel, LossScale, Message
from internvl35.errors import ConfigError, DataError, MediaError, PromptError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from internvl35.data.batches import Example
    from internvl35.data.record_media import PlacedMedia
    from internvl35.data.records import Record
    from internvl35.data.token_writer import Prompt

Truncation = Literal["delete", "left", "right"]


@dataclass(frozen=True)
class EncodingSettings:
    """How records become tokens and tiles."""

    template: str | None = None
    """Conversation template; by default the checkpoint's own."""
    system: str = "official"
    """System prompt of records without one: official, none (no system turn), or a text."""
    max_length: int | None = None
    """Most tokens of a row, visual ones included; by default what the checkpoint allows."""
    truncation_strategy: Truncation = "delete"
    """What becomes of longer rows: delete leaves them out as bad, left and right cut text at that
    end and never visual tokens."""
    max_dynamic_patch: int | None = None
    """Most tiles of a picture, thumbnail not counted; by default as the checkpoint says."""
    share_tiles: bool = True
    """Whether the pictures of a row share that number, as in the official training; otherwise each
    may have all of it."""
    video_segments: int = 8
    """Frames taken from a video, evenly spread."""
    video_max_num: int = 1
    """Most tiles of a frame, thumbnail not counted."""
    frame_label: FrameLabel = "Frame1: <image>\n"
    """How a video's frames are labelled: the form of inference, of supervised training, of MPO."""
    data_augment: bool = False
    """Whether tiles pass through JPEG compression of random quality, where a data set does not say
    it itself."""
    loss_scale: LossScale = "default"
    """Which turns carry loss: all answers (default), those behind the last question (last_round),
    or every token but those of pictures (all)."""
    media_root: str = ""
    """Folder that relative paths in local rows start from; by default that of their file, or the
    root that a list of data sets names."""
    allow_urls: bool = False
    """Whether pictures and videos that rows name by http and https URLs are fetched."""

    def __post_init__(self) -> None:
        """Refuse settings under which nothing could be encoded."""
        for name in ("max_length", "max_dynamic_patch", "video_segments", "video_max_num"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1")
        if self.truncation_strategy not in ("delete", "left", "right"):
            raise ConfigError(
                f"truncation_strategy is {self.truncation_strategy!r}; known: delete, left, right"
            )


@dataclass(frozen=True)
class RowSize:
    """What a row takes."""

    num_tokens: int
    """Tokens, visual ones included."""
    num_tiles: int
    """Tiles of all pictures and frames."""
    num_targets: int
    """Tokens that carry loss."""


@dataclass(frozen=True)
class EncodedPrompt:
    """A record as a question to the model."""

    prompt: Prompt
    """The conversation up to where the answer begins."""
    pixel_values: Tensor | None
    """``(N, 3, tile, tile)`` tiles of all pictures; None without any."""
    expected: str | None
    """The record's own last answer; None if it has none."""


class Encoder:
    """Turns records into examples for one tokenizer and one way to cut pictures.

    Can be pickled into worker processes.

    Args:
        tokenizer: of the checkpoint.
        tiles: how the checkpoint cuts pictures.
        tokens_per_tile: visual tokens of one tile.
        template: the checkpoint's conversation template.
        max_positions: most tokens that the checkpoint takes.
        settings: how records become tokens and tiles.

    Raises:
        ConfigError: if more tokens are allowed than the checkpoint takes.
        PromptError: if the tokenizer lacks a token of the template.
    """

    def __init__(
        self,
        tokenizer: Any,
        tiles: TileSettings | None = None,
        *,
        tokens_per_tile: int = 256,
        template: str = "internvl2_5",
        max_positions: int = 40_960,
        settings: EncodingSettings | None = None,
    ) -> None:
        """Make the prompt builder and the reader of pictures."""
        from internvl35.data.prompt import PromptBuilder, PromptSettings
        from internvl35.data.record_media import MediaReader

        self.settings = settings = settings or EncodingSettings()
        self.tiles = tiles or TileSettings()
        self.max_tokens = settings.max_length or max_positions
        """Most tokens of a row."""
        if self.max_tokens > max_positions:
            raise ConfigError(
                f"max_length is {self.max_tokens} but the checkpoint takes at most {max_positions} "
                "tokens"
            )
        prompt = PromptSettings(
            template=settings.template or template,
            system_prompt=settings.system,
            frame_label=settings.frame_label,
            tokens_per_tile=tokens_per_tile,
            loss_scale=settings.loss_scale,
        )
        self.builder = PromptBuilder(tokenizer, prompt)
        self.media = MediaReader(self.tiles, settings)

    @classmethod
    def for_checkpoint(
        cls, tokenizer: Any, config: Any, settings: EncodingSettings | None = None
    ) -> Encoder:
        """Make the encoder of a checkpoint, the same for checking, training and answering.

        Args:
            tokenizer: of the checkpoint.
            config: its ``InternVLChatConfig``.
            settings: how records become tokens and tiles.

        Returns:
            The encoder.

        Raises:
            ConfigError: if more tokens are allowed than the checkpoint takes.
            PromptError: if the tokenizer lacks a token of the template.
        """
        return cls(
            tokenizer,
            config.tile_settings,
            tokens_per_tile=config.tokens_per_tile,
            template=config.template,
            max_positions=int(config.text_config.max_position_embeddings),
            settings=settings,
        )

    def measure(self, record: Record) -> RowSize:
        """Tell what a record takes, from the headers of its pictures.

        Args:
            record: a conversation, or a text of pre-training.

        Returns:
            The sizes that :meth:`encode` gives it.

        Raises:
            DataError: if the record is too long, has no token that carries loss, or its marks and
                its media do not match.
            MediaError: if a picture or video is missing, too large or of an unknown kind.
            PromptError: if roles do not alternate.
        """
        with _named(record):
            placed = self.media.place(record)
            prompt = self._train_prompt(record, placed, self.media.count(record, placed))
        return RowSize(len(prompt), prompt.num_tiles, prompt.num_targets)

    def encode(self, record: Record, seed: int = 0) -> Example:
        """Turn a record into an example.

        Args:
            record: a conversation, or a text of pre-training.
            seed: decides on the augmentation and on nothing else.

        Returns:
            The example.

        Raises:
            DataError: as :meth:`measure`.
            MediaError: as :meth:`measure`, or if a picture or video is damaged.
            PromptError: as :meth:`measure`.
        """
        from internvl35.data.batches import Example

        with _named(record):
            placed = self.media.place(record)
            is_augmented = record.data_augment
            if is_augmented is None:
                is_augmented = self.settings.data_augment
            pixels = self.media.read(record, placed, seed if is_augmented else None)
            prompt = self._train_prompt(record, placed, [len(tiles) for tiles in pixels])
        return Example(prompt.token_ids, prompt.loss_mask, _join(pixels))

    def decode(self, record: Record) -> list[Image]:
        """Decode every picture, and every frame that is trained on.

        Args:
            record: any.

        Returns:
            The pictures in order of their marks.

        Raises:
            DataError: if marks and media of the record do not match.
            MediaError: if a picture or video cannot be read.
        """
        with _named(record):
            placed = self.media.place(record)
            return [image for _, image in self.media.decode(record, placed)]

    def preview(self, record: Record) -> Prompt:
        """Turn a record into the prompt it is trained on, from the headers of its pictures.

        Args:
            record: a conversation, or a text of pre-training.

        Returns:
            Tokens, places of pictures, and which tokens carry loss.

        Raises:
            InternVLError: as :meth:`measure`.
        """
        with _named(record):
            placed = self.media.place(record)
            return self._train_prompt(record, placed, self.media.count(record, placed))

    def encode_prompt(self, record: Record) -> EncodedPrompt:
        """Turn a record into a question, without its last answer.

        Args:
            record: a conversation.

        Returns:
            The question, its tiles, and the answer that was left out.

        Raises:
            DataError: if the record has no question, or its marks and its media do not match.
            MediaError: as :meth:`encode`.
            PromptError: if roles do not alternate, or the prompt is longer than the model takes.
        """
        with _named(record):
            if not any(message.role == "user" for message in record.messages):
                raise DataError("the record has no question to be answered; add a user's message")
            placed = self.media.place(record)
            asked, expected = placed.messages, None
            if asked[-1].role == "assistant":
                asked, expected = asked[:-1], asked[-1].text
            pixels = self.media.read(record, placed, None)
            prompt = self.builder.build(asked, [len(tiles) for tiles in pixels], tools=record.tools)
            if len(prompt) > self.max_tokens:
                raise PromptError(
                    f"the prompt has {len(prompt)} tokens but at most {self.max_tokens} fit; "
                    "raise max_length or lower max_dynamic_patch"
                )
        return EncodedPrompt(prompt, _join(pixels), expected)

    def _train_prompt(
        self, record: Record, placed: PlacedMedia, tiles_per_picture: list[int]
    ) -> Prompt:
        from internvl35.data.truncation import truncate

        prompt = self.builder.build(
            placed.messages, tiles_per_picture, add_generation_prompt=False, tools=record.tools
        )
        if len(prompt) > self.max_tokens:
            side = self.settings.truncation_strategy
            if side == "delete":
                raise DataError(
                    f"too long: {len(prompt)} tokens, but at most {self.max_tokens} are allowed "
                    "(max_length); lower max_dynamic_patch, or set truncation_strategy"
                )
            prompt = truncate(prompt, self.max_tokens, side)
        if not prompt.num_targets:
            raise DataError(_why_no_target(placed.messages))
        return prompt


@contextmanager
def _named(record: Record) -> Iterator[None]:
    """Let the message of every error begin with where the record comes from."""
    try:
        yield
    except (DataError, MediaError, PromptError) as error:
        if not record.origin:
            raise
        raise type(error)(f"{record.origin}: {error}") from error


def _why_no_target(messages: tuple[Message, ...]) -> str:
    if not any(message.role == "assistant" for message in messages):
        return "no answer to learn: the record has no message of the assistant"
    return "no token carries loss: it was taken off every answer, or cut away with it"


def _join(pixels: list[Tensor]) -> Tensor | None:
    if not pixels:
        return None
    import torch

    return torch.cat(pixels)
