"""A gateway's answerer without a network and without media, for tests."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from batch_stubs import EchoEngine, StubChat

from internvl35.data.tiles import Grid
from internvl35.errors import BusyError
from internvl35.generate.sampling import SamplingSettings
from internvl35.serve.answering import Answerer, Defaults
from internvl35.serve.chat_answer import AnswerFormat
from internvl35.serve.gateway_settings import GatewaySettings
from internvl35.serve.media import LoadedMedia, MediaItemError


class StubLoader:
    """Two tiles a picture, one a frame; BUSY and BAD in an address are refused."""

    def __init__(self):
        self.items, self.is_closed = [], False

    async def load(self, items, request_id=""):
        self.items += items
        for item in items:
            if "BUSY" in item.source:
                raise BusyError("too many pictures", 7.0)
            if "BAD" in item.source:
                raise MediaItemError("no picture", item.where)
            count = item.num_frames or 3
            sizes = (1,) * count if item.kind == "video" else (item.max_tiles or 2,)
            grids = tuple(Grid(1, size) for size in sizes)
            yield LoadedMedia(np.zeros((sum(sizes), 3, 2, 2), np.uint8), grids, sizes)

    async def close(self):
        self.is_closed = True


def make_answerer(engine=None, chat=None, **settings):
    chat = chat or StubChat()
    label = "Frame1: <image>\n"
    chat.builder.settings = SimpleNamespace(max_tokens=4096, frame_label=label)
    form = AnswerFormat(chat.tokenizer, chat.rules.end_token_ids, "tiny", "fp_1", 4)
    return Answerer(
        chat, engine or EchoEngine(), StubLoader(), form, Defaults(SamplingSettings()),
        GatewaySettings(**settings), ("tiny", "other"),
    )  # fmt: skip
