"""Names of the 61 tensors that a released Flash checkpoint holds on top, spelt out."""

from __future__ import annotations

from collections.abc import Iterator


def _names() -> Iterator[str]:
    for part in (0, 1, 4, 7):
        yield from (f"mlp2.{part}.weight", f"mlp2.{part}.bias")
    yield "pooling_before_gating.query_token"
    for step in (1, 2, 3, 4):
        attention, norm = f"pooling_before_gating.attn{step}", f"pooling_before_gating.norm{step}"
        yield from (f"{attention}.in_proj_weight", f"{attention}.in_proj_bias")
        yield from (f"{attention}.out_proj.weight", f"{attention}.out_proj.bias")
        yield from (f"{norm}.weight", f"{norm}.bias")
        for part in (0, 3, 5):
            yield from (f"gating.block{step}.{part}.weight", f"gating.block{step}.{part}.bias")
    for part in (0, 1):
        yield from (f"gating.gate.{part}.weight", f"gating.gate.{part}.bias")


FLASH_NAMES: frozenset[str] = frozenset(_names())
"""In the remote-code layout."""


def _hf_names() -> Iterator[str]:
    kinds = ("weight", "bias")
    for part in ("norm", "dense1", "dense2", "dense3"):
        yield from (f"mlp2.{part}.{kind}" for kind in kinds)
    yield "pooling_before_gating.query_token"
    for step in (1, 2, 3, 4):
        for part in ("query", "key", "value", "out_proj"):
            yield from (f"pooling_before_gating.attn{step}.{part}.{kind}" for kind in kinds)
        yield from (f"pooling_before_gating.norm{step}.{kind}" for kind in kinds)
        for part in ("dense_in", "dense_out", "norm"):
            yield from (f"gating.block{step}.{part}.{kind}" for kind in kinds)
    for part in ("gate_norm", "gate_proj"):
        yield from (f"gating.{part}.{kind}" for kind in kinds)


FLASH_HF_NAMES: frozenset[str] = frozenset(_hf_names())
"""In the layout of the open request to transformers, without the prefix of run time."""
