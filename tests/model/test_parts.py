from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from internvl35.errors import CheckpointError
from internvl35.model.composite import VisionLanguageModel
from internvl35.model.parts import load_vision_part, split_checkpoint
from internvl35.model.weights import save_checkpoint

BuildModel = Callable[..., VisionLanguageModel]


@pytest.mark.parametrize("layout", ["hf", "remote-code"])
@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe", "gpt_oss"])
def test_the_halves_together_give_the_logits_of_the_whole(
    tmp_path: Path,
    build_model: BuildModel,
    inputs: dict[str, torch.Tensor],
    family: str,
    layout: str,
) -> None:
    model = build_model(family)
    save_checkpoint(model, tmp_path / "whole", layout=layout)
    folders = split_checkpoint(tmp_path / "whole", tmp_path / "parts", max_shard_size="100KB")
    vision = load_vision_part(folders["vision"])
    language = AutoModelForCausalLM.from_pretrained(folders["language"], dtype="auto").eval()
    assert type(language) is type(model.language_model)
    with torch.no_grad():
        visual = vision.get_image_features(inputs["pixel_values"])  # (1, V, D)
        assert torch.equal(visual, model.get_image_features(inputs["pixel_values"]))
        embeds = language.get_input_embeddings()(inputs["input_ids"])
        embeds[inputs["input_ids"] == model.config.image_token_id] = visual[0]
        torch.testing.assert_close(
            language(inputs_embeds=embeds).logits, model(**inputs).logits, rtol=0, atol=0
        )


@pytest.mark.parametrize("layout", ["hf", "remote-code"])
def test_router_and_compressed_projector_go_with_what_sees(
    tmp_path: Path, build_model: BuildModel, layout: str
) -> None:
    model = build_model(flash_mode=True)
    save_checkpoint(model, tmp_path / "whole", layout=layout)
    folders = split_checkpoint(tmp_path / "whole", tmp_path / "parts")
    vision = load_vision_part(folders["vision"])
    with torch.no_grad():
        patches = vision.encode_patches(torch.randn(3, 3, 56, 56))
        is_compressed = torch.tensor([True, False, True])
        assert torch.equal(vision.score_tiles(patches), model.score_tiles(patches))
        assert torch.equal(
            vision.project_tiles(patches, is_compressed),
            model.project_tiles(patches, is_compressed),
        )
    with safe_open(folders["language"] / "model.safetensors", "pt") as file:
        assert not [name for name in list(file.keys()) if "gating" in name or "mlp2" in name]


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_tied_head_is_not_written_twice(
    tmp_path: Path, build_model: BuildModel, is_tied: bool
) -> None:
    model = build_model(is_tied=is_tied)
    save_checkpoint(model, tmp_path / "whole")
    folders = split_checkpoint(tmp_path / "whole", tmp_path)
    with safe_open(folders["language"] / "model.safetensors", "pt") as file:
        assert ("lm_head.weight" in file.keys()) is not is_tied  # noqa: SIM118 - no mapping
    config = json.loads((folders["language"] / "config.json").read_text())
    assert config["tie_word_embeddings"] is is_tied
    ids = torch.tensor([[1, 2, 3]])
    language = AutoModelForCausalLM.from_pretrained(folders["language"]).eval()
    with torch.no_grad():
        assert torch.equal(language(ids).logits, model(ids).logits)


def test_the_tokenizer_goes_with_the_language_and_nothing_else_does(
    random_checkpoint: Path, tmp_path: Path
) -> None:
    folders = split_checkpoint(random_checkpoint, tmp_path)
    text = "Describe the two images."
    ours, whole = map(AutoTokenizer.from_pretrained, (folders["language"], random_checkpoint))
    assert ours(text)["input_ids"] == whole(text)["input_ids"]
    assert not (folders["language"] / "preprocessor_config.json").exists()
    names = {path.name for path in folders["vision"].iterdir()}
    assert names == {
        "config.json", "model.safetensors", "preprocessor_config.json", "processor_config.json",
        "video_preprocessor_config.json",
    }  # fmt: skip


def test_a_part_that_does_not_fit_is_refused(tmp_path: Path, build_model: BuildModel) -> None:
    save_checkpoint(build_model(), tmp_path / "whole")
    folders = split_checkpoint(tmp_path / "whole", tmp_path)
    with pytest.raises(CheckpointError, match=r"weight .* has shape .*, needed None; pass"):
        load_vision_part(tmp_path / "whole")
    with pytest.raises(CheckpointError, match="model_type 'qwen3'"):
        load_vision_part(folders["language"])
    with pytest.raises(CheckpointError, match=r"weight language_model\..* is missing"):
        VisionLanguageModel.from_pretrained(folders["vision"])


def test_a_disk_that_takes_nothing_is_said(
    tmp_path: Path, build_model: BuildModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(build_model(), tmp_path / "whole")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("internvl35.model.shards.save_file", refuse)
    with pytest.raises(CheckpointError, match="No space left on device"):
        split_checkpoint(tmp_path / "whole", tmp_path / "parts")
    assert not [path for path in (tmp_path / "parts").rglob("*") if path.is_file()]
