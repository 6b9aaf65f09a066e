"""The engine: equal answers in any company, settings that are kept, bad requests fail alone."""

from __future__ import annotations

import re
from dataclasses import replace
from random import Random

import pytest
import torch
from engine_requests import IMAGE, RULES, draw_request, make_request, reference
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl35 import load
from internvl35.conversation import Conversation
from internvl35.data.prompt import Message, Prompt
from internvl35.errors import BusyError, ConfigError, ServerError
from internvl35.generate.engine import Engine
from internvl35.generate.engine_settings import EngineSettings
from internvl35.generate.request import Request, RoutedPrompt
from internvl35.generate.runner import generate, generation_options
from internvl35.generate.sampling import SamplingSettings, StructureSettings
from internvl35.generate.side_stream import MOST_BESIDE

FAMILIES = ("qwen3", "qwen3_moe", "gpt_oss")
GREEDY = SamplingSettings(max_tokens=12)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, build_model):
    return build_model(request.param)


@pytest.fixture(scope="module")
def qwen(build_model):
    return build_model("qwen3")


def make_engine(model, *, num_blocks=None, **options):
    options = {"block_size": 4, "is_checked": True, **options}
    if num_blocks is not None:
        options["cache_gib"] = (num_blocks + 0.5) * gib_per_block(model, options["block_size"])
    return Engine(model, RULES, settings=EngineSettings(**options))


def gib_per_block(model, block_size):
    text = model.config.text_config
    numbers = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim
    return numbers * 4 * block_size / 2**30


def answers(completions):
    return [list(completion.samples[0].token_ids) for completion in completions]


# Equality -----------------------------------------------------------------------------------------


def test_alone_and_together_answers_are_those_of_transformers(model):
    rng = Random(3)
    requests = [draw_request(rng) for _ in range(8)]
    expected = [reference(model, request, GREEDY) for request in requests]
    assert len({tuple(answer) for answer in expected}) > 4
    assert answers(make_engine(model).generate(requests, GREEDY)) == expected
    engine = make_engine(model)
    assert [answers(engine.generate([request], GREEDY))[0] for request in requests] == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_in_pieces_is_the_prompt_as_a_whole(build_model, family):
    model = build_model(family)
    request = make_request(Random(5), 50, (2, 1))
    expected = reference(model, request, GREEDY)
    for budget in (3, 7, 64):
        engine = make_engine(model, max_batch_tokens=budget, max_sequences=1)
        assert answers(engine.generate([request], GREEDY)) == [expected]


@settings(max_examples=6)
@given(st.integers(0, 2**32))
def test_no_schedule_changes_an_answer(build_model, seed):
    check_schedule(build_model, Random(seed))


@pytest.mark.slow
def test_ten_thousand_schedules_change_no_answer_and_leave_no_block(build_model):
    for seed in range(10_000):
        check_schedule(build_model, Random(seed))


_known: dict = {}


def shelf(build_model, family):
    """A network and requests with the answers of transformers, computed once."""
    if family not in _known:
        model, rng = build_model(family), Random(11)
        requests = [draw_request(rng) for _ in range(14)]
        # requests that begin alike, so that there is something to share
        requests += [
            Request(
                Prompt(ids := (*request.prompt.token_ids, 5, 6), request.prompt.image_spans,
                       (False,) * len(ids)), request.pixel_values,
            )
            for request in requests[:4]
        ]  # fmt: skip
        sampling = SamplingSettings(max_tokens=16)
        known = [(request, reference(model, request, sampling)) for request in requests]
        _known[family] = model, known
    return _known[family]


def check_schedule(build_model, rng):
    """Requests arrive, are cancelled and preempted at random; the others get their answers."""
    model, known = shelf(build_model, rng.choice(FAMILIES))
    engine = make_engine(
        model,
        num_blocks=rng.choice((24, 32, 60)),
        max_batch_tokens=rng.randint(2, 40),
        max_sequences=rng.randint(1, 6),
        has_prefix_cache=rng.random() < 0.8,
        tiles_beside_answers=rng.randint(1, 3),
    )
    expected, found, alive, count = {}, {}, [], 0
    while count < 10 or engine.has_work:
        if count < 10 and rng.random() < 0.4:
            request, answer = rng.choice(known)
            most = rng.randint(1, 16)
            name = engine.submit(
                request, SamplingSettings(max_tokens=most), priority=rng.randint(0, 1)
            )
            expected[name] = answer[:most]
            alive.append(name)
            count += 1
        if alive and rng.random() < 0.05:
            name = alive.pop(rng.randrange(len(alive)))
            if engine.cancel(name):
                expected[name] = None
        for update in engine.step():
            if update.completion is not None:
                assert update.request_id not in found, "answered twice"
                found[update.request_id] = update.completion
    for name, answer in expected.items():
        (sample,) = found[name].samples
        if answer is None:
            assert sample.finish_reason == "cancelled"
        else:
            assert list(sample.token_ids) == answer
    assert engine.scheduler.pool.num_available == engine.scheduler.pool.num_blocks


def test_half_precision_answers_are_those_of_transformers(build_model):
    model = build_model("qwen3").to(torch.bfloat16)
    rng = Random(4)
    requests = [draw_request(rng) for _ in range(4)]
    expected = [reference(model, request, GREEDY) for request in requests]
    found = [answers(make_engine(model).generate([request], GREEDY))[0] for request in requests]
    same = [one == other for one, other in zip(found, expected, strict=True)]
    assert sum(same) >= 3  # sums are rounded elsewhere, which may turn a close choice


def test_a_model_in_8_bits_answers_as_in_the_loop_of_transformers():
    pytest.importorskip("bitsandbytes", reason="pip install 'internvl35[int8]'")
    chat = load("tiny", load_in_8bit=True)
    ids = chat.tokenizer("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
    prompt = Prompt(tuple(ids), (), (False,) * len(ids))
    (expected,) = generate(chat.model, [Request(prompt)], generation_options(GREEDY), chat.rules)
    engine = Engine(chat.model, chat.rules)
    assert answers(engine.generate([Request(prompt)], GREEDY)) == [expected]


def test_the_model_itself_goes_on_working_as_before(qwen):
    request = make_request(Random(1), 9, (1,))
    before = reference(qwen, request, GREEDY)
    engine = make_engine(qwen)
    engine.generate([request], GREEDY)
    assert reference(qwen, request, GREEDY) == before
    assert qwen.language_model.config._attn_implementation != "internvl35_paged"


def test_no_weight_is_copied_and_a_change_in_place_is_seen(build_model):
    model = build_model("qwen3")
    engine = make_engine(model)
    request = make_request(Random(1), 9)
    before = answers(engine.generate([request], GREEDY))
    with torch.no_grad():
        model.language_model.model.layers[0].mlp.down_proj.weight.mul_(-3)
    engine.forget()
    assert answers(engine.generate([request], GREEDY)) == [reference(model, request, GREEDY)]
    assert answers(engine.generate([request], GREEDY)) != before


def test_pictures_are_forgotten_too_when_weights_have_changed(build_model):
    model = build_model("qwen3")
    engine = make_engine(model)
    request = make_request(Random(1), 9, (1,))
    before = answers(engine.generate([request], GREEDY))
    with torch.no_grad():
        for weight in model.multi_modal_projector.parameters():
            weight.mul_(-3)
    engine.forget()
    assert answers(engine.generate([request], GREEDY)) == [reference(model, request, GREEDY)]
    assert answers(engine.generate([request], GREEDY)) != before


# Settings -----------------------------------------------------------------------------------------


def test_log_probabilities_are_those_of_a_full_pass(model):
    request = make_request(Random(2), 12, (2,))
    sampling = SamplingSettings(max_tokens=8, num_logprobs=3, num_prompt_logprobs=2)
    engine = make_engine(model, max_batch_tokens=6, max_sequences=2)
    (completion,) = engine.generate([request], sampling)
    sample = completion.samples[0]
    ids = torch.tensor([[*request.prompt.token_ids, *sample.token_ids]])
    with torch.inference_mode():
        logits = model(input_ids=ids, pixel_values=request.pixel_values).logits[0]
    expected = logits.float().log_softmax(-1)
    start = len(request.prompt)
    assert len(completion.prompt_logprobs) == start
    assert completion.prompt_logprobs[0] is None
    told = [*completion.prompt_logprobs, *sample.logprobs]
    num_checked = 0
    for place, token in enumerate(told):
        if ids[0, place] == IMAGE and place < start:
            assert token is None
        elif place:
            row = expected[place - 1]
            assert token.token_id == ids[0, place]
            assert token.logprob == pytest.approx(float(row[token.token_id]), abs=1e-4)
            best = row.topk(2 if place < start else 3)
            assert [token_id for token_id, _ in token.top] == best.indices.tolist()
            assert [value for _, value in token.top] == pytest.approx(
                best.values.tolist(), abs=1e-4
            )
            num_checked += 1
    assert num_checked == start - 1 - 8 + 8


def test_a_seed_gives_the_same_answer_in_any_company(qwen):
    rng = Random(6)
    requests = [draw_request(rng) for _ in range(6)]
    sampling = [
        SamplingSettings(max_tokens=10, temperature=1.5, top_p=0.95, seed=seed) for seed in range(6)
    ]
    together = answers(make_engine(qwen).generate(requests, sampling))
    alone = [
        answers(make_engine(qwen, max_batch_tokens=5).generate([request], own))[0]
        for request, own in zip(requests, sampling, strict=True)
    ]
    assert together == alone
    others = answers(make_engine(qwen).generate(requests, replace(sampling[0], seed=77)))
    assert others != together


def test_several_answers_to_a_prompt_differ_and_compute_it_once(qwen):
    request = make_request(Random(7), 30, (1,))
    engine = make_engine(qwen, max_batch_tokens=64)
    computed = []
    plan = engine.scheduler.plan

    def watch():
        works = plan()
        computed.extend(work.count for work in works)
        return works

    engine.scheduler.plan = watch
    sampling = SamplingSettings(max_tokens=6, temperature=2.0, seed=1, n=5, ignore_end=True)
    (completion,) = engine.generate([request], sampling)
    assert len(completion.samples) == 5
    assert len({sample.token_ids for sample in completion.samples}) == 5
    length = len(request.prompt)
    assert sum(computed) < length + 5 * (6 + 4)  # a block's rest for each of the others


def test_the_best_of_several_are_the_likeliest(qwen):
    request = make_request(Random(7), 8)
    every = SamplingSettings(max_tokens=5, temperature=2.0, seed=1, n=6, num_logprobs=0)
    best = replace(every, n=2, best_of=6, num_logprobs=None)
    (all_of_them,) = make_engine(qwen).generate([request], every)
    (chosen,) = make_engine(qwen).generate([request], best)
    ranked = sorted(
        all_of_them.samples, key=lambda s: sum(token.logprob for token in s.logprobs), reverse=True
    )
    assert [s.token_ids for s in chosen.samples] == [s.token_ids for s in ranked[:2]]
    assert chosen.samples[0].logprobs is None


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_of_the_best_answers_each_is_told_whole_and_no_other(qwen, is_cancelled):
    engine = make_engine(qwen)
    sampling = SamplingSettings(max_tokens=5, temperature=2.0, seed=1, n=2, best_of=6)
    name = engine.submit(make_request(Random(7), 8), sampling)
    updates = engine.step()
    if is_cancelled:
        engine.cancel(name)
    while engine.has_work:
        updates += engine.step()
    samples = updates[-1].completion.samples
    told = [
        (update.sample, update.token_ids, update.text, update.finish_reason) for update in updates
    ]
    assert told == [
        (number, sample.token_ids, sample.text, sample.finish_reason)
        for number, sample in enumerate(samples)
    ]
    assert len(samples) == 2
    assert (samples[0].finish_reason == "cancelled") == is_cancelled


def test_pictures_are_never_written_and_end_tokens_end(qwen):
    request = make_request(Random(7), 8)
    sampling = SamplingSettings(max_tokens=60, temperature=50.0, seed=3)
    (completion,) = make_engine(qwen).generate([request], sampling)
    sample = completion.samples[0]
    assert not set(sample.token_ids) & set(RULES.banned_token_ids)
    ends = SamplingSettings(max_tokens=60, logit_bias=((2, 100.0),))
    (completion,) = make_engine(qwen).generate([request], ends)
    assert completion.samples[0].token_ids == (2,)
    assert completion.samples[0].finish_reason == "stop"
    later = replace(ends, min_tokens=3)
    (completion,) = make_engine(qwen).generate([request], later)
    assert len(completion.samples[0].token_ids) == 4
    (completion,) = make_engine(qwen).generate([request], replace(ends, ignore_end=True))
    assert completion.samples[0].token_ids == (2,) * 60
    assert completion.samples[0].finish_reason == "length"


def test_a_stop_token_of_the_request_ends_its_answer(qwen):
    request = make_request(Random(7), 8)
    (whole,) = answers(make_engine(qwen).generate([request], GREEDY))
    sampling = replace(GREEDY, stop_token_ids=(whole[3],))
    (completion,) = make_engine(qwen).generate([request], sampling)
    cut = whole[: whole.index(whole[3]) + 1]
    assert list(completion.samples[0].token_ids) == cut
    assert completion.samples[0].finish_reason == "stop"


# The cache ----------------------------------------------------------------------------------------


def test_equal_pictures_share_and_different_ones_never(qwen):
    engine = make_engine(qwen)
    one, same = (make_request(Random(8), 9, (3,), seed=1) for _ in range(2))
    other = make_request(Random(8), 9, (3,), seed=2)
    assert one.prompt == same.prompt == other.prompt
    found = engine.generate([one], GREEDY) + engine.generate([same], GREEDY)
    found += engine.generate([other], GREEDY)
    assert [completion.num_cached_tokens for completion in found] == [0, 20, 4]
    assert answers(found) == [reference(qwen, request, GREEDY) for request in (one, same, other)]


def test_salts_keep_prefixes_apart(qwen):
    engine, request = make_engine(qwen), make_request(Random(8), 20)
    cached = []
    for salt in ("a", "a", "b"):
        engine.submit(request, GREEDY, cache_salt=salt)
        while engine.has_work:
            for update in engine.step():
                if update.completion:
                    cached.append(update.completion.num_cached_tokens)
    assert cached[0] == cached[2] == 0
    assert cached[1] == 16


def test_answers_longer_than_the_cache_are_cut(qwen):
    engine = make_engine(qwen, num_blocks=6)
    request = make_request(Random(8), 14)
    sampling = SamplingSettings(max_tokens=100, ignore_end=True)
    (completion,) = engine.generate([request], sampling)
    assert len(completion.samples[0].token_ids) == 24 - 14
    assert completion.samples[0].finish_reason == "length"


# Bad requests -------------------------------------------------------------------------------------


def text(*ids):
    return Request(Prompt(ids, (), (False,) * len(ids)))


def broken_requests():
    fine = make_request(Random(9), 9, (1,))
    with_nan = fine.pixel_values.clone()
    with_nan[0, 0, 0, 0] = float("nan")
    features = torch.zeros(4, 65)
    return {
        "no tokens": text(),
        "ids from -1": text(1, -1),
        "to 320": text(1, 320),
        "the prompt has 500": text(*[5] * 500),
        "finite": replace(fine, pixel_values=with_nan),
        "pixel_values has shape": replace(fine, pixel_values=torch.zeros(1, 3, 28, 28)),
        "image_features has shape": Request(fine.prompt, image_features=features),
    }


@pytest.mark.parametrize("problem", list(broken_requests()))
def test_a_bad_request_fails_alone(qwen, problem):
    fine = [make_request(Random(seed), 9, (1,)) for seed in range(2)]
    engine = make_engine(qwen, num_blocks=40)
    found = engine.generate([fine[0], broken_requests()[problem], fine[1]], GREEDY)
    assert found[1].samples[0].finish_reason == "error"
    assert problem in found[1].samples[0].error
    assert answers([found[0], found[2]]) == [reference(qwen, request, GREEDY) for request in fine]
    assert not engine.has_work


def test_logits_that_are_no_numbers_end_their_answer_alone(build_model):
    model = build_model("qwen3")
    with torch.no_grad():
        model.input_weight[77] = float("nan")
    fine = make_request(Random(1), 9)
    fine = replace(fine, prompt=replace(fine.prompt, token_ids=tuple(
        5 if token_id == 77 else token_id for token_id in fine.prompt.token_ids)))  # fmt: skip
    engine = make_engine(model)
    bad, good = engine.generate([text(1, 77, 3), fine], replace(GREEDY, banned_token_ids=(77,)))
    assert bad.samples[0].finish_reason == "error"
    assert "not finite" in bad.samples[0].error
    assert good.samples[0].finish_reason != "error"
    assert len(good.samples[0].token_ids) == 12


def test_a_step_that_fails_ends_its_answers_and_the_engine_goes_on(qwen, monkeypatch):
    engine = make_engine(qwen)
    request = make_request(Random(1), 9)
    real = engine._decoder.logits

    def fail(*_):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(engine._decoder, "logits", fail)
    (completion,) = engine.generate([request], GREEDY)
    assert "no room" in completion.samples[0].error
    monkeypatch.setattr(engine._decoder, "logits", real)
    assert answers(engine.generate([request], GREEDY)) == [reference(qwen, request, GREEDY)]


def test_a_device_that_failed_for_good_ends_the_engine(qwen, monkeypatch):
    engine = make_engine(qwen)

    def fail(*_):
        raise torch.AcceleratorError("planted")

    monkeypatch.setattr(engine._decoder, "logits", fail)
    with pytest.raises(torch.AcceleratorError, match="planted"):
        engine.generate([make_request(Random(1), 9)], GREEDY)


@pytest.mark.parametrize("part", ["choose", "find_logprobs"])
def test_no_memory_to_choose_tokens_ends_the_answers_of_the_step_alone(qwen, monkeypatch, part):
    engine = make_engine(qwen)
    request = make_request(Random(1), 9)

    def fail(*_):
        raise torch.OutOfMemoryError("no room")

    with monkeypatch.context() as patch:
        if part == "choose":
            patch.setattr(engine._sampler, "choose", fail)
        else:
            patch.setattr("internvl35.generate.prompt_logprobs.find_logprobs", fail)
        (completion,) = engine.generate([request], replace(GREEDY, num_prompt_logprobs=0))
    assert "no room" in completion.samples[0].error
    assert answers(engine.generate([request], GREEDY)) == [reference(qwen, request, GREEDY)]


def test_what_does_not_fit_into_memory_together_is_computed_in_parts(qwen, monkeypatch):
    engine = make_engine(qwen, max_batch_tokens=64)
    rng = Random(2)
    requests = [draw_request(rng) for _ in range(6)]
    seeds = [replace(GREEDY, temperature=1.0, seed=seed) for seed in range(6)]
    expected = answers(make_engine(qwen).generate(requests, seeds))
    logits, choose, counts = engine._decoder.logits, engine._sampler.choose, []

    def compute(works, *others):
        counts.append(sum(work.count for work in works))
        if counts[-1] > 9:
            raise torch.OutOfMemoryError("no room")
        return logits(works, *others)

    def draw(rows, settings):
        found = choose(rows, settings)  # as if it failed behind the draw of numbers
        if len(found) > 2:
            raise torch.OutOfMemoryError("no room")
        return found

    monkeypatch.setattr(engine._decoder, "logits", compute)
    monkeypatch.setattr(engine._sampler, "choose", draw)
    assert answers(engine.generate(requests, seeds)) == expected
    assert max(counts) > 9


def test_what_is_kept_of_an_answered_request_holds_no_picture(qwen):
    request = make_request(Random(1), 9, (2,))
    (completion,) = make_engine(qwen).generate([request], GREEDY)
    assert completion.request == RoutedPrompt(request.prompt)


def test_answers_are_counted_and_not_requests(qwen):
    engine = make_engine(qwen, max_waiting=4)
    request = make_request(Random(1), 9)
    engine.submit(request, replace(GREEDY, temperature=1.0, n=3))
    with pytest.raises(BusyError, match="3 answers are in work; at most 4"):
        engine.submit(request, replace(GREEDY, temperature=1.0, n=2))
    engine.submit(request, GREEDY)
    while engine.has_work:
        engine.step()
    many = replace(GREEDY, temperature=1.0, seed=1, n=6)
    found = engine.generate([request] * 2, many)  # more than there may be come alone
    assert [len(completion.samples) for completion in found] == [6, 6]


def test_pictures_are_not_encoded_for_more_requests_than_soon_begin(qwen):
    engine = make_engine(qwen, max_sequences=2)
    for seed in range(30):
        engine.submit(make_request(Random(seed), 9, (2,), seed=seed), GREEDY)
    most, num_done = 0, 0
    while engine.has_work:
        num_done += sum(update.completion is not None for update in engine.step())
        jobs = engine._jobs.values()
        most = max(most, sum(job.request.image_features is not None for job in jobs))
    assert num_done == 30
    # two that are written, two that wait, what a step encodes, and what a thread is encoding
    num_a_batch = EngineSettings().tiles_beside_answers // 2
    assert most <= 2 + 2 + (1 + MOST_BESIDE) * num_a_batch


def test_a_list_is_answered_beside_others_whose_updates_are_not_lost(qwen):
    engine = make_engine(qwen)
    request = make_request(Random(1), 9)
    name = engine.submit(request, SamplingSettings(max_tokens=2))
    expected = reference(qwen, request, GREEDY)
    assert answers(engine.generate([request], GREEDY)) == [expected]
    updates = engine.step()
    assert [update.request_id for update in updates] == [name] * 2
    assert [token_id for update in updates for token_id in update.token_ids] == expected[:2]


def test_our_own_names_pass_by_those_of_callers(qwen):
    engine = make_engine(qwen)
    engine.submit(make_request(Random(1), 9), GREEDY, request_id="request-1")
    assert engine.submit(make_request(Random(1), 9), GREEDY) == "request-2"


def test_too_many_requests_and_names_in_use_are_refused(qwen):
    engine = make_engine(qwen, max_waiting=2)
    request = make_request(Random(1), 9)
    engine.submit(request, GREEDY, request_id="one")
    with pytest.raises(ServerError, match="'one' is in work"):
        engine.submit(request, GREEDY, request_id="one")
    engine.submit(request, GREEDY, request_id="two")
    with pytest.raises(ServerError, match="try again later"):
        engine.submit(request, GREEDY, request_id="three")


@pytest.mark.parametrize("field", ["stop_token_ids", "banned_token_ids", "logit_bias"])
def test_ids_of_settings_are_checked(qwen, field):
    value = ((320, 1.0),) if field == "logit_bias" else (320,)
    with pytest.raises(ConfigError, match=f"{field} holds token 320"):
        make_engine(qwen).submit(text(1), SamplingSettings(**{field: value}))


def test_a_cancelled_request_says_so_once_and_leaves_nothing(qwen):
    engine = make_engine(qwen)
    names = [engine.submit(make_request(Random(s), 9, (2,)), GREEDY) for s in range(3)]
    assert engine.cancel(names[0])  # while its picture waits
    updates = engine.step() + engine.step()
    assert engine.cancel(names[1])  # while it is written
    assert not engine.cancel(names[1])
    assert not engine.cancel("unknown")
    while engine.has_work:
        updates += engine.step()
    ends = [(update.request_id, update.finish_reason) for update in updates if update.finish_reason]
    assert sorted(ends)[:2] == [(names[0], "cancelled"), (names[1], "cancelled")]
    assert [name for name, _ in sorted(ends)] == names
    assert dict(ends)[names[2]] in ("stop", "length")
    assert all(bool(update.completion) == bool(update.finish_reason) for update in updates)
    assert engine.scheduler.pool.num_available == engine.scheduler.pool.num_blocks


# Texts and structures -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spoken(random_checkpoint):
    """A network with a tokenizer, its rules, and what it says to a greeting."""
    chat = load(random_checkpoint)
    request = chat.prepare(Conversation((Message("user", "Hello"),)))
    engine = Engine(chat.model, chat.rules, tokenizer=chat.tokenizer)
    (completion,) = engine.generate([request], SamplingSettings(max_tokens=30, ignore_end=True))
    return chat, request, completion.samples[0].text


def say(spoken, **options):
    chat, request, _ = spoken
    engine = Engine(chat.model, chat.rules, tokenizer=chat.tokenizer)
    (completion,) = engine.generate([request], SamplingSettings(**{"max_tokens": 30} | options))
    return completion.samples[0]


def test_updates_add_up_to_the_text_and_a_stop_text_ends_it(spoken):
    chat, request, whole = spoken
    mark = whole[8:11]
    engine = Engine(chat.model, chat.rules, tokenizer=chat.tokenizer)
    engine.submit(request, SamplingSettings(max_tokens=30, ignore_end=True, stop=(mark,)))
    shown, completion = "", None
    while engine.has_work:
        for update in engine.step():
            shown += update.text
            completion = update.completion or completion
    sample = completion.samples[0]
    assert shown == sample.text == whole[: whole.index(mark)]
    assert sample.finish_reason == "stop"
    assert len(sample.token_ids) < 30


def test_a_stop_text_before_the_fewest_tokens_is_passed_over(spoken):
    whole = spoken[2]
    sample = say(spoken, ignore_end=True, stop=(whole[4:6],), min_tokens=30)
    assert sample.text == whole


@pytest.mark.parametrize("temperature", [0.0, 3.0])
def test_answers_keep_their_structure(spoken, temperature):
    options = {"temperature": temperature, "seed": 1}
    number = say(spoken, structure=StructureSettings(regex="[0-9]{3}"), **options)
    assert re.fullmatch("[0-9]{3}", number.text)
    assert number.finish_reason == "stop"
    choice = say(spoken, structure=StructureSettings(choices=("yes", "no")), **options)
    assert choice.text in ("yes", "no")


def test_a_structure_that_cannot_be_followed_is_refused_before_anything_is_computed(spoken):
    chat, request, _ = spoken
    engine = Engine(chat.model, chat.rules, tokenizer=chat.tokenizer)
    with pytest.raises(ConfigError):
        engine.submit(request, SamplingSettings(structure=StructureSettings(regex="(")))
    assert not engine.has_work


def test_an_answer_of_which_no_token_is_left_says_so_and_others_go_on(spoken):
    chat, request, whole = spoken
    dead = SamplingSettings(
        max_tokens=5, structure=StructureSettings(regex="[0-9]"),
        banned_token_ids=tuple(range(len(chat.tokenizer))),
    )  # fmt: skip
    engine = Engine(chat.model, chat.rules, tokenizer=chat.tokenizer)
    fine = SamplingSettings(max_tokens=30, ignore_end=True)
    failed, spoke = engine.generate([request, request], [dead, fine])
    assert failed.samples[0].finish_reason == "error"
    assert "no token is left" in failed.samples[0].error
    assert spoke.samples[0].text == whole
