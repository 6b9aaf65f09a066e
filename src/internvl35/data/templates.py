"""The two conversation templates of InternVL3.5 and the system prompts that go with them.

Only constants: turning messages into tokens is left to :mod:`internvl35.data.prompt`.
Reference: the released conversation settings; the thinking prompt is the one of the paper's
"Thinking" results (section 3.3).
"""

from __future__ import annotations

from dataclasses import dataclass

from internvl35.errors import PromptError

R1_SYSTEM_PROMPT = (
    "You are an AI assistant that rigorously follows this response protocol:\n"
    "\n"
    "1. First, conduct a detailed analysis of the question. Consider different angles, potential "
    "solutions, and reason through the problem step-by-step. Enclose this entire thinking process "
    "within <think> and </think> tags.\n"
    "\n"
    "2. After the thinking section, provide a clear, concise, and direct answer to the user's "
    "question. Separate the answer from the think section with a newline.\n"
    "\n"
    "Ensure that the thinking process is thorough but remains focused on the query. The final "
    "answer should be standalone and not reference the thinking section."
)
"""System prompt under which the Qwen3-based sizes think before they answer."""

_GPT_OSS_IDENTITY = (
    "You are InternVL, a large language model trained by Shanghai AI Laboratory.\n"
    "Knowledge cutoff: 2024-06\n"
    "Current date: 2025-08-06\n"
    "\n"
)
_CHANNEL_RULE = "Channel must be included for every message."


@dataclass(frozen=True)
class ConversationTemplate:
    """Where the turns of a conversation begin and end."""

    name: str
    """Name in a checkpoint's config.json."""
    turn_start: str
    """Token in front of every role name."""
    head_end: str
    """What stands between a role name and the text of a system or user turn."""
    turn_end: str
    """Token after the text of a turn."""
    answer_end: str
    """Token a model stops with; ``turn_end`` takes its place in turns that are past."""
    turn_gap: str
    """Text between ``turn_end`` and the next turn."""
    default_system_prompt: str
    """The official default system prompt."""
    thinking_prompt: str
    """What replaces it in thinking mode."""
    thinking_rule: str
    """What thinking mode adds to a system prompt of the caller's own."""
    has_channels: bool
    """Whether thinking and answer are messages of two channels rather than one text with tags."""
    stop_tokens: tuple[str, ...]
    """Tokens that end an answer; those a tokenizer lacks do not count."""

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """Tokens that the structure needs and a tokenizer must therefore have."""
        channels = ("<|channel|>", "<|message|>") if self.has_channels else ()
        return tuple(dict.fromkeys((self.turn_start, self.turn_end, self.answer_end, *channels)))


TEMPLATES: dict[str, ConversationTemplate] = {
    template.name: template
    for template in (
        ConversationTemplate(
            name="internvl2_5",
            turn_start="<|im_start|>",
            head_end="\n",
            turn_end="<|im_end|>",
            answer_end="<|im_end|>",
            turn_gap="\n",
            default_system_prompt=(
                "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、"
                "清华大学及多家合作单位联合开发的多模态大语言模型。"
            ),
            thinking_prompt=R1_SYSTEM_PROMPT,
            thinking_rule=R1_SYSTEM_PROMPT,
            has_channels=False,
            stop_tokens=("<|im_end|>", "<|endoftext|>"),
        ),
        ConversationTemplate(
            name="internvl3_5_gpt_oss",
            turn_start="<|start|>",
            head_end="<|message|>",
            turn_end="<|end|>",
            answer_end="<|return|>",
            turn_gap="",
            default_system_prompt=(
                f"{_GPT_OSS_IDENTITY}Reasoning: low\n\n# Valid channels: final. {_CHANNEL_RULE}"
            ),
            thinking_prompt=(
                f"{_GPT_OSS_IDENTITY}Reasoning: high\n\n"
                f"# Valid channels: analysis, final. {_CHANNEL_RULE}"
            ),
            thinking_rule=f"Reasoning: high\n\n# Valid channels: analysis, final. {_CHANNEL_RULE}",
            has_channels=True,
            stop_tokens=("<|return|>", "<|call|>", "<|endoftext|>"),
        ),
    )
}
"""The templates by the name that a checkpoint's config.json gives."""


def find_template(name: str) -> ConversationTemplate:
    """Look a template up by name.

    Args:
        name: as a checkpoint's config.json has it.

    Returns:
        The template.

    Raises:
        PromptError: if there is none of this name.
    """
    try:
        return TEMPLATES[name]
    except KeyError:
        known = ", ".join(TEMPLATES)
        raise PromptError(f"template {name!r} is unknown; known: {known}") from None
