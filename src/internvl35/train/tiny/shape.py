"""The shape of the embedded checkpoint: an InternVL3.5 in small, and its tokenizer.

Which sizes were tried is told in docs/log.md; what it learns is left to
:mod:`internvl35.train.tiny.recipe`.
"""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from internvl35.config import LanguageShape, VisionShape
from internvl35.data.synthetic import FAMILIES, draw
from internvl35.data.templates import TEMPLATES
from internvl35.data.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
from internvl35.model.configuration import (
    InternVLChatConfig,
    language_shape_to_dict,
    vision_shape_to_dict,
)

VOCAB_SIZE = 2048
"""Entries of the tokenizer, bytes and special tokens included."""

VISION = VisionShape(
    width=192, num_layers=4, num_heads=3, mlp_width=768, tile_size=192, patch_size=16
)
"""The tower: 12 x 12 patches a tile."""

LANGUAGE = LanguageShape("qwen3", 192, 6, 3, 3, 64, 512, vocab_size=VOCAB_SIZE)
"""The language model."""

MAX_TILES = 4
"""Most tiles of a picture, thumbnail not counted."""

_TEXTS_PER_FAMILY = 1200


def tiny_config(
    image_token_id: int,
    pad_token_id: int,
    end_token_id: int,
    vision_shape: VisionShape | None = None,
    language_shape: LanguageShape | None = None,
) -> InternVLChatConfig:
    """Configuration of the embedded checkpoint.

    Args:
        image_token_id: id of ``<IMG_CONTEXT>`` in its tokenizer.
        pad_token_id: id that fills batches.
        end_token_id: id of ``<|im_end|>``, which ends an answer.
        vision_shape: another tower than ``VISION``, for trials.
        language_shape: another language model than ``LANGUAGE``, for trials.

    Returns:
        An InternVL3.5 in small: the same parts and names, 36 visual tokens a tile of 192 pixels.
    """
    text = language_shape_to_dict(language_shape or LANGUAGE) | {
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        "bos_token_id": None,
        "eos_token_id": end_token_id,
        "pad_token_id": pad_token_id,
    }
    vision = vision_shape_to_dict(vision_shape or VISION) | {"layer_scale_init_value": 0.5}
    return InternVLChatConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=image_token_id,
        max_dynamic_patch=MAX_TILES,
        dtype="bfloat16",
    )


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """Train the small tokenizer on the questions and answers of the drawn tasks.

    Returns:
        Byte-level BPE with the released special tokens and single digits and capitals; the same
        every time.
    """
    weight = len(FAMILIES) * _TEXTS_PER_FAMILY // 20
    texts = ["system", "user", "assistant"] * weight
    for template in TEMPLATES.values():
        prompts = (template.default_system_prompt, template.thinking_prompt)
        texts += [prompt for prompt in prompts if prompt] * (weight // 10)
    for family in FAMILIES:
        for index in range(_TEXTS_PER_FAMILY):
            for turn in draw(family, "train", index, 1.0).turns:
                texts.append(turn.question)
                # what is printed is spelled: tokens for whole words that only pictures show would
                # each have to be learned
                if " " in turn.answer or turn.answer.islower():
                    texts += [turn.answer, turn.reasoning]
    return train_tokenizer(texts, VOCAB_SIZE)


def run_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Settle a run's tokenizer once; ids must not change under a run that is resumed.

    Args:
        folder: where it stands, or will.
    """
    if not (folder / "tokenizer.json").exists():
        partial = folder.with_suffix(".partial")
        save_tokenizer(tiny_tokenizer(), partial)
        partial.rename(folder)
    return load_tokenizer(folder)


def named_token_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int, int]:
    """Look up the ids that :func:`tiny_config` takes, in its order."""
    names = ("<IMG_CONTEXT>", "<|endoftext|>", "<|im_end|>")
    found = tokenizer.convert_tokens_to_ids(list(names))
    assert isinstance(found, list)
    return (found[0], found[1], found[2])
