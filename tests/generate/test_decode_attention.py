"""Attention of newest tokens: both ways of computing it against a softmax written out in NumPy."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl35.errors import ConfigError
from internvl35.generate import decode_attention
from internvl35.generate.decode_attention import attend_decode, choose_backend, store

BACKENDS = ["torch", "numba"]
SIZE = 16
"""Tokens a page."""
EDGES = [1, 15, 16, 17, 31, 32, 33, 50]
"""Lengths around the edges of pages."""


@pytest.fixture(autouse=True)
def _has_numba(request):
    if "numba" in getattr(getattr(request.node, "callspec", None), "params", {}).values():
        pytest.importorskip("numba")


def make_case(lengths, *, heads=4, shared=2, width=16, size=SIZE, dtype=torch.float32, seed=0):
    """Random sequences in shuffled pages; whatever belongs to nobody is no number."""
    draw = torch.Generator().manual_seed(seed)
    most = max(-(-length // size) for length in lengths) + 1
    num_pages = len(lengths) * most + 3
    order = torch.randperm(num_pages, generator=draw).to(torch.int32)
    tables = order[: len(lengths) * most].view(len(lengths), most).clone()
    cache = [torch.full((num_pages, shared, size, width), torch.nan, dtype=dtype) for _ in range(2)]
    for row, length in enumerate(lengths):
        used = -(-length // size)
        places = torch.arange(length)
        slots = tables[row, places // size].long() * size + places % size
        new = [torch.randn(length, shared, width, generator=draw).to(dtype) for _ in range(2)]
        store(*new, *cache, slots)
        tables[row, used:] = 10**6
    query = torch.randn(len(lengths), heads, width, generator=draw)
    return query, *cache, tables, torch.tensor(lengths, dtype=torch.int32)


def attend_in_numpy(query, keys, values, tables, lengths, *, scaling, window=None, sinks=None):
    """The softmax as the books have it, in float64, token by token."""
    num_rows, heads, width = query.shape
    shared, size = keys.shape[1:3]
    found = np.zeros((num_rows, heads, width))
    for row in range(num_rows):
        length = int(lengths[row])
        seen = range(0 if window is None else max(0, length - window), length)
        for head in range(heads if seen else 0):
            at = [(int(tables[row, t // size]), head * shared // heads, t % size) for t in seen]
            rows = [np.stack([one[p].double().numpy() for p in at]) for one in (keys, values)]
            logits = rows[0] @ query[row, head].double().numpy() * scaling
            extra = [] if sinks is None else [float(sinks[head])]
            weights = np.exp([*logits, *extra] - np.max([*logits, *extra]))
            found[row, head] = (weights / weights.sum())[: len(at)] @ rows[1]
    return found


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("window", [None, 1, 7, 16, 20, 1000])
@pytest.mark.parametrize("has_sinks", [False, True])
def test_numbers_are_those_of_a_softmax_written_out(backend, dtype, window, has_sinks):
    case = make_case(EDGES, dtype=dtype)
    options = {
        "scaling": 0.3,
        "window": window,
        "sinks": torch.tensor([2.0, -1.0, 0.0, 5.0]) if has_sinks else None,
    }
    found = attend_decode(*case, **options, backend=backend)
    np.testing.assert_allclose(found, attend_in_numpy(*case, **options), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("heads", "shared", "width"), [(3, 3, 64), (16, 8, 128), (7, 1, 32), (8, 1, 64), (10, 2, 80)]
)
def test_heads_that_share_keys_find_theirs(backend, heads, shared, width):
    case = make_case([5, 40], heads=heads, shared=shared, width=width)
    found = attend_decode(*case, scaling=width**-0.5, backend=backend)
    expected = attend_in_numpy(*case, scaling=width**-0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@given(
    lengths=st.lists(st.integers(0, 70), min_size=1, max_size=5).filter(any),
    size=st.sampled_from([1, 3, 8, 16, 24, 64]),
    window=st.none() | st.integers(1, 80),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_any_lengths_windows_and_pages_give_the_same_numbers(backend, lengths, size, window, seed):
    case = make_case(lengths, size=size, seed=seed, heads=2, shared=1)
    found = attend_decode(*case, scaling=0.25, window=window, backend=backend)
    expected = attend_in_numpy(*case, scaling=0.25, window=window)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_logits_neither_overflow_nor_vanish(backend):
    query, keys, values, tables, lengths = make_case([33])
    case = (query * 300, keys, values, tables, lengths)
    found = attend_decode(*case, scaling=1.0, backend=backend)
    np.testing.assert_allclose(found, attend_in_numpy(*case, scaling=1.0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_of_padding_gives_zeros_and_changes_no_other(backend):
    query, keys, values, tables, lengths = make_case([20, 9])
    alone = attend_decode(query, keys, values, tables, lengths, scaling=0.25, backend=backend)
    lengths[0] = 0
    tables[0] = -1
    found = attend_decode(query, keys, values, tables, lengths, scaling=0.25, backend=backend)
    assert found[0].eq(0).all()
    assert found[1].equal(alone[1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sequence_that_is_no_number_spoils_no_other(backend):
    query, keys, values, tables, lengths = make_case([48, 9, 17], heads=2, shared=1)
    alone = attend_decode(query, keys, values, tables, lengths, scaling=0.25, backend=backend)
    for cache in (keys, values):
        cache[tables[0, :3].long()] = torch.nan
    found = attend_decode(query, keys, values, tables, lengths, scaling=0.25, backend=backend)
    assert found[0].isnan().all()
    assert found[1:].equal(alone[1:])


@pytest.mark.parametrize("backend", BACKENDS)
def test_pages_before_the_window_may_be_given_away(backend):
    query, keys, values, tables, lengths = make_case([50])
    expected = attend_in_numpy(query, keys, values, tables, lengths, scaling=0.25, window=20)
    keys[tables[0, 0]] = torch.nan
    values[tables[0, 0]] = torch.nan
    tables[0, 0] = -1
    found = attend_decode(
        query, keys, values, tables, lengths, scaling=0.25, window=20, backend=backend
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_the_answer_has_the_dtype_of_the_query_and_float32_sums(backend, dtype):
    query, *case = make_case([50], dtype=torch.bfloat16)
    query = query.to(dtype)
    found = attend_decode(query, *case, scaling=0.25, backend=backend)
    expected = torch.from_numpy(attend_in_numpy(query, *case, scaling=0.25)).to(dtype)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=2**-8, atol=1e-5)


def test_gathering_all_at_once_gives_what_gathering_one_by_one_gives():
    query, keys, values, tables, lengths = make_case([*EDGES, 0])
    arguments = (query, keys, values, tables, lengths, 0.25)
    for window, sinks in ((None, None), (7, None), (20, torch.tensor([2.0, -1.0, 0.0, 5.0]))):
        padded = decode_attention._attend_padded(*arguments, window, sinks)
        expected = attend_in_numpy(*arguments[:5], scaling=0.25, window=window, sinks=sinks)
        np.testing.assert_allclose(padded, expected, rtol=1e-5, atol=2e-6)


def test_threads_share_the_work_and_change_nothing(monkeypatch):
    kernel = pytest.importorskip("internvl35.generate.decode_kernel")
    case = make_case([70, 3, 0, 45], heads=8, shared=4)
    expected = attend_decode(*case, scaling=0.25, backend="numba")
    monkeypatch.setattr(kernel, "_READ_PER_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert len(kernel._split(case[-1], 4, 16, 3)) == 4
    assert attend_decode(*case, scaling=0.25, backend="numba").equal(expected)


@given(
    lengths=st.lists(st.integers(0, 100), min_size=0, max_size=9),
    shared=st.integers(1, 8),
    threads=st.integers(1, 5),
)
@settings(deadline=None)
def test_every_job_belongs_to_one_thread(lengths, shared, threads):
    kernel = pytest.importorskip("internvl35.generate.decode_kernel")
    for width in (64, 10**9):
        marks = kernel._split(torch.tensor(lengths, dtype=torch.int32), shared, width, threads)
        assert (marks[0], marks[-1]) == (0, len(lengths) * shared)
        assert marks == sorted(marks)
        assert 2 <= len(marks) <= threads + 1


def test_callers_on_several_threads_do_not_disturb_each_other():
    pytest.importorskip("numba")
    cases = [make_case([60, 20], seed=seed) for seed in range(4)]
    expected = [attend_decode(*case, scaling=0.25, backend="numba") for case in cases]
    wrong = []

    def work(number):
        for _ in range(20):
            found = attend_decode(*cases[number], scaling=0.25, backend="numba")
            if not found.equal(expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_storing_writes_the_named_places_and_no_other():
    cache = [torch.zeros(3, 2, 4, 8, dtype=torch.bfloat16) for _ in range(2)]
    new = [torch.randn(3, 2, 8) for _ in range(2)]
    store(*new, *cache, torch.tensor([5, 0, 11]))
    for kept, given_ in zip(cache, new, strict=True):
        expected = torch.zeros(3, 2, 4, 8, dtype=torch.bfloat16)
        for token, (page, place) in enumerate([(1, 1), (0, 0), (2, 3)]):
            for head in range(2):
                expected[page, head, place] = given_[token, head].bfloat16()
        assert kept.equal(expected)


def test_the_fastest_backend_at_hand_is_chosen(monkeypatch):
    cpu, meta = torch.device("cpu"), torch.device("meta")
    monkeypatch.setattr(decode_attention, "has_numba", lambda: True)
    assert choose_backend(cpu, torch.bfloat16, 64) == "numba"
    assert choose_backend(cpu, torch.float16, 64) == "torch"
    assert choose_backend(meta, torch.float32, 64) == "torch"
    assert choose_backend(cpu, torch.float32, 24) == "torch"
    assert choose_backend(cpu, torch.float32, 64, "torch") == "torch"
    with pytest.raises(ConfigError, match="float16 cache on cpu"):
        choose_backend(cpu, torch.float16, 64, "numba")
    with pytest.raises(ConfigError, match="heads of width 24"):
        choose_backend(cpu, torch.float32, 24, "numba")
    monkeypatch.setattr(decode_attention, "has_numba", lambda: False)
    assert choose_backend(cpu, torch.float32, 64) == "torch"
    with pytest.raises(ConfigError, match=r"internvl35\[cpu\]"):
        choose_backend(cpu, torch.float32, 64, "numba")
