"""Samples with several tiles for tests of ViCO, and their losses computed one by one.

Tiles have 4 visual tokens, compressed ones 1, as those of the small random networks do.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from internvl35.data.batches import Example, TrainingBatch, collate, collate_packed
from internvl35.model.composite import VisionLanguageModel
from internvl35.model.flash_parts import add_router
from internvl35.train.attention import use_packed_attention

IMAGE_TOKEN = 300
WHOLE, SHORT = 4, 1
PAD = 0


def make_examples() -> list[Example]:
    """Two images of two tiles and one, then text alone, then an image of three tiles."""
    generator = torch.Generator().manual_seed(4)

    def make(parts: Sequence[int], num_targets: int) -> Example:
        ids: list[int] = [1]
        for num_tiles in parts:
            ids += [2, *[IMAGE_TOKEN] * (WHOLE * num_tiles), 3]
        ids += torch.randint(4, 290, (3 + num_targets,), generator=generator).tolist()
        mask = [place >= len(ids) - num_targets for place in range(len(ids))]
        num_tiles = sum(parts)
        pixels = torch.randn(num_tiles, 3, 56, 56, generator=generator) if num_tiles else None
        return Example(ids, mask, pixels)

    return [make((2, 1), 3), make((), 2), make((3,), 5)]


def make_flash(build: Callable[..., VisionLanguageModel], family: str = "qwen3"):
    """A small Flash model whose compressed tiles say something else than whole ones."""
    model = build(family)
    torch.manual_seed(3)
    add_router(model)
    with torch.no_grad():
        for parameter in model.compressed_projector.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        model.get_output_embeddings().weight.mul_(4)  # else all words are about as likely
    use_packed_attention(model)
    return model


def stirred(model: VisionLanguageModel, scale: float = 0.05) -> VisionLanguageModel:
    """A copy that says something else."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return other


def make_batch(examples: Sequence[Example], *, is_packed: bool = False) -> TrainingBatch:
    return collate_packed(examples) if is_packed else collate(examples, PAD)


def answer_logits(
    model: VisionLanguageModel, example: Example, is_compressed: Sequence[bool]
) -> Tensor:
    """Logits ``(targets, W)`` that predict the answer, from a prompt shortened by hand."""
    places = [place for place, token in enumerate(example.token_ids) if token == IMAGE_TOKEN]
    dropped = {
        place
        for number, place in enumerate(places)
        if is_compressed[number // WHOLE] and number % WHOLE >= SHORT
    }
    kept = [place for place in range(len(example.token_ids)) if place not in dropped]
    ids = torch.tensor([[example.token_ids[place] for place in kept]])
    features = None
    if example.pixel_values is not None:
        tokens = []
        for tile, is_short in zip(example.pixel_values, is_compressed, strict=True):
            patches = model.encode_patches(tile[None])
            tokens.append(model.project_tiles(patches, torch.tensor([is_short])))
        features = torch.cat(tokens)
    logits = model(input_ids=ids, image_features=features).logits[0]
    targets = [index for index, place in enumerate(kept) if example.loss_mask[place]]
    return logits[[index - 1 for index in targets]]


def answer_losses(
    model: VisionLanguageModel,
    example: Example,
    is_compressed: Sequence[bool],
    reference: VisionLanguageModel | None = None,
) -> Tensor:
    """Losses ``(targets,)`` of an answer: divergences from a reference, or cross-entropies."""
    own = Categorical(logits=answer_logits(model, example, is_compressed))
    if reference is None:
        pairs = zip(example.token_ids, example.loss_mask, strict=True)
        return -own.log_prob(torch.tensor([token for token, is_target in pairs if is_target]))
    whole = [False] * len(is_compressed)
    return kl_divergence(Categorical(logits=answer_logits(reference, example, whole)), own)
