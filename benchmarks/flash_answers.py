"""Asks about pictures of many tiles under different ways of compressing them, and keeps answers.

What follows from the answers is left to :mod:`benchmarks.flash_figures`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast
from zlib import crc32

import torch
from torch import Tensor, nn

from benchmarks.kept_answers import KeptAnswers, fingerprint
from internvl35.chat import Chat, load
from internvl35.conversation import Question, Reply
from internvl35.data.synthetic import FAMILIES, Drawing, Split, draw
from internvl35.data.synthetic.asking import question_text
from internvl35.data.synthetic.enlarging import enlarge
from internvl35.data.tiles import make_pixel_values
from internvl35.generate.flash import FlashSettings
from internvl35.generate.sampling import SamplingSettings
from internvl35.model.router import Router

SINGLE_PICTURE = (
    "reading", "lines", "receipts", "counting", "shapes", "relations", "sums", "svg", "bars",
    "curves", "pies", "screens", "formulas", "rooms",
)  # fmt: skip
"""Families that always draw one picture, which can be enlarged to several tiles."""


@dataclass(frozen=True)
class Asking:
    """Which pictures are asked about, and how."""

    families: tuple[str, ...] = SINGLE_PICTURE
    """Kinds of task."""
    num_pictures: int = 200
    """Pictures a family."""
    factor: float = 2.0
    """How many times larger they are than their families draw them."""
    split: Split = "test"
    """Stream of drawings."""
    max_tokens: int = 160
    """Most tokens of an answer."""
    max_questions: int = 16
    """Most questions that are asked at once."""

    def drawings(self, family: str) -> list[Drawing]:
        """Draw a family's pictures.

        Args:
            family: its name.
        """
        return [
            enlarge(draw(family, self.split, index), self.factor)
            for index in range(self.num_pictures)
        ]


@dataclass(frozen=True)
class Answer:
    """What became of one picture."""

    is_right: bool
    """Whether the answer counts as right."""
    num_tiles: int
    """Tiles of the picture."""
    num_compressed: int
    """Tiles among them that were compressed."""
    num_visual_tokens: int
    """Visual tokens that were left."""


BASE, OFF, RELEASED, ALL, RANDOM = "base", "off", "released", "all", "random"
"""Ways of compressing, and rows of tables, beside those of thresholds and of routers."""

Answers = dict[str, list[Answer]]
"""Answers about the same pictures, in their order, by what was done to them."""


class RandomRouter(nn.Module):
    """Judges tiles by chance: scores are even from 0 to 1.

    Args:
        seed: of the scores; any text.
    """

    def __init__(self, seed: str) -> None:
        """Begin at the seed."""
        super().__init__()
        self._generator = torch.Generator().manual_seed(crc32(seed.encode()))

    def scores(self, patches: Tensor) -> Tensor:
        """Draw a score for each tile ``(N, G, G, C)``; returns ``(N,)`` in float32."""
        return torch.rand(len(patches), generator=self._generator).to(patches.device)


@contextmanager
def routed_at_random(chat: Chat, seed: str) -> Iterator[None]:
    """Put a :class:`RandomRouter` in the place of a model's router for a while.

    Args:
        chat: a Flash model, which nobody else asks meanwhile.
        seed: of the scores; another one for every family, or all would share their choices.
    """
    own = chat.model.router
    chat.model.router = cast(Router, RandomRouter(seed))
    chat.engine.engine.forget()  # tiles are kept with what an earlier router chose for them
    try:
        yield
    finally:
        chat.model.router = own
        chat.engine.engine.forget()


def random_settings(rate: float) -> FlashSettings:
    """Settings under which a :class:`RandomRouter` compresses a share of all tiles.

    Args:
        rate: the share, 0 to 1.
    """
    return FlashSettings("absolute", absolute_threshold=min(1.0, max(0.0, 1 - rate)))


def load_alike(name: str) -> Chat:
    """Load a checkpoint in the number format in which all of them are compared.

    Args:
        name: of the checkpoint, or its folder.

    Returns:
        The chat, in float32 on a CPU and in the checkpoint's own format on a GPU.
    """
    return load(name, dtype="auto" if torch.cuda.is_available() else torch.float32)


@dataclass(frozen=True)
class Inquiry:
    """Pictures of one family, ready to be asked about in many ways."""

    asking: Asking
    """How they are asked about."""
    drawings: Sequence[Drawing]
    """With one picture each."""
    on_answered: Callable[[int], None] = lambda _: None
    """Called with the number answered after every batch."""

    def ask(self, chat: Chat, flash: FlashSettings) -> list[Answer]:
        """Ask the first question of every drawing, greedily.

        Args:
            chat: the model.
            flash: which tiles are compressed.

        Returns:
            An answer a drawing, in order.
        """
        size = self.asking.max_questions
        sampling = SamplingSettings(max_tokens=self.asking.max_tokens)
        found: list[Answer] = []
        for start in range(0, len(self.drawings), size):
            batch = self.drawings[start : start + size]
            questions = [
                Question(question_text(drawing, drawing.turns[0], is_first=True), drawing.images)
                for drawing in batch
            ]
            replies = chat.ask_batch(questions, sampling, flash=flash)
            found += [judge(*pair) for pair in zip(batch, replies, strict=True)]
            self.on_answered(len(batch))
        return found


def judge(drawing: Drawing, reply: Reply) -> Answer:
    """Say what became of a picture.

    Args:
        drawing: what was asked about.
        reply: what was answered to its first question.
    """
    scores = FAMILIES[drawing.family].score(drawing.turns[0], reply.text)
    return Answer(
        scores["right"] == 1, reply.num_tiles, reply.num_compressed_tiles, reply.num_visual_tokens
    )


@torch.inference_mode()
def tile_scores(chat: Chat, asking: Asking, family: str) -> list[float]:
    """Let the router judge every tile of a family's pictures.

    Args:
        chat: a Flash model.
        asking: which pictures.
        family: whose.

    Returns:
        Scores of all tiles.
    """
    found: list[float] = []
    for drawing in asking.drawings(family):
        for image in drawing.images:
            pixel_values = make_pixel_values(image, chat.tiles)
            patches = chat.model.encode_patches(pixel_values.to(chat.model.device))
            found += chat.model.score_tiles(patches).tolist()
    return found


def keep_answers(
    folder: Path, models: Sequence[str], settings: Sequence[Any]
) -> KeptAnswers[Answers]:
    """Keep the answers of a measurement until it ends.

    Args:
        folder: where the file stands.
        models: names or folders of the checkpoints that answer.
        settings: all else that decides on the answers; of another measurement nothing is found.

    Returns:
        What an earlier run has left.
    """
    path = folder / f"flash-{fingerprint(models, list(settings))}.partial.json"
    return KeptAnswers(path, _write, _read)


def _write(answers: Answers) -> dict[str, Any]:
    return {policy: [asdict(one) for one in given] for policy, given in answers.items()}


def _read(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Answers:
    return {policy: [Answer(**one) for one in given] for policy, given in found.items()}


def of_split(asking: Asking, split: Split, num_pictures: int) -> Asking:
    """The same way of asking about other pictures.

    Args:
        asking: families, sizes and batches.
        split: stream of the other pictures.
        num_pictures: how many a family.
    """
    return replace(asking, split=split, num_pictures=num_pictures)
