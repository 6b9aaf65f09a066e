"""Options that say which tiles of pictures are compressed, and where to draw them.

Compressing is left to :mod:`internvl35.generate.routing`, drawing to
:mod:`internvl35.commands.tile_sheet`. Paper section 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from internvl35.commands.options import METAVAR
from internvl35.errors import ConfigError
from internvl35.generate.flash import FlashPolicy, FlashSettings

if TYPE_CHECKING:
    from internvl35.chat import Chat
    from internvl35.conversation import Reply


@dataclass(frozen=True)
class CompressionOptions:
    """Which tiles of a Flash checkpoint's pictures take a quarter of their visual tokens."""

    flash: FlashPolicy | None = field(default=None, metadata={METAVAR: "off|all|released|absolute"})
    """Tiles that are compressed: none, every one, those that the released code would compress, or
    those whose own score reaches the threshold; by default released on Flash checkpoints."""
    flash_threshold: float | None = None
    """Score a tile has to reach to be compressed, 0 to 1; by default the checkpoint's."""
    flash_quantile: float | None = None
    """Quantile of the question's scores a tile has to beat under --flash released, 0 to 1; by
    default the checkpoint's."""

    def __post_init__(self) -> None:
        """Refuse thresholds that are out of range or that nothing would look at."""
        if self.flash_threshold is not None and self.flash in ("off", "all"):
            raise ConfigError(f"--flash-threshold has no effect with --flash {self.flash}; drop it")
        if self.flash_quantile is not None and self.flash not in (None, "released"):
            raise ConfigError(f"--flash-quantile has no effect with --flash {self.flash}; drop it")
        for name in ("flash_threshold", "flash_quantile"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"{name} is {value}; needed: 0 to 1")

    def settings(self) -> FlashSettings | None:
        """Put the options together.

        Returns:
            What a question takes, None where nothing was said.
        """
        if all(given is None for given in (self.flash, self.flash_threshold, self.flash_quantile)):
            return None
        return FlashSettings(self.flash or "released", self.flash_quantile, self.flash_threshold)


@dataclass(frozen=True)
class FlashOptions(CompressionOptions):
    """Which tiles are compressed, and where to draw them."""

    show_tiles: str | None = field(default=None, metadata={METAVAR: "FILE"})
    """Draw the tiles, which were compressed, and their scores into this picture file."""

    def check(self) -> None:
        """Refuse a file for the tiles that could not be written.

        Raises:
            ConfigError: as ``tile_sheet.check_path``.
        """
        if self.show_tiles is not None:
            from internvl35.commands.tile_sheet import check_path

            check_path(self.show_tiles)

    def show(self, chat: Chat, reply: Reply) -> None:
        """Draw the tiles of an answer's pictures if that is wanted and there are any.

        Args:
            chat: who answered.
            reply: the answer.

        Raises:
            ConfigError: if the file cannot be written.
        """
        if self.show_tiles is not None and reply.num_tiles:
            from internvl35.commands.tile_sheet import save_tiles

            config = chat.model.config
            save_tiles(
                reply, self.show_tiles, config.tokens_per_tile, config.compressed_tokens_per_tile
            )
