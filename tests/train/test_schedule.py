"""The course of the learning rate, held against transformers' own schedulers."""

import pytest
import torch
import transformers

from internvl35.errors import ConfigError
from internvl35.train.schedule import Schedule, count_warmup_steps


def _theirs(make, num_steps, **options):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer, **options)
    rates = []
    for _ in range(num_steps):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(("num_steps", "num_warmup"), [(1, 0), (10, 0), (40, 5), (7, 7)])
@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_rates_are_those_of_transformers(name, num_steps, num_warmup):
    make = {
        "cosine": transformers.get_cosine_schedule_with_warmup,
        "linear": transformers.get_linear_schedule_with_warmup,
    }[name]
    theirs = _theirs(make, num_steps, num_warmup_steps=num_warmup, num_training_steps=num_steps)
    schedule = Schedule(name, num_steps, num_warmup)
    assert [schedule.rate_at(step) for step in range(num_steps)] == pytest.approx(theirs)


def test_a_constant_rate_rises_and_stays():
    theirs = _theirs(transformers.get_constant_schedule_with_warmup, 9, num_warmup_steps=4)
    schedule = Schedule("constant", 9, 4)
    assert [schedule.rate_at(step) for step in range(9)] == pytest.approx(theirs)


def test_wsd_stays_and_falls_over_the_last_share():
    theirs = _theirs(
        transformers.get_wsd_schedule, 20, num_warmup_steps=2, num_decay_steps=5,
        num_training_steps=20, decay_type="linear",
    )  # fmt: skip
    schedule = Schedule("wsd", 20, 2, decay_share=0.25)
    assert [schedule.rate_at(step) for step in range(20)] == pytest.approx(theirs)


def test_the_warmup_is_a_share_rounded_up_or_a_number_of_steps():
    assert count_warmup_steps(1237, 0.05, 0) == 62
    assert count_warmup_steps(1237, 0.05, 10) == 10


def test_a_run_without_steps_is_refused():
    with pytest.raises(ConfigError, match="at least 1 step"):
        Schedule("cosine", 0)
