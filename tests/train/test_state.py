"""The state of a run: everything comes back, to the bit, or the reason is said."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from internvl35.errors import DataError
from internvl35.train import state
from internvl35.train.distributed import Workers
from internvl35.train.state import load_state, save_state, state_file

WORKERS = Workers()


def _build(width: int = 6):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, width), nn.Linear(width, 3))
    module[1].bias.requires_grad_(False)
    trained = [p for p in module.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim == 2]
    vectors = [p for p in trained if p.ndim == 1]
    optimizers = [
        torch.optim.AdamW([{"params": vectors, "peak_lr": 0.1}], lr=0.1),
        torch.optim.Muon([{"params": matrices, "peak_lr": 0.1}], lr=0.1),
    ]
    return module, optimizers


def _train(module, optimizers, num_steps):
    for _ in range(num_steps):
        inputs = torch.randn(8, 4)
        nn.functional.dropout(module(inputs), 0.5).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def test_a_run_goes_on_to_the_bit(tmp_path):
    torch.manual_seed(1)
    module, optimizers = _build()
    _train(module, optimizers, 3)
    save_state(tmp_path / state_file(WORKERS), module, optimizers, WORKERS, {"step": 3})
    _train(module, optimizers, 3)

    other, their_optimizers = _build()
    torch.manual_seed(99)
    assert load_state(tmp_path, other, their_optimizers, WORKERS) == {"step": 3}
    _train(other, their_optimizers, 3)
    for one, two in zip(module.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_weights_that_do_not_train_are_left_out(tmp_path):
    from safetensors import safe_open

    module, optimizers = _build()
    path = tmp_path / "state.safetensors"
    save_state(path, module, optimizers, WORKERS, {})
    with safe_open(path, framework="pt") as file:
        names = {name for name in file.keys() if name.startswith("module.")}  # noqa: SIM118
    assert names == {"module.0.weight", "module.0.bias", "module.1.weight"}


def test_replicas_write_their_random_state_alone(tmp_path):
    module, optimizers = _build()
    second = Workers(rank=1, world_size=2)
    path = tmp_path / state_file(second)
    assert path.name == "training_state-00002-of-00002.safetensors"
    save_state(path, module, optimizers, second, {})
    from safetensors.torch import load_file

    assert list(load_file(path)) == ["random.cpu"]


def test_a_state_of_other_weights_says_which(tmp_path):
    module, optimizers = _build()
    save_state(tmp_path / state_file(WORKERS), module, optimizers, WORKERS, {})
    module[1].bias.requires_grad_(True)
    with pytest.raises(DataError, match=r"other weights trained .*1\.bias"):
        load_state(tmp_path, module, optimizers, WORKERS)
    wider, their_optimizers = _build(width=7)
    with pytest.raises(DataError, match=r"0\.weight has shape \[6, 4\]"):
        load_state(tmp_path, wider, their_optimizers, WORKERS)


def test_a_damaged_or_missing_state_is_refused_in_one_line(tmp_path):
    module, optimizers = _build()
    with pytest.raises(DataError, match="which save_only_model and deepspeed leave out"):
        load_state(tmp_path, module, optimizers, WORKERS)
    path = tmp_path / state_file(WORKERS)
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="is not a training state"):
        load_state(tmp_path, module, optimizers, WORKERS)
    save_file({"module.0.weight": torch.zeros(6, 4)}, path)
    with pytest.raises(DataError, match="is not a training state: it has no progress"):
        load_state(tmp_path, module, optimizers, WORKERS)


def test_a_state_of_shards_needs_as_many_processes(tmp_path, monkeypatch):
    module, optimizers = _build()
    save_state(tmp_path / state_file(Workers(0, 4)), module, optimizers, Workers(0, 4), {})
    monkeypatch.setattr(state, "_is_sharded", lambda _: True)
    with pytest.raises(DataError, match=r"for process 2 of 2; resume with as many processes"):
        load_state(tmp_path, module, optimizers, Workers(1, 2))
