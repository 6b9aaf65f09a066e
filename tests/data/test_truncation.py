"""Cut prompts keep their pictures, and the rest of their tokens in order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl35.data.token_writer import ImageSpan, Prompt
from internvl35.data.truncation import truncate
from internvl35.errors import DataError

START, CONTEXT, END = -1, -2, -3


@st.composite
def prompts(draw):
    """Texts are rising numbers, so that nothing can change places unseen."""
    ids, spans = [], []
    for num_text in draw(st.lists(st.integers(0, 6), min_size=1, max_size=4)):
        ids += range(len(ids), len(ids) + num_text)
        if draw(st.booleans()):
            num_tokens = 2 * draw(st.integers(1, 3))
            spans.append(ImageSpan(len(ids) + 1, num_tokens, num_tokens // 2))
            ids += [START, *[CONTEXT] * num_tokens, END]
    return Prompt(tuple(ids), tuple(spans), tuple(i >= 0 and i % 3 == 0 for i in ids))


@given(prompt=prompts(), max_tokens=st.integers(0, 60), side=st.sampled_from(["left", "right"]))
def test_text_is_cut_at_one_end_and_pictures_stay(prompt, max_tokens, side):
    texts = [i for i in prompt.token_ids if i >= 0]
    num_visual = len(prompt) - len(texts)
    if num_visual > max_tokens:
        with pytest.raises(DataError, match=f"pictures alone take {num_visual} tokens"):
            truncate(prompt, max_tokens, side)
        return
    cut = truncate(prompt, max_tokens, side)
    assert len(cut) == min(len(prompt), max_tokens)
    room = len(cut) - num_visual
    kept = texts[len(texts) - room :] if side == "left" else texts[:room]
    assert [i for i in cut.token_ids if i >= 0] == kept
    assert cut.loss_mask == tuple(i >= 0 and i % 3 == 0 for i in cut.token_ids)
    assert [(s.num_tokens, s.num_tiles) for s in cut.image_spans] == [
        (s.num_tokens, s.num_tiles) for s in prompt.image_spans
    ]
    for span in cut.image_spans:
        end = span.start + span.num_tokens
        assert cut.token_ids[span.start - 1 : end + 1] == (START, *[CONTEXT] * span.num_tokens, END)
