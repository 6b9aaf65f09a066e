"""Samples of a packed row against the same samples in rows of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from internvl35.model.composite import VisionLanguageModel
from internvl35.train.attention import (
    FLASH,
    PACKED,
    PACKED_WITH_SINKS,
    attend_packed,
    packed_keywords,
    use_packed_attention,
)
from internvl35.train.sft import recompute_activations

ModelBuilder = Callable[..., VisionLanguageModel]
LENGTHS = (12, 1, 10)
every_family = pytest.mark.parametrize("family", ["qwen3", "qwen3_moe", "gpt_oss"])


def make_ids(lengths: Sequence[int] = LENGTHS, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 290, (1, sum(lengths)), generator=generator)


def segments_of(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)


def packed_logits(
    model: VisionLanguageModel, ids: Tensor, lengths: Sequence[int] = LENGTHS
) -> Tensor:
    return model(
        input_ids=ids,
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
        use_cache=False,
        **packed_keywords(model, segments_of(lengths)),
    ).logits


def logits_alone(
    model: VisionLanguageModel, ids: Tensor, lengths: Sequence[int] = LENGTHS
) -> Tensor:
    return torch.cat(
        [model(input_ids=part, use_cache=False).logits for part in ids.split(lengths, dim=1)], dim=1
    )


def weighted_sum(logits: Tensor) -> Tensor:
    """A loss in which every logit of the first 23 positions counts differently."""
    generator = torch.Generator().manual_seed(3)
    return (logits * torch.randn(logits.shape, generator=generator)).sum()


@every_family
def test_packed_samples_get_the_logits_and_gradients_of_rows_of_their_own(
    build_model: ModelBuilder, family: str
) -> None:
    ids = make_ids()
    alone, packed = build_model(family), build_model(family)
    expected = logits_alone(alone, ids)
    chosen = use_packed_attention(packed)
    assert chosen == (PACKED_WITH_SINKS if family == "gpt_oss" else PACKED)
    found = packed_logits(packed, ids)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    weighted_sum(expected).backward()
    weighted_sum(found).backward()
    wanted = {name: weight.grad for name, weight in alone.language_model.named_parameters()}
    for name, weight in packed.language_model.named_parameters():
        assert weight.grad is not None, name
        torch.testing.assert_close(
            weight.grad, wanted[name], rtol=1e-4, atol=2e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


@every_family
def test_no_sample_sees_another(build_model: ModelBuilder, family: str) -> None:
    model = build_model(family)
    use_packed_attention(model)
    ids, changed = make_ids(), make_ids()
    changed[:, :12] = make_ids((12,), seed=9)
    embeds = [model.get_input_embeddings()(row).detach().requires_grad_() for row in (ids, changed)]
    results, gradients = [], []
    for row in embeds:
        logits = model(
            inputs_embeds=row,
            position_ids=torch.cat([torch.arange(length) for length in LENGTHS])[None],
            use_cache=False,
            **packed_keywords(model, segments_of(LENGTHS)),
        ).logits
        weighted_sum(logits[:, 12:]).backward()
        results.append(logits.detach())
        gradients.append(row.grad)
    assert not torch.allclose(results[0][:, :12], results[1][:, :12])
    torch.testing.assert_close(results[0][:, 12:], results[1][:, 12:], rtol=0, atol=1e-6)
    for gradient in gradients:
        assert gradient is not None
        assert gradient[:, :12].abs().max() == 0
        assert gradient[:, 12:].abs().amax(dim=-1).min() > 0
    first, second = gradients
    assert first is not None
    assert second is not None
    difference = (first - second)[:, 12:].abs().max()  # experts add their tokens in another order
    assert difference <= 1e-6 * first.abs().max()


@every_family
def test_recomputed_activations_keep_samples_apart_too(
    build_model: ModelBuilder, family: str
) -> None:
    gradients = []
    for is_recomputed in (False, True):
        model = build_model(family).train()
        use_packed_attention(model)
        if is_recomputed:
            recompute_activations(model)
        weighted_sum(packed_logits(model, make_ids())).backward()
        gradients.append([weight.grad for weight in model.language_model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=0, atol=1e-6)


def test_a_sliding_window_ends_at_the_sample_and_at_its_width(build_model: ModelBuilder) -> None:
    text = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    model = build_model(text=text)
    assert model.language_model.config.layer_types == ["full_attention", "sliding_attention"]
    ids = make_ids()
    with torch.no_grad():
        expected = logits_alone(model, ids)
        wide = logits_alone(build_model(), ids)
        use_packed_attention(model)
        torch.testing.assert_close(packed_logits(model, ids), expected, rtol=0, atol=1e-5)
    assert not torch.allclose(expected, wide)


@every_family
def test_padded_rows_and_generation_stay_as_they_were(
    build_model: ModelBuilder, family: str
) -> None:
    model = build_model(family)
    ids = make_ids((24,)).reshape(2, 12)
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[1, :5] = 0  # on the left, which a causal mask alone would not hide
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": 1}

    def run() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask).logits[mask.bool()]
            return logits, model.generate(input_ids=ids, attention_mask=mask, **settings)

    expected_logits, expected_ids = run()
    use_packed_attention(model)
    logits, answer = run()
    torch.testing.assert_close(logits, expected_logits, rtol=0, atol=1e-5)
    assert torch.equal(answer, expected_ids)


def test_the_tower_keeps_its_attention_and_files_say_nothing_of_it(
    tmp_path: Path, build_model: ModelBuilder
) -> None:
    model = build_model()
    use_packed_attention(model)
    assert model.vision_tower.config._attn_implementation == "sdpa"
    model.save_pretrained(tmp_path)
    assert PACKED not in (tmp_path / "config.json").read_text()
    loaded = VisionLanguageModel.from_pretrained(tmp_path)
    assert loaded.language_model.config._attn_implementation == "sdpa"


class Largest(TorchDispatchMode):
    """Notes the largest tensor that is made."""

    numel = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


@every_family
def test_nothing_as_large_as_all_pairs_of_tokens_is_made(
    build_model: ModelBuilder, family: str
) -> None:
    lengths = (8,) * 64
    model = build_model(family)
    use_packed_attention(model)
    ids = make_ids(lengths)
    with torch.no_grad(), Largest() as largest:
        model.language_model.model(
            inputs_embeds=torch.ones(*ids.shape, 64),
            position_ids=torch.arange(8).repeat(64)[None],
            use_cache=False,
            **packed_keywords(model, segments_of(lengths)),
        )
    assert largest.numel < ids.numel() ** 2


# ------------------------------------------------------------------ choice and refusals


def test_flash_attention_is_chosen_only_where_it_runs(build_model: ModelBuilder) -> None:
    model = build_model()
    assert use_packed_attention(model, is_half=True, has_flash=True) == PACKED  # not on a CPU


def test_flash_attention_is_told_where_samples_begin() -> None:
    config = SimpleNamespace(_attn_implementation=FLASH)
    model: Any = SimpleNamespace(language_model=SimpleNamespace(config=config))
    segments = segments_of(LENGTHS)
    keywords = packed_keywords(model, segments)
    assert keywords.pop("cu_seq_lens_q") is keywords.pop("cu_seq_lens_k") is segments
    assert keywords == {"max_length_q": 12, "max_length_k": 12}


def test_an_attention_that_would_mix_samples_is_refused(build_model: ModelBuilder) -> None:
    with pytest.raises(ValueError, match="attention sdpa does not keep packed samples apart"):
        packed_keywords(build_model(), segments_of(LENGTHS))


def test_samples_that_do_not_fill_the_row_are_refused() -> None:
    heads = torch.zeros(1, 2, 5, 4)
    with pytest.raises(ValueError, match="samples have 6 tokens together but the row 5"):
        attend_packed(torch.nn.Module(), heads, heads, heads, None, segment_lengths=[2, 4])
