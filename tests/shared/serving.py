"""A gateway that listens on this machine while a test asks it."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

import torch
import uvicorn

from internvl35 import SamplingSettings, load
from internvl35.serve.answering import Answerer, Defaults
from internvl35.serve.chat_answer import AnswerFormat
from internvl35.serve.gateway import build_app
from internvl35.serve.gateway_settings import GatewaySettings
from internvl35.serve.media import MediaSettings
from internvl35.serve.media_loader import SafeMediaLoader

PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81y"
    "tgAAAABJRU5ErkJggg=="
)
"""One gray dot."""


@contextmanager
def serving(checkpoint, *, engine=None, keys=(), max_tokens=8):
    """Serve a checkpoint as the model ``random``; gives its address.

    Args:
        checkpoint: folder.
        engine: makes what answers of the chat; None for the chat's own engine.
        keys: of which one is needed.
        max_tokens: where a body says nothing.
    """
    chat = load(checkpoint, dtype=torch.float32)
    loader = SafeMediaLoader(chat.tiles, MediaSettings(num_workers=1), chat.images)
    form = AnswerFormat(chat.tokenizer, chat.rules.end_token_ids, "random", None, 4)
    answerer = Answerer(
        chat, chat.engine if engine is None else engine(chat), loader, form,
        Defaults(SamplingSettings(max_tokens=max_tokens)), GatewaySettings(), ("random",),
    )  # fmt: skip
    app = build_app(answerer, keys)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        chat.engine.close()
