"""Saved checkpoints of both layouts load in vLLM, which answers as we do.

``make test-vllm`` runs these in an environment of vLLM's own.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from transformers import GenerationConfig

from internvl35.data.prompt import Message, PromptBuilder, PromptSettings
from internvl35.data.tiles import make_pixel_values
from internvl35.data.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
from internvl35.model.composite import VisionLanguageModel
from internvl35.model.configuration import InternVLChatConfig, Layout

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None,
        reason="vLLM is not installed here; `make test-vllm` sets up an environment that has it",
    ),
]

MAX_TOKENS, NUM_LOGPROBS = 12, 5
TOWERS = {
    "as in 300M": {"norm_type": "layer_norm", "attention_bias": True, "use_qk_norm": False},
    "as in 6B": {"norm_type": "rms_norm", "attention_bias": False, "use_qk_norm": True},
}


def build_model(tokenizer: Any, tower: dict[str, Any]) -> VisionLanguageModel:
    """A small network whose answers depend on everything it is shown."""
    config = InternVLChatConfig(
        vision_config={
            "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 192, "image_size": [56, 56], "patch_size": [14, 14], **tower,
        },
        text_config={
            "model_type": "qwen3", "hidden_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64,
            "intermediate_size": 192, "vocab_size": len(tokenizer), "tie_word_embeddings": False,
            "max_position_embeddings": 1024, "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        max_dynamic_patch=4,
    )  # fmt: skip
    torch.manual_seed(0)
    model = VisionLanguageModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=2 / parameter.shape[1] ** 0.5)
            else:  # norms, biases, layer scales, positions: not at values that hide a mistake
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
        model.get_input_embeddings().weight.normal_()
    return model


def draw_picture(width: int, height: int, colour: str) -> Image.Image:
    picture = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    ImageDraw.Draw(picture).ellipse((10, 10, width // 2, height - 10), fill=colour)
    return picture


PICTURES = [draw_picture(130, 60, "red"), draw_picture(90, 90, "blue")]
QUESTIONS: dict[str, list[Image.Image]] = {
    "How many red circles are there?": [],
    "What colour is the circle?": PICTURES[:1],
    "Are the two circles of one colour?": PICTURES,
}


def as_conversation(question: str, pictures: list[Image.Image]) -> list[dict[str, Any]]:
    """A question in the words of OpenAI's API."""
    parts: list[dict[str, Any]] = []
    for picture in pictures:
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


def overrides_for(folder: Path, layout: Layout) -> dict[str, Any]:
    """What vLLM must be told about a config.json of the remote-code layout.

    vLLM has the network but no class for its configuration, which it expects as code in the folder.
    It does have one of the same fields, for a model of the same build that names the language
    model's part ``text_config``.
    """
    if layout == "hf":
        return {}
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {
        "model_type": "qianfan_ocr",
        "architectures": config["architectures"],
        "text_config": config["llm_config"],
    }


def ask_vllm(folder: Path, layout: Layout, scratch: Path) -> list[dict[str, Any]]:
    asked, answers = scratch / "asked.json", scratch / "answers.json"
    request = {
        "folder": str(folder),
        "overrides": overrides_for(folder, layout),
        # the network of the remote-code layout wants pictures marked as vLLM marks them itself
        "content_format": "auto" if layout == "hf" else "string",
        "conversations": [as_conversation(*item) for item in QUESTIONS.items()],
        "max_tokens": MAX_TOKENS,
        "num_logprobs": NUM_LOGPROBS,
    }
    asked.write_text(json.dumps(request), encoding="utf-8")
    settings = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }
    script = Path(__file__).with_name("vllm_answers.py")
    command = [sys.executable, str(script), str(asked), str(answers)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | settings
    with (scratch / "vllm.log").open("w+", encoding="utf-8") as log:
        code = subprocess.run(
            command, env=environment, cwd=scratch, stdout=log, stderr=subprocess.STDOUT, check=False
        ).returncode
        log.seek(0)
        assert code == 0, log.read()[-4000:]
    found: list[dict[str, Any]] = json.loads(answers.read_text(encoding="utf-8"))
    return found


def answer_ours(
    model: VisionLanguageModel, builder: PromptBuilder, question: str, pictures: list[Image.Image]
) -> dict[str, Any]:
    """Prompt, greedy tokens and the log probabilities ``(T, W)`` of every step."""
    tiles = [make_pixel_values(picture, model.config.tile_settings) for picture in pictures]
    message = Message("user", "<image>\n" * len(pictures) + question)
    prompt = builder.build([message], [len(part) for part in tiles])
    output = model.generate(
        input_ids=torch.tensor([prompt.token_ids]),
        pixel_values=torch.cat(tiles) if tiles else None,
        generation_config=GenerationConfig(
            max_new_tokens=MAX_TOKENS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        ),
    )
    return {
        "prompt": list(prompt.token_ids),
        "tokens": output.sequences[0, len(prompt) :].tolist(),
        "logprobs": torch.cat(output.logits).log_softmax(-1),
    }


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize(
    # vLLM resizes pictures of the native layout with torchvision, up to 2 levels of 255 off Pillow
    ("layout", "tolerance"), [("remote-code", 1e-4), ("hf", 1e-2)], ids=["remote-code", "hf"]
)  # fmt: skip
def test_a_saved_checkpoint_gives_the_same_prompts_and_greedy_tokens_in_vllm(
    layout: Layout, tolerance: float, tower: str, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    tokenizer = train_tokenizer([*QUESTIONS, "user assistant yes no\n"] * 20, 600)
    build_model(tokenizer, TOWERS[tower]).save_pretrained(folder, layout=layout)
    save_tokenizer(tokenizer, folder)
    model = VisionLanguageModel.from_pretrained(folder).eval()
    settings = PromptSettings(system_prompt="none", tokens_per_tile=model.config.tokens_per_tile)
    builder = PromptBuilder(load_tokenizer(folder), settings)
    theirs = ask_vllm(folder, layout, tmp_path)
    for (question, pictures), their in zip(QUESTIONS.items(), theirs, strict=True):
        our = answer_ours(model, builder, question, pictures)
        assert their["prompt"] == our["prompt"], question
        assert their["tokens"] == our["tokens"], question
        for step, logprobs in zip(their["logprobs"], our["logprobs"], strict=True):
            assert len(step) >= NUM_LOGPROBS
            expected = {token: logprobs[int(token)].item() for token in step}
            assert step == pytest.approx(expected, abs=tolerance), question
