"""InternVL3.5: run, serve, fine-tune, reinforce, compress and evaluate the vision-language models.

New code asks through :func:`load`; code written for the announcement keeps its calls with
``AutoModel``, ``AutoTokenizer``, ``load_image`` and ``load_video`` from here. Names are imported
when they are first used, so that importing the package is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from internvl35.chat import Chat, load
    from internvl35.conversation import Conversation, Question, Reply, Video
    from internvl35.data.images import load_image
    from internvl35.data.video import load_video
    from internvl35.dropin import AutoModel, AutoTokenizer, InternVLChatModel
    from internvl35.errors import InternVLError
    from internvl35.generate.flash import FlashSettings
    from internvl35.generate.sampling import SamplingSettings

__all__ = [
    "AutoModel",
    "AutoTokenizer",
    "Chat",
    "Conversation",
    "FlashSettings",
    "InternVLChatModel",
    "InternVLError",
    "Question",
    "Reply",
    "SamplingSettings",
    "Video",
    "load",
    "load_image",
    "load_video",
]

_HOMES = {
    "AutoModel": "dropin",
    "AutoTokenizer": "dropin",
    "Chat": "chat",
    "Conversation": "conversation",
    "FlashSettings": "generate.flash",
    "InternVLChatModel": "dropin",
    "InternVLError": "errors",
    "Question": "conversation",
    "Reply": "conversation",
    "SamplingSettings": "generate.sampling",
    "Video": "conversation",
    "load": "chat",
    "load_image": "data.images",
    "load_video": "data.video",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
