"""Puts the questions of a JSON file to vLLM and writes its answers to another; run by test_vllm.py.

In a process of its own, because vLLM starts processes and registers names with transformers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def answer(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Load the checkpoint in vLLM and answer every conversation greedily."""
    from vllm import LLM, SamplingParams

    engine = LLM(
        asked["folder"],
        dtype="float32",
        enforce_eager=True,
        max_model_len=1024,
        max_num_seqs=len(asked["conversations"]),
        hf_overrides=asked["overrides"],
    )
    sampling = SamplingParams(
        temperature=0,
        max_tokens=asked["max_tokens"],
        logprobs=asked["num_logprobs"],
        ignore_eos=True,
    )
    outputs = engine.chat(
        asked["conversations"], sampling, chat_template_content_format=asked["content_format"]
    )
    return [
        {
            "prompt": output.prompt_token_ids,
            "tokens": list(output.outputs[0].token_ids),
            "logprobs": [
                {token: entry.logprob for token, entry in step.items()}
                for step in output.outputs[0].logprobs
            ],
        }
        for output in outputs
    ]


if __name__ == "__main__":  # vLLM's processes import this file again
    Path(sys.argv[2]).write_text(json.dumps(answer(json.loads(Path(sys.argv[1]).read_text()))))
