"""How much an engine does at once.

No counterpart in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from internvl35.errors import ConfigError
from internvl35.generate.vision import VisionStageSettings


@dataclass(frozen=True)
class EngineSettings:
    """How much an engine does at once."""

    max_batch_tokens: int | None = None
    """Most tokens that a step computes; None for 512 on a CPU and 8192 on a GPU."""
    max_sequences: int | None = None
    """Most answers that are written at once; None for 64 on a CPU and 256 on a GPU."""
    max_prompt_tokens: int | None = None
    """Most tokens of a prompt, after compression; None for what model and cache hold."""
    block_size: int = 16
    """Tokens that a block of the cache holds."""
    cache_gib: float | None = None
    """Size of the key-value cache; None for room for 16,384 tokens or the longest prompt on a CPU,
    and for 80 % of the free memory on a GPU."""
    max_cache_tokens: int | None = None
    """Most tokens that the cache needs room for, if that is less; None for no such bound."""
    max_waiting: int = 10_000
    """Most answers in work; further requests are refused."""
    has_prefix_cache: bool = True
    """Whether prompts that begin alike share what was computed for their beginning."""
    replays_steps: bool | None = None
    """Whether steps in which answers alone go on are recorded as CUDA graphs and replayed; None
    for models without experts that lie on one CUDA device."""
    tiles_beside_answers: int = 4
    """Most tiles that a step begins to encode while answers are being written."""
    vision: VisionStageSettings = field(default_factory=VisionStageSettings)
    """How tiles are encoded."""
    is_checked: bool = False
    """Whether the books are compared after every step; slow, for tests."""

    def __post_init__(self) -> None:
        """Refuse settings under which nothing can be done."""
        names = (
            "max_batch_tokens", "max_sequences", "max_prompt_tokens", "block_size", "max_waiting",
            "tiles_beside_answers", "max_cache_tokens",
        )  # fmt: skip
        given = {name: getattr(self, name) for name in names}
        for name, value in given.items():
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; needed: at least 1")
        if self.cache_gib is not None and not self.cache_gib > 0:
            raise ConfigError(f"cache_gib is {self.cache_gib}; needed: above 0")
