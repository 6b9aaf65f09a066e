"""From drawn tasks to examples and steps: the endless stream that the embedded checkpoint sees.

Drawing is left to :mod:`internvl35.data.synthetic`, prompts to :mod:`internvl35.data.prompt`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from internvl35.config import TileSettings
from internvl35.data.batches import Example, collate, group_by_tiles
from internvl35.data.prompt import Message, PromptBuilder, PromptSettings
from internvl35.data.synthetic import FAMILIES, Drawing, Turn, draw_page, start_chance
from internvl35.data.synthetic.asking import question_text
from internvl35.data.synthetic.drawing import Chance
from internvl35.data.synthetic.enlarging import enlarge
from internvl35.data.synthetic.listing import list_things
from internvl35.data.synthetic.patch_labels import label_patches
from internvl35.data.tiles import cut_tiles
from internvl35.model.configuration import InternVLChatConfig
from internvl35.train.feed import FedBatch
from internvl35.train.tiny.recipe import STAGES, StageName, TinyRecipe

PAGE = "page"
"""Name of the pages of print, which only training sees."""

ENLARGED = 2.0
"""How many times larger pictures become that shall fill several tiles."""

_STREAM = 1_000_000_000
"""Places of a family's stream between two stages, so that no drawing is seen in two of them."""


class DrawnExamples:
    """Examples of one stage by their numbers.

    Args:
        recipe: of the run.
        stage: which of its stages.
        tokenizer: of the checkpoint.
        config: of the checkpoint.
    """

    def __init__(
        self,
        recipe: TinyRecipe,
        stage: StageName,
        tokenizer: PreTrainedTokenizerBase,
        config: InternVLChatConfig,
    ) -> None:
        """Prepare a prompt builder for each way to ask."""
        self.recipe = recipe
        self.name: StageName = stage
        self.stage = recipe.stage(stage)
        self.is_seen_only = stage == "tower"
        self.tiles: TileSettings = config.tile_settings
        self.patch_size = int(config.vision_config.patch_size[0])
        self.families = [
            (family, share)
            for family, share in self.stage.shares
            if family in FAMILIES or family == PAGE
        ]
        self.builders = {
            (has_system, is_thinking): PromptBuilder(
                tokenizer,
                PromptSettings(
                    template=config.template,
                    system_prompt="official" if has_system or is_thinking else "none",
                    is_thinking=is_thinking,
                    tokens_per_tile=config.tokens_per_tile,
                ),
            )
            for has_system, is_thinking in ((True, False), (False, False), (True, True))
        }

    @property
    def settings(self) -> dict[str, Any]:
        """What decides what is drawn, as it would stand in a JSON file."""
        stage = asdict(self.stage)
        of_stage = ["first_level", "shares"]
        if self.stage.first_level < 1:
            of_stage += ["num_steps", "level_share"]
        of_recipe = (
            "samples_per_step", "max_answer_letters", "system_share", "thinking_share",
            "listing_share", "enlarged_share", "seed",
        )  # fmt: skip
        found = {"stage": self.name} | {name: stage[name] for name in of_stage}
        found |= {name: getattr(self.recipe, name) for name in of_recipe}
        plain: dict[str, Any] = json.loads(json.dumps(found))
        return plain

    def __getitem__(self, index: int) -> Example:
        """Draw one example; the same number always gives the same one."""
        recipe = self.recipe
        rng = random.Random(f"{recipe.seed}/{self.name}/{index}")
        level = self.stage.level_at(index // recipe.samples_per_step)
        names, shares = zip(*self.families, strict=True)
        family = rng.choices(names, shares)[0]
        place = index + _STREAM * (STAGES.index(self.name) + len(STAGES) * recipe.seed)
        chance = start_chance(family, "train", place, level)
        drawing = draw_page(chance) if family == PAGE else FAMILIES[family].draw(chance)
        if len(drawing.images) == 1 and rng.random() < recipe.enlarged_share:
            drawing = enlarge(drawing, ENLARGED)
        if self.is_seen_only or not drawing.turns:
            return self._seen(drawing)
        return self._asked(drawing, self._list(drawing, chance, rng), rng)

    def _seen(self, drawing: Drawing) -> Example:
        levels, labels, _ = self._look(drawing)
        return Example((), (), levels, labels)

    def _list(self, drawing: Drawing, chance: Chance, rng: random.Random) -> Turn | None:
        return list_things(drawing, chance) if rng.random() < self.recipe.listing_share else None

    def _asked(self, drawing: Drawing, listing: Turn | None, rng: random.Random) -> Example:
        turns: Sequence[Turn] = drawing.turns
        can_think = [turn for turn in turns if turn.reasoning]
        is_thinking = bool(can_think) and rng.random() < self.recipe.thinking_share
        # of several turns only the last would keep its reasoning
        turns = [rng.choice(can_think)] if is_thinking else self._few(turns)
        if listing is not None and not is_thinking:
            turns = [listing, *turns] if rng.random() < 0.5 else [*turns, listing]
        messages: list[Message] = []
        for number, turn in enumerate(turns):
            text = question_text(drawing, turn, is_first=number == 0)
            thinking = turn.reasoning if is_thinking else None
            messages.append(Message("user", text))
            messages.append(Message("assistant", turn.answer, thinking=thinking))
        has_system = is_thinking or rng.random() < self.recipe.system_share
        levels, labels, counts = self._look(drawing)
        prompt = self.builders[has_system, is_thinking].build(
            messages, counts, add_generation_prompt=False
        )
        return Example(prompt.token_ids, prompt.loss_mask, levels, labels)

    def _few(self, turns: Sequence[Turn]) -> Sequence[Turn]:
        """The first turns, as many as do not make the conversation long; one at least."""
        letters, count = 0, 0
        for turn in turns:
            letters += len(turn.answer)
            if count and letters > self.recipe.max_answer_letters:
                break
            count += 1
        return turns[:count]

    def _look(self, drawing: Drawing) -> tuple[Tensor | None, Tensor | None, list[int]]:
        """Levels ``(N, 3, tile, tile)`` uint8, labels of their patches, and tiles a picture."""
        levels: list[NDArray[np.uint8]] = []
        labels: list[Tensor] = []
        counts: list[int] = []
        for number, image in enumerate(drawing.images):
            tiles = cut_tiles(image, self.tiles)
            levels += [np.asarray(tile, dtype=np.uint8).transpose(2, 0, 1) for tile in tiles]
            marks = drawing.marks[number] if drawing.marks else ()
            labels.append(label_patches(marks, *image.size, self.tiles, self.patch_size))
            counts.append(len(tiles))
        if not levels:
            return None, None, counts
        return torch.from_numpy(np.stack(levels)), torch.cat(labels), counts


class Examples(Protocol):
    """Examples by their numbers, from 0 without end."""

    def __getitem__(self, index: int) -> Example:
        """Make or read one; the same number always gives the same one."""


class Steps(Dataset[list[FedBatch]]):
    """Steps of one stage by their numbers, each a list of micro-batches.

    Args:
        examples: of the stage.
        recipe: says how many make a step.
        num_steps: of the stage.
        pad_token_id: fills padded rows.
    """

    def __init__(
        self, examples: Examples, recipe: TinyRecipe, num_steps: int, pad_token_id: int
    ) -> None:
        """Keep what is needed to make any step."""
        self.examples = examples
        self.recipe = recipe
        self.num_steps = num_steps
        self.pad_token_id = pad_token_id

    def __len__(self) -> int:
        """Count the steps of the stage."""
        return self.num_steps

    def __getitem__(self, step: int) -> list[FedBatch]:
        """Make a step; the same number always gives the same batches."""
        count = self.recipe.samples_per_step
        examples = [self.examples[step * count + place] for place in range(count)]
        return make_batches(examples, self.recipe, self.pad_token_id)


def make_batches(
    examples: Sequence[Example], recipe: TinyRecipe, pad_token_id: int
) -> list[FedBatch]:
    """Put the examples of a step into micro-batches of like size.

    Args:
        examples: of one step.
        recipe: says how large a micro-batch may be.
        pad_token_id: fills padded rows.

    Returns:
        Micro-batches: pictures alone, texts alone, pictures with questions.
    """
    kinds = (
        [e for e in examples if not e.token_ids],
        [e for e in examples if e.token_ids and e.pixel_values is None],
        [e for e in examples if e.token_ids and e.pixel_values is not None],
    )
    groups = [
        group
        for kind in kinds
        for group in group_by_tiles(
            kind,
            max_tiles=recipe.max_tiles_per_batch,
            max_examples=recipe.max_examples_per_batch,
        )
    ]
    return [FedBatch(collate(group, pad_token_id)) for group in groups]
