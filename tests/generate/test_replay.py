"""Recorded steps: the answers of steps computed anew, from memory that stays where it is."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from engine_requests import RULES, draw_request, reference
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from internvl35.generate import decode_attention, engine
from internvl35.generate.engine import Engine
from internvl35.generate.engine_settings import EngineSettings
from internvl35.generate.paged_attention import Chunk, _choose_mask
from internvl35.generate.replay import AnswerRow, ReplayedSteps, choose_record, round_up
from internvl35.generate.sampling import SamplingSettings

GREEDY = SamplingSettings(max_tokens=12)


def answer_all(model, requests, **options):
    options = {"block_size": 4, "is_checked": True, "replays_steps": True, **options}
    found = Engine(model, RULES, settings=EngineSettings(**options)).generate(requests, GREEDY)
    return [list(completion.samples[0].token_ids) for completion in found]


@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe", "gpt_oss"])
def test_answers_from_the_same_memory_are_those_of_transformers(build_model, family):
    model, rng = build_model(family), Random(7)
    requests = [draw_request(rng) for _ in range(7)]
    expected = [reference(model, request, GREEDY) for request in requests]
    assert answer_all(model, requests) == expected
    assert answer_all(model, requests, max_sequences=3, max_batch_tokens=9) == expected


def test_what_is_recorded_holds_for_every_later_step(build_model, monkeypatch):
    """Operations are written down once and run again, as a CUDA graph runs them: a number that
    Python read in between would stay what it was."""
    recorded = []

    def write_down(step):
        graph = make_fx(step)()
        recorded.append(graph)
        return graph

    monkeypatch.setattr(engine, "choose_record", lambda model, is_wanted: write_down)
    monkeypatch.setattr(decode_attention, "choose_backend", lambda *_: "torch")
    monkeypatch.setattr(decode_attention, "_attend_one_by_one", decode_attention._attend_padded)
    model, rng = build_model("qwen3"), Random(8)
    requests = [draw_request(rng) for _ in range(6)]
    expected = [reference(model, request, GREEDY) for request in requests]
    assert answer_all(model, requests) == expected
    assert 1 <= len(recorded) < 10


@pytest.mark.parametrize("num_before", [0, 1, 6])
def test_what_kernels_without_a_mask_see_is_what_the_mask_shows(num_before):
    chunk = Chunk(0, 5, num_before, torch.arange(3))
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(1, 4, 5, 8, generator=generator)
    key, value = torch.randn(2, 1, 2, 5 + num_before, 8, generator=generator)
    found = [
        functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
        for mask in (
            _choose_mask(chunk, None, torch.device("cuda")),
            _choose_mask(chunk, None, torch.device("cpu")),
        )
    ]
    torch.testing.assert_close(*found)
    assert _choose_mask(chunk, 2, torch.device("cuda")).sum() < chunk.mask(None).sum()


def test_sizes_are_rounded_up_and_rows_not_in_use_write_to_spare_memory():
    seen = []

    def compute(row):
        seen.append([row.ids.clone(), row.slots.clone(), row.tables.clone(), row.lengths.clone()])
        return row.ids[:, None].float() * torch.ones(3)

    steps = ReplayedSteps(compute, torch.device("cpu"), 6, 99, lambda step: step)
    for num_rows, num_pages in ((3, 5), (1, 1), (4, 8), (6, 2)):
        row = AnswerRow(
            np.arange(num_rows) + 5, np.arange(num_rows), np.arange(num_rows) + 20,
            np.full((num_rows, num_pages), 7, np.int32), np.full(num_rows, 4, np.int32),
        )  # fmt: skip
        logits = steps.run(row)
        assert logits.tolist() == [[value] * 3 for value in row.ids]
        ids, slots, tables, lengths = seen[-1]
        spare = len(ids) - num_rows
        assert slots.tolist() == [*row.slots, *[99] * spare]
        assert lengths.tolist() == [4] * num_rows + [0] * spare
        assert bool((tables[:num_rows, :num_pages] == 7).all())
        assert not tables[num_rows:].any()
    assert steps.sizes == [(4, 8), (1, 4), (8, 4)]


@pytest.mark.parametrize(("number", "expected"), [(1, 1), (2, 2), (3, 4), (64, 64), (65, 128)])
def test_powers_of_two(number, expected):
    assert round_up(number) == expected


def test_nothing_is_recorded_on_a_processor_unless_that_is_asked_for(build_model):
    model = build_model("qwen3")
    assert choose_record(model, None) is None
    assert choose_record(model, False) is None
    assert choose_record(model, True) is not None
