"""How hard right answers become when tiles are compressed: the mean loss of drawings' answers.

Routers behind one first stage differ by less than right answers do by chance; losses of the answers
to all questions about a picture tell them apart with far fewer pictures. What a checkpoint answers
by itself is left to :mod:`benchmarks.flash_answers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.flash_answers import ALL, BASE, OFF, RANDOM, Asking, RandomRouter
from benchmarks.flash_figures import Values, bootstrap
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


@dataclass(frozen=True)
class FamilyLosses:
    """Losses of the right answers about a family's pictures."""

    sums: dict[str, Values]
    """Nats of all answers about a picture, a number a picture, by way."""
    tokens: Values
    """Tokens of these answers, a number a picture."""

    def mean(self, way: str) -> float:
        """Nats a token."""
        return float(self.sums[way].sum() / self.tokens.sum())


def compare_losses(
    base: Chat,
    routers: Mapping[str, Chat],
    thresholds: Mapping[str, float],
    asking: Asking,
    share: float,
) -> dict[str, FamilyLosses]:
    """Compute losses of the base and of a Flash checkpoint under several ways of choosing tiles.

    Args:
        base: checkpoint without compression.
        routers: Flash checkpoints that differ in their routers alone, at least one.
        thresholds: score of each from which on a tile is compressed.
        asking: pictures.
        share: of the tiles that chance compresses.

    Returns:
        By family the losses of ``base``; of the Flash checkpoint with no tile compressed (``off``),
        ``all``, and a share by chance (``random``); and of each router.
    """
    first = next(iter(routers.values()))
    found = {}
    for family in asking.families:
        ways: dict[str, Choose] = {
            OFF: _none,
            ALL: lambda patches: ~_none(patches),
            RANDOM: _judged_by(RandomRouter(family).scores, 1 - share),
        }
        for name, chat in routers.items():
            ways[name] = _judged_by(chat.model.score_tiles, thresholds[name])
        examples = encode_drawings(first, asking, family)
        whole = picture_losses(base.model, examples, {BASE: _none})
        own = picture_losses(first.model, examples, ways)
        found[family] = FamilyLosses(whole.sums | own.sums, own.tokens)
    return found


def loss_figures(
    families: Mapping[str, FamilyLosses], way: str, default: str
) -> dict[str, float | dict[str, float]]:
    """Say what a way costs, all families counting alike.

    Args:
        families: of :func:`compare_losses`.
        way: name of it.
        default: name of another one that it is compared with on the same pictures.

    Returns:
        ``nats_a_token``, and ``more_than_default`` with its 95 % interval.
    """
    found = list(families.values())
    stops = np.cumsum([len(one.tokens) for one in found])[:-1]

    def difference(counts: Values) -> Values:
        means: list[Values] = []
        for one, drawn in zip(found, np.split(counts, stops, axis=1), strict=True):
            gain = one.sums[way] - one.sums[default]
            means.append((drawn @ gain) / (drawn @ one.tokens))
        return np.asarray(np.mean(means, axis=0))

    return {
        "nats_a_token": round(float(np.mean([one.mean(way) for one in found])), 4),
        "more_than_default": bootstrap([len(one.tokens) for one in found], difference),
    }


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
def picture_losses(
    model: VisionLanguageModel, examples: Sequence[Example], ways: Mapping[str, Choose]
) -> FamilyLosses:
    """Compute the cross-entropy of answers' tokens.

    Args:
        model: in eval mode.
        examples: conversations with pictures.
        ways: which tiles are compressed, by name; of a model without router none may be.

    Returns:
        Losses of every example.
    """
    sums: dict[str, list[float]] = {way: [] for way in ways}
    tokens: list[float] = []
    for start in range(0, len(examples), BATCH):
        batch = collate(examples[start : start + BATCH], 0).to(model.device)
        assert batch.pixel_values is not None
        patches = model.encode_patches(batch.pixel_values)
        for way, choose in ways.items():
            sums[way] += _losses(model, batch, patches, choose(patches)).sum(dim=1).tolist()
        tokens += (batch.labels[:, 1:] != IGNORED).sum(dim=1).tolist()
    return FamilyLosses({way: np.array(found) for way, found in sums.items()}, np.array(tokens))


def _losses(
    model: VisionLanguageModel, batch: TrainingBatch, patches: Tensor, is_compressed: Tensor
) -> Tensor:
    """Losses ``(B, T - 1)`` of the answers' tokens of a padded batch, zero at other places."""
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
    return functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), targets, ignore_index=IGNORED, reduction="none"
    )


def _none(patches: Tensor) -> Tensor:
    return torch.zeros(len(patches), dtype=torch.bool, device=patches.device)


def _judged_by(scores: Callable[[Tensor], Tensor], threshold: float) -> Choose:
    return lambda patches: scores(patches) >= threshold
