"""Decides what the next step computes: which sequences, and how many tokens of each.

Answers that are being written go first, one token each; what is left of the step's budget goes to
prompts, in pieces. A sequence is admitted only if the cache has room for all it has to compute; if
answers outgrow the cache, the last in the order gives its blocks back and is computed again later.
Computing is left to :mod:`internvl35.generate.decoder`. No counterpart in the paper.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass

from internvl35.generate.blocks import BlockPool
from internvl35.generate.sequence import Sequence

MAX_LOGGED_TOKENS = 512
"""Most tokens of a step whose log-probabilities are asked for as part of a prompt: each has a row
of logits, which at 8,192 tokens would be 2.5 GB that no one else's answer could be computed
beside."""


@dataclass(frozen=True)
class Work:
    """What one step does for one sequence."""

    sequence: Sequence
    """For which."""
    start: int
    """First token that is computed; those before it are in the cache."""
    count: int
    """Tokens that are computed."""

    @property
    def stop(self) -> int:
        """Behind the last token that is computed."""
        return self.start + self.count

    @property
    def is_last(self) -> bool:
        """Whether a next token can be chosen behind it."""
        return self.stop == len(self.sequence.token_ids)


class Scheduler:
    """Sequences that wait and sequences that hold blocks, both in their order.

    Args:
        pool: blocks of the cache.
        block_size: tokens of a block.
        max_batch_tokens: most tokens that a step computes.
        max_sequences: most sequences that hold blocks at once.
    """

    def __init__(
        self, pool: BlockPool, block_size: int, max_batch_tokens: int, max_sequences: int
    ) -> None:
        """Begin with nothing to do."""
        self.pool = pool
        self.block_size = block_size
        self.max_batch_tokens = max_batch_tokens
        self.max_sequences = max_sequences
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []

    @property
    def has_work(self) -> bool:
        """Whether any sequence is left."""
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        """Put a sequence in its place among those that wait."""
        insort(self.waiting, sequence, key=lambda other: other.order)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that has ended, and give its blocks back."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._release(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def plan(self) -> list[Work]:
        """Choose what the next step computes; blocks for it are held from now on.

        Returns:
            Single tokens first; empty only if no sequence is left, or all that are left wait for
            visual tokens.
        """
        for sequence in self.running:
            if sequence.num_waiting > 1:
                self._adopt(sequence)
        answers = list(self._plan_answers())
        self._admit(self.max_batch_tokens - len(answers))
        # one of higher priority may have come in instead
        answers = [work for work in answers if work.start == work.sequence.num_computed]
        budget = self.max_batch_tokens - len(answers)
        prompts = [sequence for sequence in self.running if sequence.num_waiting > 1]
        planned = {id(work.sequence) for work in answers}
        new = [
            sequence
            for sequence in self.running
            if sequence.num_waiting == 1 and id(sequence) not in planned
        ]
        works = answers + [Work(sequence, sequence.num_computed, 1) for sequence in new]
        counts = _share(_wanted(prompts), budget - len(new))
        works += [
            Work(sequence, sequence.num_computed, count)
            for sequence, count in zip(prompts, counts, strict=True)
            if count
        ]
        return sorted(works, key=lambda work: work.count > 1)

    def _plan_answers(self) -> Iterator[Work]:
        """Give every answer its next token, as far as the cache allows."""
        for sequence in list(self.running):
            has_blocks = bool(sequence.blocks)  # else it was preempted a moment ago
            if sequence.num_waiting == 1 and has_blocks and self._grow(sequence):
                yield Work(sequence, sequence.num_computed, 1)

    def _grow(self, sequence: Sequence) -> bool:
        """Make room for a sequence's next token; whether it still runs."""
        if len(sequence.blocks) * self.block_size > sequence.num_computed:
            return True
        while not self.pool.num_available:
            last = self.running[-1]
            self._preempt(last)
            if last is sequence:
                return False
        sequence.blocks += self.pool.take(1)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        """Take a sequence's blocks; what was computed may still be found by its name."""
        self.running.remove(sequence)
        self._release(sequence)
        sequence.num_preemptions += 1
        self.add(sequence)

    def _release(self, sequence: Sequence) -> None:
        self.pool.release(sequence.blocks)
        sequence.blocks = []
        sequence.num_named = sequence.num_computed = 0

    def _admit(self, budget: int) -> None:
        """Let waiting sequences in, as long as a step could begin with them."""
        prompts = [sequence for sequence in self.running if sequence.num_waiting > 1]
        for sequence in prompts:
            budget -= _part(sequence.num_waiting, budget)
        for sequence in list(self.waiting):
            if sequence.is_held_back:
                continue
            if budget <= 0:
                return
            if not self._make_seat(sequence) or not self._reserve(sequence):
                if sequence.num_open is None:
                    return
                continue  # those behind it whose visual tokens are all there need not wait for its
            self.waiting.remove(sequence)
            insort(self.running, sequence, key=lambda other: other.order)
            budget -= _part(sequence.num_waiting, budget)

    def _make_seat(self, sequence: Sequence) -> bool:
        """Whether there is a seat, if need be that of a sequence of lower priority."""
        if len(self.running) < self.max_sequences:
            return True
        return self._yield_to(sequence)

    def _yield_to(self, sequence: Sequence) -> bool:
        """Preempt a sequence of lower priority, or one that waits for visual tokens, if any."""
        if sequence.num_open is not None:
            return False  # its own are still to come
        for other in reversed(self.running):
            if other.num_waiting < 1 or other.order[0] > sequence.order[0]:
                self._preempt(other)
                return True
        return False

    def _reserve(self, sequence: Sequence) -> bool:
        """Hold all blocks that a sequence's tokens need, cached ones among them, or none."""
        num_tokens = len(sequence.token_ids)
        needed = -(-num_tokens // self.block_size)
        while True:
            found: list[int] = []
            if sequence.names is not None and not sequence.has_prompt_logprobs:
                sequence.names.extend(sequence.token_ids)
                # the last token is always computed: its logits choose the next one
                usable = sequence.names.names[: (num_tokens - 1) // self.block_size]
                found = self.pool.find(usable)
            missing = needed - len(found)
            if missing <= self.pool.num_available - self.pool.num_idle(found):
                break
            if not self._yield_to(sequence):
                return False
        self.pool.hold(found)
        sequence.blocks = found + self.pool.take(missing)
        sequence.num_computed = len(found) * self.block_size
        sequence.num_named = len(found)
        if not sequence.num_preemptions:
            sequence.num_cached = min(sequence.num_computed, sequence.num_prompt)
        return True

    def _adopt(self, sequence: Sequence) -> None:
        """Take blocks that have become known by name since it was admitted, in place of its own.

        Others have computed them meanwhile, or its visual tokens tell only now what is in them.
        """
        if sequence.names is None or sequence.has_prompt_logprobs:
            return
        sequence.names.extend(sequence.token_ids)
        first = sequence.num_computed // self.block_size
        last = (len(sequence.token_ids) - 1) // self.block_size  # as in _reserve
        found = self.pool.find(sequence.names.names[first:last])
        if not found:
            return
        stop = first + len(found)
        self.pool.hold(found)
        self.pool.release(sequence.blocks[first:stop])
        sequence.blocks[first:stop] = found
        num_saved = stop * self.block_size - sequence.num_computed
        sequence.num_computed += num_saved
        sequence.num_named = stop
        if not sequence.num_preemptions:
            sequence.num_cached += num_saved

    def finish_step(self, works: list[Work]) -> None:
        """Note what a step has computed, and let others find the blocks that became full.

        Args:
            works: of :meth:`plan`, all computed.
        """
        for work in works:
            sequence = work.sequence
            sequence.num_computed = work.stop
            if sequence.names is None:
                continue
            sequence.names.extend(sequence.token_ids)
            num_full = sequence.num_computed // self.block_size
            for place in range(sequence.num_named, num_full):
                self.pool.name(sequence.blocks[place], sequence.names.names[place])
            sequence.num_named = max(sequence.num_named, num_full)

    def check(self) -> None:
        """Compare the books of pool and sequences.

        Raises:
            AssertionError: if a block is lost, doubled or too few are held.
        """
        self.pool.check([sequence.blocks for sequence in self.running])
        for sequence in self.running:
            assert len(sequence.blocks) * self.block_size >= sequence.num_computed
        assert all(not sequence.blocks for sequence in self.waiting)
        orders = [sequence.order for sequence in self.running]
        assert orders == sorted(orders)
        assert len(self.running) <= self.max_sequences


def _wanted(prompts: list[Sequence]) -> list[int]:
    """Tokens that prompts could take of a step; logits of prompt tokens need memory for each."""
    wanted, room = [], MAX_LOGGED_TOKENS
    for sequence in prompts:
        count = sequence.num_waiting
        if sequence.has_prompt_logprobs:
            count = min(count, room)
            room -= count
        wanted.append(count)
    return wanted


def _part(wanted: int, budget: int) -> int:
    """Tokens of a prompt that a step takes while others wait: at most half of the budget."""
    return min(wanted, -(-budget // 2))


def _share(wanted: list[int], budget: int) -> list[int]:
    """Share a budget among prompts: each takes up to half of what those before it left.

    What is left then goes to the first ones, so that the budget is used up. A long prompt cannot
    keep short ones behind it waiting for many steps.
    """
    given = []
    left = max(0, budget)
    for number, count in enumerate(wanted):
        is_last = number == len(wanted) - 1
        part = min(count, left) if is_last else _part(count, left)
        given.append(part)
        left -= part
    for number, count in enumerate(wanted):
        extra = min(count - given[number], left)
        given[number] += extra
        left -= extra
    return given
