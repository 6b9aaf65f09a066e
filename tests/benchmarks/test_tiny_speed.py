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


def test_sides_are_called_in_turn_and_once_before_the_clock_starts():
    calls = []
    seconds = tiny_speed.compare({name: lambda n=name: calls.append(n) for name in "ab"}, 2)
    assert calls == ["a", "b"] * 3
    assert set(seconds) == {"a", "b"}
