"""The announcement's own API: ``AutoModel`` with ``chat`` and ``batch_chat``, ``AutoTokenizer``.

Names and results are those of the released example code, so that it runs after one changed import.
New code is better served by :mod:`internvl35.chat`. Sampling and padding stand in
:mod:`internvl35.generate`. Source: the announcement, part 02.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from internvl35.data.messages import IMAGE_MARK, Message, mark_images
from internvl35.data.prompt import PromptBuilder, PromptSettings
from internvl35.data.templates import find_template
from internvl35.data.thinking import split_thinking
from internvl35.data.tokenizer import load_tokenizer
from internvl35.errors import PromptError
from internvl35.generate.flash import FlashSettings
from internvl35.generate.request import Request
from internvl35.generate.routing import fewest_tokens, route
from internvl35.generate.rules import StopRules, check_tokens, stop_rules
from internvl35.generate.single_call import answer, read
from internvl35.model.composite import VisionLanguageModel
from internvl35.model.hub import resolve_checkpoint, take_hub_options

logger = logging.getLogger(__name__)

History = list[tuple[str, str]]
"""Questions, with their ``<image>`` marks, and answers, oldest first."""


class InternVLChatModel(VisionLanguageModel):
    """The network with the conversation calls of the released code.

    ``system_message`` is the system prompt of the next call; set it to the thinking prompt for
    reasoning, as the released code has it, or to ``None`` for no system turn.
    """

    system_message: str | None

    def __init__(self, config: Any) -> None:
        """Build the network and start with the template's official system prompt."""
        super().__init__(config)
        self.system_message = find_template(config.template).default_system_prompt

    @overload
    def chat(
        self, tokenizer: PreTrainedTokenizerBase, pixel_values: Tensor | None, question: str,
        generation_config: Mapping[str, Any], history: History | None = None,
        return_history: Literal[False] = False, num_patches_list: Sequence[int] | None = None,
        verbose: bool = False,
    ) -> str: ...  # fmt: skip

    @overload
    def chat(
        self, tokenizer: PreTrainedTokenizerBase, pixel_values: Tensor | None, question: str,
        generation_config: Mapping[str, Any], history: History | None = None,
        return_history: Literal[True] = ..., num_patches_list: Sequence[int] | None = None,
        verbose: bool = False,
    ) -> tuple[str, History]: ...  # fmt: skip

    def chat(
        self,
        tokenizer: PreTrainedTokenizerBase,
        pixel_values: Tensor | None,
        question: str,
        generation_config: Mapping[str, Any],
        history: History | None = None,
        return_history: bool = False,
        num_patches_list: Sequence[int] | None = None,
        verbose: bool = False,
    ) -> str | tuple[str, History]:
        """Answer a question of a conversation.

        Args:
            tokenizer: of the same checkpoint.
            pixel_values: ``(N, 3, tile, tile)`` tiles of all pictures of the conversation in order,
                as ``load_image`` gives them, or ``None``. Tiles of another size than the
                checkpoint's are resized.
            question: ``<image>`` marks the places of pictures; without a mark in a first question
                the pictures go in front.
            generation_config: fields of transformers' ``GenerationConfig``; ``streamer`` may hold a
                transformers streamer, which gets the new tokens, and ``flash`` the
                :class:`~internvl35.generate.flash.FlashSettings` of this call. Without them a Flash
                checkpoint compresses tiles as the released code does.
            history: what an earlier call with ``return_history`` returned, or ``None``. It is not
                changed.
            return_history: whether to return the history with this turn added.
            num_patches_list: tiles of each picture; one picture of all tiles by default.
            verbose: print question and answer.

        Returns:
            The answer as the model wrote it, reasoning tags included; with ``return_history`` also
            the history.

        Raises:
            ConfigError: if tiles shall be compressed but the checkpoint has no router.
            PromptError: if marks, ``num_patches_list`` and ``pixel_values`` do not match.
        """
        options, seed, streamer, flash = _split_options(generation_config)
        builder, asked, request = self._prepare(
            tokenizer, pixel_values, question, history, num_patches_list, flash
        )
        (request,) = self._route(builder, [request], flash)
        rules = stop_rules(tokenizer, builder)
        if streamer is None:
            (token_ids,) = answer(self, [request], options, rules, seed=seed, tokenizer=tokenizer)
        else:
            token_ids = self._feed(streamer, request, options, rules, seed, tokenizer)
        text = _decode(tokenizer, builder, rules, token_ids)
        if verbose:
            print(f"User: {asked}\nAssistant: {text}")  # noqa: T201 - asked for by the caller
        return (text, [*(history or []), (asked, text)]) if return_history else text

    def stream_chat(
        self,
        tokenizer: PreTrainedTokenizerBase,
        pixel_values: Tensor | None,
        question: str,
        generation_config: Mapping[str, Any],
        history: History | None = None,
        num_patches_list: Sequence[int] | None = None,
    ) -> Iterator[str]:
        """Answer like :meth:`chat`, piece by piece.

        Args:
            tokenizer: of the same checkpoint.
            pixel_values: tiles, as for :meth:`chat`.
            question: as for :meth:`chat`.
            generation_config: as for :meth:`chat`.
            history: as for :meth:`chat`.
            num_patches_list: tiles of each picture.

        Yields:
            Pieces that together are the answer.

        Raises:
            ConfigError: if tiles shall be compressed but the checkpoint has no router.
            PromptError: if marks, ``num_patches_list`` and ``pixel_values`` do not match.
        """
        options, seed, _, flash = _split_options(generation_config)
        builder, _, request = self._prepare(
            tokenizer, pixel_values, question, history, num_patches_list, flash
        )
        (request,) = self._route(builder, [request], flash)
        rules = stop_rules(tokenizer, builder)
        token_ids: list[int] = []
        shown = ""
        for token_id in read(self, request, options, rules, seed=seed, tokenizer=tokenizer):
            token_ids.append(token_id)
            text = _decode(tokenizer, builder, rules, token_ids).rstrip("\ufffd")
            if text.startswith(shown) and len(text) > len(shown):
                yield text[len(shown) :]
                shown = text
        text = _decode(tokenizer, builder, rules, token_ids)
        if len(text) > len(shown):
            yield text[len(shown) :]

    def batch_chat(
        self,
        tokenizer: PreTrainedTokenizerBase,
        pixel_values: Tensor | None,
        questions: Sequence[str],
        generation_config: Mapping[str, Any],
        num_patches_list: Sequence[int] | None = None,
        history: None = None,
        return_history: Literal[False] = False,
        verbose: bool = False,
    ) -> list[str]:
        """Answer several first questions at once, each as :meth:`chat` would alone.

        Args:
            tokenizer: of the same checkpoint.
            pixel_values: ``(N, 3, tile, tile)`` tiles of all samples in order, or ``None``.
            questions: one a sample. A sample with several pictures marks each of them.
            generation_config: as for :meth:`chat`.
            num_patches_list: tiles of each picture, in order; by default every sample has one tile.
            history: must be ``None``, as in the released code.
            return_history: must be ``False``, as in the released code.
            verbose: print questions and answers.

        Returns:
            An answer a question.

        Raises:
            ConfigError: if tiles shall be compressed but the checkpoint has no router.
            PromptError: if history is asked for, or marks and tiles do not match.
        """
        if history is not None or return_history:
            raise PromptError("batch_chat got a history; it knows first questions only, call chat")
        if not questions:
            return []
        sizes = _picture_sizes(pixel_values, num_patches_list, len(questions))
        tiles = iter(() if pixel_values is None else pixel_values.split(sizes))
        counts = _pictures_per_question(questions, len(sizes))
        requests = []
        options, seed, _, flash = _split_options(generation_config)
        builder = self._builder(tokenizer)
        for question, count in zip(questions, counts, strict=True):
            own = [next(tiles) for _ in range(count)]
            pixels = torch.cat(own) if own else None
            _, _, request = self._prepare(
                tokenizer, pixels, question, None, [len(picture) for picture in own], flash
            )
            requests.append(request)
        requests = self._route(builder, requests, flash)
        rules = stop_rules(tokenizer, builder)
        rows = answer(self, requests, options, rules, seed=seed, tokenizer=tokenizer)
        answers = [_decode(tokenizer, builder, rules, row) for row in rows]
        if verbose:
            for question, text in zip(questions, answers, strict=True):
                print(f"User: {question}\nAssistant: {text}")  # noqa: T201
        return answers

    def _builder(self, tokenizer: PreTrainedTokenizerBase) -> PromptBuilder:
        settings = PromptSettings(
            template=self.config.template,
            system_prompt="none" if self.system_message is None else self.system_message,
            tokens_per_tile=self.config.tokens_per_tile,
            max_tokens=int(self.config.text_config.max_position_embeddings),
            keep_past_thinking=True,
        )
        builder = PromptBuilder(tokenizer, settings)
        check_tokens(self, builder)
        return builder

    def _prepare(
        self,
        tokenizer: PreTrainedTokenizerBase,
        pixel_values: Tensor | None,
        question: str,
        history: History | None,
        num_patches_list: Sequence[int] | None,
        flash: FlashSettings | None,
    ) -> tuple[PromptBuilder, str, Request]:
        sizes = _picture_sizes(pixel_values, num_patches_list, 1)
        if not history:
            question = mark_images(question, len(sizes)) if len(sizes) == 1 else question
        messages = [
            message
            for asked, answer in history or []
            for message in (Message("user", asked), Message("assistant", answer))
        ]
        builder = self._builder(tokenizer)
        prompt = builder.build([*messages, Message("user", question)], sizes, has_limit=False)
        request = Request(prompt, None if pixel_values is None else self._fit(pixel_values))
        builder.check_length(fewest_tokens(request, flash, self.config))
        return builder, question, request

    def _route(
        self, builder: PromptBuilder, requests: Sequence[Request], flash: FlashSettings | None
    ) -> list[Request]:
        routed = route(self, requests, flash)
        for request in routed:
            builder.check_length(len(request.prompt))
        return routed

    def _fit(self, pixel_values: Tensor) -> Tensor:
        side = self.config.force_image_size
        if pixel_values.shape[-2:] == (side, side):
            return pixel_values
        logger.info("tiles of %s pixels are resized to %d", tuple(pixel_values.shape[-2:]), side)
        return functional.interpolate(
            pixel_values.float(), size=(side, side), mode="bicubic", antialias=True
        )

    def _feed(
        self,
        streamer: Any,
        request: Request,
        options: dict[str, Any],
        rules: StopRules,
        seed: int | None,
        tokenizer: PreTrainedTokenizerBase,
    ) -> list[int]:
        streamer.put(torch.tensor([request.prompt.token_ids]))
        token_ids = []
        for token_id in read(self, request, options, rules, seed=seed, tokenizer=tokenizer):
            token_ids.append(token_id)
            streamer.put(torch.tensor([token_id]))
        streamer.end()
        return token_ids


def _picture_sizes(
    pixel_values: Tensor | None, num_patches_list: Sequence[int] | None, num_questions: int
) -> list[int]:
    found = 0 if pixel_values is None else pixel_values.shape[0]
    if num_patches_list is not None:
        sizes = [int(size) for size in num_patches_list]
    elif num_questions == 1:
        sizes = [found] if found else []
    else:
        sizes = [1] * found
    if sum(sizes) != found or any(size < 1 for size in sizes):
        raise PromptError(
            f"num_patches_list is {sizes}, {sum(sizes)} tiles in all, but pixel_values holds "
            f"{found}; give the number of tiles of each picture"
        )
    return sizes


def _pictures_per_question(questions: Sequence[str], num_pictures: int) -> list[int]:
    marks = [question.count(IMAGE_MARK) for question in questions]
    if sum(marks) == num_pictures:
        return marks
    if num_pictures == len(questions):  # the released code adds the mark where it is missing
        return [1] * num_pictures
    raise PromptError(
        f"{sum(marks)} {IMAGE_MARK} marks but {num_pictures} images for {len(questions)} "
        "questions; mark every picture, or give one picture a question"
    )


def _split_options(
    config: Mapping[str, Any],
) -> tuple[dict[str, Any], int | None, Any, FlashSettings | None]:
    options = dict(config)
    seed, streamer = options.pop("seed", None), options.pop("streamer", None)
    return options, seed, streamer, options.pop("flash", None)


def _decode(
    tokenizer: PreTrainedTokenizerBase,
    builder: PromptBuilder,
    rules: StopRules,
    token_ids: Sequence[int],
) -> str:
    kept = [token_id for token_id in token_ids if token_id not in rules.end_token_ids]
    if builder.template.has_channels:
        return split_thinking(str(tokenizer.decode(kept, skip_special_tokens=False)))[1]
    return str(tokenizer.decode(kept, skip_special_tokens=True)).strip()


class AutoModel:
    """Stands in for transformers' and ModelScope's ``AutoModel`` of the example code."""

    @staticmethod
    def from_pretrained(name: str | PathLike[str], *args: Any, **kwargs: Any) -> InternVLChatModel:
        """Load a checkpoint of either layout, with ``chat`` and ``batch_chat``.

        Args:
            name: ``tiny``, ``tiny-flash``, a folder, a size such as ``8B``, or a hub id.
            *args: none; there for the signature.
            **kwargs: ``torch_dtype``, ``device_map``, ``load_in_8bit``, ``use_flash_attn``,
                ``low_cpu_mem_usage``, ``trust_remote_code`` (accepted, no remote code is ever run),
                ``hub``, ``revision`` and whatever else transformers' ``from_pretrained`` takes.

        Returns:
            The network in evaluation mode.

        Raises:
            CheckpointError: if the checkpoint cannot be found or does not fit its config.
        """
        return InternVLChatModel.from_pretrained(name, *args, **kwargs)


class AutoTokenizer:
    """Stands in for transformers' and ModelScope's ``AutoTokenizer`` of the example code."""

    @staticmethod
    def from_pretrained(name: str | PathLike[str], **kwargs: Any) -> Any:
        """Load a checkpoint's tokenizer.

        Args:
            name: as for :class:`AutoModel`.
            **kwargs: ``hub``, ``revision``, ``offline``; ``trust_remote_code`` and ``use_fast`` are
                accepted and have no effect.

        Returns:
            The tokenizer.

        Raises:
            CheckpointError: if it cannot be found or lacks InternVL's tokens.
        """
        return load_tokenizer(resolve_checkpoint(name, **take_hub_options(kwargs)))
