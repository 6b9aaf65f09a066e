"""A request of a server's own, answered before anybody is let in.

The first answer of a process compiles kernels and takes memory, which lasts seconds. No counterpart
in the paper.
"""

from __future__ import annotations

import torch

from internvl35.data.token_writer import ImageSpan, Prompt
from internvl35.errors import ServerError
from internvl35.generate.engines import GenerationEngine
from internvl35.generate.request import Request
from internvl35.generate.sampling import SamplingSettings
from internvl35.model.configuration import InternVLChatConfig


def warm_up(
    engine: GenerationEngine, config: InternVLChatConfig, token_id: int, *, has_vision: bool
) -> None:
    """Write two tokens: the first takes a pass over a prompt, the second one over a single token.

    No prompt of a conversation begins as this one does, so nobody finds any of it in a cache.

    Args:
        engine: answers nobody else yet.
        config: of its checkpoint; knows the mark of pictures.
        token_id: any token that may stand in a prompt.
        has_vision: whether the engine encodes pictures; it then does so with a grey one.

    Raises:
        InternVLError: if it cannot be answered; nor could others.
    """
    count, side = config.tokens_per_tile * has_vision, config.force_image_size
    ids = (config.image_token_id,) * count + (token_id,)
    spans = (ImageSpan(0, count, 1),) if has_vision else ()
    tiles = torch.zeros(1, 3, side, side) if has_vision else None
    request = Request(Prompt(ids, spans, (False,) * len(ids)), pixel_values=tiles)
    sampling = SamplingSettings(max_tokens=2, temperature=0.0, ignore_end=True)
    (completion,) = engine.generate([request], sampling)
    (sample,) = completion.samples
    if sample.error is not None:
        raise completion.failure or ServerError(f"a first answer failed: {sample.error}")
