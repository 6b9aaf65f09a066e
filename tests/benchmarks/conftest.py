from __future__ import annotations

from types import SimpleNamespace

import pytest

from benchmarks import record
from internvl35.config import TileSettings
from internvl35.data.synthetic import FAMILIES, draw
from internvl35.data.synthetic.asking import question_text


class KnowingChat:
    """Knows the first turns of some test drawings; answers a share of them right.

    Args:
        families: which ones it knows.
        num_pictures: how many of each.
        wrong: indices that it answers wrongly.
        dies_at: family whose questions end the process, as a kill does.
    """

    tiles = TileSettings(tile_size=192, max_tiles=4)
    model = SimpleNamespace(device=SimpleNamespace(type="cpu"))

    def __init__(self, families, num_pictures, wrong=(), dies_at=None):
        self.known = {}
        self.asked = []
        self.dies_at = dies_at
        for family in families:
            for index in range(num_pictures):
                drawing = draw(family, "test", index)
                answer = "no idea" if index in wrong else drawing.turns[0].answer
                text = question_text(drawing, drawing.turns[0], is_first=True)
                self.known[self._key(text, drawing.images)] = (family, answer)

    @staticmethod
    def _key(text, images):
        return text, tuple(image.tobytes() for image in images)

    def ask_batch(self, questions, sampling, *, has_logprobs=False):
        replies = []
        for question in questions:
            family, answer = self.known[self._key(question.text, question.images)]
            if family == self.dies_at:
                raise KeyboardInterrupt
            self.asked.append(family)
            logprobs = (-0.1, -0.2 if answer != "no idea" else -3.0)
            replies.append(
                SimpleNamespace(
                    text=answer, num_new_tokens=2, logprobs=logprobs if has_logprobs else None
                )
            )
        return replies


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture
def make_chat():
    return KnowingChat


@pytest.fixture
def some_families():
    return [name for name in ("counting", "shapes") if name in FAMILIES]
