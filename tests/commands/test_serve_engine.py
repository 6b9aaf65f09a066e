"""``internvl35 serve``: which engine answers, and what is refused before one is started."""

from __future__ import annotations

import importlib.util
import json
from contextlib import closing

import pytest

from internvl35 import cli
from internvl35.commands.serve_engine import EngineOptions
from internvl35.errors import ConfigError
from internvl35.generate.answers import Completion, Sample
from internvl35.generate.vllm_engine import VLLMSettings


def check(capsys, *arguments):
    with pytest.raises(SystemExit) as ending:
        cli.main(["serve", "--check", "--port", "0", *arguments])
    captured = capsys.readouterr()
    return ending.value.code or 0, captured.out + captured.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adapter": ("red",)}, "needed: NAME=FOLDER"), ({"adapter": ("=a",)}, "NAME=FOLDER"),
        ({"adapter": ("a=b", "a=c")}, "two adapters have the same name"),
        ({"adapter": ("a=b",), "engine": "vllm"}, "adapter needs --engine own"),
        ({"tensor_parallel": 2}, "need --engine vllm"), ({"parts_folder": "p"}, "--engine vllm"),
        ({"quantization": "fp8"}, "need --engine vllm"),
        ({"pipeline_parallel": 0}, "pipeline_parallel is 0; needed: at least 1"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        EngineOptions(**options)


def test_a_check_looks_at_adapters(capsys, tmp_path):
    code, told = check(capsys, "--adapter", f"red={tmp_path}")
    assert (code, "adapter_config.json cannot be read" in told) == (2, True)
    config = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    code, told = check(capsys, "--adapter", f"red={tmp_path}")
    assert (code, "1 adapters" in told) == (0, True)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_a_check_says_that_vllm_is_missing(capsys):
    for servers in ((), ("--vision", "1", "--language", "1")):
        code, told = check(capsys, *servers, "--engine", "vllm")
        assert (code, "engine is vllm, which is not installed" in told) == (2, True)


def test_vllm_answers_in_place_of_our_engine_and_no_weights_are_loaded(monkeypatch):
    from internvl35.generate import vllm_engine
    from internvl35.serve import listening

    seen = []

    class FakeEngine:
        def __init__(self, checkpoint, settings):
            seen.append(settings)

        def generate(self, requests, sampling):
            seen.append(requests[0].pixel_values.shape[0])
            sample = Sample((5, 6), "", "length")
            return [Completion("first", requests[0].without_pictures, (sample,), 0)]

        def close(self):
            seen.append("closed")

    def serve(app, answerer, settings, taken, tell):
        with closing(taken):
            seen.append(type(answerer.engine))
            seen.append(next(answerer.chat.model.parameters()).device.type)

    monkeypatch.setattr(EngineOptions, "look", lambda self, is_int8: None)
    monkeypatch.setattr(vllm_engine, "VLLMEngine", FakeEngine)
    monkeypatch.setattr(listening, "serve", serve)
    options = ("--tensor-parallel", "2", "--quantization", "fp8")
    with pytest.raises(SystemExit) as ending:
        cli.main(["serve", "--port", "0", "--engine", "vllm", *options])
    assert not ending.value.code
    settings, num_tiles, kind, device, end = seen
    assert num_tiles == 1
    assert (settings.num_tensor_parallel, settings.dtype) == (2, "float32")
    assert settings.quantization == "fp8"
    assert isinstance(settings, VLLMSettings)
    assert (kind, device, end) == (FakeEngine, "meta", "closed")
