"""Blocks of the cache: none lost, none doubled, contents found as long as they are there."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from internvl35.generate.blocks import BlockPool


class Books(RuleBasedStateMachine):
    """Sequences that take, share, name and give back blocks, beside a plain model of it all."""

    def __init__(self):
        super().__init__()
        self.pool = BlockPool(12)
        self.held: list[list[int]] = []
        self.content: dict[int, bytes] = {}  # what each block was last named
        self.next_name = 0

    @rule(count=st.integers(1, 5))
    def take(self, count):
        if count > self.pool.num_available:
            before = self.pool.num_available
            with pytest.raises(ValueError, match="are available"):
                self.pool.take(count)
            assert self.pool.num_available == before
            return
        blocks = self.pool.take(count)
        assert len(set(blocks)) == count
        assert not set(blocks) & {block for other in self.held for block in other}
        for block in blocks:
            self.content.pop(block, None)
        self.held.append(blocks)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def name(self, data):
        blocks = data.draw(st.sampled_from(self.held))
        for block in blocks:
            if block not in self.content:
                self.next_name += 1
                self.content[block] = b"%d" % self.next_name
                self.pool.name(block, self.content[block])

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def share(self, data):
        blocks = data.draw(st.sampled_from(self.held))
        named = [self.content[block] for block in blocks if block in self.content]
        found = self.pool.find(named)
        assert [self.content[block] for block in found] == named
        assert self.pool.num_idle(found) == 0
        self.pool.hold(found)
        if found:
            self.held.append(found)

    @rule(data=st.data())
    def share_what_nobody_holds(self, data):
        idle = sorted(set(self.content) - {block for blocks in self.held for block in blocks})
        if not idle:
            return
        block = data.draw(st.sampled_from(idle))
        found = self.pool.find([self.content[block]])
        assert found == [block]
        assert self.pool.num_idle(found) == 1
        before = self.pool.num_available
        self.pool.hold(found)
        assert self.pool.num_available == before - 1
        self.held.append(found)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data):
        number = data.draw(st.integers(0, len(self.held) - 1))
        self.pool.release(self.held.pop(number))

    @invariant()
    def the_books_agree(self):
        self.pool.check(self.held)
        taken = {block for blocks in self.held for block in blocks}
        assert self.pool.num_available == 12 - len(taken)


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=40, stateful_step_count=30)


def test_the_longest_unused_content_is_given_up_first_and_ends_before_beginnings():
    pool = BlockPool(4)
    first, second = pool.take(2), pool.take(2)
    for number, block in enumerate([*first, *second]):
        pool.name(block, b"%d" % number)
    pool.release(first)
    pool.release(second)
    pool.take(1)
    assert pool.find([b"0", b"1"]) == first[:1]  # the end of the one that was given back first
    pool.take(1)
    assert pool.find([b"0"]) == []
    assert pool.find([b"2", b"3"]) == second


def test_a_content_that_is_used_again_stays_longer():
    pool = BlockPool(2)
    (one,), (two,) = pool.take(1), pool.take(1)
    pool.name(one, b"one")
    pool.name(two, b"two")
    pool.release([one])
    pool.release([two])
    pool.hold(pool.find([b"one"]))
    pool.release([one])
    pool.take(1)
    assert pool.find([b"one"]) == [one]
    assert pool.find([b"two"]) == []


def test_of_two_blocks_with_one_content_the_first_is_found_and_the_other_is_free_at_once():
    pool = BlockPool(3)
    (one,), (two,) = pool.take(1), pool.take(1)
    pool.name(one, b"same")
    pool.name(two, b"same")
    assert pool.find([b"same"]) == [one]
    pool.release([two])
    pool.check([[one]])
    assert pool.num_available == 2


def test_a_gap_ends_what_is_found():
    pool = BlockPool(3)
    blocks = pool.take(2)
    pool.name(blocks[0], b"a")
    pool.name(blocks[1], b"c")
    assert pool.find([b"a", b"b", b"c"]) == blocks[:1]


def test_forgetting_leaves_held_blocks_held():
    pool = BlockPool(3)
    (one,), (two,) = pool.take(1), pool.take(1)
    pool.name(one, b"one")
    pool.name(two, b"two")
    pool.release([two])
    pool.forget()
    assert pool.find([b"one"]) == pool.find([b"two"]) == []
    pool.check([[one]])
    pool.release([one])
    assert pool.num_available == 3


@given(st.integers(-3, 0))
def test_a_pool_without_blocks_is_refused(count):
    with pytest.raises(ValueError, match="num_blocks"):
        BlockPool(count)
