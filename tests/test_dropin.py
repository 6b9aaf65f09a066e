"""The announcement's own calls, held against stock transformers and against each other."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import InternVLForConditionalGeneration, TextIteratorStreamer

from internvl35 import AutoModel, AutoTokenizer, load_image, load_video
from internvl35.data.templates import R1_SYSTEM_PROMPT, TEMPLATES
from internvl35.errors import PromptError

SHARED = Path(__file__).parents[2] / "shared"
"""Reference material beside the checkout; a test that needs it says so when it is missing."""

GREEDY = {"max_new_tokens": 8, "do_sample": False}


@pytest.fixture(scope="module")
def model(random_checkpoint):
    return AutoModel.from_pretrained(
        random_checkpoint, torch_dtype=torch.float32, load_in_8bit=False, low_cpu_mem_usage=True,
        use_flash_attn=True, trust_remote_code=True, device_map="auto",
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(random_checkpoint):
    return AutoTokenizer.from_pretrained(random_checkpoint, trust_remote_code=True, use_fast=False)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, size in (("one.png", (60, 150, 3)), ("two.png", (50, 50, 3))):
        Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(folder / name)
    return [load_image(str(folder / n), input_size=56, max_num=6) for n in ("one.png", "two.png")]


def test_an_answer_is_what_stock_transformers_generates_from_the_official_string(
    model, tokenizer, pictures, tmp_path
):
    model.save_pretrained(tmp_path, layout="hf")
    stock = InternVLForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32).eval()
    system = TEMPLATES["internvl2_5"].default_system_prompt
    image = "<img>" + "<IMG_CONTEXT>" * (4 * len(pictures[0])) + "</img>"
    official = (
        f"<|im_start|>system\n{system}<|im_end|>\n"
        f"<|im_start|>user\n{image}\nDescribe it.<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = tokenizer(official, return_tensors="pt", add_special_tokens=False).input_ids
    marks = [tokenizer.convert_tokens_to_ids(t) for t in ("<img>", "</img>", "<IMG_CONTEXT>")]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    with torch.inference_mode():
        rows = stock.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pictures[0],
            suppress_tokens=marks, eos_token_id=end, pad_token_id=end, **GREEDY,
        )  # fmt: skip
    expected = tokenizer.decode(rows[0, ids.shape[1] :], skip_special_tokens=True).strip()
    assert model.chat(tokenizer, pictures[0], "<image>\nDescribe it.", GREEDY) == expected
    assert model.chat(tokenizer, pictures[0], "Describe it.", GREEDY) == expected


def test_history_grows_by_a_turn_and_is_not_changed_in_place(model, tokenizer, pictures):
    first, history = model.chat(
        tokenizer, pictures[0], "Describe it.", GREEDY, history=None, return_history=True
    )
    assert history == [("<image>\nDescribe it.", first)]
    second, longer = model.chat(
        tokenizer, pictures[0], "And now?", GREEDY, history=history, return_history=True
    )
    assert len(history) == 1
    assert longer == [*history, ("And now?", second)]


def test_pure_text_needs_no_pictures(model, tokenizer):
    answer, history = model.chat(tokenizer, None, "Hello", GREEDY, return_history=True)
    assert history == [("Hello", answer)]


def test_pictures_side_by_side_and_kept_apart_are_different_prompts(model, tokenizer, pictures):
    pixel_values = torch.cat(pictures)
    sizes = [len(picture) for picture in pictures]
    apart = "Image-1: <image>\nImage-2: <image>\nDescribe the two images."
    one = model.chat(tokenizer, pixel_values, apart, GREEDY, num_patches_list=sizes)
    other = model.chat(tokenizer, pixel_values, "<image>\nDescribe the two images.", GREEDY)
    assert one != other


def test_batch_chat_equals_chat_sample_by_sample(model, tokenizer, pictures):
    questions = ["<image>\nDescribe the image.", "Hello, who are you? Describe the image shortly."]
    sizes = [len(picture) for picture in pictures]
    answers = model.batch_chat(
        tokenizer, torch.cat(pictures), num_patches_list=sizes, questions=questions,
        generation_config=GREEDY,
    )  # fmt: skip
    for answer, picture, question in zip(answers, pictures, questions, strict=True):
        assert answer == model.chat(tokenizer, picture, question, GREEDY)


def test_a_batch_may_mix_text_and_several_pictures(model, tokenizer, pictures):
    questions = ["Hello", "<image> or <image>?"]
    sizes = [len(picture) for picture in pictures]
    answers = model.batch_chat(tokenizer, torch.cat(pictures), questions, GREEDY, sizes)
    assert answers == [
        model.chat(tokenizer, None, "Hello", GREEDY),
        model.chat(tokenizer, torch.cat(pictures), questions[1], GREEDY, num_patches_list=sizes),
    ]
    assert model.batch_chat(tokenizer, None, [], GREEDY) == []


def test_a_stream_adds_up_to_the_answer(model, tokenizer, pictures):
    whole = model.chat(tokenizer, pictures[1], "Describe it.", GREEDY)
    pieces = list(model.stream_chat(tokenizer, pictures[1], "Describe it.", GREEDY))
    assert "".join(pieces) == whole


def test_a_transformers_streamer_in_the_generation_config_gets_the_answer(
    model, tokenizer, pictures
):
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    whole = model.chat(tokenizer, pictures[1], "Describe it.", GREEDY | {"streamer": streamer})
    assert "".join(streamer).strip() == whole


def test_tiles_of_another_size_are_brought_to_the_checkpoints(model, tokenizer, pictures):
    large = torch.nn.functional.interpolate(pictures[1], size=(448, 448), mode="nearest")
    same = model.chat(tokenizer, pictures[1], "Describe it.", GREEDY)
    small = torch.nn.functional.interpolate(large, size=(56, 56), mode="bicubic", antialias=True)
    assert model.chat(tokenizer, large, "Describe it.", GREEDY) == model.chat(
        tokenizer, small, "Describe it.", GREEDY
    )
    assert isinstance(same, str)


@pytest.mark.parametrize(("sizes", "found"), [([1], "holds 4"), ([3, 2], "5 tiles"), ([4, 0], "0")])
def test_wrong_num_patches_list_is_an_error_with_both_numbers(
    model, tokenizer, pictures, sizes, found
):
    with pytest.raises(PromptError, match=found):
        model.chat(tokenizer, pictures[0], "<image>", GREEDY, num_patches_list=sizes)


def test_batch_chat_refuses_a_history_as_the_released_code_does(model, tokenizer):
    with pytest.raises(PromptError, match="history"):
        model.batch_chat(tokenizer, None, ["Hello"], GREEDY, return_history=True)


def test_the_system_message_can_be_set_as_in_the_released_code(model, tokenizer):
    official = model.system_message
    plain = model.chat(tokenizer, None, "Hello", GREEDY)
    try:
        model.system_message = R1_SYSTEM_PROMPT
        assert model.chat(tokenizer, None, "Hello", GREEDY) != plain
    finally:
        model.system_message = official
    assert model.chat(tokenizer, None, "Hello", GREEDY) == plain


def test_the_announcements_example_runs_unchanged(random_checkpoint, tmp_path, monkeypatch, capsys):
    source = SHARED / "announcement" / "inference_example.py"
    if not source.exists():
        pytest.skip(f"needs {source.name} of the announcement beside the checkout")
    folder = tmp_path / "examples"
    folder.mkdir()
    Image.new("RGB", (300, 120), (200, 30, 30)).save(folder / "image1.jpg")
    Image.new("RGB", (120, 120), (20, 30, 200)).save(folder / "image2.jpg")
    with av.open(str(folder / "red-panda.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(30):
            frame = np.full((64, 64, 3), number * 8, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    monkeypatch.chdir(tmp_path)
    # only what the machine and the time allow is changed: no GPU, the small checkpoint, few tokens
    code = source.read_text(encoding="utf-8")
    code = code.replace("OpenGVLab/InternVL3_5-8B", str(random_checkpoint)).replace(".cuda()", "")
    code = code.replace("max_new_tokens=1024", "max_new_tokens=4")
    names = {
        "torch": torch, "AutoModel": AutoModel, "AutoTokenizer": AutoTokenizer,
        "load_image": load_image, "load_video": load_video,
    }  # fmt: skip
    exec(compile(code, source.name, "exec"), names)  # the announcement's own code
    assert len(names["history"]) == 2
    assert len(names["responses"]) == 2
