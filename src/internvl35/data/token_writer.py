"""Tokens of a prompt as they are written: control ids, text, pictures, and which carry loss.

What is written, and in which order, is decided by :mod:`internvl35.data.prompt`. Text never becomes
structure: added tokens are not looked for in it, but for the tags that the caller names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tokenizers import Tokenizer

from internvl35.errors import PromptError


@dataclass(frozen=True)
class ImageSpan:
    """Where the visual tokens of one picture stand."""

    start: int
    """Position of its first ``<IMG_CONTEXT>``."""
    num_tokens: int
    """How many of them follow one another."""
    num_tiles: int
    """Tiles (thumbnail included) that these tokens show."""


@dataclass(frozen=True)
class Prompt:
    """A conversation as a model takes it."""

    token_ids: tuple[int, ...]
    """The tokens."""
    image_spans: tuple[ImageSpan, ...]
    """One span a picture, in order."""
    loss_mask: tuple[bool, ...]
    """True on the tokens that carry loss in training; as long as ``token_ids``."""

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def num_tiles(self) -> int:
        """Tiles of all pictures."""
        return sum(span.num_tiles for span in self.image_spans)

    @property
    def image_places(self) -> list[int]:
        """Positions of the visual tokens of all pictures, in order."""
        return [
            place
            for span in self.image_spans
            for place in range(span.start, span.start + span.num_tokens)
        ]

    @property
    def num_targets(self) -> int:
        """Tokens that carry loss."""
        return sum(self.loss_mask)


class Tags:
    """Names that become single tokens where they stand in a text."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        """Prepare the search for the names; none is fine."""
        self._ids = dict(ids)
        names = "|".join(map(re.escape, self._ids))
        self._pattern = re.compile(f"({names})") if names else None

    def split(self, text: str) -> Iterator[tuple[str, int | None]]:
        """Cut a text at the names.

        Args:
            text: any.

        Yields:
            Stretches, never empty, with the id of those that are names and None of the others.
        """
        for part in self._pattern.split(text) if self._pattern else [text]:
            if part:
                yield part, self._ids.get(part)


class TokenWriter:
    """Collects control ids and text; encodes every stretch of text between two ids at once.

    At once, because the released code tokenizes the whole string: only special tokens cut it, so a
    role name, its line break and the text behind share one stretch and may merge across.
    """

    def __init__(self, tokenizer: Tokenizer, added_ids: frozenset[int], tags: Tags) -> None:
        """Start with nothing written.

        Args:
            tokenizer: one that knows no added tokens; see :func:`without_added_tokens`.
            added_ids: ids that no text may yield.
            tags: names that become single tokens in every text.
        """
        self.token_ids: list[int] = []
        self.loss_mask: list[bool] = []
        self.spans: list[ImageSpan] = []
        self._tokenizer = tokenizer
        self._added_ids = added_ids
        self._tags = tags
        self._pending: list[tuple[str, bool]] = []

    def add_id(self, token_id: int, count: int = 1, *, has_loss: bool = False) -> None:
        """Write a token, once or several times."""
        self._flush()
        self.token_ids.extend([token_id] * count)
        self.loss_mask.extend([has_loss] * count)

    def add_text(self, text: str, *, has_loss: bool = False, tags: Tags | None = None) -> None:
        """Write text; the writer's tags in it, or those given instead, become single tokens."""
        for part, token_id in (tags or self._tags).split(text):
            if token_id is None:
                self._pending.append((part, has_loss))
            else:
                self.add_id(token_id, has_loss=has_loss)

    def add_span(self, token_id: int, num_tokens: int, num_tiles: int) -> None:
        """Write the visual tokens of a picture, which never carry loss."""
        self._flush()
        self.spans.append(ImageSpan(len(self.token_ids), num_tokens, num_tiles))
        self.add_id(token_id, num_tokens)

    def finish(self) -> Prompt:
        """Encode what is pending.

        Returns:
            All that was written.

        Raises:
            PromptError: if a text is not valid Unicode or spells tokens that it must not.
        """
        self._flush()
        return Prompt(tuple(self.token_ids), tuple(self.spans), tuple(self.loss_mask))

    def _flush(self) -> None:
        if not self._pending:
            return
        text = "".join(part for part, _ in self._pending)
        bearing = [has_loss for part, has_loss in self._pending for _ in part]
        self._pending.clear()
        try:
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
        except (UnicodeEncodeError, TypeError) as error:
            raise PromptError(
                f"a text of {len(text)} characters is not valid Unicode ({error}); "
                "replace its lone surrogates"
            ) from error
        if not self._added_ids.isdisjoint(encoding.ids):
            names = self._added_ids.intersection(encoding.ids)
            raise PromptError(
                f"a text of {len(text)} characters spells {len(names)} tokens that this tokenizer "
                "cannot write as text; take them out, or use a tokenizer whose vocabulary holds "
                "them as added tokens alone"
            )
        self.token_ids.extend(encoding.ids)
        # A token that begins in the head and ends in the answer is never generated: no loss.
        self.loss_mask.extend(bearing[start] for start, _ in encoding.offsets)


def without_added_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Share vocabulary, merges and text splitting, but know no added token, special or not.

    Args:
        tokenizer: any.

    Returns:
        A tokenizer for text that is nothing but text.
    """
    plain = Tokenizer(tokenizer.model)
    if tokenizer.normalizer is not None:
        plain.normalizer = tokenizer.normalizer
    if tokenizer.pre_tokenizer is not None:
        plain.pre_tokenizer = tokenizer.pre_tokenizer
    return plain
