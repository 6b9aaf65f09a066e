"""The supervised loss against hand-computed numbers and against plain cross-entropy."""

import math

import pytest
import torch
from torch.nn import functional

from internvl35.data.batches import IGNORED
from internvl35.train.sft import sft_loss, token_weights


def _labels(*lengths: int, width: int) -> torch.Tensor:
    labels = torch.full((len(lengths), width), IGNORED)
    for row, length in enumerate(lengths):
        labels[row, width - length :] = torch.arange(length)
    return labels


@pytest.mark.parametrize(
    ("averaging", "expected"),
    [("token", [1.0, 1.0]), ("sample", [1 / 4, 1.0]), ("square", [1 / 2, 1.0])],
)
def test_a_token_weighs_one_over_a_power_of_its_samples_length(averaging, expected):
    weights = token_weights(_labels(4, 1, width=5), averaging)
    assert weights[:, -1].tolist() == pytest.approx(expected)
    assert weights[1, :-1].tolist() == [0.0] * 4


def test_square_averaging_is_the_weighted_mean_of_the_tokens_losses():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 6, 7, generator=generator)
    labels = _labels(4, 1, width=6)
    total, weight = 0.0, 0.0
    for row, length in ((0, 4), (1, 1)):
        for place in range(6 - length, 6):
            chances = logits[row, place - 1].softmax(dim=-1)
            total -= math.log(float(chances[labels[row, place]])) / math.sqrt(length)
            weight += 1 / math.sqrt(length)
    assert float(sft_loss(logits, labels)) == pytest.approx(total / weight, rel=1e-5)


def test_token_averaging_is_plain_cross_entropy_of_the_shifted_labels():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 5, 11, generator=generator)
    labels = _labels(3, 2, 4, width=5)
    plain = functional.cross_entropy(
        logits[:, :-1].reshape(-1, 11), labels[:, 1:].reshape(-1), ignore_index=IGNORED
    )
    assert float(sft_loss(logits, labels, averaging="token")) == pytest.approx(float(plain))


def test_ignored_positions_get_no_gradient():
    logits = torch.zeros(1, 4, 5, requires_grad=True)
    sft_loss(logits, torch.tensor([[IGNORED, IGNORED, 2, IGNORED]])).backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum(dim=-1).gt(0).tolist() == [[False, True, False, False]]


def test_a_batch_without_targets_costs_nothing():
    assert float(sft_loss(torch.randn(1, 3, 5), torch.full((1, 3), IGNORED))) == 0.0
