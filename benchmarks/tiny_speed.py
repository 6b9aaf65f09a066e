"""Speed of the embedded checkpoint: batches against single questions, ours against transformers.

Both comparisons run in one process in turn, so that a slow minute meets both sides, and medians
are compared. On a CPU the time that the processor spent is taken, as other programs may want it
too; absolute numbers are kept from a GPU alone.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import InternVLForConditionalGeneration

from internvl35.chat import Chat
from internvl35.conversation import Question
from internvl35.data.images import open_image
from internvl35.data.messages import Message
from internvl35.data.synthetic import draw
from internvl35.data.synthetic.asking import question_text
from internvl35.data.tiles import make_pixel_values
from internvl35.evals.drawn import AskSettings
from internvl35.generate.request import Request
from internvl35.generate.runner import generate
from internvl35.generate.sampling import SamplingSettings
from internvl35.model.hub import resolve_checkpoint

FAMILY = "counting"
"""Pictures of the comparisons."""

NUM_TOKENS = 64
"""Tokens of every answer where tokens a second are compared; ends are not heeded."""


SAMPLING = SamplingSettings(max_tokens=AskSettings.max_tokens)
"""How questions are answered where batches are compared with single ones."""


def measure_speed(
    chat: Chat, model: str, *, num_questions: int = 32, repetitions: int = 5
) -> dict[str, Any]:
    """Compare batches with single questions, and our network with transformers' own.

    Args:
        chat: the model.
        model: its name, to load it once more.
        num_questions: questions of a batch.
        repetitions: times that everything is measured.

    Returns:
        Ratios, and on a GPU absolute numbers.
    """
    is_gpu = chat.model.device.type == "cuda"
    clock = time.perf_counter if is_gpu else time.process_time
    questions = make_questions(num_questions)
    batches = compare(
        {
            "batch": lambda: chat.ask_batch(questions, SAMPLING),
            "single": lambda: [chat.ask_batch([asked], SAMPLING) for asked in questions],
        },
        repetitions,
        clock,
    )
    requests = make_requests(chat, num_questions)
    stock = InternVLForConditionalGeneration.from_pretrained(
        resolve_checkpoint(model), dtype=chat.model.dtype
    )
    stock = stock.to(chat.model.device).eval()
    networks = compare(
        {
            "ours": lambda: generate_ours(chat, requests),
            "transformers": lambda: generate_stock(chat, stock, requests),
        },
        repetitions,
        clock,
    )
    figures: dict[str, Any] = {
        "questions": num_questions,
        "repetitions": repetitions,
        "batch_over_single": round(batches["single"] / batches["batch"], 2),
        "ours_over_transformers": round(networks["transformers"] / networks["ours"], 2),
    }
    if is_gpu:
        figures["pictures_per_s"] = round(num_questions / batches["batch"], 1)
        figures["tokens_per_s"] = round(num_questions * NUM_TOKENS / networks["ours"], 1)
    return figures


def compare(
    sides: dict[str, Callable[[], Any]], repetitions: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Time several things in turn.

    Args:
        sides: what to call; each is called once before the clock starts.
        repetitions: times that each is timed.
        clock: tells the seconds.

    Returns:
        Median seconds of each.
    """
    for call in sides.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repetitions):
        for name, call in sides.items():
            started = clock()
            call()
            seconds[name].append(clock() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def make_questions(num_questions: int) -> list[Question]:
    """Draw the first test pictures of a family.

    Args:
        num_questions: how many.

    Returns:
        The first question of each, with its pictures.
    """
    drawings = [draw(FAMILY, "test", index) for index in range(num_questions)]
    return [
        Question(question_text(drawing, drawing.turns[0], is_first=True), drawing.images)
        for drawing in drawings
    ]


def make_requests(chat: Chat, num_questions: int) -> list[Request]:
    """Turn the first test pictures of a family into prompts.

    Args:
        chat: knows the prompts and tiles of the checkpoint.
        num_questions: how many.

    Returns:
        Prompts with pixel values.
    """
    requests: list[Request] = []
    for asked in make_questions(num_questions):
        tiles = [make_pixel_values(open_image(image), chat.tiles) for image in asked.images]
        prompt = chat.builder.build([Message("user", asked.text)], [len(part) for part in tiles])
        requests.append(Request(prompt, torch.cat(tiles)))
    return requests


def generate_ours(chat: Chat, requests: list[Request]) -> list[list[int]]:
    """Let our network write answers of a fixed length.

    Args:
        chat: the model.
        requests: a batch.

    Returns:
        Token ids.
    """
    options = {"max_new_tokens": NUM_TOKENS, "min_new_tokens": NUM_TOKENS, "do_sample": False}
    return generate(chat.model, requests, options, chat.rules)


def generate_stock(
    chat: Chat, stock: InternVLForConditionalGeneration, requests: list[Request]
) -> list[list[int]]:
    """Let transformers' own network write answers of the same length to the same prompts.

    Args:
        chat: knows padding and tokens that no answer may hold.
        stock: the same weights.
        requests: a batch.

    Returns:
        Token ids.
    """
    longest = max(len(request.prompt) for request in requests)
    input_ids = torch.full((len(requests), longest), chat.rules.pad_token_id)
    mask = torch.zeros_like(input_ids)
    for row, request in enumerate(requests):
        start = longest - len(request.prompt)
        input_ids[row, start:] = torch.tensor(request.prompt.token_ids)
        mask[row, start:] = 1
    tiles = [request.pixel_values for request in requests if request.pixel_values is not None]
    with torch.inference_mode():
        output = stock.generate(
            input_ids=input_ids.to(stock.device),
            attention_mask=mask.to(stock.device),
            pixel_values=torch.cat(tiles).to(stock.device, stock.dtype),
            max_new_tokens=NUM_TOKENS,
            min_new_tokens=NUM_TOKENS,
            do_sample=False,
            eos_token_id=list(chat.rules.end_token_ids),
            pad_token_id=chat.rules.pad_token_id,
            suppress_tokens=list(chat.rules.banned_token_ids),
        )
    rows: list[list[int]] = output[:, longest:].tolist()
    return rows
