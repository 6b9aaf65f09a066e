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

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tokenizers import Tokenizer

from internvl35.data.messages import (
    IMAGE_MARK,
    FrameLabel,
    LossScale,
    Message,
    Part,
    Role,
    image_marks,
    mark_images,
    video_marks,
)
from internvl35.data.prompt_settings import PromptSettings
from internvl35.data.templates import ConversationTemplate, find_template
from internvl35.data.thinking import (
    split_blocks,
    split_channels,
    split_thinking,
    starts_with_channel,
)
from internvl35.data.token_writer import (
    ImageSpan,
    Prompt,
    Tags,
    TokenWriter,
    without_added_tokens,
)
from internvl35.data.tool_calls import (
    CALL_TAGS,
    RESULT_TAGS,
    TOOLS_HEAD,
    TOOLS_TAIL,
    write_schemas,
)
from internvl35.data.turns import check_images, check_turns, is_pretraining
from internvl35.errors import PromptError

__all__ = [
    "CONTENT_TOKENS", "IMAGE_CONTEXT", "IMAGE_END", "IMAGE_MARK", "IMAGE_START",
    "FrameLabel", "ImageSpan", "LossScale", "Message", "Part", "Prompt", "PromptBuilder",
    "PromptSettings", "Role", "image_marks", "mark_images", "split_thinking", "video_marks",
]  # fmt: skip

IMAGE_START, IMAGE_CONTEXT, IMAGE_END = "<img>", "<IMG_CONTEXT>", "</img>"

CONTENT_TOKENS = (
    "<think>", "</think>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>",
)  # fmt: skip
"""Tags that are one token inside a text, in every role.

Grounding questions and answers are written with them (``<ref>cat</ref><box>[[1, 2, 3, 4]]</box>``),
thinking is enclosed by them, and the thinking system prompt names them; the released models saw all
of these as single ids. They mark up content and cannot forge a turn or a picture."""


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
        self._content = Tags(_known_ids(backend, CONTENT_TOKENS))
        calls = Tags(_known_ids(backend, (*CONTENT_TOKENS, *CALL_TAGS)))
        self._tags_of_answers = calls if not self.template.has_channels else self._content
        self._tags_of_results = Tags(_known_ids(backend, RESULT_TAGS))
        self._plain = without_added_tokens(backend)
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
        tools: str | None = None,
        has_limit: bool = True,
    ) -> Prompt:
        """Turn a conversation into a prompt.

        Loss is on what the model itself has to write: the answers and the token that ends them.
        With ``internvl2_5`` that is everything after ``<|im_start|>assistant`` and its line break
        up to and including ``<|im_end|>``. With ``internvl3_5_gpt_oss`` it is everything after
        ``<|start|>assistant``: a prompt ends there, so the model must write the channel names, the
        second ``<|start|>assistant`` behind its reasoning, and ``<|return|>``. The ``<|end|>`` that
        stands for ``<|return|>`` in past turns carries none, since a model must not learn to end
        with it; nor does a past answer whose reasoning was taken out. Results of tools carry none.

        The settings' ``loss_scale`` changes this for all turns and a message's ``has_loss`` for
        that one: True puts loss on what it says and on the token that ends it, False takes it off.
        The three tokens of pictures never carry any.

        A single message of the assistant that is to be closed is a text of pre-training: its tokens
        alone, without turns, system prompt or end, all of which carry loss (section 3.1).

        Args:
            messages: an optional system message, then user and assistant in turn; a tool's results
                may stand between two messages of the assistant.
            tiles_per_image: tiles of each picture in the order of the marks.
            add_generation_prompt: end where the assistant begins to write; False closes the last
                turn, for training.
            assistant_prefix: first words of the answer, put behind the generation prompt. An empty
                ``<think>`` block makes a model answer without reasoning; with GPT-OSS the tags
                choose the channel.
            tools: JSON text of the schemas of tools that may be called; ``internvl2_5`` alone.
            has_limit: whether a prompt longer than ``max_tokens`` is refused; False where tiles are
                compressed first and :meth:`check_length` is called then.

        Returns:
            Token ids, image spans and loss mask.

        Raises:
            PromptError: if roles do not alternate, marks and pictures do not match, or the prompt
                is too long.
        """
        writer = TokenWriter(self._plain, self._added_ids, self._content)
        if is_pretraining(messages) and not add_generation_prompt:
            check_images(messages, tiles_per_image)
            self._write_pretraining(writer, messages[0], iter(tiles_per_image))
        else:
            check_turns(
                messages,
                add_generation_prompt=add_generation_prompt,
                assistant_prefix=assistant_prefix,
            )
            check_images(messages, tiles_per_image)
            self._write_turns(writer, messages, iter(tiles_per_image), tools)
        if add_generation_prompt:
            self._write_generation_prompt(writer, assistant_prefix)
        prompt = writer.finish()
        if has_limit:
            self.check_length(len(prompt))
        return prompt

    def _write_turns(
        self,
        writer: TokenWriter,
        messages: Sequence[Message],
        tiles: Iterator[int],
        tools: str | None,
    ) -> None:
        roles = [message.role for message in messages]
        if self.template.has_channels and (tools or "tool" in roles):
            raise PromptError(
                f"tools are not supported with the template {self.template.name}; "
                "take them out, or use a Qwen3-based size"
            )
        has_system = roles[0] == "system"
        self._write_system(writer, messages[0] if has_system else None, tools)
        last_question = max((i for i, role in enumerate(roles) if role == "user"), default=-1)
        for place, message in enumerate(messages[has_system:], start=has_system):
            following = roles[place + 1] if place + 1 < len(roles) else None
            if message.role == "user":
                self._write_user(writer, message, tiles)
            elif message.role == "tool":
                is_first, is_last = roles[place - 1] != "tool", following != "tool"
                self._write_result(writer, message, is_first=is_first, is_last=is_last)
            else:
                is_current = place > last_question
                is_last = following is None
                self._write_assistant(writer, message, is_current=is_current, is_last=is_last)

    def _has_loss(self, message: Message, *, is_target: bool = False) -> bool:
        """Decide whether a turn carries loss.

        Args:
            message: the turn.
            is_target: whether the default rules put loss on it.
        """
        if message.has_loss is not None:
            return message.has_loss
        return is_target or self.settings.loss_scale == "all"

    def check_length(self, num_tokens: int) -> None:
        """Refuse a prompt that does not fit.

        Args:
            num_tokens: of the prompt.

        Raises:
            PromptError: if they are more than the settings' ``max_tokens``.
        """
        limit = self.settings.max_tokens
        if limit is not None and num_tokens > limit:
            raise PromptError(
                f"the prompt has {num_tokens} tokens but at most {limit} fit; "
                "shorten the text, drop pictures or allow fewer tiles"
            )

    def _write_head(self, writer: TokenWriter, role: Role, *, has_loss: bool = False) -> None:
        has_loss = has_loss and self.settings.loss_scale == "all"
        writer.add_id(self._ids[self.template.turn_start], has_loss=has_loss)
        writer.add_text(role, has_loss=has_loss)
        if not self.template.has_channels:
            writer.add_text(self.template.head_end, has_loss=has_loss)
        elif role != "assistant":
            writer.add_id(self._ids[self.template.head_end], has_loss=has_loss)

    def _write_end(self, writer: TokenWriter, token: str, *, has_loss: bool) -> None:
        writer.add_id(self._ids[token], has_loss=has_loss)
        is_all = self.settings.loss_scale == "all"
        writer.add_text(self.template.turn_gap, has_loss=has_loss and is_all)

    def _write_system(self, writer: TokenWriter, given: Message | None, tools: str | None) -> None:
        text = self._system_text(None if given is None else given.text)
        if text is None and tools is None:
            return
        has_loss = self._has_loss(given or Message("system", ""))
        self._write_head(writer, "system", has_loss=has_loss)
        writer.add_text(text or "", has_loss=has_loss)
        if tools is not None:
            gap = "\n\n" if text is not None else ""
            schemas = write_schemas(tools)
            writer.add_text(f"{gap}{TOOLS_HEAD}{schemas}", has_loss=has_loss)
            writer.add_text(TOOLS_TAIL, has_loss=has_loss, tags=self._tags_of_answers)
        self._write_end(writer, self.template.turn_end, has_loss=has_loss)

    def _system_text(self, given: str | None) -> str | None:
        chosen = self.settings.system_prompt if given is None else given
        if given is None and chosen in ("official", "none"):
            if self.settings.is_thinking:
                return self.template.thinking_prompt
            return self.template.default_system_prompt if chosen == "official" else None
        if self.settings.is_thinking:
            return f"{chosen}\n\n{self.template.thinking_rule}"
        return chosen

    def _write_pretraining(
        self, writer: TokenWriter, message: Message, tiles: Iterator[int]
    ) -> None:
        has_loss = self._has_loss(message, is_target=True)
        parts = message.split_at_images(is_pretraining=True)
        self._write_parts(writer, parts, tiles, has_loss=has_loss)

    def _write_user(self, writer: TokenWriter, message: Message, tiles: Iterator[int]) -> None:
        has_loss = self._has_loss(message)
        self._write_head(writer, "user", has_loss=has_loss)
        self._write_parts(writer, message.split_at_images(), tiles, has_loss=has_loss)
        self._write_end(writer, self.template.turn_end, has_loss=has_loss)

    def _write_result(
        self, writer: TokenWriter, message: Message, *, is_first: bool, is_last: bool
    ) -> None:
        """Write what a tool answered; results that follow one another share a turn of the user."""
        has_loss = self._has_loss(message)
        if is_first:
            self._write_head(writer, "user", has_loss=has_loss)
        opening, closing = RESULT_TAGS
        opening = f"{'' if is_first else chr(10)}{opening}\n"
        writer.add_text(opening, has_loss=has_loss, tags=self._tags_of_results)
        writer.add_text(message.text, has_loss=has_loss)
        writer.add_text(f"\n{closing}", has_loss=has_loss, tags=self._tags_of_results)
        if is_last:
            self._write_end(writer, self.template.turn_end, has_loss=has_loss)

    def _write_parts(
        self, writer: TokenWriter, parts: Sequence[str], tiles: Iterator[int], *, has_loss: bool
    ) -> None:
        first, *rest = parts
        writer.add_text(first, has_loss=has_loss)
        for text in rest:
            num_tiles = next(tiles)
            num_tokens = num_tiles * self.settings.tokens_per_tile
            writer.add_id(self._ids[IMAGE_START])
            writer.add_span(self._ids[IMAGE_CONTEXT], num_tokens, num_tiles)
            writer.add_id(self._ids[IMAGE_END])
            writer.add_text(text, has_loss=has_loss)

    def _write_assistant(
        self, writer: TokenWriter, message: Message, *, is_current: bool, is_last: bool
    ) -> None:
        may_keep = is_current or self.settings.keep_past_thinking
        thinking, text = message.thinking, message.text
        if thinking is None and self.template.has_channels and starts_with_channel(text):
            thinking, text = split_channels(text) or (None, text)
        elif thinking is None and (self.template.has_channels or not may_keep):
            thinking, text = split_blocks(text)
        is_round = is_current or self.settings.loss_scale == "default"
        has_loss = self._has_loss(message, is_target=is_round and (may_keep or not thinking))
        self._write_head(writer, "assistant", has_loss=has_loss)
        if thinking is not None and may_keep:
            self._write_thinking(writer, thinking, has_loss=has_loss)
        if self.template.has_channels:
            self._write_channel(writer, "final", has_loss=has_loss)
        writer.add_text(text, has_loss=has_loss, tags=self._tags_of_answers)
        end = self.template.answer_end if is_last else self.template.turn_end
        is_end = end == self.template.answer_end or self.settings.loss_scale == "all"
        self._write_end(writer, end, has_loss=has_loss and is_end)

    def _write_thinking(self, writer: TokenWriter, thinking: str, *, has_loss: bool) -> None:
        if not self.template.has_channels:
            writer.add_text(f"<think>\n{thinking}\n</think>\n\n", has_loss=has_loss)
        elif thinking:
            self._write_channel(writer, "analysis", has_loss=has_loss)
            writer.add_text(thinking, has_loss=has_loss)
            writer.add_id(self._ids[self.template.turn_end], has_loss=has_loss)
            writer.add_id(self._ids[self.template.turn_start], has_loss=has_loss)
            writer.add_text("assistant", has_loss=has_loss)

    def _write_channel(self, writer: TokenWriter, name: str, *, has_loss: bool) -> None:
        writer.add_id(self._ids["<|channel|>"], has_loss=has_loss)
        writer.add_text(name, has_loss=has_loss)
        writer.add_id(self._ids["<|message|>"], has_loss=has_loss)

    def _write_generation_prompt(self, writer: TokenWriter, prefix: str) -> None:
        self._write_head(writer, "assistant")
        if not prefix or not self.template.has_channels:
            writer.add_text(prefix, tags=self._tags_of_answers)
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


def _known_ids(tokenizer: Tokenizer, names: Iterable[str]) -> dict[str, int]:
    found = ((name, tokenizer.token_to_id(name)) for name in names)
    return {name: token_id for name, token_id in found if token_id is not None}


def _find_ids(tokenizer: Tokenizer, names: Iterable[str]) -> dict[str, int]:
    names = tuple(names)
    ids = _known_ids(tokenizer, names)
    missing = [name for name in names if name not in ids]
    if missing:
        raise PromptError(
            f"the tokenizer lacks {', '.join(missing)}; "
            "take the tokenizer and the template of the same checkpoint"
        )
    return ids
