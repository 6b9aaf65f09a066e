from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from internvl35.errors import CheckpointError
from internvl35.model.composite import LanguagePart, VisionLanguageModel
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
        "video_preprocessor_config.json", "whole.json",
    }  # fmt: skip


def test_a_part_that_does_not_fit_is_refused(tmp_path: Path, build_model: BuildModel) -> None:
    save_checkpoint(build_model(flash_mode=True), tmp_path / "whole")
    folders = split_checkpoint(tmp_path / "whole", tmp_path)
    config = folders["vision"] / "config.json"
    config.write_text(config.read_text().replace('"flash_mode": true', '"flash_mode": false'))
    with pytest.raises(CheckpointError, match=r"weight .* has shape .*, needed None; pass"):
        load_vision_part(folders["vision"])
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


@pytest.mark.parametrize("layout", ["hf", "remote-code"])
@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe", "gpt_oss"])
def test_each_half_of_a_whole_checkpoint_is_read_alone(
    tmp_path: Path,
    build_model: BuildModel,
    inputs: dict[str, torch.Tensor],
    family: str,
    layout: str,
) -> None:
    model = build_model(family, flash_mode=True)
    save_checkpoint(model, tmp_path, layout=layout)
    vision, language = load_vision_part(tmp_path), LanguagePart.from_pretrained(tmp_path)
    names = {name for name, _ in model.named_parameters()}
    seen, spoken = ({name for name, _ in half.named_parameters()} for half in (vision, language))
    assert seen | spoken == names
    assert not seen & spoken
    assert all(name.startswith("language_model.") for name in spoken)
    with torch.no_grad():
        visual = vision.get_image_features(inputs["pixel_values"])
        found = language(input_ids=inputs["input_ids"], image_features=visual).logits
        assert torch.equal(found, model(**inputs).logits)


MEASURE = """
import sys
import torch
from pathlib import Path
from internvl35.model.composite import LanguagePart
from internvl35.model.parts import load_vision_part

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) // 1024

for load in (load_vision_part, LanguagePart.from_pretrained):
    load(sys.argv[2])  # imports what is imported when it is used
    before = resident()
    part = load(sys.argv[1])
    total = sum(float(parameter.sum()) for parameter in part.parameters())
    print(resident() - before)
    del part
"""


def test_a_half_takes_no_memory_for_the_other(tmp_path: Path, build_model: BuildModel) -> None:
    small = build_model()
    save_checkpoint(small, tmp_path / "small")
    large = build_model(
        vision={"intermediate_size": 60_000, "num_hidden_layers": 2}, text={"vocab_size": 120_000}
    )
    save_checkpoint(large, tmp_path / "large")
    bytes_of = {True: 0, False: 0}
    for name, parameter in large.named_parameters():
        bytes_of[name.startswith("language_model.")] += parameter.nbytes
    mib = {is_language: size // 2**20 for is_language, size in bytes_of.items()}
    assert min(mib.values()) > 50
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "large"), str(tmp_path / "small")],
        capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    vision, language = map(int, done.stdout.split())
    assert mib[False] * 0.8 < vision < mib[False] + mib[True] / 2
    assert mib[True] * 0.8 < language < mib[True] + mib[False] / 2


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe", "gpt_oss"])
def test_the_language_half_is_loaded_from_its_folder_as_from_the_whole(
    tmp_path: Path, build_model: BuildModel, family: str, is_tied: bool
) -> None:
    save_checkpoint(build_model(family, is_tied=is_tied), tmp_path / "whole", layout="remote-code")
    folders = split_checkpoint(tmp_path / "whole", tmp_path / "parts", max_shard_size="100KB")
    whole, part = (
        LanguagePart.from_pretrained(folder) for folder in (tmp_path / "whole", folders["language"])
    )
    expected = whole.state_dict()
    assert part.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in part.state_dict().items())
    assert part.config.tokens_per_tile == whole.config.tokens_per_tile


def test_a_language_half_of_which_something_is_missing_is_refused(
    tmp_path: Path, build_model: BuildModel
) -> None:
    save_checkpoint(build_model(), tmp_path / "whole")
    folder = split_checkpoint(tmp_path / "whole", tmp_path)["language"]
    file = folder / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.norm.weight"]
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"language_model\.model\.norm\.weight .* is missing"):
        LanguagePart.from_pretrained(folder)
    (folder / "whole.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"whole\.json cannot be read"):
        LanguagePart.from_pretrained(folder)
