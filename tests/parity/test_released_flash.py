"""Our ``released`` policy against the released algorithm, written anew from its description.

One request a call; both branches for every tile; the quantile over all tiles of the call; then
three quarters of a compressed tile's places are deleted from ids and embeddings. Parts of the
released module shapes (stock attention with joint weights, plain sequences) stand beside ours.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flash_models import FULL, SHORT, TILE, make_flash_model
from torch import Tensor, nn
from torch.nn import functional

from internvl35.data.token_writer import ImageSpan, Prompt
from internvl35.dropin import InternVLChatModel
from internvl35.generate.flash import FlashSettings
from internvl35.generate.request import Request
from internvl35.generate.routing import route
from internvl35.generate.rules import StopRules
from internvl35.generate.runner import generate

PLACE, END = 635, 1
RULES = StopRules(end_token_ids=(END,), banned_token_ids=(PLACE,), pad_token_id=0)


def copy_linear(target: nn.Linear, source: nn.Linear) -> None:
    target.weight.data.copy_(source.weight)
    target.bias.data.copy_(source.bias)


def stock_attention(ours: nn.Module, width: int, num_heads: int) -> nn.MultiheadAttention:
    stock = nn.MultiheadAttention(width, num_heads, batch_first=True)
    parts = (ours.query, ours.key, ours.value)
    stock.in_proj_weight.data.copy_(torch.cat([part.weight for part in parts]))
    stock.in_proj_bias.data.copy_(torch.cat([part.bias for part in parts]))
    copy_linear(stock.out_proj, ours.out_proj)
    return stock.eval()


def pool(router: nn.Module, tiles: Tensor, num_heads: int) -> Tensor:
    """The learnt query reads each tile once with attn1, then three times with attn2."""
    pooling, width = router.pooling, tiles.shape[-1]
    attentions = [stock_attention(part, width, num_heads) for part in pooling.attentions]
    found = pooling.query_token[None].expand(len(tiles), 1, width)
    for step in (0, 1, 1, 1):
        read, _ = attentions[step](found, tiles, tiles, need_weights=False)
        norm = pooling.norms[step]
        found = functional.layer_norm(read, (width,), norm.weight, norm.bias, norm.eps)
    return found[:, 0]


def gate(router: nn.Module, pooled: Tensor) -> Tensor:
    for block in router.gating.blocks:
        wide = functional.gelu(
            functional.linear(pooled, block.dense_in.weight, block.dense_in.bias)
        )
        narrow = functional.linear(wide, block.dense_out.weight, block.dense_out.bias)
        pooled = pooled + functional.layer_norm(
            narrow, narrow.shape[-1:], block.norm.weight, block.norm.bias, block.norm.eps
        )
    norm, last = router.gating.gate_norm, router.gating.gate_proj
    pooled = functional.layer_norm(pooled, pooled.shape[-1:], norm.weight, norm.bias, norm.eps)
    return functional.linear(pooled, last.weight, last.bias).softmax(-1)


def shuffle_pixels(x: Tensor, scale: float) -> Tensor:
    """Two views and two exchanges of axes, as the released code folds patches."""
    n, w, h, c = x.shape
    x = x.view(n, w, int(h * scale), int(c / scale)).permute(0, 2, 1, 3).contiguous()
    x = x.view(n, int(h * scale), int(w * scale), int(c / scale**2))
    return x.permute(0, 2, 1, 3).reshape(n, -1, int(c / scale**2))


def project(parts: list[nn.Module], x: Tensor) -> Tensor:
    norm, *linears = parts
    x = functional.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)
    for place, linear in enumerate(linears):
        x = functional.linear(x if place == 0 else functional.gelu(x), linear.weight, linear.bias)
    return x


def released_inputs(
    model: nn.Module, ids: list[int], pixel_values: Tensor, relative: float, absolute: float
) -> tuple[list[int], Tensor, list[bool]]:
    """What the released code hands to the language model: ids, embeddings, and its choices."""
    states = model.vision_tower(pixel_values).last_hidden_state[:, 1:]  # (N, 64, C)
    grid = states.reshape(len(states), 8, 8, -1)
    scores = gate(model.router, pool(model.router, states, 4))[:, 0]
    long, short = model.multi_modal_projector, model.compressed_projector
    full = project([long.layer_norm, long.linear_1, long.linear_2], shuffle_pixels(grid, 0.5))
    few = project(
        [short.layer_norm, short.linear_1, short.linear_2, short.linear_3],
        shuffle_pixels(grid, 0.25),
    )
    assert (full.shape[1], few.shape[1]) == (FULL, SHORT)
    limit = torch.quantile(scores.to(torch.float32), relative)
    is_compressed = ((scores > limit) & (scores >= absolute)).tolist()
    chosen = torch.cat([few[n] if one else full[n] for n, one in enumerate(is_compressed)])

    is_kept, tile, place = [True] * len(ids), 0, 0
    while place < len(ids):
        if ids[place] != PLACE:
            place += 1
            continue
        assert ids[place : place + FULL] == [PLACE] * FULL
        if is_compressed[tile]:
            is_kept[place + SHORT : place + FULL] = [False] * (FULL - SHORT)
        place, tile = place + FULL, tile + 1
    left = [token for token, kept in zip(ids, is_kept, strict=True) if kept]
    embeds = model.get_input_embeddings()(torch.tensor(left))
    embeds[torch.tensor(left) == PLACE] = chosen
    return left, embeds[None], is_compressed


@pytest.fixture(scope="module")
def model():
    return make_flash_model(InternVLChatModel)


def draw(seed: int) -> tuple[list[int], tuple[ImageSpan, ...], Tensor]:
    """Words around one to four pictures of one to five tiles."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 6, rng.integers(1, 5)).tolist()
    ids, spans = rng.integers(2, 600, 5).tolist(), []
    for count in counts:
        spans.append(ImageSpan(len(ids), FULL * count, count))
        ids += [PLACE] * (FULL * count) + rng.integers(2, 600, rng.integers(1, 6)).tolist()
    tiles = torch.from_numpy(rng.normal(size=(sum(counts), 3, TILE, TILE)).astype(np.float32))
    return ids, tuple(spans), tiles


@pytest.mark.parametrize(
    ("relative", "absolute"), [(0.3, 0.2), (0.1, 0.5), (0.0, 0.0), (0.5, 0.0), (0.77, 0.01)]
)
def test_released_gives_the_tokens_and_logits_of_the_released_algorithm(model, relative, absolute):
    settings = FlashSettings("released", relative, absolute)
    num_compressed = num_tiles = 0
    for seed in range(8):
        ids, spans, tiles = draw(seed)
        with torch.inference_mode():
            left, embeds, is_compressed = released_inputs(model, ids, tiles, relative, absolute)
            expected = model.language_model(inputs_embeds=embeds).logits
            answer = model.language_model.generate(
                inputs_embeds=embeds, attention_mask=torch.ones(1, len(left)), do_sample=False,
                max_new_tokens=6, eos_token_id=END, pad_token_id=0, suppress_tokens=[PLACE],
            )  # fmt: skip
            request = Request(Prompt(tuple(ids), spans, (False,) * len(ids)), tiles)
            (found,) = route(model, [request], settings)
            logits = model(
                input_ids=torch.tensor([found.prompt.token_ids]),
                image_features=found.image_features,
            ).logits
        assert list(found.routing.is_compressed) == is_compressed
        assert list(found.prompt.token_ids) == left
        assert (logits - expected).abs().max() < 1e-5
        options = {"max_new_tokens": 6, "do_sample": False}
        (tokens,) = generate(model, [found], options, RULES)
        assert tokens == answer[0, : len(tokens)].tolist()
        num_compressed += sum(is_compressed)
        num_tiles += len(is_compressed)
    assert 0 < num_compressed < num_tiles


def test_attention_of_steps_three_and_four_is_that_of_step_two(model):
    tiles = draw(0)[2]
    with torch.inference_mode():
        patches = model.encode_patches(tiles)
        expected = gate(model.router, pool(model.router, patches.flatten(1, 2), 4))[:, 0]
        assert torch.allclose(model.score_tiles(patches), expected, atol=1e-6)
        model.router.pooling.repeats_second_step = False
        other = model.score_tiles(patches)
        model.router.pooling.repeats_second_step = True
    assert (other - expected).abs().max() > 1e-3
