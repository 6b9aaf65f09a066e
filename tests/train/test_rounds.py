"""The training loop: schedule, optimizers, resuming, and what a kill leaves behind."""

import itertools
import json
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from internvl35.errors import ConfigError, DataError
from internvl35.train.rounds import (
    METRICS_FILE,
    STATE_FILE,
    RoundLoop,
    RoundSettings,
    make_optimizers,
)


@dataclass(frozen=True)
class _Points:
    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)


def _rounds(start: int):
    for number in itertools.count(start):
        generator = torch.Generator().manual_seed(number)
        inputs = torch.randn(16, 4, generator=generator)
        targets = inputs @ torch.tensor([1.0, -2.0, 0.5, 3.0])
        yield [_Points(inputs[:8], targets[:8]), _Points(inputs[8:], targets[8:])]


def _module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def _loop(folder, num_rounds=12, optimizer="muon", **options):
    module = _module()

    def loss(batch: _Points):
        found = (module(batch.inputs).squeeze(-1) - batch.targets).square().mean()
        return found, {"error": float(found.detach())}

    settings = RoundSettings(
        num_rounds=num_rounds,
        learning_rate=0.1,
        optimizer=optimizer,
        checkpoint_every=4,
        warmup_rounds=2,
        precision="float32",
        **options,
    )
    return module, RoundLoop[_Points](module, loss, settings, folder)


def _lines(folder):
    return [json.loads(line) for line in (folder / METRICS_FILE).read_text().splitlines()]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_that_was_stopped_and_resumed_ends_with_the_same_weights(tmp_path, optimizer):
    whole, loop = _loop(tmp_path / "whole", optimizer=optimizer)
    loop.run(_rounds)

    class _Killed(Exception):
        pass

    def kill(line):
        if line["round"] == 7:
            raise _Killed

    _, loop = _loop(tmp_path / "parts", optimizer=optimizer)
    with pytest.raises(_Killed):
        loop.run(_rounds, on_log=kill)
    resumed, loop = _loop(tmp_path / "parts", optimizer=optimizer)
    assert loop.round == 4
    loop.run(_rounds)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert [line["round"] for line in _lines(tmp_path / "parts")] == list(range(1, 13))
    assert loop.num_samples == 12 * 16


def test_the_loss_falls(tmp_path):
    _, loop = _loop(tmp_path, num_rounds=60)
    loop.run(_rounds)
    errors = [line["error"] for line in _lines(tmp_path)]
    assert errors[-1] < 0.1 * errors[0]


def test_a_line_cut_short_by_a_kill_is_dropped_on_resuming(tmp_path):
    _, loop = _loop(tmp_path, num_rounds=4)
    loop.run(_rounds)
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"round": 5, "los')
    _, loop = _loop(tmp_path, num_rounds=6)
    loop.run(_rounds)
    assert [line["round"] for line in _lines(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_write_that_was_cut_short_leaves_the_last_state_in_force(tmp_path):
    _, loop = _loop(tmp_path, num_rounds=4)
    loop.run(_rounds)
    (tmp_path / (STATE_FILE + ".partial")).write_bytes(b"half a file")
    _, loop = _loop(tmp_path, num_rounds=8)
    assert loop.round == 4


def test_evaluation_is_called_at_its_rounds_and_at_the_end(tmp_path):
    _, loop = _loop(tmp_path, num_rounds=7, evaluate_every=3)
    seen = []

    def evaluate(number):
        assert not loop.module.training
        seen.append(number)
        return {"accuracy": 0.5}

    loop.run(_rounds, evaluate)
    assert seen == [3, 6, 7]
    assert [line["round"] for line in _lines(tmp_path) if "eval/accuracy" in line] == [3, 6, 7]


def test_the_rate_rises_stays_and_falls_to_zero():
    settings = RoundSettings(num_rounds=100, warmup_rounds=10, decay_share=0.2)
    assert settings.rate_at(5) == pytest.approx(0.5)
    assert settings.rate_at(10) == pytest.approx(1.0)
    assert settings.rate_at(79) == 1.0
    assert settings.rate_at(90) == pytest.approx(0.5)
    assert settings.rate_at(100) == 0.0


def test_muon_takes_hidden_matrices_and_adamw_all_the_rest():
    module = nn.ModuleDict({"embed_tokens": nn.Embedding(5, 4), "up": nn.Linear(4, 8)})
    settings = RoundSettings(num_rounds=1, optimizer="muon", weight_decay=0.1)
    adamw, muon = make_optimizers(module, settings)
    assert [list(p.shape) for group in muon.param_groups for p in group["params"]] == [[8, 4]]
    groups = [([list(p.shape) for p in g["params"]], g["weight_decay"]) for g in adamw.param_groups]
    assert groups == [([[5, 4]], 0.1), ([[8]], 0.0)]


def test_frozen_parameters_are_left_alone():
    module = _module()
    module[0].weight.requires_grad_(False)
    for optimizer in make_optimizers(module, RoundSettings(num_rounds=1)):
        assert all(p is not module[0].weight for g in optimizer.param_groups for p in g["params"])


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_round(tmp_path):
    module = _module()
    loop = RoundLoop[_Points](
        module,
        lambda batch: (module(batch.inputs).sum() * float("nan"), {}),
        RoundSettings(num_rounds=2, precision="float32"),
        tmp_path,
    )
    with pytest.raises(DataError, match="loss is nan in round 0"):
        loop.run(_rounds)


def test_data_that_ends_early_is_an_error_that_says_how_far_it_came(tmp_path):
    _, loop = _loop(tmp_path, num_rounds=5)
    with pytest.raises(DataError, match="ended after round 3 of 5"):
        loop.run(lambda start: itertools.islice(_rounds(start), 3))


def test_a_state_of_another_model_is_refused(tmp_path):
    _, loop = _loop(tmp_path, num_rounds=4)
    loop.run(_rounds)
    with pytest.raises(DataError, match="belongs to another model"):
        RoundLoop[_Points](nn.Linear(3, 3), lambda _: None, RoundSettings(num_rounds=1), tmp_path)


def test_a_damaged_state_is_refused_in_one_line(tmp_path):
    (tmp_path / STATE_FILE).write_bytes(b"not a state")
    with pytest.raises(DataError, match="is not a training state"):
        _loop(tmp_path)


@pytest.mark.parametrize("options", [{"num_rounds": 0}, {"num_rounds": 5, "decay_share": 2.0}])
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(ConfigError):
        RoundSettings(**options)
