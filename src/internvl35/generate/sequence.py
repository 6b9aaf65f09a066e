"""One answer while it is written: its tokens, its blocks, and how far they are computed.

Choosing tokens is left to :mod:`internvl35.generate.sampler`, the order of work to
:mod:`internvl35.generate.scheduler`. No counterpart in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from internvl35.generate.answers import FinishReason, TokenLogprob
from internvl35.generate.prefix import PrefixNames

if TYPE_CHECKING:
    from internvl35.generate.detokenizer import Detokenizer
    from internvl35.generate.sampler import SamplingRow


@dataclass(eq=False)
class Sequence:
    """One of the answers to a request, with the prompt in front of it."""

    request_id: str
    """Of its request."""
    sample: int
    """Which of the request's answers, from 0."""
    order: tuple[int, int, int]
    """Priority, arrival and sample; smaller ones go first."""
    token_ids: list[int]
    """Prompt and answer so far."""
    num_prompt: int
    """Tokens of the prompt."""
    max_tokens: int
    """Most tokens of the answer."""
    row: SamplingRow
    """What choosing its next token needs."""
    names: PrefixNames | None
    """Names of its full blocks; None if nothing is shared."""
    detokenizer: Detokenizer | None = None
    """Makes text of its tokens; None without a tokenizer."""
    leader: Sequence | None = None
    """Another answer to the same prompt, which computes the prompt first."""
    has_prompt_logprobs: bool = False
    """Whether every token of the prompt has to be computed for its log-probability."""
    num_open: int | None = None
    """Tokens in front of the first place whose visual token is not there; None if all are."""
    num_computed: int = 0
    """Tokens whose keys and values are in the cache."""
    num_cached: int = 0
    """Prompt tokens that were found in the cache when the sequence was admitted first."""
    blocks: list[int] = field(default_factory=list)
    """Cache blocks that it holds, in the order of its tokens."""
    num_named: int = 0
    """Blocks of these, from the first on, that the pool was told the content of."""
    num_preemptions: int = 0
    """How often its blocks were taken from it."""
    logprobs: list[TokenLogprob] | None = None
    """Of the answer's tokens, if they were asked for."""
    texts: list[str] = field(default_factory=list)
    """The answer so far, in pieces."""
    finish_reason: FinishReason | None = None
    """Why it ended; None while it is written."""
    error: str | None = None
    """What went wrong, if the reason is ``error``."""

    @property
    def num_waiting(self) -> int:
        """Tokens that could be computed now; 1 while the answer is written."""
        num_open = len(self.token_ids) if self.num_open is None else self.num_open
        return num_open - self.num_computed

    @property
    def answer(self) -> list[int]:
        """Tokens of the answer so far."""
        return self.token_ids[self.num_prompt :]

    @property
    def is_held_back(self) -> bool:
        """Whether it cannot begin: another computes its prompt, or its first token is missing."""
        leader = self.leader
        is_led = (
            leader is not None
            and leader.finish_reason is None
            and leader.num_computed < leader.num_prompt
        )
        return is_led or self.num_waiting < 1
