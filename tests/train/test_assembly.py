"""What is put together from settings: number formats of all parts, dummy tiles, late weights."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from internvl35.data.batches import Example, collate
from internvl35.errors import ConfigError
from internvl35.train.assembly import Assembly, assemble, find_start
from internvl35.train.distributed import Workers
from internvl35.train.feed import FedBatch
from internvl35.train.loop import TrainingLoop
from internvl35.train.schedule import Schedule
from internvl35.train.settings import FinetuneSettings
from internvl35.train.sft import batch_weight

MakeSettings = Callable[..., FinetuneSettings]
FROZEN = [flags for flags in product([False, True], repeat=3) if not all(flags)]


def put_together(settings: FinetuneSettings, workers: Workers | None = None) -> Assembly:
    return assemble(find_start(settings, Workers()), settings, workers or Workers())


def make_batches(assembly: Assembly) -> list[FedBatch]:
    """A row with a tile and a row of text, in batches of their own."""
    config: Any = assembly.model.config
    generator = torch.Generator().manual_seed(1)
    texts = torch.randint(20, 500, (2, 9), generator=generator).tolist()
    texts[0][1:5] = [config.image_token_id] * 4
    pixels = torch.randn(1, 3, 56, 56, generator=generator)
    mask = [False] * 5 + [True] * 4
    examples = [Example(texts[0], mask, pixels), Example(texts[1], mask)]
    return [FedBatch(collate([example], 0)) for example in examples]


@pytest.mark.parametrize("tuner_type", ["lora", "full"])
@pytest.mark.parametrize(("vit", "aligner", "llm"), FROZEN)
def test_every_choice_of_frozen_parts_learns_in_16_bits_as_it_does_in_32(
    make_settings: MakeSettings, tmp_path: Path, tuner_type: str, vit: bool, aligner: bool,
    llm: bool,
) -> None:  # fmt: skip
    frozen = {"freeze_vit": vit, "freeze_aligner": aligner, "freeze_llm": llm}
    losses = []
    for torch_dtype in ("bfloat16", "float32"):
        settings = make_settings(
            tmp_path, tuner_type=tuner_type, torch_dtype=torch_dtype, lora_dropout=0.0, **frozen
        )
        assembly = put_together(settings)
        weights = dict(assembly.model.named_parameters())
        trained = {name for name, weight in weights.items() if weight.requires_grad}
        assert {weights[name].dtype for name in trained} == {torch.float32}
        rest = {weight.dtype for name, weight in weights.items() if name not in trained}
        assert rest <= {getattr(torch, torch_dtype)}
        loop = TrainingLoop(
            assembly.stepper, Schedule("constant", 4), Workers(),
            lambda batch: batch_weight(batch, "square"), compute_dtype=assembly.compute_dtype,
        )  # fmt: skip
        losses.append([loop.take_step(make_batches(assembly)).loss for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[1][0] != losses[1][2]


@pytest.mark.parametrize(
    ("changes", "world_size", "expected"),
    [
        ({}, 1, False),
        ({}, 2, False),  # nothing in tower and projector trains
        ({"freeze_vit": False}, 1, False),  # the language model has a gradient in any case
        ({"freeze_vit": False}, 2, True),
        ({"freeze_llm": True, "freeze_aligner": False}, 1, True),
    ],
)
def test_batches_without_pictures_run_the_tower_only_where_they_have_to(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any], world_size: int, expected: bool,
) -> None:  # fmt: skip
    spread = "internvl35.train.assembly.spread_module"
    monkeypatch.setattr(spread, lambda module, *_, **__: module)  # there is only this process
    assembly = put_together(make_settings(tmp_path, **changes), Workers(0, world_size))
    assert assembly.stepper.module.keep_dummy_tile == expected


def test_quantised_weights_are_not_sharded(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings(tmp_path, fsdp="full_shard", quant_bits=4)
    start = find_start(settings, Workers())
    with pytest.raises(ConfigError, match="quant_bits and fsdp full_shard are both given"):
        assemble(start, settings, Workers(0, 2))


@pytest.mark.parametrize(
    ("attn_impl", "expected"), [(None, None), ("sdpa", False), ("eager", False)]
)
def test_the_kernel_that_is_asked_for_holds_for_packs(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    attn_impl: str | None, expected: bool | None,
) -> None:  # fmt: skip
    asked: list[Any] = []
    monkeypatch.setattr(
        "internvl35.train.assembly.use_packed_attention",
        lambda model, *, is_half, has_flash: asked.append(has_flash),
    )
    put_together(make_settings(tmp_path, packing=True, attn_impl=attn_impl))
    assert asked == [expected]
