"""The nine sizes: exact parameter counts, the roundings of the paper's Table 1, memory and GPUs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from internvl35.config import (
    FLASH_SIZES,
    INTERNVIT_6B,
    INTERNVIT_300M,
    PRESETS,
    LanguageShape,
    TileSettings,
    VisionShape,
)
from internvl35.errors import ConfigError

# size: language model, whole model
EXACT = {
    "1B": (751_632_384, 1_060_897_792),
    "2B": (2_031_739_904, 2_348_347_392),
    "4B": (4_411_424_256, 4_732_489_216),
    "8B": (8_190_735_360, 8_528_318_464),
    "14B": (14_768_307_200, 15_119_523_840),
    "38B": (32_762_123_264, 38_390_405_504),
    "30B-A3B": (30_532_122_624, 30_848_730_112),
    "241B-A28B": (235_093_634_560, 240_699_370_368),
}
# size: tower in millions, language model and whole model in billions
TABLE_1 = {
    "1B": (304, 0.8, 1.1),
    "2B": (304, 2.0, 2.3),
    "4B": (304, 4.4, 4.7),
    "8B": (304, 8.2, 8.5),
    "14B": (304, 14.8, 15.1),
    "38B": (5536, 32.8, 38.4),
    "GPT-OSS-20B-A4B-Preview": (304, 20.9, 21.2),
    "30B-A3B": (304, 30.5, 30.8),
    "241B-A28B": (5536, 235.1, 240.7),
}
NUM_GPUS = {"38B": 2, "241B-A28B": 8}


# size: router in millions, compressed projector in millions, bf16 file in GB
FLASH = {
    "1B": (50.4, 39.9, 2.302),
    "2B": (50.4, 92.3, 4.982),  # the released file is listed with 4.98 GB
    "4B": (50.4, 123.3, 9.812),
    "8B": (50.4, 234.9, 17.627),
    "14B": (50.4, 325.1, 30.990),
    "38B": (491.7, 681.7, 79.128),
    "30B-A3B": (50.4, 92.3, 61.983),
}


@pytest.mark.parametrize("name", EXACT)
def test_parameter_counts_are_exact(name: str) -> None:
    preset = PRESETS[name]
    assert (preset.language.num_parameters, preset.num_parameters) == EXACT[name]


def test_towers_have_their_exact_counts() -> None:
    assert INTERNVIT_300M.num_parameters == 304_012_288
    assert INTERNVIT_6B.num_parameters == 5_536_496_000


@pytest.mark.parametrize("name", TABLE_1)
def test_counts_round_to_table_1_of_the_paper(name: str) -> None:
    preset = PRESETS[name]
    found = (
        round(preset.vision.num_parameters / 1e6),
        round(preset.language.num_parameters / 1e9, 1),
        round(preset.num_parameters / 1e9, 1),
    )
    assert found == TABLE_1[name]


@pytest.mark.parametrize("name", FLASH)
def test_flash_sizes_have_their_counts_and_files(name: str) -> None:
    flash = PRESETS[name].flash
    found = (
        round(flash.num_router_parameters / 1e6, 1),
        round(flash.num_compressed_projector_parameters / 1e6, 1),
        round(flash.memory_bytes(16) / 1e9, 3),
    )
    assert found == FLASH[name]
    added = flash.num_router_parameters + flash.num_compressed_projector_parameters
    assert flash.num_parameters - PRESETS[name].num_parameters == added
    assert flash.hub_id == f"OpenGVLab/InternVL3_5-{name}-Flash"


def test_a_router_has_its_exact_count_and_base_sizes_have_none() -> None:
    assert PRESETS["8B"].flash.num_router_parameters == 16_802_816 + 33_587_202
    assert PRESETS["38B"].flash.num_router_parameters == 163_920_000 + 327_782_402
    assert PRESETS["8B"].num_router_parameters == 0
    assert PRESETS["8B"].num_compressed_projector_parameters == 0
    assert set(FLASH_SIZES) == set(FLASH)


def test_there_are_nine_sizes_and_each_is_covered() -> None:
    assert set(PRESETS) == set(TABLE_1)


def test_parts_add_up_to_the_whole() -> None:
    for preset in PRESETS.values():
        parts = (
            preset.vision.num_parameters
            + preset.num_projector_parameters
            + preset.language.num_parameters
        )
        assert parts == preset.num_parameters


@pytest.mark.parametrize(
    ("name", "billions"), [("30B-A3B", 3.7), ("241B-A28B", 27.8), ("GPT-OSS-20B-A4B-Preview", 4.5)]
)
def test_active_parameters_of_experts_round_to_what_the_name_says(
    name: str, billions: float
) -> None:
    assert round(PRESETS[name].num_active_parameters / 1e9, 1) == billions


def test_all_parameters_of_a_dense_model_are_active() -> None:
    dense = [preset for preset in PRESETS.values() if preset.language.num_experts == 0]
    assert len(dense) == 6
    for preset in dense:
        assert preset.num_active_parameters == preset.num_parameters


def test_a_tied_head_saves_one_embedding() -> None:
    language = PRESETS["1B"].language
    tied = replace(language, is_tied=True)
    assert language.num_parameters - tied.num_parameters == 151_936 * 1024


def test_memory_is_two_bytes_a_weight_in_bf16_and_one_in_int8_but_for_embedding_and_head() -> None:
    preset = PRESETS["8B"]
    assert preset.memory_bytes(16) == 2 * 8_528_318_464
    assert preset.memory_bytes(8) == 8_528_318_464 + 2 * 151_936 * 4096


@pytest.mark.parametrize("name", PRESETS)
def test_gpus_of_80_gib_are_those_the_release_asks_for(name: str) -> None:
    assert PRESETS[name].num_gpus() == NUM_GPUS.get(name, 1)


def test_smaller_gpus_are_needed_in_greater_numbers() -> None:
    assert PRESETS["38B"].num_gpus(gpu_memory_gib=24) == 4


def test_a_tile_has_32_by_32_patches() -> None:
    assert INTERNVIT_300M.grid == 32


def test_hub_ids_are_the_released_ones() -> None:
    assert PRESETS["241B-A28B"].hub_id == "OpenGVLab/InternVL3_5-241B-A28B"


def test_counts_of_a_small_tower_are_those_of_its_tensors() -> None:
    shape = VisionShape(width=8, num_layers=1, num_heads=2, mlp_width=16, tile_size=28)
    embeddings = 8 + 5 * 8 + 3 * 14 * 14 * 8 + 8
    block = 4 * 8 * 8 + 4 * 8 + (8 * 16 + 16) + (16 * 8 + 8) + 2 * 2 * 8 + 2 * 8
    assert shape.num_parameters == embeddings + block


def test_counts_of_a_small_language_model_are_those_of_its_tensors() -> None:
    shape = LanguageShape("qwen3", 8, 1, 2, 1, 4, 16, vocab_size=10)
    block = 8 * 8 + 2 * 8 * 4 + 8 * 8 + 2 * 4 + 3 * 8 * 16 + 2 * 8
    assert shape.num_parameters == 2 * 10 * 8 + block + 8


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"tile_size": 0}, "tile_size is 0"),
        ({"min_tiles": 0}, "min_tiles is 0"),
        ({"min_tiles": 5, "max_tiles": 4}, "min_tiles is 5 and max_tiles is 4"),
    ],
)
def test_impossible_tile_settings_are_refused(settings: dict[str, int], found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        TileSettings(**settings)
