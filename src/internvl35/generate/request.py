"""What is asked of an engine: a prompt with its pictures.

How an answer is chosen stands in :mod:`internvl35.generate.sampling`. No counterpart in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from internvl35.data.compression import TileRouting
from internvl35.data.prompt import Prompt
from internvl35.errors import PromptError
from internvl35.generate.arriving import ArrivingFeatures
from internvl35.generate.digests import digest_tensor, is_finite


@dataclass(frozen=True)
class RoutedPrompt:
    """What is kept of a request that was answered."""

    prompt: Prompt
    """As it was computed: shortened by what was compressed."""
    routing: TileRouting | None = None
    """Which tiles were compressed; None if all kept their tokens."""


@dataclass(frozen=True)
class Request:
    """A prompt with its pictures."""

    prompt: Prompt
    """Token ids with places for visual tokens."""
    pixel_values: Tensor | None = None
    """``(N, 3, tile, tile)`` normalised tiles, in the order of the places."""
    image_features: Tensor | None = None
    """``(tokens, D)`` visual tokens computed before, instead of pixel_values."""
    routing: TileRouting | None = None
    """Which tiles were compressed; None if all keep their tokens."""
    arriving: ArrivingFeatures | None = None
    """Visual tokens that come while the prompt is computed, instead of image_features."""

    def __post_init__(self) -> None:
        """Refuse a prompt whose places differ in number from its tiles or visual tokens."""
        given = (self.pixel_values, self.image_features, self.arriving)
        if sum(pictures is not None for pictures in given) > 1:
            raise ValueError(
                "pass one of pixel_values, image_features and arriving; each holds pictures"
            )
        if self.features is not None:
            found = self.features.shape[0]
            needed = sum(span.num_tokens for span in self.prompt.image_spans)
            if found != needed:
                raise ValueError(
                    f"the prompt has {needed} places but image_features holds {found} visual "
                    "tokens; shorten the prompt by the tiles that are compressed"
                )
            return
        found = 0 if self.pixel_values is None else self.pixel_values.shape[0]
        needed = sum(span.num_tiles for span in self.prompt.image_spans)
        if found != needed:
            raise PromptError(
                f"the prompt has places for {needed} tiles but pixel_values holds {found}; "
                "give num_patches_list the tiles of each picture"
            )

    @cached_property
    def digests(self) -> tuple[bytes, ...]:
        """What its pictures hold: of every tile, or of the visual tokens of every picture."""
        if self.pixel_values is not None:
            return tuple(map(digest_tensor, self.pixel_values))
        if self.image_features is None:
            return ()
        sizes = [span.num_tokens for span in self.prompt.image_spans]
        return tuple(map(digest_tensor, self.image_features.split(sizes)))

    @cached_property
    def first_bad_row(self) -> int | None:
        """First tile or visual token that holds NaN or infinite numbers; None if none does."""
        values = self.image_features if self.pixel_values is None else self.pixel_values
        if values is None or is_finite(values):
            return None
        return int((~values.isfinite()).nonzero()[0, 0])

    def examine(self) -> None:
        """Look through its pictures in this thread, some milliseconds a tile, and not in another's.

        Done once; pictures must not be changed in place from then on.
        """
        _ = self.digests, self.first_bad_row

    @property
    def without_pictures(self) -> RoutedPrompt:
        """What is to be kept once it is answered; pictures take megabytes."""
        return RoutedPrompt(self.prompt, self.routing)

    @property
    def features(self) -> Tensor | None:
        """Visual tokens ``(tokens, D)`` as far as they are there; None without, or with tiles."""
        return self.image_features if self.arriving is None else self.arriving.values
