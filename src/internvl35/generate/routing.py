"""Chooses per request which tiles are compressed, and computes no more than the chosen branch.

A request is routed over its own tiles and nothing else, so it gets the same tokens alone and in any
batch. The released code routes over whatever one call holds, and runs one request a call. Scores
and visual tokens are computed in :mod:`internvl35.model`, prompts shortened in
:mod:`internvl35.data.compression`. Paper section 2.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from internvl35.data.compression import TileRouting, compress_prompt
from internvl35.errors import ConfigError
from internvl35.generate.flash import FlashSettings
from internvl35.generate.request import Request
from internvl35.model.composite import VisionLanguageModel
from internvl35.model.configuration import InternVLChatConfig

__all__ = [
    "FlashSettings", "RoutedTiles", "choose_compressed", "fewest_tokens", "group_tiles",
    "join_routed", "resolve_settings", "route", "route_patches",
]  # fmt: skip


@dataclass(frozen=True)
class RoutedTiles:
    """Visual tokens of some tiles of one request."""

    features: Tensor
    """``(tokens, D)``, tile after tile."""
    is_compressed: tuple[bool, ...]
    """Which of the tiles take fewer tokens."""
    scores: tuple[float, ...] | None = None
    """The router's probability for each tile; None if it was not asked."""


def resolve_settings(settings: FlashSettings | None, config: InternVLChatConfig) -> FlashSettings:
    """Fill in from a checkpoint's config what a request leaves open.

    Args:
        settings: of the request; None for ``released`` on a Flash checkpoint and ``off`` on others.
        config: of the checkpoint.

    Returns:
        Settings; thresholds that the policy needs are numbers.

    Raises:
        ConfigError: if the checkpoint has no router, or nobody names a threshold.
    """
    if settings is None:
        settings = FlashSettings("released" if config.flash_mode else "off")
    if not isinstance(settings, FlashSettings):
        raise ConfigError(f"flash is {settings!r}; needed: FlashSettings, as FlashSettings('off')")
    if settings.policy == "off":
        return settings
    if not config.flash_mode:
        raise ConfigError(
            f"the policy is {settings.policy!r} but the checkpoint has no router (flash_mode is "
            "false); take a Flash checkpoint, make one with internvl35 vico, or ask with 'off'"
        )
    if settings.policy == "all":
        return settings
    absolute = _threshold("absolute_threshold", settings, config)
    if settings.policy == "absolute":
        return replace(settings, absolute_threshold=absolute)
    relative = _threshold("relative_threshold", settings, config)
    return replace(settings, absolute_threshold=absolute, relative_threshold=relative)


def _threshold(name: str, settings: FlashSettings, config: InternVLChatConfig) -> float:
    own: float | None = getattr(settings, name)
    value: float | None = getattr(config, f"flash_{name}") if own is None else own
    if value is None:
        raise ConfigError(
            f"the policy {settings.policy!r} needs {name}, which neither the request nor the "
            f"checkpoint's config.json (flash_{name}) names; pass a number from 0 to 1"
        )
    return value


def choose_compressed(
    scores: Tensor, settings: FlashSettings, config: InternVLChatConfig
) -> Tensor:
    """Choose among the tiles of one request.

        released:  score > quantile(scores, relative)  and  score >= absolute
        absolute:  score >= absolute

    Args:
        scores: ``(T,)`` probability of each tile that it may be compressed. Its dtype is that of
            the comparison: the released code compares in the dtype of the weights.
        settings: of the request; what they leave open is the checkpoint's.
        config: of the checkpoint.

    Returns:
        ``(T,)`` bool, True for tiles that are compressed.

    Raises:
        ConfigError: as :func:`resolve_settings`.
    """
    settings = resolve_settings(settings, config)
    if settings.policy in ("off", "all"):
        return torch.full_like(scores, settings.policy == "all", dtype=torch.bool)
    assert settings.absolute_threshold is not None
    reaches = scores >= settings.absolute_threshold
    if settings.policy == "absolute" or not len(scores):
        return reaches
    assert settings.relative_threshold is not None
    return (scores > torch.quantile(scores.float(), settings.relative_threshold)) & reaches


def fewest_tokens(
    request: Request, settings: FlashSettings | None, config: InternVLChatConfig
) -> int:
    """Count the tokens of a request's prompt if all tiles that may be compressed are.

    Args:
        request: not routed yet.
        settings: of the request.
        config: of the checkpoint.

    Returns:
        Tokens that the prompt has at least, whatever the router says.

    Raises:
        ConfigError: as :func:`resolve_settings`.
    """
    policy = resolve_settings(settings, config).policy
    num_tiles = request.prompt.num_tiles
    if policy == "off" or not num_tiles:
        return len(request.prompt)
    saving = config.tokens_per_tile - config.compressed_tokens_per_tile
    return len(request.prompt) - saving * (num_tiles - (policy == "released"))


@torch.inference_mode()
def route(
    model: VisionLanguageModel,
    requests: Sequence[Request],
    settings: FlashSettings | Sequence[FlashSettings | None] | None = None,
) -> list[Request]:
    """Compress tiles of requests, each by its own settings.

    The tower sees a request's tiles apart from those of other requests, and under ``absolute`` a
    picture's apart from those of other pictures: the last bit of a score can depend on what is
    computed beside it, and a choice must not.

    Args:
        model: in eval mode.
        requests: not routed yet.
        settings: for all requests, or one for each; None as in :func:`resolve_settings`.

    Returns:
        Requests with shorter prompts that carry visual tokens instead of tiles. Those without
        tiles, and those whose policy is ``off``, come back as they are.

    Raises:
        ConfigError: as :func:`resolve_settings`.
    """
    each = settings if isinstance(settings, Sequence) else [settings] * len(requests)
    resolved = [resolve_settings(own, model.config) for own in each]
    return [_route(model, *pair) for pair in zip(requests, resolved, strict=True)]


def _route(model: VisionLanguageModel, request: Request, settings: FlashSettings) -> Request:
    if settings.policy == "off" or request.pixel_values is None:
        return request
    groups = request.pixel_values.split(group_tiles(request, settings))
    routed = [route_patches(model, model.encode_patches(tiles), settings) for tiles in groups]
    return join_routed(request, routed, model.config)


def group_tiles(request: Request, settings: FlashSettings) -> list[int]:
    """Say which tiles of a request are computed and routed together.

    Args:
        request: not routed yet.
        settings: of the request, resolved; a policy other than ``off``.

    Returns:
        Tiles of each group, in the order of their places: a picture a group, or all in one where
        pictures are routed together.
    """
    counts = [span.num_tiles for span in request.prompt.image_spans]
    return [sum(counts)] if settings.joins_pictures else counts


def route_patches(
    model: VisionLanguageModel, patches: Tensor, settings: FlashSettings
) -> RoutedTiles:
    """Choose among the tiles of a group and compute the chosen branch of each.

    Args:
        model: in eval mode.
        patches: ``(N, G, G, C)`` of the tower.
        settings: of the request, resolved; a policy other than ``off``.

    Returns:
        Visual tokens, choices, and scores if they were needed.
    """
    if settings.policy == "all":
        chosen = torch.ones(len(patches), dtype=torch.bool, device=patches.device)
        return RoutedTiles(model.project_tiles(patches, chosen), (True,) * len(patches))
    scores = model.score_tiles(patches)
    if settings.policy == "released":
        scores = scores.to(patches.dtype)  # in which the released code compares
    chosen = choose_compressed(scores, settings, model.config)
    return RoutedTiles(
        model.project_tiles(patches, chosen), tuple(chosen.tolist()), tuple(scores.tolist())
    )


def join_routed(
    request: Request, groups: Sequence[RoutedTiles], config: InternVLChatConfig
) -> Request:
    """Put the groups of a request together and take the dropped places out of its prompt.

    Args:
        request: not routed yet.
        groups: of all of its tiles, in order; at least one.
        config: of the checkpoint.

    Returns:
        The request with visual tokens instead of tiles.
    """
    is_compressed = tuple(choice for group in groups for choice in group.is_compressed)
    scores = tuple(score for group in groups for score in group.scores or ())
    return Request(
        compress_prompt(
            request.prompt,
            is_compressed,
            tokens_per_tile=config.tokens_per_tile,
            compressed_tokens=config.compressed_tokens_per_tile,
        ),
        image_features=torch.cat([group.features for group in groups]),
        routing=TileRouting(is_compressed, scores or None),
    )
