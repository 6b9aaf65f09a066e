"""The recipe of the embedded checkpoint: its sizes, its stream of drawn tasks, its loss.

First the tower alone learns which glyph, colour or shape stands in which patch; then the whole
model learns to answer, while the dense labels go on guiding the tower. The loop is
:mod:`internvl35.train.rounds`; drawing is left to :mod:`internvl35.data.synthetic`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerBase

from internvl35.config import LanguageShape, TileSettings, VisionShape
from internvl35.data.batches import Example, TrainingBatch, collate, group_by_tiles
from internvl35.data.prompt import Message, PromptBuilder, PromptSettings
from internvl35.data.synthetic import FAMILIES, MARK_LABELS, Drawing, draw, draw_page
from internvl35.data.synthetic.patch_labels import label_patches
from internvl35.data.templates import TEMPLATES
from internvl35.data.tiles import count_tiles, make_pixel_values
from internvl35.data.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
from internvl35.model.composite import VisionLanguageModel
from internvl35.model.configuration import (
    InternVLChatConfig,
    language_shape_to_dict,
    vision_shape_to_dict,
)
from internvl35.model.hub import resolve_checkpoint
from internvl35.train.rounds import RoundLoop, RoundSettings
from internvl35.train.sft import sft_loss

VOCAB_SIZE = 832

VISION = VisionShape(
    width=192, num_layers=4, num_heads=3, mlp_width=768, tile_size=112, patch_size=14
)
LANGUAGE = LanguageShape("qwen3", 192, 4, 3, 3, 64, 512, vocab_size=VOCAB_SIZE)

MAX_TILES = 4


@dataclass(frozen=True)
class TinyRecipe:
    """What the embedded checkpoint is trained on, and how long."""

    loop: RoundSettings = field(
        default_factory=lambda: RoundSettings(
            num_rounds=1290, learning_rate=4e-3, optimizer="muon", decay_share=0.4
        )
    )
    """Length, rates and checkpoints of the run."""
    samples_per_round: int = 240
    """Pictures a round."""
    warmup_rounds: int = 240
    """First rounds, in which the tower alone learns from dense pages and labelled shapes."""
    level_rounds: int = 300
    """Rounds after the warm-up over which pictures rise from the easiest to those of the test."""
    family_shares: tuple[tuple[str, float], ...] = (
        ("reading", 0.43), ("counting", 0.40), ("shapes", 0.13), ("greeting", 0.04),
    )  # fmt: skip
    """Share of each family once the whole model learns."""
    page_share: float = 0.1
    """Share of pictures that stay dense pages for the tower after the warm-up."""
    tiled_share: float = 0.5
    """Share of pictures of several tiles that is kept; the others are drawn anew, as they cost a
    multiple of a picture of one tile."""
    system_share: float = 0.15
    """Share of conversations that open with the official system prompt; the others have none."""
    patch_loss_weight: float = 0.3
    """Weight of the dense labels beside the loss of the answers."""
    max_tiles_per_batch: int = 72
    """Most tiles a step."""
    max_examples_per_batch: int = 48
    """Most pictures a step."""
    seed: int = 0
    """Seed of the weights and of the order of the data."""
    start_from: str = ""
    """Checkpoint whose weights and tokenizer the run starts from (``tiny``, or a folder); empty for
    fresh ones. Its dense head is learned anew."""


def tiny_config(image_token_id: int, pad_token_id: int, end_token_id: int) -> InternVLChatConfig:
    """Configuration of the embedded checkpoint.

    Args:
        image_token_id: id of ``<IMG_CONTEXT>`` in its tokenizer.
        pad_token_id: id that fills batches.
        end_token_id: id of ``<|im_end|>``, which ends an answer.

    Returns:
        An InternVL3.5 in small: the same parts and names, 16 visual tokens a tile of 112 pixels.
    """
    text = language_shape_to_dict(LANGUAGE) | {
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        "bos_token_id": None,
        "eos_token_id": end_token_id,
        "pad_token_id": pad_token_id,
    }
    vision = vision_shape_to_dict(VISION) | {"layer_scale_init_value": 0.5}
    return InternVLChatConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=image_token_id,
        max_dynamic_patch=MAX_TILES,
        dtype="bfloat16",
    )


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """Train the small tokenizer on the questions and answers of the drawn tasks.

    Returns:
        Byte-level BPE with the released special tokens and single digits and capitals; the same
        every time.
    """
    texts = [template.default_system_prompt for template in TEMPLATES.values()] * 100
    texts += ["system", "user", "assistant"] * 1000
    for family in FAMILIES:
        for index in range(3000):
            for turn in draw(family, "train", index, 1.0).turns:
                texts.append(turn.question)
                if not turn.answer.isupper():
                    texts.append(turn.answer)
    return train_tokenizer(texts, VOCAB_SIZE)


class TinyRounds(Dataset[list[TrainingBatch]]):
    """The endless stream of drawn pictures, one round of batches an item.

    Args:
        recipe: shares, sizes and stages.
        tokenizer: of the checkpoint.
        config: of the checkpoint.
    """

    def __init__(
        self, recipe: TinyRecipe, tokenizer: PreTrainedTokenizerBase, config: InternVLChatConfig
    ) -> None:
        """Prepare one prompt builder with and one without the official system prompt."""
        self.recipe = recipe
        self.tiles: TileSettings = config.tile_settings
        self.patch_size = int(config.vision_config.patch_size[0])
        self.pad_token_id = int(config.text_config.pad_token_id)
        self.builders = {
            has_system: PromptBuilder(
                tokenizer,
                PromptSettings(
                    template=config.template,
                    system_prompt="official" if has_system else "none",
                    tokens_per_tile=config.tokens_per_tile,
                ),
            )
            for has_system in (True, False)
        }

    def __len__(self) -> int:
        """Count the rounds of the run."""
        return self.recipe.loop.num_rounds

    def __getitem__(self, number: int) -> list[TrainingBatch]:
        """Draw round ``number``; the same number always gives the same batches."""
        recipe = self.recipe
        rng = random.Random(f"{recipe.seed}/{number}")
        first = number * recipe.samples_per_round
        examples = [self._example(rng, first + k, number) for k in range(recipe.samples_per_round)]
        seen_only = [example for example in examples if not example.token_ids]
        asked = [example for example in examples if example.token_ids]
        groups = [
            group
            for part in (seen_only, asked)
            for group in group_by_tiles(
                part,
                max_tiles=recipe.max_tiles_per_batch,
                max_examples=recipe.max_examples_per_batch,
            )
        ]
        rng.shuffle(groups)
        return [collate(group, self.pad_token_id) for group in groups]

    def _example(self, rng: random.Random, index: int, number: int) -> Example:
        recipe = self.recipe
        is_warmup = number < recipe.warmup_rounds
        if is_warmup:
            level = min(1.0, 1.5 * number / recipe.warmup_rounds)
        else:
            level = min(1.0, (number - recipe.warmup_rounds + 1) / recipe.level_rounds)
        if rng.random() < (0.7 if is_warmup else recipe.page_share):
            page_level = level if is_warmup else 1.0
            return self._seen(draw_page(random.Random(f"train/page/{index}"), page_level))
        names, shares = zip(*recipe.family_shares, strict=True)
        family = rng.choices(names, shares)[0]
        if is_warmup:
            family = rng.choice(("counting", "shapes", "reading"))
            return self._seen(self._draw(rng, family, index, level))
        drawing = self._draw(rng, family, index, level)
        return self._asked(drawing, rng.random() < recipe.system_share)

    def _draw(self, rng: random.Random, family: str, index: int, level: float) -> Drawing:
        while True:
            drawing = draw(family, "train", index, level)
            if drawing.image is None or count_tiles(*drawing.image.size, self.tiles) == 1:
                return drawing
            if rng.random() < self.recipe.tiled_share:
                return drawing
            index += _REDRAWN  # an index that no round draws of itself

    def _seen(self, drawing: Drawing) -> Example:
        pixels, labels = self._look(drawing)
        return Example((), (), pixels, labels)

    def _asked(self, drawing: Drawing, has_system: bool) -> Example:
        pixels, labels = (None, None) if drawing.image is None else self._look(drawing)
        messages: list[Message] = []
        for number, turn in enumerate(drawing.turns):
            mark = "<image>\n" if number == 0 and pixels is not None else ""
            messages += [Message("user", mark + turn.question), Message("assistant", turn.answer)]
        prompt = self.builders[has_system].build(
            messages, [] if pixels is None else [len(pixels)], add_generation_prompt=False
        )
        return Example(prompt.token_ids, prompt.loss_mask, pixels, labels)

    def _look(self, drawing: Drawing) -> tuple[Tensor, Tensor]:
        assert drawing.image is not None
        pixels = make_pixel_values(drawing.image, self.tiles)
        width, height = drawing.image.size
        return pixels, label_patches(drawing.marks, width, height, self.tiles, self.patch_size)


class Trainee(nn.Module):
    """The model together with the head for dense labels, which only training needs.

    Args:
        model: the model to be trained.
    """

    def __init__(self, model: VisionLanguageModel) -> None:
        """Start the head near "nothing stands here"."""
        super().__init__()
        self.model = model
        self.patch_head = nn.Linear(model.config.vision_config.hidden_size, len(MARK_LABELS))
        nn.init.constant_(self.patch_head.bias, -3.0)

    def loss(
        self, batch: TrainingBatch, patch_loss_weight: float
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss of the answers plus that of the dense labels.

        Args:
            batch: conversations, or pictures alone.
            patch_loss_weight: weight of the dense labels where there are conversations.

        Returns:
            The sum, and each part for the log.
        """
        figures: dict[str, float] = {}
        device = self.patch_head.weight.device
        losses: list[Tensor] = []
        features = None
        has_text = batch.input_ids.shape[1] > 0
        if batch.pixel_values is not None:
            patches = self.model.encode_patches(batch.pixel_values.to(device))
            if batch.patch_labels is not None:
                labels = batch.patch_labels.to(device)
                scores = self.patch_head(patches)
                patch_loss = patch_label_loss(scores, labels)
                losses.append(patch_loss * (patch_loss_weight if has_text else 1.0))
                figures["patch_loss"] = float(patch_loss.detach())
                figures["patch_accuracy"] = patch_accuracy(scores.detach(), labels)
            if has_text:
                features = self.model.project_patches(patches)
        if has_text:
            output = self.model(
                input_ids=batch.input_ids.to(device),
                attention_mask=batch.attention_mask.to(device),
                image_features=features,
                use_cache=False,
            )
            answer_loss = sft_loss(output.logits, batch.labels.to(device))
            losses.append(answer_loss)
            figures["answer_loss"] = float(answer_loss.detach())
        return torch.stack([loss.float() for loss in losses]).sum(), figures


def patch_label_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of all labels, summed over labels and averaged over patches.

    Args:
        scores: ``(N, G, G, L)`` logits.
        labels: ``(N, G, G, L)`` 0 or 1.

    Returns:
        The loss, a float32 scalar.
    """
    losses = functional.binary_cross_entropy_with_logits(
        scores.float(), labels.float(), reduction="none"
    )
    return losses.sum(dim=-1).mean()


def patch_accuracy(scores: Tensor, labels: Tensor) -> float:
    """Share of patches with any label whose highest score is one of their labels."""
    is_labelled = labels.bool().any(dim=-1)
    if not bool(is_labelled.any()):
        return 0.0
    best = scores[is_labelled].argmax(dim=-1, keepdim=True)
    return float(labels[is_labelled].gather(-1, best).float().mean())


def train_tiny(
    folder: Path,
    recipe: TinyRecipe,
    *,
    device: torch.device | None = None,
    num_workers: int = 1,
    evaluate: Callable[[VisionLanguageModel, PreTrainedTokenizerBase], dict[str, float]]
    | None = None,
    on_log: Callable[[dict[str, float]], None] | None = None,
) -> None:
    """Train the embedded checkpoint, or go on where the folder's run was stopped.

    Args:
        folder: run folder; state, figures and at the end ``checkpoint/`` are written there.
        recipe: data, stages and length.
        device: where the model is trained; the CPU by default.
        num_workers: processes that draw; 0 draws in this one.
        evaluate: called now and then with the model and its tokenizer; its figures are logged.
        on_log: called with each round's figures.
    """
    device = device or torch.device("cpu")
    tokenizer = _run_tokenizer(folder / "tokenizer", recipe.start_from)
    torch.manual_seed(recipe.seed)
    # torch's fused CPU attention is slower than plain products at these sizes (docs/log.md)
    attention = "eager" if device.type == "cpu" else "sdpa"
    trainee = Trainee(_starting_model(recipe.start_from, tokenizer, attention)).to(device)
    dataset = TinyRounds(recipe, tokenizer, trainee.model.config)

    def rounds(start: int) -> Iterator[list[TrainingBatch]]:
        loader = DataLoader(
            dataset, batch_size=None, sampler=range(start, len(dataset)), num_workers=num_workers
        )
        return iter(loader)

    loop = RoundLoop[TrainingBatch](
        trainee,
        lambda batch: trainee.loss(batch, recipe.patch_loss_weight),
        recipe.loop,
        folder,
        device,
    )
    loop.run(
        rounds,
        None if evaluate is None else lambda _: evaluate(trainee.model, tokenizer),
        on_log,
    )
    checkpoint = folder / "checkpoint"
    trainee.model.to(dtype=torch.bfloat16).save_pretrained(checkpoint)
    save_tokenizer(tokenizer, checkpoint)


def _starting_model(
    start_from: str, tokenizer: PreTrainedTokenizerBase, attention: str
) -> VisionLanguageModel:
    if start_from:
        return VisionLanguageModel.from_pretrained(
            start_from, dtype=torch.float32, attn_implementation=attention
        )
    config = tiny_config(*(_token_id(tokenizer, name) for name in _NAMED_TOKENS))
    config._attn_implementation = attention
    return VisionLanguageModel(config)


def _run_tokenizer(folder: Path, start_from: str) -> PreTrainedTokenizerBase:
    """Settle a run's tokenizer once; ids must not change under a run that is resumed."""
    if not (folder / "tokenizer.json").exists():
        partial = folder.with_suffix(".partial")
        found = load_tokenizer(resolve_checkpoint(start_from)) if start_from else tiny_tokenizer()
        save_tokenizer(found, partial)
        partial.rename(folder)
    return load_tokenizer(folder)


_REDRAWN = 1_000_000_000

_NAMED_TOKENS = ("<IMG_CONTEXT>", "<|endoftext|>", "<|im_end|>")


def _token_id(tokenizer: PreTrainedTokenizerBase, name: str) -> int:
    token_id = tokenizer.convert_tokens_to_ids(name)
    assert isinstance(token_id, int)
    return token_id
