"""The engine's benchmark: loads are as they say, all sides answer alike, ratios are ratios."""

from __future__ import annotations

from dataclasses import replace

import pytest
from benchmarks.engine_figures import (
    compare_answers,
    compare_memory,
    compare_throughput,
    compare_waiting,
    percentile,
)
from benchmarks.engine_load import (
    MIXED,
    ROLLOUTS,
    SHARED,
    SMALL,
    LoadSettings,
    Shape,
    draw_arrivals,
    draw_load,
)
from benchmarks.engine_sides import Job, Measured, build_side, measure

from internvl35.config import TINY_FOLDER

SHAPE = Shape(image_token_id=777, num_words=700, tokens_per_tile=16, tile_size=8, width=12)
TINY_LOAD = LoadSettings(num_requests=3, tiles=(0, 2), words=(5, 20), new_tokens=(2, 6))


@pytest.fixture(scope="module")
def sides():
    names = ("ours", "transformers_batch1", "transformers_batch8")
    built = {name: build_side(name, str(TINY_FOLDER), "float32", 1) for name in names}
    yield built
    built["ours"].engine.close()


# Loads --------------------------------------------------------------------------------------------


def test_requests_lie_in_their_ranges_and_fill_them():
    asked = draw_load(replace(MIXED, num_requests=300), SHAPE)
    tiles = [one.request.prompt.num_tiles for one in asked]
    words = [len(one.request.prompt) - 16 * count for one, count in zip(asked, tiles, strict=True)]
    lengths = [one.num_tokens for one in asked]
    assert (min(tiles), max(tiles)) == (1, 13)
    assert 20 <= min(words) < 30
    assert 490 < max(words) <= 500
    assert 16 <= min(lengths) < 25
    assert 245 < max(lengths) <= 256
    for one in asked:
        (span,) = one.request.prompt.image_spans
        ids = one.request.prompt.token_ids
        places = [place for place, token in enumerate(ids) if token == 777]
        assert places == list(range(span.start, span.start + span.num_tokens))


def test_a_seed_draws_the_same_requests_again_and_another_seed_others():
    first, again = draw_load(MIXED, SHAPE), draw_load(MIXED, SHAPE)
    assert [one.request.prompt for one in first] == [one.request.prompt for one in again]
    assert first[5].request.pixel_values.equal(again[5].request.pixel_values)
    other = draw_load(replace(MIXED, seed=1), SHAPE)
    assert first[5].request.prompt != other[5].request.prompt


def test_shared_pictures_come_from_a_shelf_behind_the_same_words():
    asked = draw_load(SHARED, SHAPE)
    pictures = {one.request.pixel_values.numpy().tobytes() for one in asked}
    assert len(pictures) <= SHARED.num_pictures
    beginnings = {one.request.prompt.token_ids[: SHARED.num_shared_words] for one in asked}
    assert len(beginnings) == 1
    assert len({one.request.prompt for one in asked}) == len(asked)


def test_rollouts_ask_for_several_answers():
    asked = draw_load(ROLLOUTS, SHAPE)
    assert len(asked) == 32
    assert {one.sampling.n for one in asked} == {8}
    assert asked[0].num_tokens == 8 * asked[0].sampling.max_tokens


def test_ready_visual_tokens_replace_tiles():
    for one in draw_load(SMALL, SHAPE):
        assert one.request.pixel_values is None
        assert one.request.image_features.shape == (16, 12)


def test_arrivals_have_the_rate_that_is_asked_for():
    assert draw_arrivals(3, None) == [0, 0, 0]
    moments = draw_arrivals(4000, 5.0)
    assert moments == sorted(moments)
    assert moments[0] == 0
    assert moments[-1] / 3999 == pytest.approx(1 / 5, rel=0.1)


# Sides --------------------------------------------------------------------------------------------


def test_all_sides_write_the_same_tokens_at_once_and_streamed(sides):
    found = [
        measure(side, Job(TINY_LOAD, rate, is_streamed)).answers
        for side in sides.values()
        for rate, is_streamed in ((None, False), (None, True), (50.0, True))
    ]
    assert all(answers == found[0] for answers in found)
    assert len({tuple(answer) for answer in found[0]}) == 3


def test_every_token_has_its_moment(sides):
    for side in sides.values():
        found = measure(side, Job(TINY_LOAD, is_streamed=True))
        assert len(found.waits) == 3
        assert len(found.gaps) == found.num_tokens - 3
        assert min(found.waits) > 0
        assert min(found.gaps) >= 0
        assert max(found.waits) < found.seconds
        assert sum(found.gaps) + sum(found.waits) <= 3 * found.seconds


def test_a_batch_of_transformers_waits_for_its_longest_answer(sides):
    found = measure(sides["transformers_batch8"], Job(TINY_LOAD, is_streamed=True))
    assert len(set(found.waits)) == 1
    assert found.num_tokens < 3 * max(map(len, found.answers))


def test_rollouts_are_answered_in_full(sides):
    load = replace(TINY_LOAD, num_samples=3)
    for side in sides.values():
        assert measure(side, Job(load)).num_tokens == 3 * sum(
            one.sampling.max_tokens for one in draw_load(load, side.shape)
        )


def test_peak_memory_is_that_of_this_job(sides):
    found = measure(sides["ours"], Job(TINY_LOAD))
    assert 100 < found.peak_memory_mib < 16_000


# Figures ------------------------------------------------------------------------------------------


def make_runs() -> dict[str, list[Measured]]:
    def run(seconds: float, worked: float, wait: float, gap: float, memory: float, last: int):
        return Measured(seconds, worked, 100, [wait], [gap], memory, [[1, last]])

    return {
        "ours": [run(2.0, 3.0, 1.0, 0.1, 50, 2), run(1.0, 2.0, 3.0, 0.3, 40, 2)],
        "vllm": [run(8.0, 3.0, 4.0, 0.1, 60, 3), run(3.0, 6.0, 6.0, 0.6, 100, 2)],
    }


def test_throughput_is_compared_load_by_load():
    found = compare_throughput(make_runs())
    assert found == {"vs_vllm_cpu": {"median": 3.5, "range": [3, 4], "by_processor_seconds": 2}}


def test_waiting_is_compared_by_percentile():
    found = compare_waiting(make_runs())["vllm_cpu_over_ours"]
    assert found["first_token"] == {"p50": 4, "p95": 2, "p99": 2}
    assert found["further_tokens"] == {"p50": 1, "p95": 2, "p99": 2}


def test_memory_is_the_highest_of_all_loads():
    assert compare_memory(make_runs()) == {"vllm_cpu_over_ours": 2}


def test_answers_are_the_same_or_not():
    assert compare_answers(make_runs(), "ours") == {"vllm_cpu": 0.5}


def test_percentiles_are_values_that_occurred():
    values = list(range(1, 101))
    assert [percentile(values, percent) for percent in (50, 95, 99, 100)] == [50, 95, 99, 100]
    assert percentile([7.0], 99) == 7
