"""The supervised loss against hand-computed numbers and against plain cross-entropy."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from internvl35.data.batches import (
    IGNORED,
    Example,
    TrainingBatch,
    collate,
    collate_packed,
)
from internvl35.model.composite import VisionLanguageModel
from internvl35.train.adapters import add_adapters
from internvl35.train.attention import use_packed_attention
from internvl35.train.settings import AdapterSettings, Averaging, FreezeSettings
from internvl35.train.sft import (
    Trainee,
    batch_weight,
    recompute_activations,
    sft_loss,
    token_weights,
)
from internvl35.train.trainable import freeze_parts

ModelBuilder = Callable[..., VisionLanguageModel]
AVERAGINGS: tuple[Averaging, ...] = get_args(Averaging)
every_family = pytest.mark.parametrize("family", ["qwen3", "qwen3_moe", "gpt_oss"])
every_averaging = pytest.mark.parametrize("averaging", AVERAGINGS)


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


# ------------------------------------------------------------------ the network with its loss


def make_example(length: int, num_targets: int, num_tiles: int = 0, seed: int = 0) -> Example:
    """An example whose last tokens carry loss; each of its tiles takes 4 tokens."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(1, 290, (length,), generator=generator).tolist()
    words[2 : 2 + 4 * num_tiles] = [300] * (4 * num_tiles)
    return Example(
        token_ids=words,
        loss_mask=[False] * (length - num_targets) + [True] * num_targets,
        pixel_values=torch.randn(num_tiles, 3, 56, 56, generator=generator) if num_tiles else None,
    )


def make_examples() -> list[Example]:
    return [
        make_example(14, 5, num_tiles=1, seed=1),
        make_example(9, 1, seed=2),
        make_example(20, 8, num_tiles=2, seed=3),
        make_example(6, 0, seed=4),
    ]


def plain_sums(
    model: VisionLanguageModel, examples: Sequence[Example], averaging: Averaging
) -> tuple[Tensor, float, int]:
    """Weighted losses, weights and right tokens: one example at a time, one token at a time."""
    power = {"token": 0.0, "sample": -1.0, "square": -0.5}[averaging]
    total, weights, num_correct = torch.zeros(()), 0.0, 0
    for example in examples:
        num_targets = sum(example.loss_mask)
        logits = model(
            input_ids=torch.tensor([example.token_ids]), pixel_values=example.pixel_values
        ).logits[0]
        chances = logits.float().log_softmax(dim=-1)
        for place, has_loss in enumerate(example.loss_mask):
            if has_loss:
                weight = num_targets**power
                token = example.token_ids[place]
                total = total - weight * chances[place - 1, token]
                weights += weight
                num_correct += int(logits[place - 1].argmax()) == token
    return total, weights, num_correct


def gradients_of(loss: Tensor, model: VisionLanguageModel) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {
        name: weight.grad.clone()
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = max(float(gradient.abs().max()), 1e-3)
        assert float((found[name] - gradient).abs().max()) <= 1e-5 * scale, name


def batches_of(is_packed: bool) -> TrainingBatch:
    return collate_packed(make_examples()) if is_packed else collate(make_examples(), 0)


@pytest.mark.parametrize("is_packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize(
    ("family", "averaging"),
    [
        *(("qwen3", averaging) for averaging in AVERAGINGS),
        ("qwen3_moe", "square"),
        ("gpt_oss", "square"),
    ],
)
def test_loss_and_gradients_are_those_of_a_plain_computation(
    build_model: ModelBuilder, family: str, averaging: Averaging, is_packed: bool
) -> None:
    model = build_model(family)
    total, weights, num_correct = plain_sums(model, make_examples(), averaging)
    expected = gradients_of(total / weights, model)
    if is_packed:
        use_packed_attention(model)
    batch = batches_of(is_packed)
    assert batch_weight(batch, averaging) == pytest.approx(weights, rel=1e-6)
    trainee = Trainee(model, averaging=averaging, ce_chunk_size=4)
    output = trainee(batch, torch.tensor(weights))
    assert output["loss"].dtype == torch.float32
    assert float(output["loss"].detach()) == pytest.approx(
        float(total.detach()) / weights, abs=1e-5
    )
    assert int(output["num_targets"]) == 14
    assert int(output["num_correct"]) == num_correct
    assert_same_gradients(gradients_of(output["loss"], model), expected)


@pytest.mark.parametrize(
    ("averaging", "expected"),
    [("token", 14.0), ("sample", 3.0), ("square", 5**0.5 + 1 + 8**0.5)],
)
@pytest.mark.parametrize("is_packed", [False, True], ids=["padded", "packed"])
def test_the_weight_of_a_batch_counts_tokens_samples_or_roots(
    averaging: Averaging, expected: float, is_packed: bool
) -> None:
    assert batch_weight(batches_of(is_packed), averaging) == pytest.approx(expected)


@given(
    st.lists(st.lists(st.booleans(), min_size=1, max_size=9), min_size=1, max_size=8),
    st.sampled_from(AVERAGINGS),
)
def test_packing_never_changes_the_weight_of_samples(
    masks: list[list[bool]], averaging: Averaging
) -> None:
    examples = [Example([1] * len(mask), mask) for mask in masks]
    padded, packed = collate(examples, 0), collate_packed(examples)
    assert batch_weight(packed, averaging) == pytest.approx(batch_weight(padded, averaging))


@every_averaging
def test_the_last_token_of_a_packed_sample_does_not_predict_the_next_sample(
    averaging: Averaging,
) -> None:
    packed = collate_packed(
        [Example([1, 2, 3], [False, True, True]), Example([4, 5], [True, True])]
    )
    expected = batch_weight(packed, averaging)
    labelled = dataclasses.replace(packed, labels=packed.input_ids.clone())
    assert batch_weight(labelled, averaging) == pytest.approx(expected)


@pytest.mark.parametrize("is_packed", [False, True], ids=["padded", "packed"])
def test_losses_of_parts_of_a_batch_add_up(build_model: ModelBuilder, is_packed: bool) -> None:
    model = build_model()
    make = collate_packed if is_packed else lambda examples: collate(examples, 0)
    if is_packed:
        use_packed_attention(model)
    trainee = Trainee(model)
    examples = make_examples()
    total = batch_weight(make(examples), "square")
    whole = trainee(make(examples), torch.tensor(total))["loss"]
    parts = [trainee(make(part), total)["loss"] for part in (examples[:1], examples[1:])]
    assert float(sum(parts).detach()) == pytest.approx(float(whole.detach()), abs=1e-6)  # type: ignore[union-attr]


def test_samples_without_targets_cost_nothing_and_still_reach_every_weight(
    build_model: ModelBuilder,
) -> None:
    model = build_model()
    batch = collate([make_example(8, 0, num_tiles=1)], 0)
    output = Trainee(model)(batch, torch.tensor(1.0))
    assert float(output["loss"].detach()) == 0.0
    gradients = gradients_of(output["loss"], model)
    assert gradients.keys() == dict(model.named_parameters()).keys()
    assert all(not gradient.any() for gradient in gradients.values())


def test_a_tied_head_gets_the_gradients_of_embedding_and_head(build_model: ModelBuilder) -> None:
    model = build_model(is_tied=True)
    total, weights, _ = plain_sums(model, make_examples(), "square")
    expected = gradients_of(total / weights, model)
    output = Trainee(model)(batches_of(is_packed=False), weights)
    assert_same_gradients(gradients_of(output["loss"], model), expected)


def test_16_bit_computation_stays_close(build_model: ModelBuilder) -> None:
    model = build_model()
    use_packed_attention(model)
    trainee, batch = Trainee(model), batches_of(is_packed=True)
    expected = trainee(batch, 1.0)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        found = trainee(batch, 1.0)["loss"]
    assert found.dtype == torch.float32
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=0.02)
    assert all(g.dtype == torch.float32 for g in gradients_of(found, model).values())


def test_evaluation_gives_the_same_figures_without_a_graph(build_model: ModelBuilder) -> None:
    trainee, batch = Trainee(build_model()), batches_of(is_packed=False)
    expected = trainee(batch, 1.0)
    with torch.no_grad():
        found = trainee(batch, 1.0)
    assert not found["loss"].requires_grad
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value.detach())


# ------------------------------------------------------------------ frozen parts and adapters


def graphs_of(model: VisionLanguageModel, batch: TrainingBatch) -> list[bool]:
    """Whether outputs of tower and projector keep a graph for the backward pass."""
    kept: list[bool] = []
    handles = [
        part.register_forward_hook(lambda *args: kept.append(_first(args[2]).requires_grad))
        for part in (model.vision_tower.encoder.layer[0], model.multi_modal_projector)
    ]
    Trainee(model)(batch, 1.0)["loss"].backward()
    for handle in handles:
        handle.remove()
    return kept


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.parametrize(
    ("freeze", "expected"),
    [
        (FreezeSettings(), [False, False]),
        (FreezeSettings(freeze_aligner=False), [False, True]),
        (FreezeSettings(freeze_vit=False), [True, True]),
        (FreezeSettings(freeze_vit=False, freeze_llm=True), [True, True]),
    ],
)
def test_parts_in_which_nothing_trains_keep_no_graph(
    build_model: ModelBuilder, freeze: FreezeSettings, expected: list[bool]
) -> None:
    batch = batches_of(is_packed=False)
    model = build_model()
    freeze_parts(model, freeze)
    assert graphs_of(model, batch) == expected
    adapted = add_adapters(build_model(), AdapterSettings(), freeze)
    assert graphs_of(adapted, batch) == [expected[0], expected[0] or not freeze.freeze_aligner]


@every_family
def test_adapters_get_the_gradients_of_a_plain_computation(
    build_model: ModelBuilder, family: str
) -> None:
    settings = AdapterSettings(lora_dropout=0.0, init_weights="gaussian")
    model = add_adapters(build_model(family), settings, FreezeSettings(freeze_vit=False))
    total, weights, _ = plain_sums(model, make_examples(), "square")
    expected = gradients_of(total / weights, model)
    assert expected
    assert all("lora_" in name for name in expected)
    use_packed_attention(model)
    output = Trainee(model)(batches_of(is_packed=True), weights)
    assert_same_gradients(gradients_of(output["loss"], model), expected)


def test_recomputed_activations_give_adapters_over_frozen_embeddings_their_gradients(
    build_model: ModelBuilder,
) -> None:
    gradients, counts = [], []
    for is_recomputed in (False, True):
        calls: list[int] = []
        torch.manual_seed(0)
        settings = AdapterSettings(lora_dropout=0.0, init_weights="gaussian")
        model = add_adapters(build_model(), settings, FreezeSettings()).train()
        use_packed_attention(model)
        if is_recomputed:
            recompute_activations(model)
        layer = model.language_model.model.layers[0].mlp
        layer.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        output = Trainee(model)(batches_of(is_packed=True), 1.0)
        gradients.append(gradients_of(output["loss"], model))
        counts.append(len(calls))
    assert counts == [1, 2]
    plain, recomputed = gradients
    assert any("layers.0" in name and gradient.any() for name, gradient in plain.items())
    assert_same_gradients(recomputed, plain)


def test_a_head_that_trains_beside_adapters_gets_its_gradient(build_model: ModelBuilder) -> None:
    settings = AdapterSettings(lora_dropout=0.0, modules_to_save=("lm_head",))
    model = add_adapters(build_model(), settings, FreezeSettings())
    total, weights, _ = plain_sums(model, make_examples(), "square")
    expected = gradients_of(total / weights, model)
    assert any("lm_head.modules_to_save" in name for name in expected)
    output = Trainee(model)(batches_of(is_packed=False), weights)
    assert_same_gradients(gradients_of(output["loss"], model), expected)


# ------------------------------------------------------------------ the dummy tile


def test_a_dummy_tile_reaches_tower_and_projector_and_changes_no_number(
    build_model: ModelBuilder,
) -> None:
    model = build_model()
    batch = collate([make_example(12, 4), make_example(9, 2, seed=5)], 0)
    plain, dummy = Trainee(model), Trainee(model, keep_dummy_tile=True)
    expected, found = plain(batch, 2.0)["loss"], dummy(batch, 2.0)["loss"]
    assert float(found.detach()) == float(expected.detach())
    without, with_tile = gradients_of(expected, model), gradients_of(found, model)
    reached = {name for name in with_tile if not name.startswith("language_model.")}
    assert reached == {
        name for name, _ in model.named_parameters() if not name.startswith("language_model.")
    }
    assert all(not with_tile[name].any() for name in reached)
    assert_same_gradients({n: g for n, g in with_tile.items() if n not in reached}, without)


def test_parts_run_in_the_same_order_with_and_without_pictures(build_model: ModelBuilder) -> None:
    model = build_model()
    order: list[str] = []
    for name, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_pre_hook(lambda *_, name=name: order.append(name))
    trainee = Trainee(model, keep_dummy_tile=True)
    orders = []
    for batch in (batches_of(is_packed=False), collate([make_example(12, 4)], 0)):
        order.clear()
        trainee(batch, 1.0)
        orders.append(list(order))
    assert orders[0] == orders[1]  # else processes that gather weights wait for each other


def test_a_batch_with_pictures_gets_no_dummy_tile(build_model: ModelBuilder) -> None:
    model = build_model()
    sizes: list[int] = []
    model.vision_tower.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    Trainee(model, keep_dummy_tile=True)(batches_of(is_packed=False), 1.0)
    assert sizes == [3]
