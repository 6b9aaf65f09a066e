"""``serve --vision 1 --language 1`` answers as one process does: with adapters, and with vLLM."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import httpx
import pytest
import torch

from internvl35 import SamplingSettings, load
from internvl35.config import TINY_FOLDER

GREEDY = SamplingSettings(max_tokens=12)
TEXT = "Hello, who are you? " * 3
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else always the first core, whoever is there already
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_USE_AOT_COMPILE": "0",
    "TORCHDYNAMO_DISABLE": "1",  # compiling takes minutes
}


@contextmanager
def served(*arguments: str) -> Iterator[httpx.Client]:
    """A client of a gateway with servers of its own, once it is ready."""
    command = [sys.executable, "-m", "internvl35.cli", "serve", "--vision", "1", "--language", "1"]
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [*command, "--port", "0", *arguments], stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        lines = iter(process.stderr)
        rest = threading.Thread(target=lambda: [*lines], name="reads the log")
        late = threading.Timer(600, process.kill)
        late.start()
        try:
            address = next(line for line in lines if "listening at http" in line)
            rest.start()
            url = address.partition("listening at ")[2].split()[0].removesuffix("/v1")
            with httpx.Client(base_url=url, timeout=120) as client:
                while client.get("/ready").status_code != 200:
                    time.sleep(0.2)
                yield client
        finally:
            late.cancel()
            process.terminate()
            process.wait()
            if rest.is_alive():  # before its pipe is closed
                rest.join()


def ask(client: httpx.Client, model: str) -> str:
    messages = [{"role": "user", "content": TEXT}]
    body = {"model": model, "messages": messages, "max_tokens": GREEDY.max_tokens}
    answer = client.post("/v1/chat/completions", json=body).json()
    assert answer["model"] == model
    return answer["choices"][0]["message"]["content"]


@pytest.mark.slow
def test_adapters_answer_under_their_names(random_checkpoint, tmp_path):
    from internvl35.commands.serve_engine import adapt
    from internvl35.train.adapters import add_adapters, merge_adapters, save_adapters
    from internvl35.train.settings import AdapterSettings, FreezeSettings

    model = load(random_checkpoint, dtype=torch.float32).model
    add_adapters(model, AdapterSettings(lora_dropout=0.0), FreezeSettings(freeze_vit=True))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    save_adapters(model, tmp_path / "red")
    chat = load(random_checkpoint, dtype=torch.float32)
    expected = {"base": chat.ask(TEXT, sampling=GREEDY).text}
    chat.engine.close()
    merged = load(random_checkpoint, dtype=torch.float32)
    merged.model = merge_adapters(adapt(merged.model, tmp_path / "red"))
    with closing(merged.engine):
        expected["red"] = merged.ask(TEXT, sampling=GREEDY).text
    assert expected["red"] != expected["base"]
    options = ("--model", str(random_checkpoint), "--dtype", "float32", "--served-name", "base")
    with served(*options, "--adapter", f"red={tmp_path / 'red'}") as client:
        names = [one["id"] for one in client.get("/v1/models").json()["data"]]
        assert names == ["base", "red"]
        assert {name: ask(client, name) for name in names} == expected


@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here")
def test_vllm_answers_in_a_language_server_of_the_gateway():
    chat = load(TINY_FOLDER)
    with closing(chat.engine):
        expected = chat.ask(TEXT, sampling=GREEDY).text
    with served("--model", str(TINY_FOLDER), "--served-name", "base", "--engine", "vllm") as client:
        assert ask(client, "base") == expected
