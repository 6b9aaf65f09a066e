"""Choosing tokens: each row by its own settings, whatever stands beside it."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from internvl35.errors import ConfigError
from internvl35.generate.sampler import Sampler, SamplingRow, find_logprobs
from internvl35.generate.sampling import SamplingSettings

WIDTH = 320
END, BANNED = 1, 5
PROMPT = (7, 9, 9, 300)


def row_of(prompt=PROMPT, *, sample=0, grammar=None, **options):
    return SamplingRow(
        SamplingSettings(**options), prompt, sample=sample, end_token_ids=(END,),
        banned_token_ids=(BANNED,), grammar=grammar,
    )  # fmt: skip


def logits_of(num_rows, seed=0, spread=3.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(num_rows, WIDTH, generator=generator) * spread).to(dtype)


def write(rows, num_steps, seed=0):
    """Let rows go on together; logits depend on the step and on what a row holds, not on its place.

    Returns the tokens of each row.
    """
    sampler, answers = Sampler(WIDTH), [[] for _ in rows]
    for step in range(num_steps):
        logits = [logits_of(1, seed + 100 * step + sum(answer) % 97) for answer in answers]
        for row, answer, choice in zip(
            rows, answers, sampler.choose(torch.cat(logits), rows), strict=True
        ):
            row.accept(choice.token_id)
            answer.append(choice.token_id)
    return answers


class Words:
    """A grammar that allows the tokens of a list one after the other."""

    def __init__(self, *steps, fault=None):
        self.steps = list(steps)
        self.fault = fault

    def allowed(self):
        mask = torch.zeros(WIDTH, dtype=torch.bool)
        mask[list(self.steps[0])] = True
        return mask

    def accept(self, token_id):
        assert token_id in self.steps.pop(0)


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0.0, 0.8, 2.0]),
        "top_k": st.sampled_from([1, 9]),
        "top_p": st.sampled_from([0.4, 0.95]),
        "min_p": st.just(0.1),
        "repetition_penalty": st.sampled_from([0.7, 1.3]),
        "presence_penalty": st.just(1.5),
        "frequency_penalty": st.just(-0.5),
        "logit_bias": st.just(((3, 2.5), (9, -100.0))),
        "banned_token_ids": st.just((11, 12)),
        "min_tokens": st.just(3),
        "num_logprobs": st.integers(0, 4),
    },
)


@settings(max_examples=25)
@given(data=st.data())
def test_an_answer_does_not_depend_on_the_answers_beside_it(data):
    wanted = data.draw(st.lists(OPTIONS, min_size=2, max_size=5))
    order = data.draw(st.permutations(range(len(wanted))))

    def row(index):
        return row_of(PROMPT[: index + 1], seed=index, sample=index, **wanted[index])

    alone = [write([row(index)], 5)[0] for index in range(len(wanted))]
    beside = write([row(index) for index in order], 5)
    assert beside == [alone[index] for index in order]


@settings(max_examples=40)
@given(data=st.data())
def test_penalties_bias_bans_and_filters_are_those_of_transformers(data):
    """Greedy tokens, and those that the row's own random number points at."""
    penalty = data.draw(st.sampled_from([0.5, 1.2, 3.0]))
    bias = data.draw(st.dictionaries(st.integers(0, WIDTH - 1), st.floats(-9, 9), max_size=4))
    banned = data.draw(st.lists(st.integers(0, WIDTH - 1), min_size=1, max_size=30, unique=True))
    temperature = data.draw(st.sampled_from([0.0, 0.9]))
    logits = logits_of(1, data.draw(st.integers(0, 999)))
    answer = data.draw(st.lists(st.integers(0, WIDTH - 1), max_size=6))
    row = row_of(
        repetition_penalty=penalty, logit_bias=tuple(bias.items()), min_tokens=4,
        banned_token_ids=tuple(banned), temperature=temperature, top_k=50, top_p=0.9, seed=8,
    )  # fmt: skip
    for token_id in answer:
        row.accept(token_id)
    choice = Sampler(WIDTH).choose(logits, [row])[0]

    ids = torch.tensor([[*PROMPT, *answer]])
    processors = [
        RepetitionPenaltyLogitsProcessor(penalty),
        MinNewTokensLengthLogitsProcessor(len(PROMPT), 4, [END]),
        SuppressTokensLogitsProcessor([*banned, BANNED]),
    ]
    if bias:
        biases = {(token_id,): float(value) for token_id, value in bias.items()}
        processors.insert(0, SequenceBiasLogitsProcessor(biases))
    if temperature:
        processors += [TemperatureLogitsWarper(0.9), TopKLogitsWarper(50), TopPLogitsWarper(0.9)]
    expected = logits.clone()
    for process in processors:
        expected = process(ids, expected)
    if not temperature:
        assert choice.token_id == expected.argmax()
        return
    order = expected[0].argsort(descending=True, stable=True)
    sums = expected[0, order].double().softmax(0).cumsum(0)
    number = Random("8/0").random()
    if (sums - number).abs().min() > 1e-6:
        assert choice.token_id == order[torch.searchsorted(sums, number, right=True)]


def test_presence_and_frequency_count_the_answer_and_not_the_prompt():
    logits = torch.zeros(1, WIDTH)
    logits[0, [300, 20, 21, 22]] = torch.tensor([4.0, 3.9, 3.8, 3.7])
    row = row_of((300,) * 50, presence_penalty=0.25, frequency_penalty=0.5)
    chosen = []
    for _ in range(8):
        chosen.append(Sampler(WIDTH).choose(logits, [row])[0].token_id)
        row.accept(chosen[-1])
    # off each: 0.25 once and 0.5 a time; 300: 4, 3.25, 2.75 ... 20: 3.9, 3.15, 2.65 ... and so on
    assert chosen == [300, 20, 21, 22, 300, 20, 21, 22]
    row = row_of((), presence_penalty=0.25)
    chosen = []
    for _ in range(6):
        chosen.append(Sampler(WIDTH).choose(logits, [row])[0].token_id)
        row.accept(chosen[-1])
    assert chosen == [300, 20, 21, 300, 300, 300]  # 3.75 beside 3.7


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_greedy_rows_take_the_first_of_the_highest_logits_in_float32(dtype):
    logits = logits_of(9, dtype=dtype)
    logits[:, [17, 30]] = 50.0
    kept = logits.clone()
    choices = Sampler(WIDTH).choose(logits, [row_of() for _ in range(9)])
    assert [choice.token_id for choice in choices] == [17] * 9
    assert torch.equal(logits, kept)


def test_numbers_come_from_the_seed_and_the_sample_alone():
    def answers(seed, sample):
        return write([row_of(temperature=1.0, seed=seed, sample=sample)], 12)[0]

    assert answers(4, 0) == answers(4, 0)
    assert len({tuple(answers(seed, sample)) for seed in (4, 5) for sample in (0, 1)}) == 4
    assert answers(None, 0) != answers(None, 0)
    generator = Random("4/1")
    row = row_of(temperature=1.0, seed=4, sample=1)
    for number in [generator.random() for _ in range(3)]:
        assert row.next_number() == row.next_number() == number
        row.accept(5)


def test_tokens_of_many_seeds_come_as_often_as_they_are_likely():
    num_rows = 4000
    logits = torch.zeros(num_rows, WIDTH)
    logits[:, :4] = torch.tensor([9.0, 8.5, 8.0, 7.0])
    rows = [row_of(temperature=0.5, top_k=4, seed=seed) for seed in range(num_rows)]
    found = [choice.token_id for choice in Sampler(WIDTH).choose(logits, rows)]
    counts = np.bincount(found, minlength=WIDTH)[:4]
    expected = (logits[0, :4].double() / 0.5).softmax(0).numpy() * num_rows
    assert sum((counts - expected) ** 2 / expected) < 16.3  # 3 degrees of freedom: one in 1000
    assert counts.sum() == num_rows


def test_nothing_ends_an_answer_before_its_fewest_tokens():
    logits = torch.zeros(1, WIDTH)
    logits[0, [END, 33, 50]] = torch.tensor([9.0, 8.0, 7.0])
    row = row_of(min_tokens=2, stop_token_ids=(33,))
    chosen = []
    for _ in range(4):
        chosen.append(Sampler(WIDTH).choose(logits, [row])[0].token_id)
        row.accept(chosen[-1])
    assert chosen == [50, 50, END, END]


def test_an_end_that_is_ignored_is_a_token_like_others():
    logits = torch.zeros(1, WIDTH)
    logits[0, [END, 33]] = torch.tensor([9.0, 8.0])
    row = row_of(min_tokens=2, ignore_end=True)
    assert Sampler(WIDTH).choose(logits, [row])[0].token_id == END


def test_a_grammar_decides_what_may_come_next():
    logits = logits_of(2, spread=1.0)
    logits[:, 60] = 50.0
    grammars = [Words([20, 21], [END]), Words([22, BANNED], [23])]
    rows = [row_of(grammar=grammars[0], min_tokens=9), row_of(grammar=grammars[1]), row_of()]
    logits = torch.cat([logits, logits[:1]])
    for expected in ([{20, 21}, {22}, {60}], [{END}, {23}, {60}]):
        # an end that comes early is better than no token at all
        choices = Sampler(WIDTH).choose(logits, rows)
        for row, choice, allowed in zip(rows, choices, expected, strict=True):
            assert choice.token_id in allowed
            row.accept(choice.token_id)


def test_an_end_that_a_grammar_allows_waits_for_the_fewest_tokens():
    logits = torch.zeros(1, WIDTH)
    logits[0, END] = 9.0
    row = row_of(grammar=Words([END, 40], [END, 41]), min_tokens=1)
    assert Sampler(WIDTH).choose(logits, [row])[0].token_id == 40
    row.accept(40)
    assert Sampler(WIDTH).choose(logits, [row])[0].token_id == END


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_of_which_nothing_is_left_or_finite_fails_alone(temperature):
    logits = logits_of(4)
    logits[0, 77] = torch.nan
    logits[2, 5] = torch.inf
    logits[2, BANNED] = 0.0
    logits[2, 78] = torch.inf
    nothing = row_of(grammar=Words([BANNED]), temperature=temperature, num_logprobs=1)
    options = {"temperature": temperature, "seed": 3, "num_logprobs": 1}
    rows = [row_of(**options), row_of(**options), row_of(**options), nothing]
    choices = Sampler(WIDTH).choose(logits, rows)
    assert [choice.token_id == -1 for choice in choices] == [True, False, True, True]
    assert "not finite" in choices[0].error
    assert "not finite" in choices[2].error
    assert "no token is left" in choices[3].error
    alone = Sampler(WIDTH).choose(logits[1:2], [row_of(**options)])
    assert alone == choices[1:2]


def test_a_grammar_that_cannot_go_on_says_why_in_its_own_words():
    row = row_of(grammar=Words([], fault="too deep"))
    choices = Sampler(WIDTH).choose(logits_of(2), [row, row_of()])
    assert [choice.error for choice in choices] == ["too deep", None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logprobs_are_those_of_the_raw_logits(dtype):
    logits = logits_of(3, dtype=dtype)
    expected = logits.float().log_softmax(-1)
    rows = [
        row_of(temperature=0.3, repetition_penalty=2.0, num_logprobs=3, seed=1),
        row_of(),
        row_of(num_logprobs=0, banned_token_ids=tuple(logits[2].topk(3).indices.tolist())),
    ]
    choices = Sampler(WIDTH).choose(logits, rows)
    assert (choices[1].logprob, choices[1].top) == (None, ())
    assert choices[2].top == ()
    for index in (0, 2):
        logprob = expected[index, choices[index].token_id]
        assert choices[index].logprob == pytest.approx(float(logprob), abs=1e-5)
    values = expected[0].sort(descending=True, stable=True)
    assert [token_id for token_id, _ in choices[0].top] == values.indices[:3].tolist()
    assert [logprob for _, logprob in choices[0].top] == pytest.approx(
        values.values[:3].tolist(), abs=1e-5
    )


def test_logprobs_of_given_tokens_name_equally_likely_ones_in_order():
    logits = torch.zeros(2, 20_000)
    logits[1, [19_000, 300]] = 5.0
    found = find_logprobs(logits, [7, 300], [3, 2])
    assert found[0].logprob == pytest.approx(-np.log(20_000))
    assert [token_id for token_id, _ in found[0].top] == [0, 1, 2]
    assert [token_id for token_id, _ in found[1].top] == [300, 19_000]
    total = np.log(2 * np.exp(5.0) + 19_998)
    assert [logprob for _, logprob in found[1].top] == pytest.approx([5 - total] * 2)
    assert (found[1].token_id, found[1].logprob) == (300, pytest.approx(5 - total))


@pytest.mark.parametrize(
    "options",
    [
        {"stop_token_ids": (WIDTH,)},
        {"logit_bias": ((-1, 1.0),)},
        {"banned_token_ids": (3, 999)},
    ],
)
def test_tokens_that_the_network_does_not_have_are_refused_by_name(options):
    (name,) = options
    with pytest.raises(ConfigError, match=f"{name} holds token .*needed: 0 to {WIDTH - 1}"):
        Sampler(WIDTH).check(SamplingSettings(**options))
    Sampler(WIDTH).check(SamplingSettings(banned_token_ids=(0, WIDTH - 1)))


def test_logits_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 320\); needed: \(1, 320\)"):
        Sampler(WIDTH).choose(logits_of(2), [row_of()])
    assert Sampler(WIDTH).choose(logits_of(0), []) == []
