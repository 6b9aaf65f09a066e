"""Adapters against PEFT's own model, files and arithmetic."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from internvl35.errors import CheckpointError, ConfigError
from internvl35.model.composite import VisionLanguageModel
from internvl35.train import adapters, packages
from internvl35.train.adapters import (
    add_adapters,
    load_adapters,
    load_base,
    merge_adapters,
    save_adapters,
)
from internvl35.train.arguments import build_settings
from internvl35.train.settings import (
    AdapterSettings,
    FinetuneSettings,
    FreezeSettings,
    ModelSettings,
)

ModelBuilder = Callable[..., VisionLanguageModel]
Inputs = dict[str, Tensor]
TOWER_TOO = FreezeSettings(freeze_vit=False)
PLAIN = AdapterSettings(lora_dropout=0.0)
every_family = pytest.mark.parametrize("family", ["qwen3", "qwen3_moe", "gpt_oss"])
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)

DECODER = {
    f"language_model.model.layers.{layer}.{name}"
    for layer in (0, 1)
    for name in (
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
    )
}  # fmt: skip


def adapted(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if hasattr(module, "lora_A")}


def stir(model: VisionLanguageModel) -> VisionLanguageModel:
    """Move everything that trains, since fresh adapters change nothing."""
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn_like(weight))
    return model.eval()


def logits(model: Any, inputs: Inputs) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**inputs).logits
        return found


# ------------------------------------------------------------------ what trains


def test_only_adapters_train_and_only_what_trains_is_float32(build_model: ModelBuilder) -> None:
    model = add_adapters(build_model().bfloat16(), PLAIN, TOWER_TOO)
    for name, weight in model.named_parameters():
        is_adapter = ".lora_A." in name or ".lora_B." in name
        assert weight.requires_grad == is_adapter, name
        assert weight.dtype == (torch.float32 if is_adapter else torch.bfloat16), name
    kept = add_adapters(build_model().bfloat16(), PLAIN, TOWER_TOO, in_float32=False)
    assert {weight.dtype for weight in kept.parameters()} == {torch.bfloat16}


def test_fresh_adapters_change_no_answer(build_model: ModelBuilder, inputs: Inputs) -> None:
    model = add_adapters(build_model(), PLAIN, TOWER_TOO)
    assert torch.equal(logits(model, inputs), logits(build_model(), inputs))


def test_a_network_gets_adapters_once(build_model: ModelBuilder) -> None:
    model = add_adapters(build_model(), PLAIN, FreezeSettings())
    with pytest.raises(ConfigError, match="has adapters already; merge them first"):
        add_adapters(model, PLAIN, FreezeSettings())


# ------------------------------------------------------------------ kinds


@pytest.mark.parametrize(
    ("options", "factor"),
    [({}, 32 / 8), ({"lora_rank": 4, "lora_alpha": 6}, 6 / 4), ({"use_rslora": True}, 32 / 8**0.5)],
)
def test_an_adapted_layer_adds_a_scaled_product(
    build_model: ModelBuilder, options: dict[str, Any], factor: float
) -> None:
    settings = AdapterSettings(lora_dropout=0.0, **options)
    model = stir(add_adapters(build_model(), settings, FreezeSettings()))
    name = "language_model.model.layers.1.mlp.up_proj"
    layer: Any = model.get_submodule(name)
    vectors = torch.randn(3, 64)
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = vectors @ (build_model().get_submodule(name).weight + factor * up @ down).T
    torch.testing.assert_close(layer(vectors), expected, rtol=0, atol=1e-5)


def test_dora_learns_size_and_direction_apart(build_model: ModelBuilder) -> None:
    settings = AdapterSettings(lora_dropout=0.0, use_dora=True)
    model = stir(add_adapters(build_model(), settings, FreezeSettings()))
    name = "language_model.model.layers.0.self_attn.q_proj"
    layer: Any = model.get_submodule(name)
    size = layer.lora_magnitude_vector["default"].weight
    assert size.requires_grad
    change = 4 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    moved = build_model().get_submodule(name).weight + change
    weight = size[:, None] * moved / moved.norm(dim=1, keepdim=True)
    vectors = torch.randn(3, 64)
    torch.testing.assert_close(layer(vectors), vectors @ weight.T, rtol=0, atol=1e-5)


KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"use_dora": True, "use_rslora": True},
    "whole modules": {"modules_to_save": ("lm_head", "multi_modal_projector")},
    "pissa": {"init_weights": "pissa"},
    "experts": {"target_modules": ("all-linear", "experts.gate_up_proj", "down_proj")},
}
CASES = [("qwen3", kind) for kind in KINDS if kind != "experts"] + [
    (family, kind) for family in ("qwen3_moe", "gpt_oss") for kind in ("lora", "experts")
]


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_saved_adapters_give_the_same_answers_in_peft_and_here_and_merged(
    tmp_path: Path, build_model: ModelBuilder, inputs: Inputs, family: str, kind: str
) -> None:
    settings = AdapterSettings(lora_dropout=0.0, **KINDS[kind])
    model = stir(add_adapters(build_model(family), settings, TOWER_TOO))
    expected = logits(model, inputs)
    assert not torch.allclose(expected, logits(build_model(family), inputs), atol=0.1)
    save_adapters(model, tmp_path / "adapters")

    theirs = peft.PeftModel.from_pretrained(build_model(family), tmp_path / "adapters")
    torch.testing.assert_close(logits(theirs, inputs), expected, rtol=0, atol=1e-6)
    ours = load_adapters(build_model(family), tmp_path / "adapters")
    torch.testing.assert_close(logits(ours, inputs), expected, rtol=0, atol=1e-6)
    assert not any(weight.requires_grad for weight in ours.parameters())

    merged = merge_adapters(ours)
    assert merged is ours
    assert merged.state_dict().keys() == build_model(family).state_dict().keys()
    torch.testing.assert_close(logits(merged, inputs), expected, rtol=0, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    loaded = VisionLanguageModel.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(loaded, inputs), expected, rtol=0, atol=1e-5)


def test_loaded_adapters_go_on_learning(tmp_path: Path, build_model: ModelBuilder) -> None:
    settings = AdapterSettings(lora_dropout=0.0, modules_to_save=("lm_head",))
    model = stir(add_adapters(build_model(), settings, FreezeSettings()))
    trained = {name: w.detach() for name, w in model.named_parameters() if w.requires_grad}
    save_adapters(model, tmp_path)
    again = load_adapters(build_model(), tmp_path, trainable=True)
    found = {name: w.detach() for name, w in again.named_parameters() if w.requires_grad}
    assert found.keys() == trained.keys()
    for name, weight in found.items():
        assert torch.equal(weight, trained[name]), name


def test_a_run_may_begin_from_several_folders(
    tmp_path: Path, build_model: ModelBuilder, inputs: Inputs
) -> None:
    first = stir(add_adapters(build_model(), PLAIN, FreezeSettings()))
    save_adapters(first, tmp_path / "first")
    base = merge_adapters(first)
    second = stir(add_adapters(base, AdapterSettings(lora_rank=2), FreezeSettings()))
    save_adapters(second, tmp_path / "second")
    settings = AdapterSettings(adapters=(str(tmp_path / "second"), str(tmp_path / "first")))
    model = add_adapters(build_model(), settings, FreezeSettings())
    torch.testing.assert_close(
        logits(model.eval(), inputs), logits(second, inputs), rtol=0, atol=1e-5
    )
    ranks = {w.shape[0] for name, w in model.named_parameters() if ".lora_A." in name}
    assert ranks == {2}
    assert {name for name, w in model.named_parameters() if w.requires_grad} == {
        name for name, _ in model.named_parameters() if ".lora_" in name
    }


def test_layers_of_transformers_own_class_are_found(
    tmp_path: Path, build_model: ModelBuilder, inputs: Inputs
) -> None:
    model = stir(add_adapters(build_model(), PLAIN, TOWER_TOO))
    save_adapters(model, tmp_path)
    renamed = {
        name.replace("base_model.model.", "base_model.model.model.").replace(
            "language_model.model.", "language_model."
        ): weight
        for name, weight in load_file(tmp_path / "adapter_model.safetensors").items()
    }
    assert "base_model.model.model.language_model.layers.0.mlp.up_proj.lora_A.weight" in renamed
    save_file(renamed, tmp_path / "adapter_model.safetensors")
    found = logits(load_adapters(build_model(), tmp_path), inputs)
    torch.testing.assert_close(found, logits(model, inputs), rtol=0, atol=1e-6)


# ------------------------------------------------------------------ files


def test_the_folder_says_what_it_was_trained_on_and_which_layers_it_changes(
    tmp_path: Path, build_model: ModelBuilder
) -> None:
    model = build_model()
    model.name_or_path = "OpenGVLab/InternVL3_5-1B"
    save_adapters(add_adapters(model, AdapterSettings(), FreezeSettings()), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors"
    }  # fmt: skip
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    expected = {
        "base_model_name_or_path": "OpenGVLab/InternVL3_5-1B", "peft_type": "LORA", "r": 8,
        "lora_alpha": 32, "lora_dropout": 0.05, "task_type": "CAUSAL_LM", "inference_mode": True,
        "bias": "none",
        "target_modules": r"language_model\.model\.layers\.\d+\.self_attn\."
        r"(q_proj|k_proj|v_proj|o_proj)"
        r"|language_model\.model\.layers\.\d+\.mlp\.(gate_proj|up_proj|down_proj)",
    }  # fmt: skip
    assert {name: config[name] for name in expected} == expected
    assert set(load_file(tmp_path / "adapter_model.safetensors")) == {
        f"base_model.model.{name}.lora_{side}.weight" for name in DECODER for side in "AB"
    }


def test_weights_gathered_elsewhere_are_what_is_written(
    tmp_path: Path, build_model: ModelBuilder
) -> None:
    settings = AdapterSettings(modules_to_save=("lm_head",))
    model = add_adapters(build_model(), settings, FreezeSettings())
    gathered = {
        name: torch.full_like(weight, 2.0)
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }
    save_adapters(model, tmp_path, gathered)
    written = load_file(tmp_path / "adapter_model.safetensors")
    assert len(written) == 2 * len(DECODER) + 1
    assert all(weight.eq(2).all() for weight in written.values())


def test_pickled_weights_are_never_read(tmp_path: Path, build_model: ModelBuilder) -> None:
    save_adapters(add_adapters(build_model(), PLAIN, FreezeSettings()), tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"only adapter_model.bin, which could run code"):
        load_adapters(build_model(), tmp_path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "adapter_config.json").unlink(), "adapter_config.json cannot be"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "adapter_config.json").write_text("[]"), "cannot be read"),
        (
            lambda folder: (folder / "adapter_config.json").write_text('{"peft_type": "IA3"}'),
            "is of kind IA3; needed: LORA",
        ),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "holds no weights"),
        (lambda folder: (folder / "adapter_model.safetensors").write_text("x"), "copy it again"),
        (lambda folder: spoil_weights(folder, drop="layers.0.mlp.up_proj.lora_B"), "no weight for"),
        (lambda folder: spoil_weights(folder, add="vision_tower.x.lora_A"), "does not have"),
        (lambda folder: spoil_weights(folder, narrow="q_proj.lora_A"), "do not fit the network"),
    ],
)  # fmt: skip
def test_a_spoilt_folder_is_refused(
    tmp_path: Path, build_model: ModelBuilder, spoil: Callable[[Path], Any], message: str
) -> None:
    save_adapters(add_adapters(build_model(), PLAIN, FreezeSettings()), tmp_path)
    spoil(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        load_adapters(build_model(), tmp_path)


def spoil_weights(folder: Path, *, drop: str = "", add: str = "", narrow: str = "") -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    if drop:
        weights = {name: weight for name, weight in weights.items() if drop not in name}
    if add:
        weights[f"base_model.model.{add}.weight"] = torch.ones(8, 64)
    if narrow:
        weights = {n: w[:4].clone() if narrow in n else w for n, w in weights.items()}
    save_file(weights, folder / "adapter_model.safetensors")


def test_a_full_disk_is_reported(
    tmp_path: Path, build_model: ModelBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(adapters, "save_file", fail)
    model = add_adapters(build_model(), PLAIN, FreezeSettings())
    with pytest.raises(CheckpointError, match=r"No space left on device; free disk space"):
        save_adapters(model, tmp_path / "adapters")


# ------------------------------------------------------------------ whole modules


def test_a_head_that_is_the_embedding_cannot_be_saved_apart(build_model: ModelBuilder) -> None:
    for name in ("lm_head", "embed_tokens"):
        settings = AdapterSettings(modules_to_save=(name,))
        with pytest.raises(ConfigError, match=f"{name}, but this checkpoint's output head is its"):
            add_adapters(build_model(is_tied=True), settings, FreezeSettings())


def test_a_module_that_does_not_exist_cannot_be_saved(build_model: ModelBuilder) -> None:
    settings = AdapterSettings(modules_to_save=("score",))
    with pytest.raises(ConfigError, match="names score, which the network does not have"):
        add_adapters(build_model(), settings, FreezeSettings())


def test_peft_is_asked_for_where_it_is_missing(
    build_model: ModelBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"pip install 'internvl35\[train\]'"):
        add_adapters(build_model(), PLAIN, FreezeSettings())


# ------------------------------------------------------------------ the base and its quantisation


def base_settings(folder: Path, **adapter: Any) -> FinetuneSettings:
    return FinetuneSettings(
        model=ModelSettings(model=str(folder), torch_dtype="float32"),
        adapter=AdapterSettings(lora_dropout=0.0, **adapter),
    )


def test_the_base_remembers_the_name_it_was_asked_for_by(
    tmp_path: Path, build_model: ModelBuilder, inputs: Inputs
) -> None:
    build_model().save_pretrained(tmp_path)
    settings = base_settings(tmp_path)
    model = load_base(tmp_path, settings, torch.device("cpu"))
    assert model.name_or_path == str(tmp_path.resolve())
    torch.testing.assert_close(logits(model, inputs), logits(build_model(), inputs))
    named = FinetuneSettings(model=ModelSettings(model="8B", torch_dtype="bfloat16"))
    model = load_base(tmp_path, named, torch.device("cpu"))
    assert model.name_or_path == "8B"
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


@needs_bitsandbytes
@pytest.mark.parametrize(
    ("family", "bits"), [("qwen3", 4), ("qwen3", 8), ("qwen3_moe", 4), ("gpt_oss", 4)]
)
def test_adapters_learn_beside_quantised_weights(
    tmp_path: Path, build_model: ModelBuilder, inputs: Inputs, family: str, bits: int
) -> None:
    build_model(family).save_pretrained(tmp_path)
    settings = base_settings(tmp_path, quant_bits=bits, init_weights="gaussian")
    model = load_base(tmp_path, settings, torch.device("cpu"))
    quantised = {
        name for name, module in model.named_modules() if type(module).__name__.startswith("Linear")
        and type(module) is not nn.Linear
    }  # fmt: skip
    expected = {name for name in DECODER if family == "qwen3" or "self_attn" in name}
    assert quantised == expected
    close = logits(model, inputs) - logits(build_model(family), inputs)
    assert 0 < float(close.abs().mean()) < 0.5
    add_adapters(model, settings.adapter, settings.freeze)
    assert adapted(model) == expected
    model.train()(**inputs, labels=inputs["input_ids"]).loss.backward()
    gradients = [weight.grad for weight in model.parameters() if weight.requires_grad]
    assert len(gradients) == 2 * len(expected)
    ups = [weight.grad for name, weight in model.named_parameters() if ".lora_B." in name]
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in ups)
    before = logits(model.eval(), inputs)
    save_adapters(stir(model), tmp_path / "adapters")
    fresh = load_adapters(load_base(tmp_path, settings, torch.device("cpu")), tmp_path / "adapters")
    torch.testing.assert_close(logits(fresh, inputs), logits(model, inputs))
    assert not torch.allclose(before, logits(model, inputs))
    with pytest.raises(CheckpointError, match="load the checkpoint without quantisation"):
        merge_adapters(model)


def test_quantisation_asks_for_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"pip install 'internvl35\[int8\]'"):
        load_base(tmp_path, base_settings(tmp_path, quant_bits=4), torch.device("cpu"))


def test_adapters_survive_a_copy_of_the_network(build_model: ModelBuilder, inputs: Inputs) -> None:
    model = stir(add_adapters(build_model(), PLAIN, FreezeSettings()))
    expected = logits(model, inputs)
    merged = merge_adapters(copy.deepcopy(model))
    torch.testing.assert_close(logits(merged, inputs), expected, rtol=0, atol=1e-5)
    assert torch.equal(logits(model, inputs), expected)


def test_adapters_loaded_to_answer_drop_nothing(tmp_path: Path, build_model: ModelBuilder) -> None:
    save_adapters(add_adapters(build_model(), AdapterSettings(), FreezeSettings()), tmp_path)
    model = load_adapters(build_model(), tmp_path)
    assert not any(module.training for module in model.modules())


def test_flash_attention_that_cannot_run_is_named(random_checkpoint: Path) -> None:
    settings = build_settings({"attn_impl": "flash_attn"})
    if importlib.util.find_spec("flash_attn") is not None and torch.cuda.is_available():
        pytest.skip("it can run here")
    with pytest.raises(ConfigError, match=r"attn_impl is flash_attn, for which .* is missing"):
        load_base(random_checkpoint, settings, torch.device("cpu"))
