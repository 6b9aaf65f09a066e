from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from stand_in_hubs import HuggingFaceHandler, ModelScopeHandler, StandIn, serve
from transformers import AutoModelForCausalLM

from internvl35.commands.export import ExportSettings, check_room, choose_target, weight_bytes
from internvl35.commands.trained import find_trained, load_trained
from internvl35.errors import CheckpointError
from internvl35.model.composite import VisionLanguageModel
from internvl35.model.configuration import read_config
from internvl35.model.parts import load_vision_part

Run = Callable[..., tuple[int, str, str]]
SECRET = "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"
NAME = "somebody/formulas"


def logits_of(model: VisionLanguageModel) -> torch.Tensor:
    """Answers of a network to a fixed prompt with a picture."""
    generator = torch.Generator().manual_seed(1)
    token = model.config.image_token_id
    with torch.no_grad():
        return model(
            input_ids=torch.tensor([[1, 2, token, token, token, token, 5, 6]]),
            pixel_values=torch.randn(1, 3, 56, 56, generator=generator),
        ).logits


@pytest.fixture(scope="module")
def adapted(saved_adapters: Path) -> torch.Tensor:
    """Answers with the adapters beside the weights."""
    return logits_of(load_trained(find_trained([str(saved_adapters)], {})))


@pytest.fixture(autouse=True)
def nobody_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (
        "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN",
        "MODELSCOPE_API_TOKEN", "MODELSCOPE_DOMAIN", "USE_HF",
    ):  # fmt: skip
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "modelscope"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with serve(HuggingFaceHandler) as hub:
        hub.exists = False
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", hub.address)
        template = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub


@pytest.mark.parametrize("layout", [None, "hf"])
def test_merged_weights_answer_as_the_adapters_did(
    run: Run, adapter_checkpoint: Path, adapted: torch.Tensor, layout: str | None
) -> None:
    flags = () if layout is None else ("--layout", layout)
    code, out, err = run("export", "--adapters", adapter_checkpoint, "--merge_lora", "true", *flags)
    assert code == 0, err
    merged = adapter_checkpoint.with_name("checkpoint-2-merged")
    assert out == f"checkpoint: {merged}\n"
    torch.testing.assert_close(logits_of(VisionLanguageModel.from_pretrained(merged)), adapted)
    assert read_config(merged)[1] == (layout or "remote-code")
    assert (merged / "tokenizer.json").exists()
    assert "library_name: transformers" in (merged / "README.md").read_text()
    assert json.loads((merged / "args.json").read_text())["command"] == "sft"
    names = {path.name for path in merged.iterdir()}
    assert not names & {"adapter_config.json", "trainer_state.json"}


def test_a_folder_that_is_not_empty_is_replaced_only_on_demand(
    run: Run, adapter_checkpoint: Path, adapted: torch.Tensor, tmp_path: Path
) -> None:
    target = tmp_path / "mine"
    target.mkdir()
    (target / "notes.txt").write_text("keep me")
    command = (
        "export", "--adapters", adapter_checkpoint, "--merge_lora", "--output_dir", target,
    )  # fmt: skip
    code, _, err = run(*command)
    assert code == 2
    assert "is not empty; name a new folder, or pass --overwrite" in err
    assert [path.name for path in target.iterdir()] == ["notes.txt"]
    assert run(*command, "--overwrite")[0] == 0
    assert (target / "notes.txt").exists()
    torch.testing.assert_close(logits_of(VisionLanguageModel.from_pretrained(target)), adapted)


def test_parts_of_merged_weights_answer_together(
    run: Run, adapter_checkpoint: Path, adapted: torch.Tensor
) -> None:
    code, out, err = run(
        "export", "--adapters", adapter_checkpoint, "--merge_lora", "true", "--split", "true"
    )
    assert code == 0, err
    target = adapter_checkpoint.with_name("checkpoint-2-split")
    assert out == f"vision: {target / 'vision'}\nlanguage: {target / 'language'}\n"
    assert {path.name for path in target.iterdir()} == {"vision", "language", "README.md"}
    assert "load_vision_part" in (target / "README.md").read_text()
    vision = load_vision_part(target / "vision")
    language = AutoModelForCausalLM.from_pretrained(target / "language", dtype="auto").eval()
    generator = torch.Generator().manual_seed(1)
    ids = torch.tensor([[1, 2, 0, 0, 0, 0, 5, 6]])
    with torch.no_grad():
        embeds = language.get_input_embeddings()(ids)
        embeds[0, 2:6] = vision.get_image_features(torch.randn(1, 3, 56, 56, generator=generator))
        torch.testing.assert_close(language(inputs_embeds=embeds).logits, adapted)


def test_a_whole_checkpoint_changes_its_layout(
    run: Run, random_checkpoint: Path, tmp_path: Path
) -> None:
    target = tmp_path / "hf"
    code, _, err = run(
        "export", "--model", random_checkpoint, "--layout", "hf", "--output_dir", target
    )
    assert code == 0, err
    assert read_config(target)[1] == "hf"
    before, after = map(VisionLanguageModel.from_pretrained, (random_checkpoint, target))
    assert torch.equal(logits_of(before), logits_of(after))


def test_merged_weights_keep_the_number_format_of_the_checkpoint(
    run: Run, adapter_checkpoint: Path
) -> None:
    arguments = json.loads((adapter_checkpoint / "args.json").read_text())
    (adapter_checkpoint / "args.json").write_text(
        json.dumps(arguments | {"torch_dtype": "bfloat16"})
    )
    code, _, err = run("export", "--adapters", adapter_checkpoint, "--merge_lora", "true")
    assert code == 0, err
    merged = adapter_checkpoint.with_name("checkpoint-2-merged")
    assert VisionLanguageModel.from_pretrained(merged).dtype == torch.float32


def test_merged_weights_can_be_of_another_number_format(run: Run, adapter_checkpoint: Path) -> None:
    code, _, err = run(
        "export", "--adapters", adapter_checkpoint, "--merge_lora", "--torch_dtype", "bf16"
    )
    assert code == 0, err
    merged = adapter_checkpoint.with_name("checkpoint-2-merged")
    assert VisionLanguageModel.from_pretrained(merged).dtype == torch.bfloat16


def test_the_announced_command_publishes_adapters_that_work_again(
    run: Run, adapter_checkpoint: Path, adapted: torch.Tensor, hub: StandIn, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (adapter_checkpoint / "training_state.safetensors").write_bytes(b"optimizer")
    code, out, err = run(
        "export", "--adapters", adapter_checkpoint, "--push_to_hub", "true", "--hub_model_id", NAME,
        "--hub_token", SECRET, "--commit_message", "Step 2", "--hub_private_repo", "true",
    )  # fmt: skip
    assert code == 0, err
    assert out == f"published: {hub.address}/{NAME}\n"
    assert "on the Hugging Face hub (the token begins with hf_)" in err
    assert SECRET not in out + err
    assert hub.messages == ["Step 2"]
    assert hub.is_private is True
    assert hub.tokens == {f"Bearer {SECRET}"}
    assert hub.files.keys() == {
        ".gitattributes", "README.md", "adapter_config.json", "adapter_model.safetensors",
        "args.json", "trainer_state.json",
    }  # fmt: skip
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    shutil.rmtree(adapter_checkpoint)
    fetched = find_trained([NAME], {"hub_token": SECRET})
    assert torch.equal(logits_of(load_trained(fetched)), adapted)


def test_merged_weights_are_published_and_load_by_name(
    run: Run, adapter_checkpoint: Path, adapted: torch.Tensor, hub: StandIn, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_TOKEN", SECRET)
    command = (
        "export", "--adapters", adapter_checkpoint, "--merge_lora", "true", "--layout", "hf",
        "--push_to_hub", "true", "--hub_model_id", NAME, "--overwrite", "true",
    )  # fmt: skip
    for _ in range(2):
        code, out, err = run(*command)
        assert code == 0, err
        assert f"published: {hub.address}/{NAME}" in out
        assert SECRET not in out + err
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    model = VisionLanguageModel.from_pretrained(NAME, endpoint=hub.address)
    torch.testing.assert_close(logits_of(model), adapted)


def test_modelscope_is_published_to_where_it_is_meant(
    run: Run, adapter_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("modelscope.hub.api")
    with serve(ModelScopeHandler) as hub:
        hub.exists = False
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.address)
        for flags in (("--use_hf", "false"), ()):
            token = SECRET if flags else "12345678-abcd-0123-4567-0123456789ab"
            code, out, err = run(
                "export", "--adapters", adapter_checkpoint, "--push_to_hub", "true",
                "--hub_model_id", NAME, "--hub_token", token, *flags,
            )  # fmt: skip
            assert code == 0, err
            assert "on ModelScope" in err
            assert token not in out + err
            assert out == f"published: {hub.address}/models/{NAME}\n"
        assert "adapter_model.safetensors" in hub.files


def test_publishing_adapters_needs_no_base(
    run: Run, adapter_checkpoint: Path, hub: StandIn
) -> None:
    (adapter_checkpoint / "args.json").write_text(
        json.dumps({"model": "8B", "internvl35_version": "0.2"})
    )
    code, _, err = run(
        "export", "--adapters", adapter_checkpoint, "--push_to_hub", "true", "--hub_model_id", NAME,
        "--hub_token", SECRET,
    )  # fmt: skip
    assert code == 0, err
    assert hub.fetched == []
    assert b'base_model: "OpenGVLab/InternVL3_5-8B"' in hub.files["README.md"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "nothing to export; pass --adapters or --model"),
        (("--adapters", "a"), "nothing to do; pass --merge_lora true, --layout"),
        (("--model", "a", "--merge_lora"), "there are no adapters; pass --adapters"),
        (("--adapters", "a", "--split"), "split is of weights but these are adapters"),
        (("--adapters", "a", "--layout", "hf"), "layout is of weights but these are adapters"),
        (("--adapters", "a", "--push_to_hub"), "pass --hub_model_id owner/name"),
        (("--model", "a", "--split", "--hub_model_id", "b"), "pass --push_to_hub true"),
        (
            ("--model", "a", "--push_to_hub", "--hub_model_id", "b", "--output_dir", "c"),
            "output_dir is given but nothing is written",
        ),
        (("--model", "./nowhere", "--split"), "no such folder"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(run: Run, flags: tuple[str, ...], message: str) -> None:
    code, _, err = run("export", *flags)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_the_token_is_not_part_of_what_settings_show() -> None:
    settings = ExportSettings(model="a", split=True, hub_token=SECRET)
    assert SECRET not in repr(settings)


def test_a_disk_without_room_is_said_before_anything_is_written(
    run: Run, random_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(total=2**40, used=2**40, free=2**20)
    monkeypatch.setattr("internvl35.commands.export.shutil.disk_usage", lambda path: usage)
    target = tmp_path / "new" / "folder"
    with pytest.raises(CheckpointError, match=r"needs 10.1 GB but the disk has 0.0 GB left; free"):
        check_room(target, 10 * 10**9)
    code, _, err = run(
        "export", "--model", random_checkpoint, "--split", "true", "--output_dir", target
    )
    assert code == 2
    assert "free space or name another --output_dir" in err
    assert not target.exists()


def test_bytes_of_weights_follow_the_number_format(random_checkpoint: Path) -> None:
    own = weight_bytes(random_checkpoint, None)
    half, full = (weight_bytes(random_checkpoint, dtype) for dtype in ("bfloat16", "float32"))
    assert full == 2 * half
    assert full <= own <= full + 20_000  # the file has a header too


def test_what_is_written_stands_beside_what_it_was_made_from(tmp_path: Path) -> None:
    trained: Any = SimpleNamespace(name="owner/adapters")
    settings = ExportSettings(adapters=("x",), merge_lora=True)
    assert choose_target(trained, settings) == Path("adapters-merged")
    (tmp_path / "checkpoint-5").mkdir()
    trained = SimpleNamespace(name=str(tmp_path / "checkpoint-5"))
    assert choose_target(trained, settings) == tmp_path / "checkpoint-5-merged"
    converted = ExportSettings(model="x", layout="hf")
    assert choose_target(trained, converted) == tmp_path / "checkpoint-5-hf"
