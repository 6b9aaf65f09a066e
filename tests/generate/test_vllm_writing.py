"""From vLLM's outputs to updates and completions, with a stand-in for vLLM."""

from __future__ import annotations

import asyncio
import importlib.util
from types import SimpleNamespace

import pytest

from internvl35.data.token_writer import Prompt
from internvl35.data.tokenizer import train_tokenizer
from internvl35.errors import ConfigError, ServerError
from internvl35.generate import vllm_writing
from internvl35.generate.request import Request
from internvl35.generate.rules import StopRules
from internvl35.generate.sampling import SamplingSettings
from internvl35.generate.vllm_writing import AnswerWriter, Asked

REQUEST = Request(Prompt((1, 2, 3), (), (False,) * 3))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["abcdefgh"], 300)


@pytest.fixture(autouse=True)
def plain_parameters(monkeypatch):
    monkeypatch.setattr(vllm_writing, "_as_sampling_params", dict)


class StandIn:
    """Gives prepared outputs, one list of parts an answer."""

    def __init__(self, *answers, dies=False):
        self.answers = answers
        self.dies = dies
        self.errored = False
        self.asked = []
        self.left = []

    async def generate(self, prompt, params, request_id, *, priority):
        self.asked.append((prompt, params, request_id, priority))
        sample = int(request_id.rsplit("/")[-1])
        try:
            for part in self.answers[sample]:
                await asyncio.sleep(0)
                if isinstance(part, Exception):
                    self.errored = self.dies
                    raise part
                yield SimpleNamespace(outputs=[part], num_cached_tokens=2, prompt_logprobs=None)
        finally:
            self.left.append(sample)


def part(token_ids, reason=None, logprobs=None):
    found = None
    if logprobs is not None:
        pairs = zip(token_ids, logprobs, strict=True)
        found = [{token: SimpleNamespace(logprob=value, rank=1)} for token, value in pairs]
    return SimpleNamespace(token_ids=token_ids, finish_reason=reason, logprobs=found)


def write(tokenizer, llm, **fields):
    """Updates and completion of a request."""
    rules = StopRules((), (), 0)
    writer = AnswerWriter(llm, tokenizer, rules, len(tokenizer))
    updates = []
    asked = Asked("mine", REQUEST, SamplingSettings(**fields), priority=3)
    whole = asyncio.run(writer.write(asked, "prompt", updates.append))
    return updates, whole


def letters(tokenizer, text):
    return [tokenizer.convert_tokens_to_ids(letter) for letter in text]


def test_tokens_behind_a_stop_text_are_dropped_and_the_request_is_left(tokenizer):
    ids = letters(tokenizer, "abcdefgh")
    llm = StandIn([part(ids[:2]), part(ids[2:7]), part(ids[7:], "length")])
    updates, whole = write(tokenizer, llm, stop=("de",))
    (sample,) = whole.samples
    assert (sample.text, sample.finish_reason) == ("abc", "stop")
    assert list(sample.token_ids) == ids[:5]
    assert "".join(update.text for update in updates) == "abc"
    assert llm.left == [0]
    assert llm.asked[0][0] == "prompt"
    assert llm.asked[0][2:] == ("mine/0", 3)


def test_the_last_update_carries_the_whole(tokenizer):
    ids = letters(tokenizer, "abcd")
    llm = StandIn([part(ids[:1]), part(ids[1:2], "length")], [part(ids[2:], "stop")])
    updates, whole = write(tokenizer, llm, n=2)
    assert [sample.text for sample in whole.samples] == ["ab", "cd"]
    assert [sample.finish_reason for sample in whole.samples] == ["length", "stop"]
    assert [update.completion for update in updates] == [None] * (len(updates) - 1) + [whole]
    assert whole.num_cached_tokens == 2


def test_of_several_answers_only_the_likeliest_are_told_and_that_at_the_end(tokenizer):
    ids = letters(tokenizer, "abc")
    pairs = zip(ids, (-3, -1, -2), strict=True)
    llm = StandIn(*([part([token], "stop", [value])] for token, value in pairs))
    updates, whole = write(tokenizer, llm, n=2, best_of=3)
    assert [sample.text for sample in whole.samples] == ["b", "c"]
    assert [sample.logprobs for sample in whole.samples] == [None, None]
    assert [(update.sample, update.text, update.finish_reason) for update in updates] == [
        (0, "b", "stop"),
        (1, "c", "stop"),
    ]
    assert [update.completion for update in updates] == [None, whole]


def test_text_goes_on_behind_a_stop_text_that_comes_too_early(tokenizer):
    ids = letters(tokenizer, "abcd")
    llm = StandIn([part([token]) for token in ids[:3]] + [part(ids[3:], "length")])
    updates, whole = write(tokenizer, llm, stop=("b",), min_tokens=3)
    assert whole.samples[0].text == "abcd"
    assert "".join(update.text for update in updates) == "abcd"


def test_an_answer_that_vllm_refuses_fails_alone(tokenizer):
    ids = letters(tokenizer, "ab")
    llm = StandIn([part(ids[:1]), ValueError("too long")], [part(ids[1:], "stop")])
    _, whole = write(tokenizer, llm, n=2)
    failed, fine = whole.samples
    assert (failed.finish_reason, failed.text) == ("error", "a")
    assert "too long" in failed.error
    assert (fine.finish_reason, fine.text) == ("stop", "b")
    (_, silent) = write(tokenizer, StandIn([part(ids[:1])]))
    assert silent.samples[0].finish_reason == "error"
    (_, broken) = write(tokenizer, StandIn([part(ids[:1], "repetition")]))
    assert "repetition" in broken.samples[0].error


def test_a_dead_vllm_is_told_to_everyone(tokenizer):
    llm = StandIn([ValueError("gone")], dies=True)
    with pytest.raises(ServerError, match="vLLM has died"):
        write(tokenizer, llm)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_engine_says_what_to_install():
    from internvl35.generate.vllm_engine import VLLMEngine

    with pytest.raises(ConfigError, match=r"internvl35\[vllm\]"):
        VLLMEngine("tiny")


def test_settings_of_the_engine_are_checked():
    from internvl35.generate.vllm_engine import VLLMSettings

    with pytest.raises(ConfigError, match="max_requests is 0"):
        VLLMSettings(max_requests=0)
    with pytest.raises(ConfigError, match="dtype is 'half-size'"):
        VLLMSettings(dtype="half-size")


def test_a_request_that_fails_before_it_begins_keeps_its_error():
    asked = Asked("mine", REQUEST, SamplingSettings(n=2))
    failure = ServerError("no room")
    whole = asked.give_up(failure)
    assert whole.failure is failure
    assert [(sample.finish_reason, sample.error) for sample in whole.samples] == [
        ("error", "no room")
    ] * 2
    assert [update.completion for update in whole.as_updates()] == [None, whole]
    assert {sample.finish_reason for sample in asked.give_up().samples} == {"cancelled"}
