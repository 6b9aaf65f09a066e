"""What goes through sharded modules unharmed, and where their weights are cast."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import distributed, nn

from internvl35.data.batches import Example, collate
from internvl35.train.distributed import Workers, full_tensor, spread_module
from internvl35.train.feed import FedBatch
from internvl35.train.loop import TrainingLoop
from internvl35.train.schedule import Schedule
from internvl35.train.stepping import Stepper


@pytest.fixture
def alone() -> Iterator[None]:
    """A group of one process."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


class Echo(nn.Module):
    """Gives back the sum of weights that it was told, as its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def forward(self, batch: object, total: torch.Tensor | float) -> dict[str, torch.Tensor]:
        zero = torch.zeros(())
        return {"loss": self.weight.float().sum() + total, "num_correct": zero, "num_targets": zero}


@pytest.mark.usefixtures("alone")
def test_the_sum_of_weights_is_not_rounded_to_16_bits_where_weights_are_sharded() -> None:
    module = spread_module(
        Echo(), Workers(), is_sharded=True, compute_dtype=torch.bfloat16, unit_classes=()
    )
    optimizer = torch.optim.SGD([{"params": list(module.parameters()), "peak_lr": 0.1}], lr=0.1)
    loop = TrainingLoop(
        Stepper(module, [optimizer], 0.0), Schedule("constant", 1), Workers(),
        lambda batch: 1001.0, compute_dtype=torch.bfloat16,
    )  # fmt: skip
    figures = loop.take_step([FedBatch(collate([Example([1, 2], [True, True])], 0))])
    assert figures.loss == 1001.0  # the nearest number of 16 bits is 1000


@pytest.mark.usefixtures("alone")
def test_sharded_weights_that_train_are_float32_and_frozen_ones_stay_as_small_as_they_were() -> (
    None
):
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).to(torch.bfloat16)
    module[0].requires_grad_(False)
    module[1].bias.requires_grad_(False)
    expected = {name: value.clone() for name, value in module.named_parameters()}
    spread_module(
        module, Workers(), is_sharded=True, compute_dtype=torch.bfloat16, unit_classes=("Linear",)
    )
    dtypes = {name: value.dtype for name, value in module.named_parameters()}
    assert dtypes.pop("1.weight") == torch.float32
    assert set(dtypes.values()) == {torch.bfloat16}
    output = module(torch.ones(2, 3))
    assert output.dtype == torch.bfloat16
    output.float().sum().backward()
    for name, value in module.named_parameters():
        assert torch.equal(full_tensor(value).to(torch.bfloat16), expected[name])
        assert (value.grad is not None) == (name == "1.weight")
