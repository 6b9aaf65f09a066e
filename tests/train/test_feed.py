"""Batches: each process gets its own, the same ones whoever prepares them."""

import pickle

import numpy as np
import pytest
import torch

from internvl35.data.batches import Example
from internvl35.errors import DataError
from internvl35.train.distributed import Workers
from internvl35.train.feed import feed_once, feed_steps
from internvl35.train.plan import Plan, PlanSettings, Sizes

TOKENS = np.array([4, 9, 3, 7, 5, 8, 6], dtype=np.int64)


class Numbers:
    """An encoder whose examples say which row they are; row 2 is damaged."""

    def encode(self, record, seed=0):
        if record == 2:
            raise DataError("rows.jsonl:3: damaged")
        return Example([100 + record] * int(TOKENS[record]), [True] * int(TOKENS[record]))


def make_plan(**changes):
    settings = PlanSettings(batch_size=2, batches_per_step=2, num_epochs=2.0, **changes)
    return Plan(Sizes(TOKENS, TOKENS * 0, TOKENS), settings)


def feed(plan, workers=None, **options):
    return list(
        feed_steps(plan, workers or Workers(), list(range(len(TOKENS))), Numbers(), 0, **options)
    )


def rows_of(fed):
    return sorted({int(token) - 100 for token in fed.batch.input_ids.flatten()} - {-100})


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("num_processes", [0, 2])
def test_batches_are_those_of_the_plan_whoever_prepares_them(num_processes, is_packed):
    plan = make_plan(is_packed=is_packed, pack_tokens=12)
    steps = feed(plan, num_processes=num_processes)
    assert len(steps) == plan.num_steps
    for step, batches in enumerate(steps):
        for fed, rows in zip(batches, plan.step(step), strict=True):
            assert rows_of(fed) == sorted(set(rows) - {2})
            failed = [(row, "DataError: rows.jsonl:3: damaged") for row in rows if row == 2]
            assert list(fed.failures) == failed
            assert (fed.batch.segments is not None) == is_packed


def test_a_later_start_gives_the_later_batches():
    plan = make_plan()
    whole, rest = feed(plan), feed(plan, start=2)
    assert [[rows_of(fed) for fed in step] for step in rest] == [
        [rows_of(fed) for fed in step] for step in whole[2:]
    ]


def test_processes_share_the_batches_of_every_step():
    plan = make_plan()
    parts = [feed(plan, Workers(rank, 2)) for rank in range(2)]
    for step in range(plan.num_steps):
        found = [rows_of(fed) for part in parts for fed in part[step]]
        assert found == [sorted(set(rows) - {2}) for rows in plan.step(step)]


def test_an_evaluation_is_shared_evenly():
    groups = ((0, 1), (3,), (4, 5))
    fed = [list(feed_once(groups, Workers(rank, 2), range(7), Numbers(), 0)) for rank in range(2)]
    assert [[rows_of(one) for one in part] for part in fed] == [[[0, 1], [4, 5]], [[3], []]]
    filler = fed[1][1].batch
    assert not (filler.labels >= 0).any()


def test_what_prepares_batches_can_be_sent_to_another_process(monkeypatch):
    sent = []
    monkeypatch.setattr(
        "internvl35.train.feed.load_ahead", lambda dataset, *_: sent.append(dataset)
    )
    with pytest.raises(TypeError):
        feed(make_plan())
    copy = pickle.loads(pickle.dumps(sent[0]))
    assert rows_of(copy[0, (1, 3)]) == [1, 3]
    assert torch.equal(copy[0, (1,)].batch.input_ids, sent[0][0, (1,)].batch.input_ids)


def test_all_tensors_of_a_batch_are_pinned(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self + 0)
    (first, *_), *_ = feed(make_plan(is_packed=True, pack_tokens=12))
    copy = first.pin_memory()
    assert len(pinned) == 5  # ids, mask, labels, positions and ends of samples
    assert copy.failures == first.failures
    assert torch.equal(copy.batch.input_ids, first.batch.input_ids)
    assert copy.batch.pixel_values is None
