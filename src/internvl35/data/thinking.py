"""Takes the reasoning and the answer of an assistant's turn apart, for both templates.

Writing them into a prompt is left to :mod:`internvl35.data.prompt`. Paper section 3.3 ("Thinking").
"""

from __future__ import annotations

import re

_CHANNEL = re.compile(
    r"<\|channel\|>\s*(\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
    r"(.*?)(?=<\|end\|>|<\|return\|>|<\|call\|>|<\|start\|>|<\|channel\|>|\Z)",
    re.DOTALL,
)
_CHANNEL_HEAD = re.compile(r"\s*(?:<\|start\|>assistant)?<\|channel\|>")
_NEXT_CHANNEL = "<|start|>assistant<|channel|>"
_END_MARKS = re.compile(r"(?:<\|im_end\|>|<\|endoftext\|>|<\|return\|>|<\|end\|>|\s)+\Z")


def split_thinking(text: str) -> tuple[str | None, str]:
    """Take reasoning and answer of a decoded assistant turn apart, whichever template wrote it.

    The answer is what follows the last ``</think>``, as in the released training code, so of two
    blocks both are reasoning. A text that was cut inside a block has an empty answer. A
    ``</think>`` without an opening (the prompt ended in ``<think>``) closes a block that began with
    the text. For the channels of GPT-OSS, ``final`` is the answer and every other channel is
    reasoning; decode with special tokens kept, or the channels cannot be told apart. End tokens
    behind the answer are taken off.

    Args:
        text: the turn, decoded with special tokens kept; it may be cut anywhere.

    Returns:
        The reasoning, None where there is none, and the answer.
    """
    if _CHANNEL_HEAD.match(text) or _NEXT_CHANNEL in text:
        return split_channels(text) or (None, "")
    return split_blocks(_END_MARKS.sub("", text))


def split_blocks(text: str) -> tuple[str | None, str]:
    """Take apart what ``<think>`` blocks hold and what follows them; see :func:`split_thinking`.

    Args:
        text: an assistant's turn.

    Returns:
        The reasoning, None where there is none, and the answer; without a block, the text as it is.
    """
    before, closing, answer = text.rpartition("</think>")
    if answer.lstrip().startswith("<think>"):  # cut in the first block, or in a further one
        before, closing, answer = f"{before}\n{answer}", "</think>", ""
    if not closing:
        return None, text
    blocks = (part.strip() for part in re.split(r"</?think>", before))
    return "\n\n".join(part for part in blocks if part) or None, answer.strip()


def split_channels(text: str) -> tuple[str | None, str] | None:
    """Take the channels of a GPT-OSS turn apart; see :func:`split_thinking`.

    Args:
        text: an assistant's turn.

    Returns:
        The reasoning, None where there is none, and the answer; None if no channel has begun.
    """
    channels = [(name, said.strip()) for name, said in _CHANNEL.findall(text)]
    if not _CHANNEL_HEAD.match(text):  # the prompt ended inside the analysis channel
        channels.insert(0, ("analysis", re.split(r"<\|end\|>|<\|start\|>", text)[0].strip()))
    if not channels:
        return None
    thinking = "\n\n".join(said for name, said in channels if name != "final" and said)
    answer = "\n\n".join(said for name, said in channels if name == "final" and said)
    return thinking or None, answer


def starts_with_channel(text: str) -> bool:
    """Tell whether an assistant's turn is written as GPT-OSS channels.

    Args:
        text: the turn.

    Returns:
        True if it opens with a channel whose message has begun.
    """
    head = _CHANNEL_HEAD.match(text)
    return head is not None and _CHANNEL.match(text, head.end() - len("<|channel|>")) is not None
