"""Attention inside the samples of a packed row: no token sees a token of another sample.

The masks that transformers derives from restarting positions hold ``T x T`` numbers, and its
GPT-OSS does not derive any. Here every sample of a row is attended to by itself, which is exact and
costs what the samples cost. Which samples share a row is left to the data room. Paper section 2.2.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from internvl35.model.composite import VisionLanguageModel

PACKED = "internvl35_packed"
"""Attention of Qwen3 and Qwen3-MoE inside the samples of a row."""

PACKED_WITH_SINKS = "internvl35_packed_with_sinks"
"""The same for GPT-OSS, whose heads may attend to nothing."""

FLASH = "flash_attention_2"
"""transformers' own attention inside samples, for which the package flash_attn is needed."""


def use_packed_attention(
    model: VisionLanguageModel, *, is_half: bool | None = None, has_flash: bool | None = None
) -> str:
    """Let the language model take rows of several samples.

    Padded rows, generation and caches go on working. The tower is left as it is.

    Args:
        model: the network, on the device where it trains.
        is_half: whether attention is computed in 16 bits, by autocast or because the weights are;
            read off the weights if ``None``. Flash attention takes nothing else.
        has_flash: whether flash attention is installed; found out if ``None``.

    Returns:
        The attention implementation that the language model now has.
    """
    if is_half is None:
        is_half = model.input_weight.dtype in (torch.bfloat16, torch.float16)
    if has_flash is None:
        has_flash = importlib.util.find_spec("flash_attn") is not None
    if model.config.text_config.model_type == "gpt_oss":
        chosen = PACKED_WITH_SINKS
    elif has_flash and is_half and model.input_device.type == "cuda":
        chosen = FLASH
    else:
        chosen = PACKED
    AttentionInterface.register(PACKED, attend_packed)
    AttentionMaskInterface.register(PACKED, _mask_unless_packed)
    AttentionInterface.register(PACKED_WITH_SINKS, attend_packed_with_sinks)
    AttentionMaskInterface.register(PACKED_WITH_SINKS, _mask_with_sinks_unless_packed)
    model.language_model.set_attn_implementation(chosen)
    return chosen


def packed_keywords(model: VisionLanguageModel, segments: Tensor) -> dict[str, Any]:
    """Arguments by which the language model learns where samples begin and end.

    Args:
        model: the network, after :func:`use_packed_attention`.
        segments: ``(S + 1,)`` int32, where the samples of the row begin and end: 0 ... T.

    Returns:
        Keywords for the language model's forward pass; it hands them down to its attention.

    Raises:
        ValueError: if the attention in use would let samples see each other.
    """
    implementation = model.language_model.config._attn_implementation
    if implementation == FLASH:
        longest = int(segments.diff().max())
        return {
            "cu_seq_lens_q": segments, "cu_seq_lens_k": segments,
            "max_length_q": longest, "max_length_k": longest,
        }  # fmt: skip
    if implementation not in (PACKED, PACKED_WITH_SINKS):
        raise ValueError(
            f"attention {implementation} does not keep packed samples apart; call "
            "use_packed_attention first"
        )
    return {"segment_lengths": segments.diff().tolist()}


def attend_packed(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    segment_lengths: Sequence[int] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend causally inside each sample of a row.

    Args:
        module: the attention layer.
        query: ``(B, H, T, K)``, positions already turned in.
        key: ``(B, H', T, K)``, H' a divisor of H.
        value: ``(B, H', T, K)``.
        attention_mask: given for rows that are not packed; those go to transformers' sdpa.
        dropout: share of attention weights that is dropped.
        scaling: factor of the scores, ``None`` for ``K ** -0.5``.
        sliding_window: how many tokens back, itself included, a token sees; ``None`` for all.
        segment_lengths: tokens of each sample, T in all; ``None`` for one sample a row.
        **kwargs: for transformers' sdpa.

    Returns:
        ``(B, T, H, K)`` and, as of every attention without weights to show, ``None``.
    """
    if attention_mask is not None or query.shape[2] != key.shape[2]:
        output: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **kwargs
        )
        return output
    pieces = []
    for part in _parts(segment_lengths, query.shape[2]):
        band = _band(part.stop - part.start, sliding_window, query.device)
        pieces.append(
            functional.scaled_dot_product_attention(
                query[:, :, part], key[:, :, part], value[:, :, part],
                attn_mask=band, is_causal=band is None, dropout_p=dropout, scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )  # fmt: skip
    return torch.cat(pieces, dim=2).transpose(1, 2).contiguous(), None


def attend_packed_with_sinks(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    segment_lengths: Sequence[int] | None = None,
    *,
    s_aux: Tensor,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend causally inside each sample of a row, with a sink in every head.

        weights = softmax([query . key * scaling, sink]) without its last column

    Args:
        module: the attention layer.
        query: ``(B, H, T, K)``, positions already turned in.
        key: ``(B, H', T, K)``, H' a divisor of H.
        value: ``(B, H', T, K)``.
        attention_mask: ``(B, 1, T, T')`` added to scores; given for rows that are not packed.
        scaling: factor of the scores.
        dropout: share of attention weights that is dropped.
        sliding_window: how many tokens back, itself included, a token sees; ``None`` for all.
        segment_lengths: tokens of each sample, T in all; ``None`` for one sample a row.
        s_aux: ``(H,)`` score of each head's sink.

    Returns:
        ``(B, T, H, K)`` and ``None``.
    """
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    is_masked = attention_mask is not None or query.shape[2] != key.shape[2]
    parts = [slice(None)] if is_masked else _parts(segment_lengths, query.shape[2])
    pieces = []
    for part in parts:
        scores = query[:, :, part] @ key[:, :, part].transpose(2, 3) * scaling  # (B, H, L, L)
        if not is_masked:
            band = _band(scores.shape[2], sliding_window, scores.device, is_explicit=True)
            scores = scores.masked_fill(~band, torch.finfo(scores.dtype).min)
        elif attention_mask is not None:
            scores = scores + attention_mask
        sinks = s_aux.reshape(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, sinks.to(scores.dtype)], dim=-1)
        weights = (scores - scores.amax(dim=-1, keepdim=True)).softmax(dim=-1)[..., :-1]
        weights = functional.dropout(weights, p=dropout, training=module.training)
        pieces.append(weights.to(value.dtype) @ value[:, :, part])
    return torch.cat(pieces, dim=2).transpose(1, 2).contiguous(), None


def _parts(segment_lengths: Sequence[int] | None, num_tokens: int) -> list[slice]:
    """Where each sample of a row lies."""
    lengths = [num_tokens] if segment_lengths is None else segment_lengths
    if sum(lengths) != num_tokens:
        raise ValueError(f"samples have {sum(lengths)} tokens together but the row {num_tokens}")
    parts, start = [], 0
    for length in lengths:
        parts.append(slice(start, start + length))
        start += length
    return parts


def _band(
    length: int, window: int | None, device: torch.device, *, is_explicit: bool = False
) -> Any:
    """``(L, L)`` which key a query sees, or ``None`` where plain causality says it all."""
    has_window = window is not None and window < length
    if not has_window and not is_explicit:
        return None
    band = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return band.triu(1 - window) if has_window and window is not None else band


def _mask_unless_packed(
    q_length: int, kv_length: int, attention_mask: Tensor | None = None, **options: Any
) -> Any:
    """Mask of sdpa, or ``None`` where the attention itself keeps samples apart."""
    if attention_mask is None and q_length == kv_length:
        return None
    return sdpa_mask(
        q_length=q_length, kv_length=kv_length, attention_mask=attention_mask, **options
    )


def _mask_with_sinks_unless_packed(
    q_length: int, kv_length: int, attention_mask: Tensor | None = None, **options: Any
) -> Any:
    """Mask to be added to scores, or ``None`` where the attention itself keeps samples apart."""
    if attention_mask is None and q_length == kv_length:
        return None
    return eager_mask(
        q_length=q_length, kv_length=kv_length, attention_mask=attention_mask, **options
    )
