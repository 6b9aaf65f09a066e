"""Bodies of ``/v1/completions``, ``/tokenize`` and ``/detokenize``, and what answers them.

A prompt is text without turns or token ids. Names of control tokens in a text stay text, as in
every prompt. No counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from internvl35.data.messages import Message
from internvl35.data.prompt import Prompt
from internvl35.generate.answers import Completion, TokenLogprob
from internvl35.generate.sampling import SamplingSettings
from internvl35.serve.chat_answer import AnswerFormat
from internvl35.serve.chat_body import IGNORED, read_usage
from internvl35.serve.chat_sampling import read_sampling
from internvl35.serve.fields import BodyError, Fields, as_ids, show

if TYPE_CHECKING:
    from internvl35.chat import Chat

MAX_PROMPTS = 64
"""Most prompts of a body."""

MAX_LOGPROBS = 5
"""Most log-probabilities a token that may be asked for, as in OpenAI's API."""

_UNSUPPORTED = ("suffix", "echo", "best_of")


@dataclass(frozen=True)
class TextCall:
    """What a completions body asks for."""

    prompts: tuple[str | tuple[int, ...], ...]
    """Texts or token ids."""
    sampling: SamplingSettings
    """How the answers are chosen."""
    model: str | None
    """The model that it names."""
    is_streamed: bool
    """Whether the answer shall come in parts."""
    has_usage: bool
    """Whether the parts end with one that counts tokens."""


def read_completions(body: Any, defaults: SamplingSettings) -> TextCall:
    """Read a completions body.

    Args:
        body: JSON values.
        defaults: how answers are chosen where the body says nothing.

    Returns:
        What it asks for.

    Raises:
        BodyError: if a field is unknown, unsupported or of another form.
    """
    fields = Fields(body)
    fields.refuse(_UNSUPPORTED)
    model, prompts = fields.text("model"), _read_prompts(fields)
    num_logprobs = fields.whole("logprobs")
    if num_logprobs is not None and not 0 <= num_logprobs <= MAX_LOGPROBS:
        raise BodyError(f"logprobs is {num_logprobs}; needed: 0 to {MAX_LOGPROBS}", "logprobs")
    sampling = replace(read_sampling(fields, defaults), num_logprobs=num_logprobs)
    is_streamed, has_usage = bool(fields.truth("stream")), read_usage(fields)
    fields.finish(IGNORED)
    if is_streamed and len(prompts) > 1:
        raise BodyError("stream is true and there are several prompts; send one each", "prompt")
    return TextCall(prompts, sampling, model, is_streamed, has_usage)


def _read_prompts(fields: Fields) -> tuple[str | tuple[int, ...], ...]:
    value = fields.any("prompt")
    entries = [value]
    if isinstance(value, list) and value and type(value[0]) not in (int, float):
        entries = value
    if len(entries) > MAX_PROMPTS:
        raise BodyError(f"prompt holds {len(entries)} prompts; at most {MAX_PROMPTS}", "prompt")
    return tuple(_read_prompt(entry, "prompt") for entry in entries)


def _read_prompt(value: Any, path: str) -> str | tuple[int, ...]:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list) and value:
        return as_ids(value, path)
    raise BodyError(f"{path} is {show(value)}; needed: a text or token ids, not empty", path)


def read_ids(body: Any) -> tuple[tuple[int, ...], str | None]:
    """Read a body of ``/detokenize``.

    Args:
        body: JSON values.

    Returns:
        Token ids, and the model that it names.

    Raises:
        BodyError: if it has another form.
    """
    fields = Fields(body)
    model, value = fields.text("model"), fields.any("tokens")
    fields.finish()
    found = () if value == [] else _read_prompt(value, "tokens")
    if isinstance(found, str):
        raise BodyError("tokens is a text; needed: token ids", "tokens")
    return found, model


def make_prompt(chat: Chat, prompt: str | tuple[int, ...]) -> Prompt:
    """Turn a prompt without turns into tokens.

    Args:
        chat: whose tokenizer and limits hold.
        prompt: text or token ids.

    Returns:
        The prompt, without pictures.

    Raises:
        BodyError: if it holds the token that stands for pictures.
        PromptError: if it is too long.
    """
    if isinstance(prompt, str):
        text = Message("assistant", prompt, image_places=())
        found = chat.builder.build([text], add_generation_prompt=False)
        return replace(found, loss_mask=(False,) * len(found))
    if chat.builder.image_token_id in prompt:
        raise BodyError("prompt holds the token of pictures; use /v1/chat/completions", "prompt")
    chat.builder.check_length(len(prompt))
    return Prompt(prompt, (), (False,) * len(prompt))


def write_choices(
    form: AnswerFormat, completions: Sequence[Completion]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Write the answers to the prompts of one body.

    Args:
        form: writes tokens.
        completions: of the prompts in order.

    Returns:
        Choices, those of the first prompt first, and the counts of all together.
    """
    samples = [sample for completion in completions for sample in completion.samples]
    choices = [
        write_choice(form, place, sample.text, sample.logprobs, sample.finish_reason)
        for place, sample in enumerate(samples)
    ]
    counts = [form.describe_usage(completion) for completion in completions]
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return choices, {name: sum(count[name] for count in counts) for name in names}


def write_choice(
    form: AnswerFormat,
    place: int,
    text: str,
    logprobs: Sequence[TokenLogprob] | None,
    reason: str | None,
) -> dict[str, Any]:
    """Write an answer, or a part of one.

    Args:
        form: writes tokens.
        place: of the answer among all.
        text: what was written.
        logprobs: of its tokens, if they were asked for.
        reason: why it ended, if it did.

    Returns:
        JSON values.
    """
    described = form.describe_logprobs(logprobs)
    content = None if described is None else described["content"]
    return {
        "index": place,
        "text": text,
        "logprobs": None if content is None else _write_logprobs(content),
        "finish_reason": reason,
    }


def _write_logprobs(content: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    tokens = [one["token"] for one in content]
    starts = accumulate(map(len, tokens), initial=0)
    tops = [{top["token"]: top["logprob"] for top in one["top_logprobs"]} for one in content]
    return {
        "tokens": tokens,
        "token_logprobs": [one["logprob"] for one in content],
        "top_logprobs": tops,
        "text_offset": list(starts)[:-1],
    }
