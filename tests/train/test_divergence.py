"""The chunked divergence against torch.distributions, and losses token by token."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from internvl35.train.divergence import (
    HeadInputs,
    linear_kl_divergence,
    token_cross_entropies,
    token_divergences,
)

POSITIONS, WIDTH, WORDS = 7, 5, 11


def make_head(seed: int, *, has_bias: bool = True, width: int = WIDTH) -> HeadInputs:
    """Random float64 tensors that all ask for gradients."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        drawn = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return drawn.requires_grad_(True)

    bias = draw(WORDS) if has_bias else None
    return HeadInputs(draw(POSITIONS, width), draw(WORDS, width), bias)


def plain(head: HeadInputs) -> Categorical:
    return Categorical(logits=functional.linear(head.hidden, head.weight, head.bias))


def weights() -> Tensor:
    return torch.arange(1.0, POSITIONS + 1, dtype=torch.float64) / 3


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
@pytest.mark.parametrize("has_bias", [False, True])
def test_sum_and_gradients_are_those_of_torch_distributions(chunk_size, has_bias):
    policy, reference = make_head(1, has_bias=has_bias), make_head(2, width=3)
    expected = (kl_divergence(plain(reference), plain(policy)) * weights()).sum()
    tensors = [t for t in (policy.hidden, policy.weight, policy.bias) if t is not None]
    wanted = torch.autograd.grad(2 * expected, tensors)
    found, _ = linear_kl_divergence(policy, reference, weights(), chunk_size=chunk_size)
    torch.testing.assert_close(found, expected)
    (2 * found).backward()
    for tensor, gradient in zip(tensors, wanted, strict=True):
        torch.testing.assert_close(tensor.grad, gradient)


def test_the_direction_is_from_the_reference_to_the_policy():
    policy, reference = make_head(1), make_head(2)
    found, _ = linear_kl_divergence(policy, reference, torch.ones(POSITIONS))
    turned = kl_divergence(plain(policy), plain(reference)).sum()
    assert abs(float(found.detach() - turned.detach())) > 0.1


def test_no_gradient_flows_to_the_reference():
    policy, reference = make_head(1), make_head(2)
    linear_kl_divergence(policy, reference, weights())[0].backward()
    assert policy.hidden.grad is not None
    assert [t.grad for t in (reference.hidden, reference.weight, reference.bias)] == [None] * 3


def test_a_policy_that_is_the_reference_costs_nothing_and_agrees_everywhere():
    head = make_head(1)
    loss, num_same = linear_kl_divergence(head, head, weights(), chunk_size=2)
    loss.backward()
    assert float(loss) == 0
    assert int(num_same) == POSITIONS
    assert float(head.hidden.grad.abs().max()) == 0


def test_likeliest_tokens_are_compared():
    policy, reference = make_head(1), make_head(2)
    same = plain(policy).probs.argmax(-1) == plain(reference).probs.argmax(-1)
    _, num_same = linear_kl_divergence(policy, reference, weights(), chunk_size=2)
    assert int(num_same) == int(same.sum()) < POSITIONS


def test_autocast_decides_on_the_products_and_nothing_behind_them():
    policy, reference = ((HeadInputs(h.hidden.detach().float(), h.weight.detach().float(), None))
                         for h in (make_head(1), make_head(2)))  # fmt: skip
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = linear_kl_divergence(policy, reference, weights().float())
    logits = [functional.linear(h.hidden.bfloat16(), h.weight.bfloat16()).float()
              for h in (reference, policy)]  # fmt: skip
    expected = kl_divergence(*(Categorical(logits=values) for values in logits))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, (expected * weights().float()).sum())


def test_logits_exist_for_one_chunk_at_a_time():
    class Rows(TorchDispatchMode):
        seen: ClassVar[set[int]] = set()

        def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
            found = operation(*arguments, **(keywords or {}))
            if isinstance(found, Tensor) and found.ndim == 2 and found.shape[1] == WORDS:
                self.seen.add(len(found))
            return found

    policy, reference = make_head(1), make_head(2)
    with Rows():
        linear_kl_divergence(policy, reference, weights(), chunk_size=2)[0].backward()
    assert Rows.seen - {WIDTH} == {2, 1}  # WIDTH: the head's own weight, transposed


def test_losses_token_by_token_are_those_of_torch():
    policy, reference = make_head(1), make_head(2)
    expected = kl_divergence(plain(reference), plain(policy))
    found = token_divergences(policy, reference, chunk_size=3)
    torch.testing.assert_close(found, expected.detach())
    targets = torch.arange(POSITIONS)
    expected = -plain(policy).log_prob(targets)
    found = token_cross_entropies(policy, targets, chunk_size=3)
    torch.testing.assert_close(found, expected.detach())


def test_no_positions_give_no_losses_and_gradients_of_zero():
    policy, reference = (HeadInputs(h.hidden[:0], h.weight) for h in (make_head(1), make_head(2)))
    loss, num_same = linear_kl_divergence(policy, reference, weights()[:0])
    assert (float(loss), int(num_same)) == (0.0, 0)
    assert len(token_divergences(policy, reference)) == 0
    assert len(token_cross_entropies(policy, torch.zeros(0, dtype=torch.long))) == 0


def test_other_positions_words_or_chunks_of_nothing_are_refused():
    policy, reference = make_head(1), make_head(2)
    fewer = HeadInputs(reference.hidden[1:], reference.weight)
    with pytest.raises(ValueError, match="7 positions and 11 words but the reference 6"):
        linear_kl_divergence(policy, fewer, weights())
    with pytest.raises(ValueError, match="7 positions and 11 words but the reference 7 and 10"):
        token_divergences(policy, HeadInputs(reference.hidden, reference.weight[1:]))
    with pytest.raises(ValueError, match="chunk_size is 0"):
        linear_kl_divergence(policy, reference, weights(), chunk_size=0)
