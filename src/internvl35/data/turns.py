"""Who may speak when in a conversation, and what is checked before a prompt is built.

Writing the turns is left to :mod:`internvl35.data.prompt`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from internvl35.data.messages import Message, Role
from internvl35.errors import PromptError

_NEXT: dict[str, tuple[str, ...]] = {
    "": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}
"""Who may speak behind whom; nobody has spoken before the first turn."""


def is_pretraining(messages: Sequence[Message]) -> bool:
    """Tell whether messages are a text to continue rather than a conversation.

    Args:
        messages: of one record.

    Returns:
        True for a single message of the assistant.
    """
    return len(messages) == 1 and messages[0].role == "assistant"


def check_turns(
    messages: Sequence[Message], *, add_generation_prompt: bool, assistant_prefix: str
) -> None:
    """Refuse a conversation in which the wrong side speaks.

    Args:
        messages: an optional system message, then user and assistant in turn; results of tools may
            stand between two messages of the assistant.
        add_generation_prompt: whether the assistant is to speak next.
        assistant_prefix: first words of what it says.

    Raises:
        PromptError: if a role is unknown or out of turn, or nothing is left to say.
    """
    if not messages:
        raise PromptError("the conversation has 0 messages; at least 1 user message is needed")
    turns = messages[1:] if messages[0].role == "system" else messages
    if not turns:
        raise PromptError("the conversation has 1 message, of the system; add a user message")
    before = ""
    for position, message in enumerate(turns, start=len(messages) - len(turns) + 1):
        if message.role not in get_args(Role):
            raise PromptError(
                f"message {position} has the unknown role {message.role!r}; "
                f"known: {', '.join(get_args(Role))}"
            )
        if message.role not in _NEXT[before]:
            raise PromptError(
                f"message {position} of {len(messages)} is of the {message.role} where the "
                f"{' or a '.join(_NEXT[before])} must speak; join messages of one role that "
                "follow one another"
            )
        before = message.role
    if add_generation_prompt and before == "assistant":
        raise PromptError(
            f"message {len(messages)}, the last, is of the assistant, so nothing is left to "
            "generate; give its text as assistant_prefix or pass add_generation_prompt=False"
        )
    if assistant_prefix and not add_generation_prompt:
        raise PromptError("assistant_prefix needs add_generation_prompt=True")


def check_images(messages: Sequence[Message], tiles_per_image: Sequence[int]) -> None:
    """Refuse pictures without a place, places without a picture, and pictures without a tile.

    Args:
        messages: a conversation, or a text of pre-training.
        tiles_per_image: tiles of each picture in order.

    Raises:
        PromptError: if the numbers differ or one is below 1.
    """
    is_alone = is_pretraining(messages)
    num_marks = sum(
        len(message.split_at_images(is_pretraining=is_alone)) - 1 for message in messages
    )
    num_images = len(tiles_per_image)
    if num_marks != num_images:
        raise PromptError(
            f"{num_marks} <image> marks but {num_images} images; "
            "pass one image per mark or drop a mark"
        )
    for position, num_tiles in enumerate(tiles_per_image, start=1):
        if num_tiles < 1:
            raise PromptError(f"image {position} has {num_tiles} tiles; at least 1 is needed")
