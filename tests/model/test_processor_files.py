from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from transformers import GotOcr2ImageProcessorPil

from internvl35.config import PRESETS
from internvl35.data.tiles import IMAGENET_MEAN, IMAGENET_STD
from internvl35.model.configuration import InternVLChatConfig, preset_config
from internvl35.model.processor_files import processor_files


def test_the_native_layout_names_tiles_of_448_and_imagenet_statistics_for_video_too() -> None:
    files = processor_files(preset_config(PRESETS["8B"]), "hf")
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        settings = json.loads(files[name])
        assert settings["size"] == {"height": 448, "width": 448}
        assert tuple(settings["image_mean"]) == IMAGENET_MEAN
        assert tuple(settings["image_std"]) == IMAGENET_STD
    pictures = json.loads(files["preprocessor_config.json"])
    assert (pictures["crop_to_patches"], pictures["min_patches"], pictures["max_patches"]) == (
        True, 1, 12,
    )  # fmt: skip
    assert json.loads(files["processor_config.json"])["image_seq_length"] == 256


def test_video_frames_arrive_already_chosen_because_no_number_of_frames_is_written() -> None:
    files = processor_files(preset_config(PRESETS["8B"]), "hf")
    video = json.loads(files["video_preprocessor_config.json"])
    assert (video["do_sample_frames"], video.get("num_frames")) == (False, None)


def test_stock_transformers_builds_its_image_processor_from_them(
    tmp_path: Path, build_config: Callable[..., InternVLChatConfig]
) -> None:
    for name, text in processor_files(build_config(), "hf").items():
        (tmp_path / name).write_text(text)
    processor = GotOcr2ImageProcessorPil.from_pretrained(tmp_path)
    assert processor.size == {"height": 56, "width": 56}
    assert processor.crop_to_patches


def test_the_remote_code_layout_has_the_one_file_of_the_released_folders() -> None:
    files = processor_files(preset_config(PRESETS["8B"]), "remote-code")
    assert list(files) == ["preprocessor_config.json"]
    settings = json.loads(files["preprocessor_config.json"])
    assert settings["feature_extractor_type"] == "CLIPFeatureExtractor"
    assert settings["size"] == 448
