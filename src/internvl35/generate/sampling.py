"""How the next token is chosen, and when an answer ends.

Following it is left to :mod:`internvl35.generate.sampler` and, with transformers' own loop, to
:mod:`internvl35.generate.runner`. Paper section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from internvl35.errors import ConfigError

NO_FLAG: Final[dict[str, Any]] = {"flags": ()}
"""Marks settings that have no flag at the command line; files of requests and the API name them."""

MAX_SAMPLES = 1024
"""Most answers to one prompt."""

MAX_LOGPROBS = 100
"""Most log-probabilities that come back with a token."""


@dataclass(frozen=True)
class StructureSettings:
    """What shape an answer must have; exactly one of the fields is given."""

    json_schema: str | None = None
    """A JSON schema, as JSON text, that the answer has to follow."""
    regex: str | None = None
    """A regular expression that the whole answer has to match."""
    choices: tuple[str, ...] = ()
    """Texts of which the answer has to be one."""
    is_json: bool = False
    """Whether the answer has to be some JSON object."""

    def __post_init__(self) -> None:
        """Refuse none and several of them."""
        given = [
            self.json_schema is not None, self.regex is not None, bool(self.choices), self.is_json
        ]  # fmt: skip
        if sum(given) != 1:
            raise ConfigError(
                f"{sum(given)} of json_schema, regex, choices and is_json are given; needed: one"
            )


@dataclass(frozen=True)
class SamplingSettings:
    """Choice of tokens and length of answers."""

    max_tokens: int = 1024
    """Most tokens of an answer."""
    temperature: float = 0.0
    """0 always takes the likeliest token; higher values choose more freely (0.6 for thinking)."""
    top_p: float = 1.0
    """Smallest total probability of the likeliest tokens to choose from, above 0 to 1."""
    top_k: int = 0
    """Number of likeliest tokens to choose from; 0 for all."""
    min_p: float = 0.0
    """Least probability of a token, as a share of the likeliest one's, 0 to 1."""
    repetition_penalty: float = 1.0
    """Factor by which tokens already written become less likely; 1 for none."""
    seed: int | None = None
    """Seed of the choice; None for a different one every time."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer; they are not part of it."""
    stop_token_ids: tuple[int, ...] = field(default=(), metadata=NO_FLAG)
    """Further tokens that end an answer; they are part of it."""
    min_tokens: int = field(default=0, metadata=NO_FLAG)
    """Fewest tokens of an answer: nothing ends it before."""
    ignore_end: bool = field(default=False, metadata=NO_FLAG)
    """Whether an end token is a token like others, so that ``max_tokens`` are written."""
    presence_penalty: float = field(default=0.0, metadata=NO_FLAG)
    """Taken off the logits of tokens that the answer already holds, -2 to 2."""
    frequency_penalty: float = field(default=0.0, metadata=NO_FLAG)
    """Taken off the logits of tokens once for each time the answer holds them, -2 to 2."""
    logit_bias: tuple[tuple[int, float], ...] = field(default=(), metadata=NO_FLAG)
    """Tokens with what is added to their logits, -100 to 100."""
    banned_token_ids: tuple[int, ...] = field(default=(), metadata=NO_FLAG)
    """Tokens that are never chosen, beside the marks of pictures, which never are."""
    n: int = field(default=1, metadata=NO_FLAG)
    """Answers to the prompt."""
    best_of: int | None = field(default=None, metadata=NO_FLAG)
    """Answers that are written, of which the ``n`` likeliest are returned; None for ``n``."""
    num_logprobs: int | None = field(default=None, metadata=NO_FLAG)
    """How many of the likeliest tokens come back with each token, 0 for the chosen one alone; None
    for no log-probabilities."""
    num_prompt_logprobs: int | None = field(default=None, metadata=NO_FLAG)
    """The same for the tokens of the prompt."""
    structure: StructureSettings | None = field(default=None, metadata=NO_FLAG)
    """What shape the answer must have; None for any."""

    @property
    def num_samples(self) -> int:
        """Answers that are written."""
        return self.n if self.best_of is None else self.best_of

    @property
    def keeps_best(self) -> bool:
        """Whether more answers are written than returned, so that none may be shown early."""
        return self.num_samples > self.n

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        widest = MAX_LOGPROBS
        ranges = {
            "max_tokens": (self.max_tokens >= 1, "at least 1"),
            "temperature": (0 <= self.temperature <= 100, "0 to 100"),
            "top_p": (0 < self.top_p <= 1, "above 0, at most 1"),
            "top_k": (self.top_k >= 0, "0 or more"),
            "min_p": (0 <= self.min_p <= 1, "0 to 1"),
            "repetition_penalty": (self.repetition_penalty > 0, "above 0"),
            "stop": (all(self.stop), "texts that are not empty"),
            "min_tokens": (0 <= self.min_tokens <= self.max_tokens, "0 to max_tokens"),
            "presence_penalty": (-2 <= self.presence_penalty <= 2, "-2 to 2"),
            "frequency_penalty": (-2 <= self.frequency_penalty <= 2, "-2 to 2"),
            "logit_bias": (all(-100 <= bias <= 100 for _, bias in self.logit_bias), "-100 to 100"),
            "n": (1 <= self.n <= MAX_SAMPLES, f"1 to {MAX_SAMPLES}"),
            "best_of": (self.n <= self.num_samples <= MAX_SAMPLES, f"n to {MAX_SAMPLES}"),
            "num_logprobs": (0 <= (self.num_logprobs or 0) <= widest, f"0 to {widest}"),
            "num_prompt_logprobs": (
                0 <= (self.num_prompt_logprobs or 0) <= widest,
                f"0 to {widest}",
            ),
        }
        for name, (is_right, needed) in ranges.items():
            if not is_right:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; needed: {needed}")
