"""Makes a Flash model of any model: adds a router and a compressed projector.

The router starts fresh and knows nothing; the compressed projector starts from the projector, so
that its tokens mean something to the language model before any training. Training both is left to
:mod:`internvl35.train`. Paper section 2.3, "Visual Consistency Learning".
"""

from __future__ import annotations

import torch

from internvl35.errors import ConfigError
from internvl35.model.composite import VisionLanguageModel, make_flash_parts
from internvl35.model.projector import CompressedProjector, Projector


def add_router(
    model: VisionLanguageModel,
    *,
    relative_threshold: float = 0.5,
    absolute_threshold: float = 0.5,
    num_heads: int | None = None,
) -> None:
    """Turn a model into a Flash model, in place.

    The router gets fresh weights from PyTorch's global random numbers and uses all four of its
    attention steps; its scores are worth nothing until it is trained. The compressed projector
    starts as :func:`start_from_projector` says. Nothing else changes: without compression the model
    computes what it did.

    Args:
        model: a model without a router, its weights in memory and not quantised.
        relative_threshold: quantile of scores above which a tile may be compressed, 0 to 1.
        absolute_threshold: score from which on a tile may be compressed, 0 to 1.
        num_heads: attention heads of the router; by default 16, as released, or where 16 do not
            divide the tower's width as many as the tower has.

    Raises:
        ConfigError: if the model has a router, its projector is quantised or offloaded, or a
            setting does not fit.
    """
    config, projector = model.config, model.multi_modal_projector
    weight = projector.linear_1.weight
    if model.router is not None:
        raise ConfigError("the model has a router; train that one, or take the base checkpoint")
    if not weight.is_floating_point() or weight.device.type == "meta":
        raise ConfigError(
            "the projector is quantised or offloaded, so none can start from it; load the model "
            "without load_in_8bit and without offloading"
        )
    width = config.vision_config.hidden_size
    before = {name: getattr(config, name) for name in _FIELDS}
    fallback = 16 if width % 16 == 0 else config.vision_config.num_attention_heads
    config.flash_mode = True
    config.flash_relative_threshold = relative_threshold
    config.flash_absolute_threshold = absolute_threshold
    config.router_num_heads = num_heads or fallback
    config.router_repeats_second_step = False
    try:
        config.check_flash()
    except ConfigError:
        for name, value in before.items():
            setattr(config, name, value)
        raise
    compressed, router = make_flash_parts(config)
    start_from_projector(compressed, projector)
    model.compressed_projector = compressed.to(weight.device, weight.dtype).train(model.training)
    model.router = router.to(weight.device, weight.dtype).train(model.training)


_FIELDS = (
    "flash_mode", "flash_relative_threshold", "flash_absolute_threshold", "router_num_heads",
    "router_repeats_second_step",
)  # fmt: skip


@torch.no_grad()
def start_from_projector(compressed: CompressedProjector, projector: Projector) -> None:
    """Let a compressed projector give about the mean of the four ordinary tokens it stands for.

    A block of 4x4 patches holds four blocks of 2x2, which the projector turns into four tokens. Its
    two layers in the three layers of the compressed one:

    * Norm and first layer: the hidden layer is twice the projector's, room for two of four blocks.
      One half of it takes the projector's first layer on the mean of the upper two blocks, the
      other half on the mean of the lower two.
    * Second layer: the projector's second layer on the mean of both halves, ``y``, and beside it
      ``-y``; the two fill the hidden layer.
    * Third layer: ``gelu(y) - gelu(-y)``, which is ``y`` exactly, for any ``y``.

    So the token is exact where left and right blocks agree, and differs from the mean of the four
    only by what GELU and the norm bend between neighbours.

    Args:
        compressed: written to; its merged width is four times the projector's.
        projector: read.
    """
    width = projector.linear_1.in_features // 4  # of a patch
    language = projector.linear_2.out_features
    for name in ("weight", "bias"):
        norm = getattr(projector.layer_norm, name).view(2, 2, width).repeat(2, 2, 1)
        getattr(compressed.layer_norm, name).copy_(norm.flatten())
    first = projector.linear_1.weight.view(language, 2, 2, width)
    wide = first.repeat(1, 1, 2, 1) / 2  # (D, 2, 4, C): two neighbouring blocks, averaged
    halves = compressed.linear_1.weight.view(2, language, 4, 4, width)
    halves.zero_()
    halves[0, :, :2] = wide
    halves[1, :, 2:] = wide
    compressed.linear_1.bias.copy_(projector.linear_1.bias.repeat(2))
    second = projector.linear_2.weight.repeat(1, 2) / 2  # (D, 2D)
    compressed.linear_2.weight.copy_(torch.cat([second, -second]))
    compressed.linear_2.bias.copy_(torch.cat([projector.linear_2.bias, -projector.linear_2.bias]))
    identity = torch.eye(language, dtype=second.dtype, device=second.device)
    compressed.linear_3.weight.copy_(torch.cat([identity, -identity], dim=1))
    compressed.linear_3.bias.zero_()
