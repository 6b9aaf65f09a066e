"""How a short answer counts that is a number in digits, or else a name or a word.

Answers that are texts, places, code or formulas are left to their families. No counterpart in the
paper.
"""

from __future__ import annotations

from internvl35.data.synthetic.drawing import Turn
from internvl35.scoring import exact_match, extract_number


def score_short(turn: Turn, answer: str) -> dict[str, float]:
    """Score an answer by what is expected.

    Args:
        turn: what was asked.
        answer: what a model said.

    Returns:
        ``right``: 1 if it states the expected number and no other, or if it is the expected name;
        case and articles do not count.
    """
    if turn.answer.isdigit():
        return {"right": float(extract_number(answer) == float(turn.answer))}
    return {"right": float(exact_match(turn.answer, answer))}
