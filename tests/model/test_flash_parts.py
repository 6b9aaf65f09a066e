"""Making a Flash model of any model: what is added, where it starts, and what stays as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from internvl35.config import TINY_FOLDER
from internvl35.data.synthetic import draw
from internvl35.data.tiles import cut_tiles, normalize_tiles
from internvl35.errors import ConfigError
from internvl35.model.composite import VisionLanguageModel, make_flash_parts
from internvl35.model.flash_parts import add_router, start_from_projector
from internvl35.model.projector import CompressedProjector, Projector, merge_patches

BuildModel = Callable[..., VisionLanguageModel]

BLOCK_WIDTH = 6


@pytest.fixture
def projectors() -> tuple[CompressedProjector, Projector]:
    """A projector with random weights in every place, and a compressed one that starts from it."""
    torch.manual_seed(2)
    projector = Projector(4 * BLOCK_WIDTH, 5).double()
    for parameter in projector.parameters():
        torch.nn.init.normal_(parameter)
    compressed = CompressedProjector(16 * BLOCK_WIDTH, 5).double().eval()
    start_from_projector(compressed, projector)
    return compressed, projector


def project_both(
    projectors: tuple[CompressedProjector, Projector], patches: Tensor
) -> tuple[Tensor, Tensor]:
    """The compressed tokens, and the ordinary ones ``(N, G/4, 2, G/4, 2, D)`` they stand for."""
    compressed, projector = projectors
    ordinary = projector(merge_patches(patches, 2))  # (N, G/2, G/2, D)
    blocks = ordinary.unflatten(1, (-1, 2)).unflatten(3, (-1, 2))
    return compressed(merge_patches(patches, 4)), blocks


def test_where_the_four_blocks_agree_the_compressed_token_is_the_ordinary_one(
    projectors: tuple[CompressedProjector, Projector],
) -> None:
    block = torch.randn(3, 2, 2, BLOCK_WIDTH, dtype=torch.float64)
    short, blocks = project_both(projectors, block.repeat(1, 2, 2, 1))
    torch.testing.assert_close(short[:, 0, 0], blocks[:, 0, 0, 0, 0])


def test_two_rows_of_equal_blocks_give_the_mean_of_their_tokens(
    projectors: tuple[CompressedProjector, Projector],
) -> None:
    block = torch.randn(3, 2, 2, BLOCK_WIDTH, dtype=torch.float64)
    upper = block.repeat(1, 1, 2, 1)
    lower = block.flip(1).repeat(1, 1, 2, 1)  # other patches, yet of the same mean and deviation
    short, blocks = project_both(projectors, torch.cat([upper, lower], dim=1))
    mean = (blocks[:, 0, 0, 0, 0] + blocks[:, 0, 1, 0, 0]) / 2
    assert not torch.allclose(blocks[:, 0, 0], blocks[:, 0, 1])
    torch.testing.assert_close(short[:, 0, 0], mean)


def distance(short: Tensor, blocks: Tensor) -> float:
    """Root mean square from the mean tokens, in units of how these differ among each other."""
    target = blocks.mean(dim=(2, 4))
    spread = target - target.mean(dim=(0, 1, 2))
    return ((short - target).norm() / spread.norm()).item()


def test_on_random_patches_the_start_is_nearer_than_a_fresh_one(
    projectors: tuple[CompressedProjector, Projector],
) -> None:
    patches = torch.randn(8, 8, 8, BLOCK_WIDTH, dtype=torch.float64)
    started = distance(*project_both(projectors, patches))
    fresh = CompressedProjector(16 * BLOCK_WIDTH, 5).double().eval()
    assert started < 0.8 < distance(*project_both((fresh, projectors[1]), patches))


@pytest.mark.skipif(not TINY_FOLDER.is_dir(), reason="no embedded checkpoint here yet")
def test_on_drawn_pictures_the_start_is_near_the_mean_of_ordinary_tokens() -> None:
    model = VisionLanguageModel.from_pretrained(TINY_FOLDER, dtype=torch.float32)
    pictures = [draw(family, "test", 0).images[0] for family in ("shapes", "bars", "receipts")]
    tiles = [tile for image in pictures for tile in cut_tiles(image, model.config.tile_settings)]
    compressed = make_flash_parts(model.config)[0].eval()
    projector = model.multi_modal_projector
    with torch.no_grad():
        patches = model.encode_patches(normalize_tiles(tiles))
        fresh = distance(*project_both((compressed, projector), patches))
        start_from_projector(compressed, projector)
        started = distance(*project_both((compressed, projector), patches))
    assert started < 0.5
    assert fresh > 1.0


@pytest.mark.parametrize("tower", ["300M", "6B"])
def test_a_router_changes_nothing_until_a_tile_is_compressed(
    build_model: BuildModel, inputs: dict[str, Tensor], tower: str
) -> None:
    model = build_model(tower=tower)
    with torch.no_grad():
        before = model(**inputs).logits
        add_router(model)
        assert torch.equal(model(**inputs).logits, before)
        patches = model.encode_patches(inputs["pixel_values"])
        assert torch.equal(
            model.project_tiles(patches, torch.tensor([False])), model.project_patches(patches)[0]
        )
        assert model.project_tiles(patches, torch.tensor([True])).shape == (1, 64)


def test_an_added_router_uses_all_its_steps_and_learns(build_model: BuildModel) -> None:
    model = build_model()
    add_router(model)
    assert model.config.router_repeats_second_step is False
    patches = torch.randn(3, 4, 4, 64)
    assert model.router is not None
    assert model.compressed_projector is not None
    model.router.logits(patches).square().sum().backward()
    model.project_tiles(patches, torch.ones(3, dtype=torch.bool)).square().sum().backward()
    for part in (model.router, model.compressed_projector):
        assert all(p.grad is not None for p in part.parameters())
    assert all(p.grad is None for p in model.multi_modal_projector.parameters())


def test_added_parts_take_dtype_and_mode_of_the_model(build_model: BuildModel) -> None:
    model = build_model().to(torch.bfloat16).train()
    add_router(model, num_heads=4, relative_threshold=0.25, absolute_threshold=0.0)
    for part in (model.router, model.compressed_projector):
        assert part is not None
        assert part.training
        assert {p.dtype for p in part.parameters()} == {torch.bfloat16}
    config = model.config
    assert (config.flash_mode, config.router_num_heads) == (True, 4)
    assert (config.flash_relative_threshold, config.flash_absolute_threshold) == (0.25, 0.0)


def test_a_tower_that_16_heads_cannot_share_gets_as_many_as_it_has(build_model: BuildModel) -> None:
    model = build_model(vision={"hidden_size": 36, "num_attention_heads": 3})
    add_router(model)
    assert model.config.router_num_heads == 3


def test_a_router_that_cannot_be_added_leaves_the_model_as_it_was(build_model: BuildModel) -> None:
    model = build_model()
    before = model.config.to_dict()
    with pytest.raises(ConfigError, match=r"flash_relative_threshold is 1\.5; needed: a number"):
        add_router(model, relative_threshold=1.5)
    with pytest.raises(ConfigError, match="router_num_heads is 5, which cannot share"):
        add_router(model, num_heads=5)
    assert model.router is None
    assert model.config.to_dict() == before
    add_router(model)
    with pytest.raises(ConfigError, match="the model has a router"):
        add_router(model)


def test_a_quantised_or_offloaded_projector_is_no_start(build_model: BuildModel) -> None:
    model = build_model()
    model.multi_modal_projector.to("meta")
    with pytest.raises(ConfigError, match="quantised or offloaded"):
        add_router(model)
