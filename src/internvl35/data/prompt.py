"""The one prompt builder: messages in; token ids, places of pictures and loss mask out.

Chat, serving, training and evaluation all call it, so that a model never meets a format it was not
trained on. Tokenizers are left to :mod:`internvl35.data.tokenizer`, pixels to
:mod:`internvl35.data.tiles`. Paper section 2.1; which tokens carry loss: section 3.1.

Text never becomes structure. What a message says is encoded without looking for added tokens, so a
literal ``<|im_end|>`` or ``<IMG_CONTEXT>`` stays a few ordinary tokens that decode to the same
characters. The only names in a text that become single ids are :data:`CONTENT_TOKENS`: tags that
the released models read and write as content and that end or open nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from tokenizers import Tokenizer

from internvl35.data.messages import (
    IMAGE_MARK,
    FrameLabel,
    Message,
    Part,
    Role,
    image_marks,
    mark_images,
    video_marks,
)
from internvl35.data.templates import ConversationTemplate, find_template
from internvl35.data.thinking import (
    split_blocks,
    split_channels,
    split_thinking,
    starts_with_channel,
)
from internvl35.errors import PromptError

__all__ = [
    "CONTENT_TOKENS", "IMAGE_CONTEXT", "IMAGE_END", "IMAGE_MARK", "IMAGE_START",
    "FrameLabel", "ImageSpan", "Message", "Part", "Prompt", "PromptBuilder", "PromptSettings",
    "Role", "image_marks", "mark_images", "split_thinking", "video_marks",
]  # fmt: skip

IMAGE_START, IMAGE_CONTEXT, IMAGE_END = "<img>", "<IMG_CONTEXT>", "</img>"

CONTENT_TOKENS = (
    "<think>", "</think>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>",
)  # fmt: skip
"""Tags that are one token inside a text, in every role.

Grounding questions and answers are written with them (``<ref>cat</ref><box>[[1, 2, 3, 4]]</box>``),
thinking is enclosed by them, and the thinking system prompt names them; the released models saw all
of these as single ids. They mark up content and cannot forge a turn or a picture."""


@dataclass(frozen=True)
class ImageSpan:
    """Where the visual tokens of one picture stand."""

    start: int
    """Position of its first ``<IMG_CONTEXT>``."""
    num_tokens: int
    """How many of them follow one another."""
    num_tiles: int
    """Tiles (thumbnail included) that these tokens show."""


@dataclass(frozen=True)
class Prompt:
    """A conversation as a model takes it."""

    token_ids: tuple[int, ...]
    """The tokens."""
    image_spans: tuple[ImageSpan, ...]
    """One span a picture, in order."""
    loss_mask: tuple[bool, ...]
    """True on the tokens that carry loss in training; as long as ``token_ids``."""

    def __len__(self) -> int:
        return len(self.token_ids)


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
        if self.max_tokens is not None and self.max_tokens < 1:
            raise PromptError(f"max_tokens is {self.max_tokens}; it must be at least 1")
        if self.tokens_per_tile < 1:
            raise PromptError(f"tokens_per_tile is {self.tokens_per_tile}; it must be at least 1")


class _Writer:
    """Collects control ids and text; encodes every stretch of text between two ids at once.

    At once, because the released code tokenizes the whole string: only special tokens cut it, so a
    role name, its line break and the text behind share one stretch and may merge across.
    """

    def __init__(
        self, tokenizer: Tokenizer, content_ids: dict[str, int], added_ids: frozenset[int]
    ) -> None:
        self.token_ids: list[int] = []
        self.loss_mask: list[bool] = []
        self.spans: list[ImageSpan] = []
        self._tokenizer = tokenizer
        self._content_ids = content_ids
        self._added_ids = added_ids
        names = "|".join(map(re.escape, content_ids))
        self._content = re.compile(f"({names})") if names else None
        self._pending: list[tuple[str, bool]] = []

    def add_id(self, token_id: int, count: int = 1, *, has_loss: bool = False) -> None:
        self.flush()
        self.token_ids.extend([token_id] * count)
        self.loss_mask.extend([has_loss] * count)

    def add_text(self, text: str, *, has_loss: bool = False) -> None:
        parts = self._content.split(text) if self._content else [text]
        for part in parts:
            if part in self._content_ids:
                self.add_id(self._content_ids[part], has_loss=has_loss)
            elif part:
                self._pending.append((part, has_loss))

    def flush(self) -> None:
        if not self._pending:
            return
        text = "".join(part for part, _ in self._pending)
        bearing = [has_loss for part, has_loss in self._pending for _ in part]
        self._pending.clear()
        try:
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
        except (UnicodeEncodeError, TypeError) as error:
            raise PromptError(
                f"a text of {len(text)} characters is not valid Unicode ({error}); "
                "replace its lone surrogates"
            ) from error
        if not self._added_ids.isdisjoint(encoding.ids):
            names = self._added_ids.intersection(encoding.ids)
            raise PromptError(
                f"a text of {len(text)} characters spells {len(names)} tokens that this tokenizer "
                "cannot write as text; take them out, or use a tokenizer whose vocabulary holds "
                "them as added tokens alone"
            )
        self.token_ids.extend(encoding.ids)
        # A token that begins in the head and ends in the answer is never generated: no loss.
        self.loss_mask.extend(bearing[start] for start, _ in encoding.offsets)


class PromptBuilder:
    """Turns conversations into prompts for one tokenizer under one set of settings."""

    def __init__(self, tokenizer: Any, settings: PromptSettings | None = None) -> None:
        """Look up the ids that the template and pictures need.

        Args:
            tokenizer: a ``tokenizers.Tokenizer``, or a transformers tokenizer backed by one.
            settings: how messages become a prompt; the defaults if None.

        Raises:
            PromptError: if the tokenizer lacks a token of the template.
        """
        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if not isinstance(backend, Tokenizer):
            raise PromptError(
                f"{type(tokenizer).__name__} is not backed by the tokenizers library; "
                "use internvl35.data.tokenizer.load_tokenizer"
            )
        self.settings = settings or PromptSettings()
        self.template: ConversationTemplate = find_template(self.settings.template)
        self._ids = _find_ids(
            backend, (*self.template.control_tokens, IMAGE_START, IMAGE_CONTEXT, IMAGE_END)
        )
        found = ((name, backend.token_to_id(name)) for name in CONTENT_TOKENS)
        self._content_ids = {name: token_id for name, token_id in found if token_id is not None}
        self._plain = _without_added_tokens(backend)
        self._added_ids = frozenset(backend.get_added_tokens_decoder())
        stops = (backend.token_to_id(name) for name in self.template.stop_tokens)
        self.stop_token_ids: tuple[int, ...] = tuple(i for i in stops if i is not None)

    @property
    def image_token_id(self) -> int:
        """Id of ``<IMG_CONTEXT>``: where visual tokens go, and what sampling must never choose."""
        return self._ids[IMAGE_CONTEXT]

    def build(
        self,
        messages: Sequence[Message],
        tiles_per_image: Sequence[int] = (),
        *,
        add_generation_prompt: bool = True,
        assistant_prefix: str = "",
    ) -> Prompt:
        """Turn a conversation into a prompt.

        Loss is on what the model itself has to write: the answers and the token that ends them.
        With ``internvl2_5`` that is everything after ``<|im_start|>assistant`` and its line break
        up to and including ``<|im_end|>``. With ``internvl3_5_gpt_oss`` it is everything after
        ``<|start|>assistant``: a prompt ends there, so the model must write the channel names, the
        second ``<|start|>assistant`` behind its reasoning, and ``<|return|>``. The ``<|end|>`` that
        stands for ``<|return|>`` in past turns carries none, since a model must not learn to end
        with it; nor does a past answer whose reasoning was taken out.

        Args:
            messages: an optional system message, then user and assistant in turn.
            tiles_per_image: tiles of each picture in the order of the marks.
            add_generation_prompt: end where the assistant begins to write; False closes the last
                turn, for training.
            assistant_prefix: first words of the answer, put behind the generation prompt. An empty
                ``<think>`` block makes a model answer without reasoning; with GPT-OSS the tags
                choose the channel.

        Returns:
            Token ids, image spans and loss mask.

        Raises:
            PromptError: if roles do not alternate, marks and pictures do not match, or the prompt
                is too long.
        """
        _check_roles(messages, add_generation_prompt, assistant_prefix)
        _check_images(messages, tiles_per_image)
        writer = _Writer(self._plain, self._content_ids, self._added_ids)
        system = messages[0].text if messages[0].role == "system" else None
        self._write_system(writer, system)
        turns = messages if system is None else messages[1:]
        tiles = iter(tiles_per_image)
        for position, message in enumerate(turns, start=1):
            if message.role == "user":
                self._write_user(writer, message, tiles)
            else:
                is_last = position == len(turns)
                self._write_assistant(writer, message, is_last=is_last)
        if add_generation_prompt:
            self._write_generation_prompt(writer, assistant_prefix)
        writer.flush()
        self._check_length(len(writer.token_ids))
        return Prompt(tuple(writer.token_ids), tuple(writer.spans), tuple(writer.loss_mask))

    def _check_length(self, num_tokens: int) -> None:
        limit = self.settings.max_tokens
        if limit is not None and num_tokens > limit:
            raise PromptError(
                f"the prompt has {num_tokens} tokens but at most {limit} fit; "
                "shorten the text, drop pictures or allow fewer tiles"
            )

    def _write_head(self, writer: _Writer, role: Role) -> None:
        writer.add_id(self._ids[self.template.turn_start])
        writer.add_text(role)
        if not self.template.has_channels:
            writer.add_text(self.template.head_end)
        elif role != "assistant":
            writer.add_id(self._ids[self.template.head_end])

    def _write_end(self, writer: _Writer, token: str, *, has_loss: bool = False) -> None:
        writer.add_id(self._ids[token], has_loss=has_loss)
        writer.add_text(self.template.turn_gap)

    def _write_system(self, writer: _Writer, given: str | None) -> None:
        text = self._system_text(given)
        if text is None:
            return
        self._write_head(writer, "system")
        writer.add_text(text)
        self._write_end(writer, self.template.turn_end)

    def _system_text(self, given: str | None) -> str | None:
        chosen = self.settings.system_prompt if given is None else given
        if given is None and chosen in ("official", "none"):
            if self.settings.is_thinking:
                return self.template.thinking_prompt
            return self.template.default_system_prompt if chosen == "official" else None
        if self.settings.is_thinking:
            return f"{chosen}\n\n{self.template.thinking_rule}"
        return chosen

    def _write_user(self, writer: _Writer, message: Message, tiles: Iterable[int]) -> None:
        self._write_head(writer, "user")
        first, *rest = message.split_at_images()
        writer.add_text(first)
        for text, num_tiles in zip(rest, tiles, strict=False):
            num_tokens = num_tiles * self.settings.tokens_per_tile
            writer.add_id(self._ids[IMAGE_START])
            writer.spans.append(ImageSpan(len(writer.token_ids), num_tokens, num_tiles))
            writer.add_id(self._ids[IMAGE_CONTEXT], num_tokens)
            writer.add_id(self._ids[IMAGE_END])
            writer.add_text(text)
        self._write_end(writer, self.template.turn_end)

    def _write_assistant(self, writer: _Writer, message: Message, *, is_last: bool) -> None:
        may_keep = is_last or self.settings.keep_past_thinking
        thinking, text = message.thinking, message.text
        if thinking is None and self.template.has_channels and starts_with_channel(text):
            thinking, text = split_channels(text) or (None, text)
        elif thinking is None and (self.template.has_channels or not may_keep):
            thinking, text = split_blocks(text)
        has_loss = may_keep or not thinking
        self._write_head(writer, "assistant")
        if thinking is not None and may_keep:
            self._write_thinking(writer, thinking, has_loss=True)
        if self.template.has_channels:
            self._write_channel(writer, "final", has_loss=has_loss)
        writer.add_text(text, has_loss=has_loss)
        end = self.template.answer_end if is_last else self.template.turn_end
        self._write_end(writer, end, has_loss=has_loss and end == self.template.answer_end)

    def _write_thinking(self, writer: _Writer, thinking: str, *, has_loss: bool) -> None:
        if not self.template.has_channels:
            writer.add_text(f"<think>\n{thinking}\n</think>\n\n", has_loss=has_loss)
        elif thinking:
            self._write_channel(writer, "analysis", has_loss=has_loss)
            writer.add_text(thinking, has_loss=has_loss)
            writer.add_id(self._ids[self.template.turn_end], has_loss=has_loss)
            writer.add_id(self._ids[self.template.turn_start], has_loss=has_loss)
            writer.add_text("assistant", has_loss=has_loss)

    def _write_channel(self, writer: _Writer, name: str, *, has_loss: bool) -> None:
        writer.add_id(self._ids["<|channel|>"], has_loss=has_loss)
        writer.add_text(name, has_loss=has_loss)
        writer.add_id(self._ids["<|message|>"], has_loss=has_loss)

    def _write_generation_prompt(self, writer: _Writer, prefix: str) -> None:
        self._write_head(writer, "assistant")
        if not prefix or not self.template.has_channels:
            writer.add_text(prefix)
            return
        thinking, closing, answer = prefix.rpartition("</think>")
        if not closing and prefix.startswith("<think>"):
            self._write_channel(writer, "analysis", has_loss=False)
            writer.add_text(prefix.removeprefix("<think>").lstrip())
            return
        if closing:
            thinking, answer = thinking.removeprefix("<think>").strip(), answer.lstrip()
        self._write_thinking(writer, thinking, has_loss=False)
        self._write_channel(writer, "final", has_loss=False)
        writer.add_text(answer)


def _find_ids(tokenizer: Tokenizer, names: Iterable[str]) -> dict[str, int]:
    ids = {name: tokenizer.token_to_id(name) for name in names}
    missing = [name for name, token_id in ids.items() if token_id is None]
    if missing:
        raise PromptError(
            f"the tokenizer lacks {', '.join(missing)}; "
            "take the tokenizer and the template of the same checkpoint"
        )
    return {name: token_id for name, token_id in ids.items() if token_id is not None}


def _without_added_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Share vocabulary, merges and text splitting, but know no added token, special or not."""
    plain = Tokenizer(tokenizer.model)
    if tokenizer.normalizer is not None:
        plain.normalizer = tokenizer.normalizer
    if tokenizer.pre_tokenizer is not None:
        plain.pre_tokenizer = tokenizer.pre_tokenizer
    return plain


def _check_roles(
    messages: Sequence[Message], add_generation_prompt: bool, assistant_prefix: str
) -> None:
    if not messages:
        raise PromptError("the conversation has 0 messages; at least 1 user message is needed")
    turns = messages[1:] if messages[0].role == "system" else messages
    first = len(messages) - len(turns) + 1
    if not turns:
        raise PromptError("the conversation has 1 message, of the system; add a user message")
    for position, message in enumerate(turns, start=first):
        if message.role not in get_args(Role):
            raise PromptError(
                f"message {position} has the unknown role {message.role!r}; "
                f"known: {', '.join(get_args(Role))}"
            )
        needed = "user" if (position - first) % 2 == 0 else "assistant"
        if message.role != needed:
            raise PromptError(
                f"message {position} of {len(messages)} is of the {message.role} where the "
                f"{needed} must speak; join messages of one role that follow one another"
            )
    if add_generation_prompt and turns[-1].role == "assistant":
        raise PromptError(
            f"message {len(messages)}, the last, is of the assistant, so nothing is left to "
            "generate; give its text as assistant_prefix or pass add_generation_prompt=False"
        )
    if assistant_prefix and not add_generation_prompt:
        raise PromptError("assistant_prefix needs add_generation_prompt=True")


def _check_images(messages: Sequence[Message], tiles_per_image: Sequence[int]) -> None:
    num_marks = sum(len(message.split_at_images()) - 1 for message in messages)
    num_images = len(tiles_per_image)
    if num_marks != num_images:
        raise PromptError(
            f"{num_marks} <image> marks but {num_images} images; "
            "pass one image per mark or drop a mark"
        )
    for position, num_tiles in enumerate(tiles_per_image, start=1):
        if num_tiles < 1:
            raise PromptError(f"image {position} has {num_tiles} tiles; at least 1 is needed")
