"""A prompt is written as text, cut where loss begins and ends."""

from __future__ import annotations

from internvl35.data.preview import Stretch, read_stretches
from internvl35.data.prompt import Message, PromptBuilder, PromptSettings


def test_a_prompt_is_cut_where_loss_begins_and_ends(small_tokenizer):
    builder = PromptBuilder(
        small_tokenizer, PromptSettings(system_prompt="none", tokens_per_tile=4)
    )
    messages = [Message("user", "<image><image>\n<|im_end|> how?"), Message("assistant", "red\n")]
    prompt = builder.build(messages, [2, 1], add_generation_prompt=False)
    asked, answered, gap = read_stretches(prompt, small_tokenizer, builder.image_token_id)
    assert asked.text == (
        "<|im_start|>user\n<img><IMG_CONTEXT>×8</img><img><IMG_CONTEXT>×4</img>\n<|im_end|> how?"
        "<|im_end|>\n<|im_start|>assistant\n"
    )
    assert answered == Stretch("red\n<|im_end|>", prompt.num_targets, has_loss=True)
    assert gap == Stretch("\n", 1, has_loss=False)
    assert sum(stretch.num_tokens for stretch in (asked, answered, gap)) == len(prompt)
