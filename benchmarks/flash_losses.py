"""How hard right answers become when tiles are compressed: the mean loss of drawings' answers.

Routers behind one first stage differ by less than right answers do by chance; losses of the answers
to all questions about a picture tell them apart with far fewer pictures. What a checkpoint answers
by itself is left to :mod:`benchmarks.flash_answers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.flash_answers import Asking, RandomRouter
from internvl35.chat import Chat
from internvl35.data.batches import IGNORED, Example, TrainingBatch, collate
from internvl35.data.compression import compress_batch
from internvl35.data.drawn_rows import DrawnRows, make_row
from internvl35.data.encoding import Encoder
from internvl35.data.records import read_record
from internvl35.model.composite import VisionLanguageModel

BATCH = 16
"""Drawings that are computed at once."""

Choose = Callable[[Tensor], Tensor]
"""From patches ``(N, G, G, C)`` of tiles to those that are compressed, ``(N,)`` bool."""


def compare_losses(
    base: Chat,
    routers: Mapping[str, Chat],
    thresholds: Mapping[str, float],
    asking: Asking,
    share: float,
) -> dict[str, dict[str, float]]:
    """Compute losses of the base and of a Flash checkpoint under several ways of choosing tiles.

    Args:
        base: checkpoint without compression.
        routers: Flash checkpoints that differ in their routers alone, at least one.
        thresholds: score of each from which on a tile is compressed.
        asking: pictures.
        share: of the tiles that chance compresses.

    Returns:
        By family the loss in nats a token of ``base``; of the Flash checkpoint with no tile
        compressed (``off``), ``all``, and a share by chance (``random``); and of each router.
    """
    first = next(iter(routers.values()))
    found = {}
    for family in asking.families:
        ways: dict[str, Choose] = {
            "off": _none,
            "all": lambda patches: ~_none(patches),
            "random": _judged_by(RandomRouter(family).scores, 1 - share),
        }
        for name, chat in routers.items():
            ways[name] = _judged_by(chat.model.score_tiles, thresholds[name])
        examples = encode_drawings(first, asking, family)
        whole = mean_losses(base.model, examples, {"base": _none})
        found[family] = whole | mean_losses(first.model, examples, ways)
    return found


def average_families(losses: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Average over families.

    Args:
        losses: of :func:`compare_losses`.

    Returns:
        Loss by way.
    """
    ways = next(iter(losses.values()))
    return {way: fmean(found[way] for found in losses.values()) for way in ways}


def encode_drawings(chat: Chat, asking: Asking, family: str) -> list[Example]:
    """Turn a family's drawings into conversations with their right answers.

    Args:
        chat: whose tokens and tiles they get.
        asking: which drawings.
        family: whose.
    """
    encoder = Encoder.for_checkpoint(chat.tokenizer, chat.model.config)
    examples = []
    for number, drawing in enumerate(asking.drawings(family)):
        row = make_row(drawing, DrawnRows().turns(drawing), [])
        row["images"] = drawing.images
        examples.append(encoder.encode(read_record(row, origin=f"{family} {number}")))
    return examples


@torch.inference_mode()
def mean_losses(
    model: VisionLanguageModel, examples: Sequence[Example], ways: Mapping[str, Choose]
) -> dict[str, float]:
    """Compute the mean cross-entropy of answers' tokens.

    Args:
        model: in eval mode.
        examples: conversations with pictures.
        ways: which tiles are compressed, by name; of a model without router none may be.

    Returns:
        Nats a token, by way.
    """
    sums, count = dict.fromkeys(ways, 0.0), 0
    for start in range(0, len(examples), BATCH):
        batch = collate(examples[start : start + BATCH], 0).to(model.device)
        assert batch.pixel_values is not None
        patches = model.encode_patches(batch.pixel_values)
        for way, choose in ways.items():
            losses = _losses(model, batch, patches, choose(patches))
            sums[way] += float(losses.sum())
        count += len(losses)
    return {way: total / count for way, total in sums.items()}


def _losses(
    model: VisionLanguageModel, batch: TrainingBatch, patches: Tensor, is_compressed: Tensor
) -> Tensor:
    """Losses of the answers' tokens ``(P,)`` of a padded batch."""
    config = model.config
    if is_compressed.any():
        batch = compress_batch(
            batch, is_compressed.cpu(), config.image_token_id, config.tokens_per_tile,
            config.compressed_tokens_per_tile, pad_token_id=0,
        )  # fmt: skip
    logits = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        image_features=model.project_tiles(patches, is_compressed),
    ).logits
    targets = batch.labels[:, 1:]
    is_target = targets != IGNORED
    return functional.cross_entropy(
        logits[:, :-1][is_target].float(), targets[is_target], reduction="none"
    )


def _none(patches: Tensor) -> Tensor:
    return torch.zeros(len(patches), dtype=torch.bool, device=patches.device)


def _judged_by(scores: Callable[[Tensor], Tensor], threshold: float) -> Choose:
    return lambda patches: scores(patches) >= threshold
