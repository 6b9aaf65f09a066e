"""Our prompts against stock transformers' way: chat template, placeholders filled, tokenizer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.models.internvl.processing_internvl import InternVLProcessor

from internvl35.data.prompt import Message, PromptBuilder, PromptSettings, video_marks
from internvl35.data.tokenizer import CHAT_TEMPLATE, train_tokenizer

TOKENS_PER_TILE = 4
# as the -HF repositories have it: turns alone, no system prompt unless given, a line break behind
# every picture and video
RELEASED_TEMPLATE = """{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' -}}
    {%- if message['content'] is string -%}
        {{- message['content'] -}}
    {%- else -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{- '<IMG_CONTEXT>\\n' -}}
            {%- elif item['type'] == 'video' -%}
                {{- '<video>\\n' -}}
            {%- elif item['type'] == 'text' -%}
                {{- item['text'] -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}"""

IMAGE, VIDEO = {"type": "image"}, {"type": "video"}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(["user assistant what is in the picture? a red cat\n\n"] * 20, 400)


def text(content: str) -> dict[str, str]:
    return {"type": "text", "text": content}


def stock_ids(
    tokenizer: Any, messages: list[dict[str, Any]], tiles: Sequence[int], frames: Sequence[int] = ()
) -> list[int]:
    """What stock transformers' processor does, with its own code for the visual parts."""
    processor: Any = SimpleNamespace(
        start_image_token="<img>",
        end_image_token="</img>",
        image_token="<IMG_CONTEXT>",
        image_seq_length=TOKENS_PER_TILE,
    )
    pictures = {"num_patches": list(tiles)}
    videos = {"pixel_values_videos": [torch.empty(count, 0) for count in frames]}
    numbers = {"<IMG_CONTEXT>": iter(range(len(tiles))), "<video>": iter(range(len(frames)))}

    def fill(match: re.Match[str]) -> str:
        number = next(numbers[match[0]])
        if match[0] == "<video>":
            return InternVLProcessor.replace_video_token(processor, videos, number)
        return InternVLProcessor.replace_image_token(processor, pictures, number)

    prompt = tokenizer.apply_chat_template(
        messages, chat_template=RELEASED_TEMPLATE, tokenize=False, add_generation_prompt=True
    )
    ids: list[int] = tokenizer(re.sub("<IMG_CONTEXT>|<video>", fill, prompt)).input_ids
    return ids


def our_ids(tokenizer: Any, messages: Sequence[Message], tiles: Sequence[int]) -> list[int]:
    settings = PromptSettings(system_prompt="none", tokens_per_tile=TOKENS_PER_TILE)
    return list(PromptBuilder(tokenizer, settings).build(messages, tiles).token_ids)


@pytest.mark.parametrize(
    ("theirs", "ours", "tiles"),
    [
        (
            [{"role": "user", "content": "what is a cat?"}],
            [Message("user", "what is a cat?")],
            [],
        ),
        (
            [{"role": "user", "content": [IMAGE, text("what is it?")]}],
            [Message("user", "<image>\nwhat is it?")],
            [13],
        ),
        (
            [{"role": "user", "content": [text("Image-1: "), IMAGE, text("Image-2: "), IMAGE]}],
            [Message("user", "Image-1: <image>\nImage-2: <image>\n")],
            [3, 1],
        ),
        (
            [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": [IMAGE, text("and?")]},
                {"role": "assistant", "content": "a red cat"},
                {"role": "user", "content": [text("now this "), IMAGE, text("?")]},
            ],
            [
                Message("system", "be brief"),
                Message("user", "<image>\nand?"),
                Message("assistant", "a red cat"),
                Message("user", "now this <image>\n?"),
            ],
            [1, 2],
        ),
    ],
    ids=["text alone", "one picture", "two pictures", "several turns"],
)
def test_prompts_without_the_official_system_prompt_are_those_of_stock_transformers(
    tokenizer: Any, theirs: list[dict[str, Any]], ours: list[Message], tiles: list[int]
) -> None:
    assert our_ids(tokenizer, ours, tiles) == stock_ids(tokenizer, theirs, tiles)


@pytest.mark.parametrize("num_frames", [1, 8])
def test_frames_of_a_video_are_labelled_as_stock_transformers_does(
    tokenizer: Any, num_frames: int
) -> None:
    theirs = [{"role": "user", "content": [VIDEO, text("what happens?")]}]
    ours = [Message("user", video_marks(num_frames) + "what happens?")]
    expected = stock_ids(tokenizer, theirs, [], [num_frames])
    assert our_ids(tokenizer, ours, [1] * num_frames) == expected


def test_the_chat_template_that_checkpoints_carry_says_the_same(tokenizer: Any) -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [IMAGE, text("and?"), VIDEO]},
        {"role": "assistant", "content": "a red cat"},
        {"role": "user", "content": "thanks"},
    ]
    for add_generation_prompt in (True, False):
        found, expected = (
            tokenizer.apply_chat_template(
                messages,
                chat_template=template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
            for template in (CHAT_TEMPLATE, RELEASED_TEMPLATE)
        )
        assert found == expected
