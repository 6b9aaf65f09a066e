"""Makes text of tokens while they are written, and ends it at stop texts.

Every token is turned into bytes once, so the work grows with the answer and not with its square;
what is shown in parts is together what the tokenizer makes of the whole. Splitting reasoning from
answers is left to the users of the text. No counterpart in the paper.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import Any, Final

from tokenizers import Tokenizer, decoders, pre_tokenizers

from internvl35.errors import CheckpointError


class Detokenizer:
    """The text of one answer."""

    def __init__(
        self,
        tokenizer: Any,
        end_token_ids: Iterable[int],
        stop: Sequence[str] = (),
        *,
        min_tokens: int = 0,
    ) -> None:
        """Begin with nothing written.

        Args:
            tokenizer: with a byte-level decoder, as those of Qwen and GPT-OSS.
            end_token_ids: tokens that are not part of the text.
            stop: texts that end it; they are not part of it.
            min_tokens: a stop text that is complete with fewer tokens does not end it.

        Raises:
            CheckpointError: if the tokenizer has another decoder.
        """
        backend: Tokenizer = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if not isinstance(backend.decoder, decoders.ByteLevel):
            raise CheckpointError(
                f"the tokenizer's decoder is {type(backend.decoder).__name__}; needed: ByteLevel, "
                "as in the tokenizers of Qwen and GPT-OSS"
            )
        self._tokenizer = backend
        self._end_token_ids = frozenset(end_token_ids)
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")
        self._marks = [_Mark(text) for text in dict.fromkeys(stop)]
        self._num_early = max(min_tokens - 1, 0)
        self._held = ""
        self._is_ended = False

    def push(self, token_ids: Iterable[int]) -> tuple[str, bool]:
        """Go on with tokens.

        Held back are half a character and whatever a stop text may yet begin with. Where several
        stop texts are found, that which is complete first ends the text, and of those complete at
        the same place the longest, so that it is all the same how the tokens are handed over.

        Args:
            token_ids: the next ones, end tokens included.

        Returns:
            What is new in the text, and whether a stop text has ended it; nothing follows then.
        """
        shown = []
        for token_id in token_ids:
            if self._is_ended:
                break
            text = ""
            if token_id not in self._end_token_ids:
                text = self._bytes.decode(_bytes_of(self._tokenizer, token_id))
            shown.append(self._show(text, is_early=self._num_early > 0))
            self._num_early -= 1
        return "".join(shown), self._is_ended

    def flush(self) -> str:
        """Return what is held back: the tokens have ended."""
        if self._is_ended:
            return ""
        text = self._show(self._bytes.decode(b"", final=True), is_early=self._num_early >= 0)
        if not self._is_ended:
            text, self._held = text + self._held, ""
        self._is_ended = True
        return text

    def _show(self, text: str, *, is_early: bool) -> str:
        """Add text and take what cannot become part of a stop text any more."""
        if not self._marks:
            return text
        self._held += text
        start = len(self._held) - len(text)
        for place, character in enumerate(text, start + 1):
            ended = [mark for mark in self._marks if mark.is_complete_with(character)]
            if ended and not is_early:
                self._is_ended = True
                cut = place - max(len(mark.text) for mark in ended)
                shown, self._held = self._held[:cut], ""
                return shown
        open_end = max(mark.num_matched for mark in self._marks)
        cut = len(self._held) - open_end
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown


class _Mark:
    """A text that is looked for, one character at a time, without ever looking back."""

    def __init__(self, text: str) -> None:
        """Note, for each beginning of the text, its longest end that is a beginning too."""
        self.text = text
        self.num_matched = 0
        """Length of the longest beginning of the text that the characters so far end with."""
        self._shorter = [0] * (len(text) + 1)
        for length in range(1, len(text)):
            self._shorter[length + 1] = self._next(self._shorter[length], text[length])

    def is_complete_with(self, character: str) -> bool:
        """Go on with a character and tell whether the whole text has just been seen."""
        self.num_matched = self._next(self.num_matched, character)
        if self.num_matched < len(self.text):
            return False
        self.num_matched = self._shorter[self.num_matched]
        return True

    def _next(self, length: int, character: str) -> int:
        while length and self.text[length] != character:
            length = self._shorter[length]
        return length + (self.text[length] == character)


def _bytes_of(tokenizer: Tokenizer, token_id: int) -> bytes:
    """Spell a token as bytes; one that the tokenizer does not have is none."""
    token = tokenizer.id_to_token(token_id)
    if token is None:
        return b""
    try:
        return bytes([_BYTES[character] for character in token])
    except KeyError:  # an added token, which stands for itself
        return token.encode("utf-8")


def _byte_letters() -> dict[str, int]:
    """Tell which byte each letter of a byte-level vocabulary stands for.

    Printable bytes of Latin-1 stand for themselves; the others follow one another from U+0100 on.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    own = {letter: ord(letter) for letter in letters if ord(letter) < 256}
    others = [byte for byte in range(256) if byte not in own.values()]
    moved = [letter for letter in letters if ord(letter) >= 256]
    return own | dict(zip(moved, others, strict=True))


_BYTES: Final = _byte_letters()
