"""What compressed tiles save on a released shape with random weights: prefill, cache, and time.

Times the language model's prefill of a prompt of twelve tiles and a thumbnail, and writing behind
it, with all visual tokens and with those of compressed tiles left out; on a GPU, or with
``--whole``, also tower, router and projectors. Writes ``results/flash_prefill.json``. Accuracy is
another matter: weights are random.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.record import write_result
from internvl35.config import PRESETS
from internvl35.model.composite import VisionLanguageModel
from internvl35.model.configuration import InternVLChatConfig, preset_config

FEWEST = 6
"""Measurements that a 95 % interval of their median needs."""

NUM_TEXT_TOKENS = 100
"""Tokens of the prompt beside the visual ones."""


@dataclass(frozen=True)
class Prompt:
    """A prompt of random words and visual tokens."""

    input_ids: Tensor
    """``(1, T)`` token ids with places."""
    image_features: Tensor
    """``(tokens, D)`` visual tokens."""


@dataclass(frozen=True)
class PrefillSettings:
    """What is measured."""

    size: str = "1B"
    """Released shape."""
    num_tiles: int = 13
    """Tiles of the prompt."""
    num_compressed: int = 9
    """Tiles among them that are compressed."""
    repeats: int = FEWEST
    """Measurements of each kind."""
    num_new_tokens: int = 16
    """Tokens that are written behind the prompt."""
    is_whole: bool = False
    """Whether tower and router are timed on a CPU too."""


def main() -> None:
    """Measure both prompts in turns, and print and keep what was found."""
    default = PrefillSettings()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default=default.size, choices=PRESETS, help="released shape")
    parser.add_argument("--tiles", type=int, default=default.num_tiles, help="tiles of the prompt")
    parser.add_argument(
        "--compressed", type=int, default=default.num_compressed, help="tiles that are compressed"
    )
    parser.add_argument(
        "--repeats", type=int, default=default.repeats, help="measurements of each kind"
    )
    parser.add_argument(
        "--new-tokens", type=int, default=default.num_new_tokens, help="tokens written behind it"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--whole", action="store_true", help="time tower and router on a CPU too")
    parser.add_argument("--no-write", action="store_true", help="keep no results file")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    content = measure_prefill(
        PrefillSettings(
            given.size, given.tiles, given.compressed, given.repeats, given.new_tokens, given.whole
        )
    )
    show(content)
    if not given.no_write:
        is_gpu = content["device"] != "cpu"
        kept = content if is_gpu else without_times(content)
        Console().print(write_result("flash_prefill", kept))


def measure_prefill(settings: PrefillSettings) -> dict[str, Any]:
    """Measure both prompts in turns.

    Args:
        settings: what is measured.

    Returns:
        What ``results/flash_prefill.json`` holds, absolute times included.
    """
    is_gpu = torch.cuda.is_available()
    model = build_model(settings.size, is_gpu=is_gpu)
    config = model.config
    num_kept = settings.num_tiles - settings.num_compressed
    counts = [
        settings.num_tiles * config.tokens_per_tile,
        num_kept * config.tokens_per_tile
        + settings.num_compressed * config.compressed_tokens_per_tile,
    ]
    prompts = [make_prompt(config, count, model.device, model.dtype) for count in counts]
    jobs: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
        "prefill": (lambda: prefill(model, prompts[0]), lambda: prefill(model, prompts[1])),
    }
    if is_gpu or settings.is_whole:
        tiles = torch.randn(settings.num_tiles, 3, 448, 448, device=model.device, dtype=model.dtype)
        chosen = torch.arange(settings.num_tiles) < settings.num_compressed
        jobs["seeing"] = (lambda: see(model, tiles, None), lambda: see(model, tiles, chosen))
    figures: dict[str, Any] = {
        name: compare(*pair, settings.repeats, is_gpu=is_gpu) for name, pair in jobs.items()
    }
    figures["writing"] = compare_writing(
        model, prompts, settings.num_new_tokens, settings.repeats, is_gpu=is_gpu
    )
    return {
        "size": settings.size,
        "device": torch.cuda.get_device_name() if is_gpu else "cpu",
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "tiles": settings.num_tiles,
        "compressed_tiles": settings.num_compressed,
        "prompt_tokens": [prompt.input_ids.shape[1] for prompt in prompts],
        "visual_token_share": round(counts[1] / counts[0], 4),
        "cache_mib": [cache_mib(model, prompt) for prompt in prompts],
        **figures,
    }


def without_times(content: dict[str, Any]) -> dict[str, Any]:
    """Take absolute times out: those of a shared CPU say nothing elsewhere, ratios do."""
    return {
        name: {key: one for key, one in value.items() if key not in _TIMES}
        if isinstance(value, dict)
        else value
        for name, value in content.items()
    }


_TIMES = ("seconds", "tokens_per_second")


def build_model(size: str, *, is_gpu: bool) -> VisionLanguageModel:
    """Build a Flash model of a released shape with random weights.

    Args:
        size: name of the shape.
        is_gpu: whether it goes there.

    Returns:
        The network in eval mode, in bfloat16.
    """
    config = preset_config(PRESETS[size])
    config.flash_mode = True
    torch.manual_seed(0)
    model = VisionLanguageModel(config)
    model.eval()
    model.to(device="cuda" if is_gpu else "cpu", dtype=torch.bfloat16)
    return model


def make_prompt(
    config: InternVLChatConfig, num_visual: int, device: torch.device, dtype: torch.dtype
) -> Prompt:
    """Put random words around random visual tokens.

    Args:
        config: of the network.
        num_visual: visual tokens.
        device: where they go.
        dtype: of the visual tokens.

    Returns:
        The prompt.
    """
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(0, config.image_token_id, (NUM_TEXT_TOKENS,), generator=generator)
    places = torch.full((num_visual,), config.image_token_id)
    half = NUM_TEXT_TOKENS // 2
    ids = torch.cat([words[:half], places, words[half:]])[None]
    features = torch.randn(num_visual, config.text_config.hidden_size, generator=generator)
    return Prompt(ids.to(device), features.to(device, dtype))


@torch.inference_mode()
def prefill(model: VisionLanguageModel, prompt: Prompt) -> Any:
    """Run the language model over a prompt; returns its output."""
    return model(input_ids=prompt.input_ids, image_features=prompt.image_features, logits_to_keep=1)


@torch.inference_mode()
def see(model: VisionLanguageModel, tiles: Tensor, is_compressed: Tensor | None) -> None:
    """Encode and project tiles, with the router where some are compressed."""
    patches = model.encode_patches(tiles)
    if is_compressed is None:
        model.project_patches(patches)
    else:
        model.score_tiles(patches)
        model.project_tiles(patches, is_compressed)


def compare(
    base: Callable[[], Any], flash: Callable[[], Any], repeats: int, *, is_gpu: bool
) -> dict[str, Any]:
    """Time two jobs in turns.

    Args:
        base: with all visual tokens.
        flash: with fewer.
        repeats: measurements of each, behind one that is not counted.
        is_gpu: wait for the GPU and count wall time instead of processor time.

    Returns:
        Median seconds, median ratio, and its 95 % interval over the turns.
    """
    jobs = (base, flash)
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(repeats + 1):
        for which in (0, 1) if number % 2 else (1, 0):  # neither always comes first
            spent = spend(jobs[which], is_gpu=is_gpu)
            if number:
                seconds[which].append(spent)
    ratios = [before / after for before, after in zip(*seconds, strict=True)]
    return {
        "seconds": [round(statistics.median(kept), 5) for kept in seconds],
        "speedup": round(statistics.median(ratios), 3),
        "interval": [round(bound, 3) for bound in median_interval(ratios)],
    }


def spend(job: Callable[[], Any], *, is_gpu: bool) -> float:
    """Run a job; return its seconds."""
    if not is_gpu:
        started = time.process_time()
        job()
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    job()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Bound the median that values were drawn from with 95 %, whatever their distribution.

    The median lies below the k-th smallest value as often as fewer than k of n fair coins fall
    heads; k is the largest for which that happens in at most 2.5 %.

    Args:
        values: at least :data:`FEWEST`; of fewer, the bounds are those of all of them.

    Returns:
        Low and high, two of the values.
    """
    size, k = len(values), 1
    while sum(math.comb(size, heads) for heads in range(k + 1)) <= 0.025 * 2**size:
        k += 1
    ordered = sorted(values)
    return ordered[k - 1], ordered[-k]


def compare_writing(
    model: VisionLanguageModel,
    prompts: Sequence[Prompt],
    num_tokens: int,
    repeats: int,
    *,
    is_gpu: bool,
) -> dict[str, Any]:
    """Time the tokens that are written behind each prompt, one by one, from its cache."""
    caches = [prefill(model, prompt).past_key_values for prompt in prompts]

    def write(which: int) -> None:
        token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
        with torch.inference_mode():
            for _ in range(num_tokens):
                model(input_ids=token, past_key_values=caches[which])
            caches[which].crop(-num_tokens)

    found = compare(lambda: write(0), lambda: write(1), repeats, is_gpu=is_gpu)
    rates = [round(num_tokens / seconds, 2) for seconds in found["seconds"]]
    return found | {"tokens_per_second": rates}


def cache_mib(model: VisionLanguageModel, prompt: Prompt) -> float:
    """Size of keys and values of a prompt in bfloat16, MiB."""
    text = model.config.text_config
    numbers: int = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim
    return float(round(2 * numbers * prompt.input_ids.shape[1] / 2**20, 1))


def show(content: dict[str, Any]) -> None:
    """Print what was measured."""
    share = f"{content['visual_token_share']:.0%} of the visual tokens"
    table = Table("", "all, s", "compressed, s", "speed-up", title=f"{content['size']}, {share}")
    for name in ("prefill", "seeing", "writing"):
        if name not in content:
            continue
        found = content[name]
        low, high = found["interval"]
        table.add_row(
            name, *(f"{one:.4g}" for one in found["seconds"]),
            f"{found['speedup']:.2f} ({low:.2f} to {high:.2f})",
        )  # fmt: skip
    Console().print(table)
    rates = [
        count / seconds
        for count, seconds in zip(
            content["prompt_tokens"], content["prefill"]["seconds"], strict=True
        )
    ]
    Console().print(f"prompt tokens/s read: {rates[0]:.1f}, compressed {rates[1]:.1f}")
    rates = content["writing"]["tokens_per_second"]
    Console().print(f"tokens/s written: {rates[0]:.1f}, compressed {rates[1]:.1f}")
    Console().print(f"cache, MiB: {content['cache_mib'][0]}, compressed {content['cache_mib'][1]}")


if __name__ == "__main__":
    main()
