"""The small files by which other software learns how to prepare pictures for a checkpoint.

This package prepares pictures by config.json alone; these files are written for stock transformers,
vLLM and the like, and never read. Section 2.1, dynamic high resolution.
"""

from __future__ import annotations

import json
from typing import Any

from internvl35.model.configuration import InternVLChatConfig, Layout

IMAGENET_STATISTICS: dict[str, Any] = {
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
}
"""Normalisation and resampling (bicubic) of the pictures that the tower was trained on."""


def processor_files(config: InternVLChatConfig, layout: Layout) -> dict[str, str]:
    """Spell the picture settings of a checkpoint for other software.

    Args:
        config: the checkpoint.
        layout: the layout of the checkpoint.

    Returns:
        File name to content.
    """
    side = config.force_image_size
    if layout == "remote-code":
        return {"preprocessor_config.json": _as_json(_clip_style(side))}
    steps = {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_convert_rgb": True}
    common = steps | {"size": {"height": side, "width": side}} | IMAGENET_STATISTICS
    tiles = config.tile_settings
    return {
        "preprocessor_config.json": _as_json(
            {
                "image_processor_type": "GotOcr2ImageProcessorFast",
                "processor_class": "InternVLProcessor",
                "crop_to_patches": config.dynamic_image_size,
                "min_patches": tiles.min_tiles,
                "max_patches": tiles.max_tiles,
            }
            | common
        ),
        "video_preprocessor_config.json": _as_json(
            {
                "video_processor_type": "InternVLVideoProcessor",
                "processor_class": "InternVLProcessor",
                "do_sample_frames": False,  # True needs a num_frames, which only the caller knows
            }
            | common
        ),
        "processor_config.json": _as_json(
            {"processor_class": "InternVLProcessor", "image_seq_length": config.tokens_per_tile}
        ),
    }


def _clip_style(side: int) -> dict[str, Any]:
    return {
        "feature_extractor_type": "CLIPFeatureExtractor",
        "do_resize": True,
        "do_center_crop": True,
        "do_normalize": True,
        "size": side,
        "crop_size": side,
    } | IMAGENET_STATISTICS


def _as_json(fields: dict[str, Any]) -> str:
    return json.dumps(fields, indent=2, sort_keys=True) + "\n"
