"""Drawing tokens: against transformers' filters and a sort of everything, in all of its ways."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from internvl35.generate import draws
from internvl35.generate.draws import draw, find_best, find_heads, sum_weights
from internvl35.generate.sampling import SamplingSettings

SETTINGS = st.builds(
    SamplingSettings,
    temperature=st.sampled_from([0.05, 0.7, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 2, 7, 40, 3000]),
    top_p=st.sampled_from([0.03, 0.5, 0.93, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
)
NUMBERS = st.floats(0, 1, exclude_max=True)


@contextmanager
def short_heads(num_tokens):
    """Put fewer tokens in order at first, so that all ways are gone that few rows would go."""
    with pytest.MonkeyPatch.context() as patch:
        if num_tokens is not None:
            patch.setattr(draws, "SMALL_HEAD", num_tokens)
            patch.setattr(draws, "LARGE_HEAD", num_tokens)
            patch.setattr(draws, "LONGEST_HEAD", 0)
            patch.setattr(draws, "SMALL_BLOCK", 4)
            patch.setattr(draws, "NUM_CLASSES", 50)
        yield


HEADS = st.sampled_from([None, 3, 1])


def filtered(scores, sampling):
    """Probabilities as transformers' filters leave them, in float64."""
    processors = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        processors.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p > 0:
        processors.append(MinPLogitsWarper(sampling.min_p))
    return processors(None, scores.double()[None])[0].softmax(-1).numpy()


def token_at(probabilities, number):
    order = np.argsort(-probabilities, kind="stable")
    sums = np.cumsum(probabilities[order])
    return order[
        min(np.searchsorted(sums, number, side="right"), np.count_nonzero(sums < sums[-1]))
    ]


def is_near_edge(scores, sampling, number):
    """Whether rounding may turn the choice: near the edge of a token, of top-p or of min-p."""
    weights = np.sort(np.exp((scores.double() - scores.max()).numpy() / sampling.temperature))[::-1]
    kept = weights[: sampling.top_k or None]
    is_near = bool(np.min(abs(np.cumsum(kept) / kept.sum() - sampling.top_p)) < 1e-5)
    is_near &= sampling.top_p < 1
    sums = np.cumsum(np.sort(filtered(scores, sampling))[::-1])
    is_near |= bool(np.min(abs(sums - number)) < 1e-5)
    return is_near or bool(np.min(abs(weights[1:] - sampling.min_p)) < 1e-6 * (sampling.min_p > 0))


def scores_of(seed, width, spread):
    """Logits of which no two are alike."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.permutation(np.linspace(0, spread, width)).astype(np.float32))


@pytest.mark.parametrize("width", [5, 1000, 17_000])
@settings(max_examples=40)
@given(data=st.data())
def test_a_number_points_at_the_token_that_transformers_filters_put_there(width, data):
    rows = data.draw(st.lists(st.tuples(SETTINGS, NUMBERS), min_size=1, max_size=6))
    seed, spread = data.draw(st.integers(0, 99)), data.draw(st.sampled_from([1.0, 30.0]))
    scores = torch.stack([scores_of(seed + row, width, spread) for row in range(len(rows))])
    sampling, numbers = zip(*rows, strict=True)
    with short_heads(data.draw(HEADS)):
        found = draw(scores, sampling, numbers)
    for token_id, row, one, number in zip(found, scores, sampling, numbers, strict=True):
        if not is_near_edge(row, one, number):
            assert token_id == token_at(filtered(row, one), number)


def test_a_share_of_what_ends_far_behind_the_likeliest_tokens_is_found():
    scores = scores_of(0, 17_000, 30.0)
    sampling = SamplingSettings(temperature=0.05, top_k=3000, top_p=0.03, min_p=0.02)
    # the likeliest token weighs 1 of 28.8, more than the share
    assert draw(scores[None], [sampling], [0.5])[0] == scores.argmax()


@given(data=st.data())
def test_bans_and_tokens_that_are_equally_likely_are_taken_in_the_order_of_their_ids(data):
    width = data.draw(st.sampled_from([20, 400]))
    number = data.draw(NUMBERS)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    scores = rng.integers(0, data.draw(st.sampled_from([1, 3])), width, endpoint=True)
    scores = torch.from_numpy(scores.astype(np.float32))
    scores[torch.from_numpy(rng.permutation(width)[: width // 2])] = -torch.inf
    top_k = data.draw(st.sampled_from([0, 3]))
    sampling = SamplingSettings(temperature=1.0, top_k=top_k)  # as likely as the third: all equal
    probabilities = filtered(scores, sampling)
    sums = np.cumsum(np.sort(probabilities)[::-1])
    if np.min(abs(sums - number)) > 1e-5:
        with short_heads(data.draw(HEADS)):
            found = draw(scores[None], [sampling], [number])[0]
        assert found == token_at(probabilities, number)


@pytest.mark.parametrize("spread", [0.5, 6.0])
def test_tokens_come_as_often_as_they_are_likely(spread):
    width, num_draws = 2000, 8000
    scores = torch.randn(width, generator=torch.Generator().manual_seed(1)) * spread
    sampling = SamplingSettings(temperature=1.3)
    expected = (scores.double() / 1.3).softmax(-1).numpy() * num_draws
    numbers = np.random.default_rng(2).random(num_draws)
    found = np.concatenate(
        [
            draw(scores.expand(1000, width), [sampling] * 1000, part)
            for part in np.split(numbers, num_draws // 1000)
        ]
    )
    counts = np.bincount(found, minlength=width)
    order = np.argsort(-expected)
    edges = np.searchsorted(np.cumsum(expected[order]), np.arange(1, 30) * num_draws / 30)
    groups = [group for group in np.split(order, np.unique(edges)) if len(group)]
    squares = [
        (counts[group].sum() - expected[group].sum()) ** 2 / expected[group].sum()
        for group in groups
    ]
    # mean len - 1 and variance twice that; five standard deviations
    assert abs(sum(squares) - len(groups)) < 5 * (2 * len(groups)) ** 0.5


@settings(max_examples=50)
@given(data=st.data())
def test_a_token_does_not_depend_on_the_rows_beside_it(data):
    width = data.draw(st.sampled_from([300, 9000]))
    rows = data.draw(st.lists(st.tuples(SETTINGS, NUMBERS), min_size=2, max_size=6))
    order = data.draw(st.permutations(range(len(rows))))
    spread = data.draw(st.sampled_from([0.2, 3.0]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    scores = torch.randn(len(rows), width, generator=generator) * spread
    alone = [draw(scores[[i]], [rows[i][0]], [rows[i][1]])[0] for i in order]
    beside = draw(scores[list(order)], *zip(*(rows[i] for i in order), strict=True))
    assert alone == list(beside)


@given(data=st.data())
def test_heads_are_the_beginning_of_a_full_sort_and_miss_no_equal_token(data):
    width = data.draw(st.sampled_from([10, 700, 5000, 17_001]))
    wanted = np.array(data.draw(st.lists(st.integers(1, 60), min_size=1, max_size=4)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    scores = np.round(rng.normal(size=(len(wanted), width)) * 20).astype(np.float32)
    heads = find_heads(torch.from_numpy(scores), wanted)
    for row, values in enumerate(scores):
        length = heads.lengths[row]
        assert length >= min(wanted[row], width)
        order = np.argsort(-values, kind="stable")
        assert heads.token_ids[row, :length].tolist() == order[:length].tolist()
        assert heads.values[row, :length].tolist() == values[order[:length]].tolist()
        assert length == width or values[order[length]] < values[order[length - 1]]
        assert heads.is_whole[row] == (length == width)


def test_a_row_of_which_little_is_allowed_is_whole_with_little():
    scores = torch.full((2, 20_000), -torch.inf)
    scores[0, [7, 19_000]] = torch.tensor([1.0, 2.0])
    scores[1] = torch.arange(20_000)
    heads = find_heads(scores, np.array([128, 128]))
    assert heads.is_whole.tolist() == [True, False]
    assert heads.token_ids[0, :2].tolist() == [19_000, 7]
    assert heads.lengths.tolist()[0] == 2
    assert heads.lengths.tolist()[1] == 128  # not the whole blocks in which they stand


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-6])
def test_a_temperature_near_zero_is_greedy(temperature):
    scores = torch.randn(3, 9000, generator=torch.Generator().manual_seed(4))
    sampling = [SamplingSettings(temperature=temperature)] * 3
    assert draw(scores, sampling, [0.0, 0.5, 0.999]).tolist() == scores.argmax(1).tolist()


@pytest.mark.parametrize("options", [{}, {"top_p": 0.7}, {"top_k": 4}, {"min_p": 0.9}])
def test_the_highest_number_below_one_is_not_past_the_end(options):
    scores = torch.zeros(1, 6000)
    scores[0, 5000:] = -torch.inf
    sampling = SamplingSettings(temperature=1.0, **options)
    last = draw(scores, [sampling], [np.nextafter(1.0, 0.0)])[0]
    assert last == (3499 if "top_p" in options else 4999)
    assert draw(scores, [sampling], [0.0])[0] == 0


def test_the_best_token_is_the_first_of_equal_ones_and_nan_is_seen():
    scores = torch.tensor([[0.0, 3.0, 3.0], [1.0, torch.nan, 9.0], [-torch.inf] * 3])
    token_ids, best = find_best(scores)
    assert token_ids[0] == 1
    np.testing.assert_equal(best, [3.0, np.nan, -np.inf])


def test_weights_sum_up_to_the_normaliser_of_a_softmax():
    scores = torch.randn(4, 3000, generator=torch.Generator().manual_seed(5))
    temperatures = np.array([0.5, 1.0, 2.0, 9.0])
    scaled = scores.double() / torch.from_numpy(temperatures)[:, None]
    expected = (scaled.logsumexp(1) - scaled.amax(1)).exp().numpy()
    found = sum_weights(scores, scores.amax(1).double().numpy(), temperatures)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
