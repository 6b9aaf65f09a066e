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
        digests: of the pictures' contents, one for each span; equal ones are the same picture. Or
            of their visual tokens, one for each, in a list that may still grow: names end in front
            of the first one that is missing.
        salt: sequences with different salts share nothing.
        is_by_token: whether the digests are those of visual tokens.
    """

    def __init__(
        self,
        block_size: int,
        spans: Sequence[ImageSpan],
        digests: Sequence[bytes],
        salt: str,
        *,
        is_by_token: bool = False,
    ) -> None:
        """Begin without tokens."""
        assert is_by_token or len(spans) == len(digests)
        self.block_size = block_size
        self.names: list[bytes] = []
        self._spans = spans
        self._digests = digests
        self._is_by_token = is_by_token
        known = salt.encode("utf-8", "surrogatepass")  # JSON may bring half a character
        self._last = blake2b(known, digest_size=_NAME_BYTES).digest()

    def copy(self) -> PrefixNames:
        """Let another sequence go on from here, without naming again what is named."""
        other = copy.copy(self)
        other.names = list(self.names)
        return other

    def extend(self, token_ids: Sequence[int]) -> None:
        """Name the blocks that have become full and whose pictures are known.

        Args:
            token_ids: the whole sequence so far.
        """
        size = self.block_size
        while (stop := (len(self.names) + 1) * size) <= len(token_ids):
            start = stop - size
            shown = self._tokens(start, stop) if self._is_by_token else self._pictures(start, stop)
            if shown is None:
                return
            hasher = blake2b(self._last, digest_size=_NAME_BYTES)
            hasher.update(array("q", token_ids[start:stop]).tobytes() + shown)
            self._last = hasher.digest()
            self.names.append(self._last)

    def _pictures(self, start: int, stop: int) -> bytes:
        """Tell which places of which pictures are seen in a block."""
        shown = b""
        for span, digest in zip(self._spans, self._digests, strict=True):
            if span.start < stop and start < span.start + span.num_tokens:
                shown += array("q", [start - span.start, len(digest)]).tobytes() + digest
        return shown

    def _tokens(self, start: int, stop: int) -> bytes | None:
        """Tell which visual tokens are seen in a block; None if some are not there yet."""
        shown, first = b"", 0
        for span in self._spans:
            begin, end = max(span.start, start), min(span.start + span.num_tokens, stop)
            if begin < end:
                own = slice(first + begin - span.start, first + end - span.start)
                if own.stop > len(self._digests):
                    return None
                shown += b"".join(self._digests[own])
            first += span.num_tokens
        return shown
