import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl35.data.thinking import split_thinking, starts_with_channel

ANALYSIS = "<|channel|>analysis<|message|>"
FINAL = "<|channel|>final<|message|>"


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("plain", None, "plain"),
        (" plain\n", None, " plain"),
        ("", None, ""),
        ("<think>\nwhy\n</think>\n\nfour", "why", "four"),
        ("why\n</think>\n\nfour", "why", "four"),
        ("<think>\nwhy", "why", ""),
        ("\n<think>", None, ""),
        ("<think>\n\n</think>\n\nfour", None, "four"),
        ("<think>a</think>b<think>c</think>d", "a\n\nb\n\nc", "d"),
        ("<think>a</think>b</think>c", "a\n\nb", "c"),
        ("<think>a</think>\n<think>b", "a\n\nb", ""),
        ("<think>a</think>write <think> first", "a", "write <think> first"),
        ("write <think> first", None, "write <think> first"),
        ("<think>a</think>b<|im_end|>", "a", "b"),
        ("b<|im_end|>\n<|endoftext|>", None, "b"),
    ],
)
def test_tags_are_split_into_reasoning_and_answer(text, thinking, answer):
    assert split_thinking(text) == (thinking, answer)


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        (f"{FINAL}four<|return|>", None, "four"),
        (f"{FINAL}four", None, "four"),
        (f"{ANALYSIS}why<|end|><|start|>assistant{FINAL}four<|return|>", "why", "four"),
        (f"<|start|>assistant{ANALYSIS}why<|end|><|start|>assistant{FINAL}four", "why", "four"),
        (f"why<|end|><|start|>assistant{FINAL}four<|return|>", "why", "four"),
        (f"{ANALYSIS}wh", "wh", ""),
        (f"{ANALYSIS}", None, ""),
        ("<|channel|>ana", None, ""),
        (f"{ANALYSIS}a<|end|><|start|>assistant{ANALYSIS}b<|end|>", "a\n\nb", ""),
        (f"{ANALYSIS}a{FINAL}b", "a", "b"),
        ("<|channel|>commentary to=f <|constrain|>json<|message|>{}<|call|>", "{}", ""),
        (f"{ANALYSIS}a < b\n<x><|end|><|start|>assistant{FINAL}<y>", "a < b\n<x>", "<y>"),
    ],
)
def test_channels_are_split_into_reasoning_and_answer(text, thinking, answer):
    assert split_thinking(text) == (thinking, answer)


@given(
    thinking=st.text("ab \n<"), answer=st.text("ab \n<"), head=st.sampled_from(["<think>\n", ""])
)
def test_what_is_put_into_a_block_comes_out_of_it(thinking, answer, head):
    text = f"{head}{thinking}\n</think>\n\n{answer}"
    assert split_thinking(text) == (thinking.strip() or None, answer.strip())


@pytest.mark.parametrize(
    "text",
    [
        "<think>\nwhy so\n</think>\n\nfour of them",
        f"{ANALYSIS}why so<|end|><|start|>assistant{FINAL}four of them<|return|>",
    ],
)
def test_a_stream_never_shows_reasoning_as_the_answer(text):
    for cut in range(len("<|channel|>"), len(text) + 1):
        thinking, answer = split_thinking(text[:cut])
        assert "four of them".startswith(answer.removesuffix("<").split("<|")[0])
        assert thinking is None or "why so".startswith(thinking.split("<")[0].strip())


def test_a_channel_counts_once_its_message_has_begun():
    assert starts_with_channel(f"{FINAL}four")
    assert not starts_with_channel("<|channel|>final")
    assert not starts_with_channel(f"a {FINAL}four")
