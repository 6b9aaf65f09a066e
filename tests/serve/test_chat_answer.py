"""Answers are written as OpenAI's API writes them, reasoning apart, bytes with every token."""

from __future__ import annotations

import json
import math

import pytest
from batch_stubs import StubTokenizer

from internvl35.config import TINY_FOLDER
from internvl35.data.prompt import Prompt
from internvl35.data.tokenizer import load_tokenizer
from internvl35.errors import MediaError
from internvl35.generate.answers import Completion, Sample, TokenLogprob
from internvl35.generate.request import Request
from internvl35.serve.chat_answer import (
    AnswerFormat,
    describe_error,
    find_failure,
    token_bytes,
)
from internvl35.serve.fields import BodyError

REQUEST = Request(Prompt((1, 2, 3), (), (False,) * 3))


def test_an_answer_has_the_shape_of_a_chat_completion():
    logprobs = (
        TokenLogprob(65, -0.5, ((65, -0.5), (66, -math.inf))), TokenLogprob(2, -0.25)
    )  # fmt: skip
    samples = (
        Sample((65, 2), "<think>\nhm\n</think>\n\nA", "stop", logprobs),
        Sample((65,), "A", "length"),
    )
    form = AnswerFormat(StubTokenizer(), (2,), "tiny", "fp_1")
    body = form.write(Completion("r", REQUEST, samples, 2), "chatcmpl-1", 77)
    assert json.loads(json.dumps(body, allow_nan=False)) == {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 77, "model": "tiny",
        "system_fingerprint": "fp_1",
        "choices": [
            {
                "index": 0, "finish_reason": "stop",
                "message": {
                    "role": "assistant", "content": "A", "refusal": None, "reasoning_content": "hm",
                },
                "logprobs": {"refusal": None, "content": [{
                    "token": "A", "logprob": -0.5, "bytes": [65], "top_logprobs": [
                        {"token": "A", "logprob": -0.5, "bytes": [65]},
                        {"token": "B", "logprob": -9999.0, "bytes": [66]},
                    ],
                }]},
            },
            {
                "index": 1, "finish_reason": "length", "logprobs": None,
                "message": {"role": "assistant", "content": "A", "refusal": None},
            },
        ],
        "usage": {
            "prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6,
            "prompt_tokens_details": {"cached_tokens": 2},
        },
    }  # fmt: skip


@pytest.mark.skipif(not TINY_FOLDER.is_dir(), reason="no embedded checkpoint here yet")
def test_bytes_of_tokens_join_to_the_text():
    tokenizer = load_tokenizer(TINY_FOLDER)
    text = "Grün 你好 🙂\n\tdone ©"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert b"".join(token_bytes(tokenizer, token_id) for token_id in ids) == text.encode()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert token_bytes(tokenizer, end) == b"<|im_end|>"
    assert token_bytes(tokenizer, 10**8) == b""


def test_a_failure_is_found_among_several_answers():
    whole = Sample((), "", "stop")
    assert find_failure([whole, whole]) is None
    assert find_failure([whole, Sample((), "", "error", None, "no room")]) == "no room"
    assert "cancelled" in str(find_failure([Sample((), "", "cancelled")]))


def test_errors_name_the_field_where_there_is_one():
    assert describe_error(BodyError("wrong", "n")) == {
        "error": {"message": "wrong", "type": "invalid_request_error", "param": "n", "code": None}
    }
    assert describe_error(MediaError("wrong"))["error"]["param"] is None
