"""What is compared when speed is measured is the same work."""

from __future__ import annotations

import torch
from transformers import InternVLForConditionalGeneration

from benchmarks import tiny_speed
from internvl35.chat import load
from internvl35.generate.sampling import SamplingSettings
from internvl35.model.hub import resolve_checkpoint


def test_both_networks_write_the_same_tokens(monkeypatch):
    monkeypatch.setattr(tiny_speed, "NUM_TOKENS", 5)
    chat = load("tiny", dtype=torch.float32)
    stock = InternVLForConditionalGeneration.from_pretrained(
        resolve_checkpoint("tiny"), dtype=torch.float32
    ).eval()
    requests = tiny_speed.make_requests(chat, 3)
    ours = tiny_speed.generate_ours(chat, requests)
    assert ours == tiny_speed.generate_stock(chat, stock, requests)
    assert [len(row) for row in ours] == [5] * 3


def test_a_cpu_gives_ratios_alone(monkeypatch):
    monkeypatch.setattr(tiny_speed, "NUM_TOKENS", 2)
    monkeypatch.setattr(tiny_speed, "SAMPLING", SamplingSettings(max_tokens=2))
    figures = tiny_speed.measure_speed(load("tiny"), "tiny", num_questions=2, repetitions=1)
    assert set(figures) == {
        "questions", "repetitions", "batch_over_single", "ours_over_transformers",
    }  # fmt: skip
    assert figures["ours_over_transformers"] > 0


def test_sides_are_timed_in_turn_after_a_call_that_does_not_count():
    calls = []
    ticks = iter([0, 1, 10, 12, 20, 23, 30, 34, 40, 45, 50, 51])
    sides = {name: lambda n=name: calls.append(n) for name in "ab"}
    seconds = tiny_speed.compare(sides, 3, lambda: next(ticks))
    assert calls == ["a", "b"] * 4
    assert seconds == {"a": 3, "b": 2}  # medians of 1, 3, 5 and of 2, 4, 1
