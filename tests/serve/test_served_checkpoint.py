"""Processes know by what they find whether they serve the same checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch
from flash_models import FULL, SHORT, TILE, make_flash_model

from internvl35 import load
from internvl35.config import TINY_FOLDER
from internvl35.errors import CheckpointError
from internvl35.model.parts import split_checkpoint
from internvl35.serve.parts import start_language, start_vision
from internvl35.serve.served_checkpoint import look_at


def test_copies_are_equal_and_another_format_is_another_checkpoint(
    random_checkpoint: Path, tmp_path: Path
) -> None:
    shutil.copytree(random_checkpoint, tmp_path / "copy")
    found, copy = look_at(random_checkpoint), look_at(tmp_path / "copy")
    assert found.fingerprint == copy.fingerprint
    assert len(found.fingerprint) == 16
    formats = [look_at(random_checkpoint, name) for name in ("float32", "bfloat16")]
    assert [one.dtype for one in formats] == [torch.float32, torch.bfloat16]
    assert formats[0].fingerprint != formats[1].fingerprint
    assert found.fingerprint in {one.fingerprint for one in formats}


def _change_config(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"max_dynamic_patch": 6', '"max_dynamic_patch": 4'))


def _change_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text() + "\n")


def _change_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("change", [_change_config, _change_tokenizer, _change_weights])
def test_whatever_differs_tells_checkpoints_apart(
    random_checkpoint: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    shutil.copytree(random_checkpoint, tmp_path / "copy")
    before = look_at(tmp_path / "copy").fingerprint
    change(tmp_path / "copy")
    assert look_at(tmp_path / "copy").fingerprint != before


def test_servers_of_parts_work_with_those_of_the_whole(
    random_checkpoint: Path, tmp_path: Path
) -> None:
    folders = split_checkpoint(random_checkpoint, tmp_path)
    whole = look_at(random_checkpoint)
    parts = [look_at(folders[name]) for name in ("vision", "language")]
    for part in parts:
        assert (part.fingerprint, part.dtype) == (whole.fingerprint, whole.dtype)
        assert part.profile("vision", "eye") == whole.profile("vision", "eye")
    with closing(start_vision(parts[0])), closing(start_language(parts[1])) as language:
        assert language.config.image_token_id == load(random_checkpoint).builder.image_token_id


def test_the_embedded_checkpoint_is_served_in_float32() -> None:
    served = look_at(TINY_FOLDER)
    assert served.dtype is torch.float32
    assert served.profile("vision", "eye").dtype == "f32"


def test_a_profile_holds_the_sizes_of_the_checkpoint(tmp_path: Path) -> None:
    make_flash_model().save_pretrained(tmp_path / "flash")
    make_flash_model(flash_mode=False).save_pretrained(tmp_path / "plain")
    flash = look_at(tmp_path / "flash", "bfloat16").profile(
        "language", "mouth", max_requests=3, max_tiles=5, image_token_id=7
    )
    assert (flash.role, flash.name, flash.dtype) == ("language", "mouth", "bf16")
    assert (flash.tile_side, flash.tokens_per_tile, flash.compressed_tokens) == (TILE, FULL, SHORT)
    assert (flash.width, flash.image_token_id, flash.max_prompt_tokens) == (48, 7, 2048)
    assert (flash.max_requests, flash.max_tiles) == (3, 5)
    plain = look_at(tmp_path / "plain").profile("gateway", "gate", max_prompt_tokens=9)
    assert (plain.compressed_tokens, plain.image_token_id, plain.max_prompt_tokens) == (0, 635, 9)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        look_at(tmp_path)
