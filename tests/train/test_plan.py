"""Plans: every row once an epoch, whatever the processes, and the same plan every time."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl35.errors import ConfigError, DataError
from internvl35.train.plan import Plan, PlanSettings, Sizes


def _sizes(tokens, tiles=None):
    tokens = np.array(tokens, dtype=np.int64)
    tiles = np.zeros_like(tokens) if tiles is None else np.array(tiles, dtype=np.int64)
    return Sizes(tokens, tiles, tokens // 2)


def _rows(plan, steps):
    return [row for step in steps for batch in plan.step(step) for row in batch]


@given(
    tokens=st.lists(st.integers(0, 60), min_size=1, max_size=60).filter(any),
    batch_size=st.integers(1, 4),
    batches_per_step=st.integers(1, 5),
    is_packed=st.booleans(),
    is_grouped=st.booleans(),
    num_epochs=st.integers(1, 3),
)
def test_every_good_row_comes_once_an_epoch(
    tokens, batch_size, batches_per_step, is_packed, is_grouped, num_epochs
):
    plan = Plan(
        _sizes(tokens),
        PlanSettings(
            num_epochs=num_epochs, batch_size=batch_size, batches_per_step=batches_per_step,
            is_packed=is_packed, is_grouped=is_grouped, pack_tokens=64,
        ),
    )  # fmt: skip
    good = [row for row, count in enumerate(tokens) if count]
    by_epoch = itertools.groupby(range(plan.num_steps), key=lambda step: plan.locate(step)[0])
    epochs = [list(steps) for _, steps in by_epoch]
    assert len(epochs) == num_epochs
    for steps in epochs:
        assert sorted(_rows(plan, steps)) == good
        assert plan.is_epoch_end(steps[-1] + 1)
        assert not any(plan.is_epoch_end(step + 1) for step in steps[:-1])
    for step in range(plan.num_steps):
        batches = plan.step(step)
        assert len(batches) == batches_per_step
        assert any(batches)
        if is_packed:
            assert all(sum(tokens[row] for row in batch) <= 64 * batch_size for batch in batches)
        else:
            assert all(len(batch) <= batch_size for batch in batches)


def test_a_plan_follows_from_its_settings_alone():
    sizes = _sizes(range(1, 101))
    one, two = (Plan(sizes, PlanSettings(num_epochs=2, batch_size=3)) for _ in range(2))
    assert [two.step(n) for n in reversed(range(68))] == [one.step(n) for n in reversed(range(68))]
    other = Plan(sizes, PlanSettings(num_epochs=2, batch_size=3, seed=1))
    assert [other.step(n) for n in range(68)] != [one.step(n) for n in range(68)]


def test_epochs_have_orders_of_their_own_unless_rows_come_as_they_stand():
    plan = Plan(_sizes([5] * 20), PlanSettings(num_epochs=2))
    assert _rows(plan, range(20)) != _rows(plan, range(20, 40))
    plan = Plan(_sizes([5] * 20), PlanSettings(num_epochs=2, is_shuffled=False))
    assert _rows(plan, range(40)) == [*range(20), *range(20)]


def test_rows_of_like_length_come_together_where_wanted():
    tokens = np.random.default_rng(0).integers(1, 1000, 256)
    spread = {}
    for is_grouped in (True, False):
        plan = Plan(_sizes(tokens), PlanSettings(batch_size=4, is_grouped=is_grouped))
        spread[is_grouped] = np.mean([np.ptp(tokens[list(plan.step(n)[0])]) for n in range(64)])
    assert spread[True] < 0.1 * spread[False]


def test_neighbours_in_a_step_are_alike_and_the_last_step_is_filled_up():
    plan = Plan(_sizes(range(1, 8)), PlanSettings(batches_per_step=4))
    for step in range(2):
        lengths = [sum(row + 1 for row in batch) for batch in plan.step(step)]
        assert lengths == sorted(lengths, reverse=True)
    assert [len(batch) for batch in plan.step(1)] == [1, 1, 1, 0]


def test_epochs_may_be_cut_and_steps_may_be_given():
    sizes = _sizes([3] * 10)
    assert Plan(sizes, PlanSettings(num_epochs=0.25)).num_steps == 3
    assert Plan(sizes, PlanSettings(num_epochs=1.5)).num_steps == 15
    assert Plan(sizes, PlanSettings(num_epochs=1.1)).num_steps == 11
    plan = Plan(sizes, PlanSettings(num_epochs=1, max_steps=25))
    assert plan.num_steps == 25
    assert plan.locate(24) == (2, 4)
    assert plan.epoch_at(25) == pytest.approx(2.5)
    assert plan.epoch_at(0) == 0


@pytest.mark.parametrize("is_packed", [True, False])
def test_epochs_are_planned_when_they_are_needed(monkeypatch, is_packed):
    planned = []
    plan_epoch = Plan._plan_epoch

    def count(self, epoch):
        planned.append(epoch)
        return plan_epoch(self, epoch)

    monkeypatch.setattr(Plan, "_plan_epoch", count)
    settings = PlanSettings(num_epochs=5, is_packed=is_packed, pack_tokens=64)
    plan = Plan(_sizes([3] * 10), settings)
    assert planned == (list(range(5)) if is_packed else [])
    planned.clear()
    for step in range(plan.num_steps):
        plan.step(step)
        plan.epoch_at(step + 1)
    # the last two are known still, then each is planned as it begins
    assert planned == ([0, 1, 2, 3, 4] if is_packed else list(range(5)))


def test_nothing_to_train_on_is_said():
    with pytest.raises(DataError, match="none of 3 rows"):
        Plan(_sizes([0, 0, 0]), PlanSettings())
    with pytest.raises(ConfigError, match="at least 1 of each"):
        Plan(_sizes([1]), PlanSettings(batch_size=0))
