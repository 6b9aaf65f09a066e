"""Our network against the released arithmetic, spelt out from the released names of its weights.

Stock transformers has the same tower class as we do, so agreeing with it proves nothing about the
tower. Here the remote-code layout's tensors go through plain formulas instead: fused query, key
and value, norms over the full width, layer scale, and the two views and permutations that the
released code calls pixel shuffle.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from internvl35.model.composite import VisionLanguageModel

Weights = dict[str, Tensor]

NUM_HEADS, PATCH = 2, 14


def layer_norm(x: Tensor, weights: Weights, name: str, eps: float) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    x = x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def rms_norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weights[f"{name}.weight"]


def norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    has_bias = f"{name}.bias" in weights
    return layer_norm(x, weights, name, 1e-6) if has_bias else rms_norm(x, weights, name)


def linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", torch.zeros(()))


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def attention(x: Tensor, weights: Weights, name: str) -> Tensor:
    num_tiles, length, width = x.shape
    query, key, value = linear(x, weights, f"{name}.qkv").split(width, dim=-1)
    if f"{name}.q_norm.weight" in weights:  # over the full width, before the heads part
        query = rms_norm(query, weights, f"{name}.q_norm")
        key = rms_norm(key, weights, f"{name}.k_norm")
    heads = torch.empty(num_tiles, length, width, dtype=x.dtype)
    size = width // NUM_HEADS
    for head in range(NUM_HEADS):
        part = slice(head * size, (head + 1) * size)
        scores = query[..., part] @ key[..., part].transpose(1, 2) / size**0.5
        heads[..., part] = scores.softmax(-1) @ value[..., part]
    return linear(heads, weights, f"{name}.proj")


def encode(pixels: Tensor, weights: Weights, num_layers: int) -> Tensor:
    grid = pixels.shape[-1] // PATCH
    kernel = weights["vision_model.embeddings.patch_embedding.weight"].flatten(1)
    bias = weights["vision_model.embeddings.patch_embedding.bias"]
    patches = [
        pixels[:, :, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
        for row in range(grid)
        for column in range(grid)
    ]
    x = torch.stack([patch.flatten(1) @ kernel.T + bias for patch in patches], dim=1)
    first = weights["vision_model.embeddings.class_embedding"].expand(len(pixels), -1, -1)
    x = torch.cat([first, x], dim=1) + weights["vision_model.embeddings.position_embedding"]
    for layer in range(num_layers):
        name = f"vision_model.encoder.layers.{layer}"
        attended = attention(norm(x, weights, f"{name}.norm1"), weights, f"{name}.attn")
        x = x + weights[f"{name}.ls1"] * attended
        hidden = gelu(linear(norm(x, weights, f"{name}.norm2"), weights, f"{name}.mlp.fc1"))
        x = x + weights[f"{name}.ls2"] * linear(hidden, weights, f"{name}.mlp.fc2")
    return x[:, 1:]


def shuffle(x: Tensor, scale: float) -> Tensor:
    tiles, width, height, channels = x.shape
    x = x.reshape(tiles, width, int(height * scale), int(channels / scale)).permute(0, 2, 1, 3)
    x = x.reshape(tiles, int(height * scale), int(width * scale), int(channels / scale**2))
    return x.permute(0, 2, 1, 3)


def visual_tokens(pixels: Tensor, weights: Weights, num_layers: int) -> Tensor:
    x = encode(pixels, weights, num_layers)
    grid = int(x.shape[1] ** 0.5)
    x = shuffle(x.reshape(len(x), grid, grid, -1), 0.5).flatten(1, 2)
    x = layer_norm(x, weights, "mlp1.0", 1e-5)
    return linear(gelu(linear(x, weights, "mlp1.1")), weights, "mlp1.3")


@pytest.mark.parametrize("tower", ["300M", "6B"])
def test_visual_tokens_are_those_of_the_released_arithmetic(
    tmp_path: Path, build_model: Callable[..., VisionLanguageModel], tower: str
) -> None:
    vision = {"num_hidden_layers": 3, "image_size": [84, 84]}
    model = build_model("qwen3", tower, vision=vision)
    model.save_pretrained(tmp_path, layout="remote-code")
    weights = {
        name: tensor.double() for name, tensor in load_file(tmp_path / "model.safetensors").items()
    }
    pixels = torch.randn(3, 3, 84, 84)
    with torch.no_grad():
        found = model.get_image_features(pixels)
    expected = visual_tokens(pixels.double(), weights, num_layers=3)
    assert found.shape == (3, 9, 64)
    assert expected.std() > 0.1
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)
