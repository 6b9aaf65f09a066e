"""Steps of the loop, held against plain PyTorch on the same numbers."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from internvl35.data.batches import IGNORED, Example, collate
from internvl35.errors import DataError
from internvl35.train.distributed import Workers
from internvl35.train.feed import FedBatch
from internvl35.train.loop import TrainingLoop
from internvl35.train.schedule import Schedule
from internvl35.train.sft import Trainee, batch_weight
from internvl35.train.stepping import Stepper


def _examples(count: int, seed: int = 0) -> list[Example]:
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for index in range(count):
        length = 4 + 3 * index
        ids = torch.randint(1, 250, (length,), generator=generator).tolist()
        examples.append(Example(ids, [place >= length // 2 for place in range(length)]))
    return examples


def _fed(*groups: list[Example]) -> list[FedBatch]:
    return [FedBatch(collate(group, 0)) for group in groups]


def _filler() -> FedBatch:
    return FedBatch(collate([Example([0, 0], [False, False])], 0), ((7, "no row"),))


def _loop(model, *, rate=1e-2, max_grad_norm=0.0, num_steps=10, averaging="square"):
    trained = list(model.language_model.parameters())
    for part in (model.vision_tower, model.multi_modal_projector):
        part.requires_grad_(False)
    optimizer = torch.optim.SGD([{"params": trained, "peak_lr": rate}], lr=rate)
    return TrainingLoop(
        Stepper(Trainee(model, averaging=averaging), [optimizer], max_grad_norm),
        Schedule("constant", num_steps),
        Workers(),
        lambda batch: batch_weight(batch, averaging),
    )


def _plain_loss(model, examples, power):
    losses, weights = [], []
    for example in examples:
        ids = torch.tensor([example.token_ids])
        labels = ids.masked_fill(~torch.tensor([example.loss_mask]), IGNORED)
        logits = model(input_ids=ids).logits
        found = functional.cross_entropy(
            logits[0, :-1], labels[0, 1:], ignore_index=IGNORED, reduction="none"
        )
        targets = int((labels[0, 1:] != IGNORED).sum())
        losses.append(found.sum() * targets**power)
        weights.append(targets * targets**power)
    return sum(losses) / sum(weights)


@pytest.mark.parametrize(("averaging", "power"), [("token", 0), ("sample", -1), ("square", -0.5)])
def test_a_step_over_several_batches_is_one_step_of_plain_pytorch_over_all_of_them(
    build_model, averaging, power
):
    examples = _examples(5)
    theirs = build_model()
    optimizer = torch.optim.SGD(theirs.language_model.parameters(), lr=1e-2)
    expected = _plain_loss(theirs, examples, power)
    expected.backward()
    optimizer.step()

    model = build_model()
    loop = _loop(model, averaging=averaging)
    figures = loop.take_step(_fed(examples[:1], examples[1:3], examples[3:]))
    assert figures.loss == pytest.approx(float(expected.detach()), rel=1e-5)
    assert figures.num_tokens == sum(len(example.token_ids) for example in examples)
    assert figures.num_samples == 5
    assert figures.num_targets == sum(sum(example.loss_mask) for example in examples)
    for one, two in zip(model.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_the_gradient_is_cut_to_its_largest_norm(build_model):
    model = build_model()
    before = [p.detach().clone() for p in model.language_model.parameters()]
    figures = _loop(model, rate=1.0, max_grad_norm=0.01).take_step(_fed(_examples(2)))
    assert figures.grad_norm > 0.01
    changes = [
        (old - new.detach()).square().sum()
        for old, new in zip(before, model.language_model.parameters(), strict=True)
    ]
    assert float(torch.stack(changes).sum().sqrt()) == pytest.approx(0.01, rel=1e-3)


def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_the_weights(build_model):
    model = build_model()
    loop = _loop(model)
    loop.take_step(_fed(_examples(2)))
    with torch.no_grad():
        model.language_model.model.norm.weight.fill_(float("nan"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(DataError, match=r"loss is nan in step 1; lower learning_rate"):
        loop.take_step(_fed(_examples(2)))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)


def test_an_evaluation_weighs_all_rows_alike_and_changes_nothing(build_model):
    model, examples = build_model(), _examples(5)
    loop = _loop(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found, failures = loop.evaluate(_fed(examples[:2], examples[2:]))
    assert failures == []
    assert found["loss"] == pytest.approx(float(_plain_loss(model, examples, -0.5)), rel=1e-5)
    assert 0 <= found["token_acc"] <= 1
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_a_filler_counts_nothing(build_model):
    model, examples = build_model(), _examples(2)
    figures = _loop(model).take_step([*_fed(examples), _filler()])
    assert figures.num_samples == 2
    assert figures.num_tokens == sum(len(example.token_ids) for example in examples)
    assert figures.loss == pytest.approx(float(_plain_loss(build_model(), examples, -0.5)), 1e-5)
    assert (figures.num_failures, figures.failures) == (1, ((7, "no row"),))


def test_an_evaluation_in_which_no_row_can_be_used_has_no_figures(build_model):
    assert _loop(build_model()).evaluate([_filler()]) == ({}, [(7, "no row")])


def test_rates_of_groups_follow_the_schedule():
    class _Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

        def forward(self, batch, total):
            zero = torch.zeros(())
            return {"loss": self.weight.sum() / total, "num_correct": zero, "num_targets": zero}

    module = _Half()
    optimizer = torch.optim.SGD([{"params": [module.weight], "peak_lr": 0.5}], lr=9.0)
    loop = TrainingLoop(
        Stepper(module, [optimizer], 0.0), Schedule("linear", 4), Workers(), lambda batch: 1.0
    )
    steps = [_fed(_examples(1)) for _ in range(9)]
    rates = [figures.learning_rate for figures in loop.run(steps)]
    assert rates == pytest.approx([0.5, 0.375, 0.25, 0.125])
    assert module.weight.tolist() == pytest.approx([1 - sum(rates)] * 2)
