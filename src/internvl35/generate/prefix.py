"""Names for the contents of cache blocks: equal beginnings get equal names, others never.

A name covers the tokens of a block, the pictures that are seen in it, everything in front of it,
and whom it may be shared with. No counterpart in the paper.
"""

from __future__ import annotations

import copy
from array import array
from collections.abc import Sequence
from hashlib import blake2b

from internvl35.data.prompt import ImageSpan

_NAME_BYTES = 16


class PrefixNames:
    """Names of the full blocks of one growing sequence.

    Args:
        block_size: tokens of a block.
        spans: places of pictures in the sequence.
        digests: of the pictures' contents, one for each span; equal ones are the same picture.
        salt: sequences with different salts share nothing.
    """

    def __init__(
        self, block_size: int, spans: Sequence[ImageSpan], digests: Sequence[bytes], salt: str
    ) -> None:
        """Begin without tokens."""
        assert len(spans) == len(digests)
        self.block_size = block_size
        self.names: list[bytes] = []
        self._pictures = list(zip(spans, digests, strict=True))
        known = salt.encode("utf-8", "surrogatepass")  # JSON may bring half a character
        self._last = blake2b(known, digest_size=_NAME_BYTES).digest()

    def copy(self) -> PrefixNames:
        """Let another sequence go on from here, without naming again what is named."""
        other = copy.copy(self)
        other.names = list(self.names)
        return other

    def extend(self, token_ids: Sequence[int]) -> None:
        """Name the blocks that have become full.

        Args:
            token_ids: the whole sequence so far.
        """
        size = self.block_size
        while (stop := (len(self.names) + 1) * size) <= len(token_ids):
            start = stop - size
            hasher = blake2b(self._last, digest_size=_NAME_BYTES)
            hasher.update(array("q", token_ids[start:stop]).tobytes())
            for span, digest in self._pictures:
                if span.start < stop and start < span.start + span.num_tokens:
                    place = array("q", [start - span.start, len(digest)])
                    hasher.update(place.tobytes() + digest)
            self._last = hasher.digest()
            self.names.append(self._last)
