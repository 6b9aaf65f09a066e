"""Cross-entropy without all logits, against the ordinary head and loss of torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from internvl35.train.cross_entropy import linear_cross_entropy

WIDTH, ROWS = 6, 11


class Operations(TorchDispatchMode):
    """Counts matrix products and notes the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.num_products = 0
        self.largest = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        self.num_products += function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm)
        if isinstance(result, Tensor):
            self.largest = max(self.largest, result.numel())
        return result


def make_case(
    count: int = 13, *, dtype: torch.dtype = torch.float32, has_bias: bool = False, seed: int = 0
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    case = {
        "hidden": torch.randn(count, WIDTH, generator=generator, dtype=torch.float64),
        "weight": torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64),
        "bias": torch.randn(ROWS, generator=generator, dtype=torch.float64) if has_bias else None,
    }
    case = {
        name: value if value is None else value.to(dtype).requires_grad_()
        for name, value in case.items()
    }
    targets = torch.randint(0, ROWS, (count,), generator=generator)
    return case | {"targets": targets, "token_weights": torch.rand(count, generator=generator)}


def plain_loss(case: dict[str, Any]) -> Tensor:
    logits = functional.linear(case["hidden"], case["weight"], case["bias"])
    wide = torch.promote_types(logits.dtype, torch.float32)
    losses = functional.cross_entropy(logits.to(wide), case["targets"], reduction="none")
    return (losses * case["token_weights"]).sum()


def gradients(loss: Tensor, case: dict[str, Any]) -> list[Tensor]:
    leaves = [case[name] for name in ("hidden", "weight", "bias") if case[name] is not None]
    return list(torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("chunk_size", [1, 4, 13, 1000])
def test_loss_and_gradients_are_those_of_the_ordinary_head(chunk_size: int, has_bias: bool) -> None:
    case = make_case(has_bias=has_bias)
    loss, _ = linear_cross_entropy(**case, chunk_size=chunk_size)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, plain_loss(case), rtol=1e-6, atol=1e-6)
    expected = gradients(plain_loss(case) * 3, case)
    for found, wanted in zip(gradients(loss * 3, case), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_gradients_pass_a_numerical_check() -> None:
    case = make_case(5, dtype=torch.float64, has_bias=True)

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        given = case | {"hidden": hidden, "weight": weight, "bias": bias}
        return linear_cross_entropy(**given, chunk_size=2)[0]

    assert loss(case["hidden"], case["weight"], case["bias"]).dtype == torch.float64
    assert torch.autograd.gradcheck(loss, (case["hidden"], case["weight"], case["bias"]))


@given(st.integers(0, 30), st.integers(1, 40), st.integers(0, 5))
def test_the_chunk_size_changes_nothing(count: int, chunk_size: int, seed: int) -> None:
    case = make_case(count, dtype=torch.float64, seed=seed)
    whole, correct = linear_cross_entropy(**case, chunk_size=100)
    found, found_correct = linear_cross_entropy(**case, chunk_size=chunk_size)
    torch.testing.assert_close(found, whole)
    assert int(found_correct) == int(correct)
    for one, other in zip(gradients(found, case), gradients(whole, case), strict=True):
        torch.testing.assert_close(one, other)


def test_correct_tokens_are_those_whose_logit_is_the_largest() -> None:
    case = make_case(40)
    likeliest = (case["hidden"] @ case["weight"].T).argmax(dim=-1)
    case["targets"][::3] = likeliest[::3]
    _, num_correct = linear_cross_entropy(**case, chunk_size=7)
    assert int(num_correct) == int((likeliest == case["targets"]).sum()) >= 14
    assert num_correct.dtype == torch.int64
    assert not num_correct.requires_grad


def test_large_logits_do_not_overflow() -> None:
    case = make_case()
    with torch.no_grad():
        case["hidden"].mul_(1e4)
    loss, _ = linear_cross_entropy(**case)
    torch.testing.assert_close(loss, plain_loss(case))
    assert all(torch.isfinite(gradient).all() for gradient in gradients(loss, case))


def test_no_position_costs_nothing_and_gives_gradients_of_zero() -> None:
    case = make_case(0)
    loss, num_correct = linear_cross_entropy(**case)
    assert (float(loss.detach()), int(num_correct)) == (0.0, 0)
    to_hidden, to_weight = gradients(loss, case)
    assert to_hidden.shape == (0, WIDTH)
    assert torch.equal(to_weight, torch.zeros(ROWS, WIDTH))


# ------------------------------------------------------------------ number formats


def test_weights_of_16_bits_give_what_the_ordinary_head_gives() -> None:
    case = make_case(dtype=torch.bfloat16)
    loss, _ = linear_cross_entropy(**case, chunk_size=4)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, plain_loss(case))
    for found, wanted in zip(gradients(loss, case), gradients(plain_loss(case), case), strict=True):
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found, wanted, rtol=0.02, atol=0.02)


def test_autocast_gives_what_the_ordinary_head_gives_under_it() -> None:
    case = make_case()
    with torch.autocast("cpu", torch.bfloat16):
        loss, num_correct = linear_cross_entropy(**case, chunk_size=4)
        plain = plain_loss(case)
        likeliest = functional.linear(case["hidden"], case["weight"]).argmax(dim=-1)
    torch.testing.assert_close(loss, plain)
    assert not torch.allclose(loss, plain_loss(case), rtol=1e-6, atol=0)  # products are rounded
    assert int(num_correct) == int((likeliest == case["targets"]).sum())
    for found, wanted in zip(gradients(loss, case), gradients(plain, case), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted, rtol=0.02, atol=0.02)


# ------------------------------------------------------------------ cost


def test_there_are_never_logits_of_more_than_one_chunk() -> None:
    case = make_case(200)
    with Operations() as operations:
        linear_cross_entropy(**case, chunk_size=8)[0].backward()
    assert operations.largest == 200 * WIDTH < 200 * ROWS
    with Operations() as operations:
        plain_loss(case).backward()
    assert operations.largest == 200 * ROWS


@pytest.mark.parametrize(
    ("trains_hidden", "trains_weight", "num_products"),
    [(True, True, 3), (True, False, 2), (False, True, 2), (False, False, 1)],
)
def test_only_gradients_that_will_be_asked_for_are_computed(
    trains_hidden: bool, trains_weight: bool, num_products: int
) -> None:
    case = make_case(8)
    case["hidden"].requires_grad_(trains_hidden)
    case["weight"].requires_grad_(trains_weight)
    with Operations() as operations:
        loss, _ = linear_cross_entropy(**case, chunk_size=4)
    assert operations.num_products == 2 * num_products
    assert loss.requires_grad == (trains_hidden or trains_weight)


def test_evaluation_computes_no_gradients() -> None:
    case = make_case(8)
    with torch.no_grad(), Operations() as operations:
        loss, _ = linear_cross_entropy(**case, chunk_size=4)
    assert operations.num_products == 2
    torch.testing.assert_close(loss, plain_loss(case).detach())


def test_a_chunk_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="chunk_size is 0; it must be at least 1"):
        linear_cross_entropy(**make_case(), chunk_size=0)
