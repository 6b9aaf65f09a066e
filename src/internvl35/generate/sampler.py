"""Chooses the next token of each of many answers from one tensor of logits.

Each answer brings its own settings, tokens so far, random numbers and grammar, and its token does
not depend on which other answers stand beside it. Bias, penalties and bans are applied to all rows
at once; drawing is left to :mod:`internvl35.generate.draws`, ending an answer to the engine.
Paper section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor

from internvl35.errors import ConfigError
from internvl35.generate.answers import TokenLogprob
from internvl35.generate.draws import (
    Array,
    draw,
    find_best,
    find_heads,
    row_chunks,
    sum_weights,
)
from internvl35.generate.sampling import SamplingSettings

_NO_IDS: Final = np.zeros(0, dtype=np.int64)


class TokenGrammar(Protocol):
    """What an answer may go on with; see :mod:`internvl35.generate.grammar`."""

    @property
    def fault(self) -> str | None:
        """Why the answer cannot go on; None if it can."""
        ...

    def allowed(self) -> Tensor:
        """Return ``(W,)`` bool, True for tokens that may come next."""
        ...

    def accept(self, token_id: int, /) -> object:
        """Go on with a token."""
        ...


@dataclass(frozen=True)
class Choice:
    """The next token of an answer."""

    token_id: int
    """The token; -1 if none could be chosen."""
    logprob: float | None = None
    """Natural logarithm of its probability, before temperature, penalties and bans, if asked for.
    """
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens with theirs, likeliest first, as many as were asked for."""
    error: str | None = None
    """Why none could be chosen; the answer cannot go on."""


class SamplingRow:
    """What choosing the tokens of one answer needs."""

    def __init__(
        self,
        settings: SamplingSettings,
        prompt_ids: Sequence[int],
        *,
        sample: int,
        end_token_ids: Iterable[int],
        banned_token_ids: Iterable[int],
        grammar: TokenGrammar | None = None,
    ) -> None:
        """Begin an answer.

        Args:
            settings: how its tokens are chosen.
            prompt_ids: tokens of the prompt, which a repetition penalty counts too.
            sample: which of the answers to the prompt; each draws other numbers from one seed.
            end_token_ids: tokens that end an answer.
            banned_token_ids: tokens that are never chosen, beside those that the settings ban.
            grammar: of this answer alone; None if it may have any shape.
        """
        self.settings = settings
        self.grammar = grammar
        self.num_tokens = 0
        """Tokens of the answer so far."""
        self._number: float | None = None
        self._random: Random | None = None
        if settings.temperature > 0:
            self._random = Random(None if settings.seed is None else f"{settings.seed}/{sample}")
        ends = {*settings.stop_token_ids, *(() if settings.ignore_end else end_token_ids)}
        banned = {*banned_token_ids, *settings.banned_token_ids}
        self.end_ids = frozenset(ends)
        """Tokens that end it."""
        self._banned_ids = np.array(sorted(banned), dtype=np.int64)
        self._early_banned_ids = np.array(sorted(banned | ends), dtype=np.int64)
        self.bias_ids = np.array([token_id for token_id, _ in settings.logit_bias], dtype=np.int64)
        self.biases = np.array([bias for _, bias in settings.logit_bias], dtype=np.float32)
        """What is added to the logits of ``bias_ids``."""
        self.counts: TokenCounts | None = None
        """Tokens that are penalised; None without penalties."""
        if settings.repetition_penalty != 1:
            self.counts = TokenCounts(prompt_ids)
        elif settings.presence_penalty or settings.frequency_penalty:
            self.counts = TokenCounts(())

    @property
    def is_early(self) -> bool:
        """Whether nothing may end the answer yet."""
        return self.num_tokens < self.settings.min_tokens

    @property
    def banned_ids(self) -> Array:
        """Tokens that must not come next, whatever a grammar allows.

        Without a grammar, those that would end the answer too early are among them. A grammar may
        leave nothing but the end, which is then better than no token at all.
        """
        if self.is_early and self.grammar is None:
            return self._early_banned_ids
        return self._banned_ids

    def accept(self, token_id: int) -> None:
        """Go on with a token, as chosen or as given."""
        self.num_tokens += 1
        self._number = None
        if self.counts is not None:
            self.counts.add(token_id)
        if self.grammar is not None:
            self.grammar.accept(token_id)

    def next_number(self) -> float | None:
        """Return the next token's random number, from 0 to below 1; None if the answer is greedy.

        It stays the same until a token is accepted, so that a failed choice can be made again.
        """
        if self._number is None and self._random is not None:
            self._number = self._random.random()
        return self._number


class TokenCounts:
    """How often an answer holds each token of prompt and answer."""

    def __init__(self, prompt_ids: Iterable[int]) -> None:
        """Begin with the tokens of a prompt, which the answer does not hold yet."""
        self._ids = np.array(sorted(set(prompt_ids)), dtype=np.int64)
        self._counts = np.zeros(len(self._ids), dtype=np.float32)
        self._places = {int(token_id): place for place, token_id in enumerate(self._ids)}

    @property
    def token_ids(self) -> Array:
        """``(n,)`` tokens, each once."""
        return self._ids[: len(self._places)]

    @property
    def counts(self) -> Array:
        """``(n,)`` float32: how often the answer holds each."""
        return self._counts[: len(self._places)]

    def add(self, token_id: int) -> None:
        """Count one more token of the answer."""
        place = self._places.setdefault(token_id, len(self._places))
        if place == len(self._ids):
            room = max(64, len(self._ids))
            self._ids = np.concatenate([self._ids, np.zeros(room, dtype=np.int64)])
            self._counts = np.concatenate([self._counts, np.zeros(room, dtype=np.float32)])
        self._ids[place] = token_id
        self._counts[place] += 1


class Sampler:
    """Chooses tokens; one a thread, as it keeps a tensor to work in."""

    def __init__(self, num_tokens: int) -> None:
        """Begin with nothing to work in.

        Args:
            num_tokens: logits of a row.
        """
        self.num_tokens = num_tokens
        self._scores: Tensor | None = None

    def check(self, settings: SamplingSettings) -> None:
        """Refuse settings that name tokens which the network does not have.

        Args:
            settings: of a request that is not in work yet.

        Raises:
            ConfigError: if there are such tokens.
        """
        named = {
            "stop_token_ids": settings.stop_token_ids,
            "logit_bias": tuple(token_id for token_id, _ in settings.logit_bias),
            "banned_token_ids": settings.banned_token_ids,
        }
        for name, token_ids in named.items():
            for token_id in token_ids:
                if not 0 <= token_id < self.num_tokens:
                    raise ConfigError(
                        f"{name} holds token {token_id}; needed: 0 to {self.num_tokens - 1}"
                    )

    @torch.inference_mode()
    def choose(self, logits: Tensor, rows: Sequence[SamplingRow]) -> list[Choice]:
        """Choose the next token of each answer.

        In this order: bias; repetition penalty over prompt and answer; presence and frequency
        penalties over the answer; bans, too early ends and what the grammar forbids; then, without
        temperature, the highest logit, else temperature, top-k, top-p, min-p and one random number.
        Rows do not go on by it: :meth:`SamplingRow.accept` does that.

        Args:
            logits: ``(B, W)``, any float dtype; left as they are.
            rows: one for each row of logits.

        Returns:
            A choice a row; one whose logits are not finite, or of which nothing is left, says so
            and holds no token.

        Raises:
            ValueError: if the logits have another shape.
        """
        if logits.shape != (len(rows), self.num_tokens):
            raise ValueError(
                f"logits have shape {tuple(logits.shape)}; needed: {(len(rows), self.num_tokens)}"
            )
        if not rows:
            return []
        scores = self._edit(logits, rows)
        token_ids, best = find_best(scores)
        numbers = [row.next_number() for row in rows]
        drawn = [
            index
            for index, number in enumerate(numbers)
            if number is not None and np.isfinite(best[index])
        ]
        if drawn:
            part = scores if len(drawn) == len(rows) else scores[drawn]
            chosen = [
                number for number in (numbers[index] for index in drawn) if number is not None
            ]
            token_ids[drawn] = draw(part, [rows[index].settings for index in drawn], chosen)
        return self._describe(logits, rows, token_ids, best)

    def _describe(
        self, logits: Tensor, rows: Sequence[SamplingRow], token_ids: Array, best: Array
    ) -> list[Choice]:
        choices = [
            Choice(int(token_id)) if np.isfinite(highest) else Choice(-1, error=_why(row, highest))
            for row, token_id, highest in zip(rows, token_ids, best, strict=True)
        ]
        asked = [
            index
            for index, row in enumerate(rows)
            if row.settings.num_logprobs is not None and choices[index].error is None
        ]
        if asked:
            part = logits if len(asked) == len(rows) else logits[asked]
            num_top = [rows[index].settings.num_logprobs or 0 for index in asked]
            chosen = [choices[index].token_id for index in asked]
            for index, found in zip(asked, find_logprobs(part, chosen, num_top), strict=True):
                choices[index] = Choice(found.token_id, found.logprob, found.top)
        return choices

    def _edit(self, logits: Tensor, rows: Sequence[SamplingRow]) -> Tensor:
        """Make float32 scores of logits by all that does not depend on chance."""
        has_edits = any(
            len(row.banned_ids) or len(row.bias_ids) or row.counts or row.grammar for row in rows
        )
        if not has_edits:
            return logits.float()
        if self._scores is None or len(self._scores) < len(rows):
            # A new tensor of this size every step would take longer than all the rest.
            self._scores = torch.empty(
                (len(rows), self.num_tokens), dtype=torch.float32, device=logits.device
            )
        scores = self._scores[: len(rows)].copy_(logits)
        _add_biases(scores, rows)
        _apply_penalties(scores, rows)
        where = _places([row.banned_ids for row in rows], scores)
        if where is not None:
            scores[where] = -torch.inf
        for index, row in enumerate(rows):
            if row.grammar is not None:
                scores[index].masked_fill_(~_allowed(row).to(scores.device), -torch.inf)
        return scores


def _why(row: SamplingRow, highest: float) -> str:
    """Tell why a row has no token, of which this is the highest logit."""
    if row.grammar is not None and row.grammar.fault is not None:
        return row.grammar.fault
    if highest == -np.inf:
        return "no token is left that structure, bans and bias allow; allow more"
    return "the network's logits are not finite; look for features or weights that are not"


def _places(token_ids: Sequence[Array], like: Tensor) -> tuple[Tensor, Tensor] | None:
    """Turn the tokens of each row into places of a tensor; None if there are none."""
    columns = np.concatenate(token_ids)
    if not len(columns):
        return None
    rows = np.repeat(np.arange(len(token_ids)), [len(part) for part in token_ids])
    return torch.from_numpy(rows).to(like.device), torch.from_numpy(columns).to(like.device)


def _add_biases(scores: Tensor, rows: Sequence[SamplingRow]) -> None:
    where = _places([row.bias_ids for row in rows], scores)
    if where is not None:
        biases = torch.from_numpy(np.concatenate([row.biases for row in rows]))
        scores.index_put_(where, biases.to(scores.device), accumulate=True)


def _apply_penalties(scores: Tensor, rows: Sequence[SamplingRow]) -> None:
    found = [(index, row, row.counts) for index, row in enumerate(rows) if row.counts is not None]
    if not found:
        return
    where = _places(
        [_NO_IDS if row.counts is None else row.counts.token_ids for row in rows], scores
    )
    if where is None:
        return
    lengths = [len(counts.token_ids) for _, _, counts in found]

    def spread(values: Iterable[float]) -> Tensor:
        column = np.repeat(np.array([*values], dtype=np.float32), lengths)
        return torch.from_numpy(column).to(scores.device)

    times = torch.from_numpy(np.concatenate([counts.counts for _, _, counts in found]))
    times = times.to(scores.device)
    factor = spread(row.settings.repetition_penalty for _, row, _ in found)
    values = scores[where]
    values = torch.where(values < 0, values * factor, values / factor)
    values -= spread(row.settings.presence_penalty for _, row, _ in found) * (times > 0)
    values -= spread(row.settings.frequency_penalty for _, row, _ in found) * times
    scores[where] = values


def _allowed(row: SamplingRow) -> Tensor:
    """Take the tokens that a row's grammar allows, without too early ends if others are left."""
    assert row.grammar is not None
    allowed = row.grammar.allowed()
    if row.is_early and row.end_ids:
        others = allowed.clone()
        others[sorted(row.end_ids)] = False
        if bool(others.any()):
            return others
    return allowed


@torch.inference_mode()
def find_logprobs(
    logits: Tensor, token_ids: Sequence[int], num_top: Sequence[int]
) -> list[TokenLogprob]:
    """Tell how likely tokens are.

    Args:
        logits: ``(T, W)``, any float dtype, as the network gives them.
        token_ids: ``(T,)`` a token of each row.
        num_top: ``(T,)`` how many of the likeliest tokens are wanted with it.

    Returns:
        One record a row; equally likely tokens come in the order of their ids.
    """
    found = []
    for part in row_chunks(logits):
        scores = logits[part].float()
        chosen, wanted = np.array(token_ids[part]), np.array(num_top[part])
        _, best = find_best(scores)
        sums = best + np.log(sum_weights(scores, best, np.ones(len(best))))
        own = scores.gather(1, torch.from_numpy(chosen).to(scores.device)[:, None])[:, 0]
        logprobs = own.double().cpu().numpy() - sums
        tops: list[tuple[tuple[int, float], ...]] = [()] * len(scores)
        if wanted.any():
            heads = find_heads(scores, np.maximum(wanted, 1))
            likeliest = heads.values - sums[:, None]
            tops = [
                tuple(zip(ids[:count].tolist(), values[:count].tolist(), strict=True))
                for ids, values, count in zip(
                    heads.token_ids, likeliest, np.minimum(wanted, heads.lengths), strict=True
                )
            ]
        found += [
            TokenLogprob(int(token_id), float(logprob), top)
            for token_id, logprob, top in zip(chosen, logprobs, tops, strict=True)
        ]
    return found
