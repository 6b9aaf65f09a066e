"""The order of work: budget, fairness, priorities, preemption; no sequence lost, no block twice."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl35.generate.blocks import BlockPool
from internvl35.generate.prefix import PrefixNames
from internvl35.generate.scheduler import MAX_LOGGED_TOKENS, Scheduler
from internvl35.generate.sequence import Sequence

SIZE = 4


def make(number, num_prompt, max_tokens=5, priority=0, *, ids=None, leader=None, shares=True):
    """A sequence without anything that choosing tokens would need."""
    ids = [100 * number + place for place in range(num_prompt)] if ids is None else list(ids)
    return Sequence(
        request_id=str(number), sample=0 if leader is None else 1,
        order=(priority, number, 0 if leader is None else 1), token_ids=ids, num_prompt=len(ids),
        max_tokens=max_tokens, row=None,
        names=PrefixNames(SIZE, (), (), "") if shares else None, leader=leader,
    )  # fmt: skip


def step(scheduler, next_token=7):
    """Plan, pretend to compute, and end answers that have all their tokens."""
    works = scheduler.plan()
    scheduler.check()
    for work in works:
        assert work.count >= 1
        assert work.start == work.sequence.num_computed
        assert len(work.sequence.blocks) * SIZE >= work.stop
    scheduler.finish_step(works)
    ended = []
    for work in works:
        sequence = work.sequence
        if not work.is_last:
            continue
        sequence.token_ids.append(next_token)
        if len(sequence.answer) == sequence.max_tokens:
            sequence.finish_reason = "length"
            scheduler.remove(sequence)
            ended.append(sequence)
    scheduler.check()
    return works, ended


def run_all(scheduler, limit=2000):
    ended, steps = [], []
    while scheduler.has_work:
        works, now = step(scheduler)
        assert works, "nothing can go on"
        ended += now
        steps.append(works)
        assert len(steps) < limit
    return ended, steps


@settings(max_examples=60)
@given(st.integers(0, 2**32))
def test_every_sequence_ends_once_under_any_load(seed):
    drive(Random(seed))


@pytest.mark.slow
def test_ten_thousand_loads_leave_no_block_behind():
    for seed in range(10_000):
        drive(Random(seed))


def drive(rng):
    """Sequences come, are cancelled, outgrow the cache; the books are compared after every step."""
    num_blocks = rng.randint(4, 12)
    scheduler = Scheduler(BlockPool(num_blocks), SIZE, rng.randint(5, 20), rng.randint(1, 4))
    alive, ended, number = [], [], 0
    while number < 12 or scheduler.has_work:
        if number < 12 and rng.random() < 0.5:
            num_prompt = rng.randint(1, 3 * SIZE)
            room = num_blocks * SIZE - num_prompt
            ids = range(num_prompt) if rng.random() < 0.5 else None
            most = rng.randint(1, min(room, 9))
            alive.append(make(number, num_prompt, most, rng.randint(0, 2), ids=ids))
            scheduler.add(alive[-1])
            number += 1
        elif alive and rng.random() < 0.1:
            scheduler.remove(alive.pop(rng.randrange(len(alive))))
        works, now = step(scheduler)
        assert sum(work.count for work in works) <= scheduler.max_batch_tokens
        assert bool(works) == bool(alive)
        ended += now
        alive = [sequence for sequence in alive if sequence not in now]
    assert not alive
    assert all(len(sequence.answer) == sequence.max_tokens for sequence in ended)
    assert scheduler.pool.num_available == num_blocks


def test_answers_go_on_while_a_long_prompt_is_computed_in_pieces():
    scheduler = Scheduler(BlockPool(100), SIZE, 10, 4)
    short, long = make(0, 3, 20), make(1, 50, 3)
    scheduler.add(short)
    step(scheduler)
    scheduler.add(long)
    for _ in range(5):
        works, _ = step(scheduler)
        assert [(work.sequence, work.count) for work in works] == [(short, 1), (long, 9)]


def test_a_long_prompt_leaves_half_of_a_step_to_those_behind_it():
    scheduler = Scheduler(BlockPool(100), SIZE, 20, 4)
    sequences = [make(0, 100), make(1, 6), make(2, 30)]
    for sequence in sequences:
        scheduler.add(sequence)
    counts = []
    for _ in range(3):
        works, _ = step(scheduler)
        counts.append({work.sequence.request_id: work.count for work in works})
    assert counts == [
        {"0": 10, "1": 5, "2": 5},
        {"0": 10, "1": 1, "2": 9},
        {"0": 10, "1": 1, "2": 9},
    ]


def test_few_tokens_of_a_step_need_logits_as_part_of_a_prompt():
    scheduler = Scheduler(BlockPool(3000), SIZE, 4096, 4)
    sequences = [make(number, 1500, 1) for number in range(3)]
    sequences[0].has_prompt_logprobs = sequences[2].has_prompt_logprobs = True
    for sequence in sequences:
        scheduler.add(sequence)
    counts = []
    while scheduler.has_work:
        works, _ = step(scheduler)
        counts.append([work.count for work in works])
        logged = [work.count for work in works if work.sequence.has_prompt_logprobs]
        assert sum(logged) <= MAX_LOGGED_TOKENS
    assert counts[0] == [512, 1500]
    assert sum(map(sum, counts)) == 4500
    assert len(counts) == 6


def test_lower_numbers_go_first_and_take_the_seat_of_higher_ones():
    scheduler = Scheduler(BlockPool(20), SIZE, 20, 1)
    later, sooner = make(0, 6, 9, priority=1), make(1, 6, 2, priority=0)
    scheduler.add(later)
    step(scheduler)
    step(scheduler)
    scheduler.add(sooner)
    works, _ = step(scheduler)
    assert [work.sequence for work in works] == [sooner]
    assert later.num_preemptions == 1
    ended, _ = run_all(scheduler)
    assert [sequence.request_id for sequence in ended] == ["1", "0"]
    assert len(later.answer) == 9


def test_a_sequence_of_equal_priority_takes_no_seat():
    scheduler = Scheduler(BlockPool(20), SIZE, 20, 1)
    first, second = make(0, 6, 4), make(1, 6, 4)
    scheduler.add(first)
    scheduler.add(second)
    ended, _ = run_all(scheduler)
    assert ended == [first, second]
    assert first.num_preemptions == second.num_preemptions == 0


def test_when_answers_outgrow_the_cache_the_last_is_computed_again():
    scheduler = Scheduler(BlockPool(6), SIZE, 30, 4)
    first, second = make(0, 8, 12, shares=False), make(1, 8, 12, shares=False)
    scheduler.add(first)
    scheduler.add(second)
    ended, steps = run_all(scheduler)
    assert ended == [first, second]
    assert (first.num_preemptions, second.num_preemptions) == (0, 1)
    assert max(work.count for works in steps[1:] for work in works) > 8  # prompt and answer again


def test_what_is_in_the_cache_is_not_computed_again():
    scheduler = Scheduler(BlockPool(20), SIZE, 30, 4)
    scheduler.add(make(0, 10, 1, ids=range(10)))
    run_all(scheduler)
    again = make(1, 0, 1, ids=[*range(9), 55, 56])
    scheduler.add(again)
    works, _ = step(scheduler)
    assert [(work.start, work.count) for work in works] == [(8, 3)]
    assert again.num_cached == 8


def test_blocks_of_its_own_that_a_preempted_sequence_finds_again_are_not_counted_as_cached():
    scheduler = Scheduler(BlockPool(20), SIZE, 30, 1)
    later, sooner = make(0, 10, 3, priority=1), make(1, 6, 1)
    scheduler.add(later)
    step(scheduler)
    scheduler.add(sooner)
    starts = {work.start for _ in range(3) for work in step(scheduler)[0]}
    assert later.num_preemptions == 1
    assert 8 in starts  # it was found
    assert later.num_cached == 0


def test_a_prompt_whose_log_probabilities_are_asked_for_is_computed_from_its_beginning():
    scheduler = Scheduler(BlockPool(20), SIZE, 30, 4)
    scheduler.add(make(0, 10, 1, ids=range(10)))
    run_all(scheduler)
    again = make(1, 10, 1, ids=range(10))
    again.has_prompt_logprobs = True
    scheduler.add(again)
    works, _ = step(scheduler)
    assert [(work.start, work.count) for work in works] == [(0, 10)]


def test_the_last_token_of_a_known_prompt_is_computed_all_the_same():
    scheduler = Scheduler(BlockPool(20), SIZE, 30, 4)
    scheduler.add(make(0, 8, 1, ids=range(8)))
    run_all(scheduler)
    scheduler.add(make(1, 8, 1, ids=range(8)))
    works, _ = step(scheduler)
    assert [(work.start, work.count) for work in works] == [(4, 4)]


def test_what_others_compute_meanwhile_is_not_computed_again():
    scheduler = Scheduler(BlockPool(100), SIZE, 20, 4)
    sequences = [make(number, 0, 1, ids=range(40)) for number in range(3)]
    for sequence in sequences:
        scheduler.add(sequence)
    works, _ = step(scheduler)
    assert [work.count for work in works] == [10, 5, 5]
    works, _ = step(scheduler)
    assert [work.start for work in works] == [10, 8, 8]
    ended, _ = run_all(scheduler)
    assert len(ended) == 3
    assert [sequence.num_cached > 0 for sequence in sequences] == [False, True, True]


def test_answers_to_one_prompt_wait_for_the_first_to_compute_it():
    scheduler = Scheduler(BlockPool(20), SIZE, 6, 4)
    leader = make(0, 10, 3, ids=range(10))
    follower = make(0, 10, 3, ids=range(10), leader=leader)
    scheduler.add(leader)
    scheduler.add(follower)
    counts = []
    for _ in range(3):
        works, _ = step(scheduler)
        counts.append([(work.sequence.sample, work.count) for work in works])
    assert counts == [[(0, 6)], [(0, 4)], [(0, 1), (1, 2)]]


def test_prompts_are_admitted_only_where_all_their_blocks_have_room():
    scheduler = Scheduler(BlockPool(5), SIZE, 100, 4)
    first, second = make(0, 12, 1), make(1, 12, 1)
    scheduler.add(first)
    scheduler.add(second)
    works, _ = step(scheduler)
    assert [work.sequence for work in works] == [first]
    assert second.num_preemptions == 0
    ended, _ = run_all(scheduler)
    assert ended == [second]
