"""Files of a Flash model, run by plain PyTorch modules that have the released names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from released_flash import FLASH_NAMES
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import InternVLForConditionalGeneration

from internvl35.model.composite import VisionLanguageModel
from internvl35.model.weights import save_checkpoint

BuildModel = Callable[..., VisionLanguageModel]

WIDTH, LANGUAGE = 64, 64  # of the small networks


def build_released() -> nn.ModuleDict:
    """Stock modules whose state dict has the 61 released names; order and sizes as published."""
    pooling = nn.ModuleDict()
    gating = nn.ModuleDict()
    for step in (1, 2, 3, 4):
        pooling[f"attn{step}"] = nn.MultiheadAttention(WIDTH, 16, batch_first=True)
        pooling[f"norm{step}"] = nn.LayerNorm(WIDTH)
        gating[f"block{step}"] = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Dropout(0.1),
            nn.Linear(4 * WIDTH, WIDTH), nn.Dropout(0.1), nn.LayerNorm(WIDTH),
        )  # fmt: skip
    pooling.register_parameter("query_token", nn.Parameter(torch.zeros(1, WIDTH)))
    gating["gate"] = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2))
    hidden = 2 * LANGUAGE
    compressed = nn.Sequential(
        nn.LayerNorm(16 * WIDTH), nn.Linear(16 * WIDTH, hidden), nn.GELU(), nn.Dropout(0.1),
        nn.Linear(hidden, hidden), nn.GELU(), nn.Dropout(0.1), nn.Linear(hidden, LANGUAGE),
    )  # fmt: skip
    return nn.ModuleDict(
        {"pooling_before_gating": pooling, "gating": gating, "mlp2": compressed}
    ).eval()


def score(released: nn.ModuleDict, patches: Tensor, steps: tuple[int, ...]) -> Tensor:
    pooling, gating = released["pooling_before_gating"], released["gating"]
    flat = patches.flatten(1, 2)  # (N, P, C)
    found = pooling.get_parameter("query_token")[None].expand(len(flat), -1, -1)
    for step in steps:
        found, _ = pooling.get_submodule(f"attn{step}")(found, flat, flat)
        found = pooling.get_submodule(f"norm{step}")(found)
    found = found[:, 0]
    for block in (1, 2, 3, 4):
        found = found + gating.get_submodule(f"block{block}")(found)
    judged: Tensor = gating.get_submodule("gate")(found).softmax(dim=-1)[:, 0]
    return judged


@pytest.mark.parametrize(
    ("repeats_second_step", "steps"), [(True, (1, 2, 2, 2)), (False, (1, 2, 3, 4))]
)
def test_scores_and_compressed_tokens_of_the_files_are_ours(
    tmp_path: Path, build_model: BuildModel, repeats_second_step: bool, steps: tuple[int, ...]
) -> None:
    model = build_model(flash_mode=True, router_repeats_second_step=repeats_second_step)
    save_checkpoint(model, tmp_path, layout="remote-code")
    tensors = load_file(tmp_path / "model.safetensors")
    released = build_released()
    released.load_state_dict({name: tensors[name] for name in FLASH_NAMES}, strict=True)
    patches = torch.randn(5, 4, 4, WIDTH)
    with torch.no_grad():
        expected = score(released, patches, steps)
        torch.testing.assert_close(model.score_tiles(patches), expected, rtol=0, atol=1e-6)
        assert expected.max() - expected.min() > 1e-3
        # the only block of a 4x4 tile: patches row by row, each with all of its channels
        tokens = released["mlp2"](patches.reshape(5, 16 * WIDTH))
        found = model.project_tiles(patches, torch.ones(5, dtype=torch.bool))
        torch.testing.assert_close(found, tokens)


def test_stock_transformers_reads_the_native_layout_as_a_base_model(
    tmp_path: Path, build_model: BuildModel, inputs: dict[str, Tensor]
) -> None:
    model = build_model(flash_mode=True)
    save_checkpoint(model, tmp_path, layout="hf")
    stock, report = InternVLForConditionalGeneration.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert len(report["unexpected_keys"]) == 77
    with torch.no_grad():
        torch.testing.assert_close(
            stock.eval()(**inputs).logits, model(**inputs).logits, rtol=0, atol=1e-5
        )
