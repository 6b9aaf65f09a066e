"""Compare a model's answer with the expected one, and say how sure a rate is.

Shared by evaluation and by rewards; prompts and benchmarks' own rules are left to those who ask.
Knows neither torch nor pictures. Paper section 3 (accuracies), section 2.3 (verifiable rewards).
"""

from __future__ import annotations

import math
import re

_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty"
)
_VALUES = {word: str(value) for value, word in enumerate(_NUMBER_WORDS.split())}
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?!\w|\.\d)")


def normalize_answer(text: str) -> str:
    """Reduce an answer to what matters when two short answers are compared.

    Lower case, single spaces, no full stop at the end, no articles, number words up to twenty as
    digits: the rules of the VQA evaluation (Antol et al., arXiv 1505.00468) that short answers
    need.

    Args:
        text: an answer as a model or a person wrote it.

    Returns:
        The answer to compare; two answers that mean the same by these rules are equal strings.
    """
    words = text.strip().rstrip(".").lower().split()
    words = [word for word in words if word not in _ARTICLES] or words
    return " ".join(_VALUES.get(word, word) for word in words)


def exact_match(expected: str, answer: str, *, is_literal: bool = False) -> bool:
    """Whether an answer is the expected one.

    Args:
        expected: the right answer.
        answer: the answer given.
        is_literal: compare character by character, case included, as reading a printed text needs
            it; only white space around the answer and one full stop at its end are forgiven.

    Returns:
        True if they agree.
    """
    if is_literal:
        return answer.strip().removesuffix(".").rstrip() == expected.strip()
    return normalize_answer(expected) == normalize_answer(answer)


def extract_number(text: str) -> float | None:
    """The one number that a sentence states, in digits or as a word.

    Args:
        text: an answer such as ``"There are three."`` or ``"3"``.

    Returns:
        The number; None if the text states none, or several that differ.
    """
    spelled = re.sub(r"[a-z]+", lambda found: _VALUES.get(found[0], found[0]), text.lower())
    numbers = {float(found) for found in _NUMBER.findall(spelled)}
    return numbers.pop() if len(numbers) == 1 else None


def wilson_interval(num_right: int, num_total: int, z: float = 1.96) -> tuple[float, float]:
    """Confidence interval of a rate that stays inside 0..1, also near its ends.

    Score interval of E. B. Wilson, Journal of the American Statistical Association 22 (1927),
    pages 209-212.

    Args:
        num_right: right answers.
        num_total: all answers, at least 1.
        z: normal quantile; 1.96 gives 95 percent.

    Returns:
        Lower and upper end, each a share in 0..1.

    Raises:
        ValueError: unless ``0 <= num_right <= num_total`` and ``num_total >= 1``.
    """
    if num_total < 1 or not 0 <= num_right <= num_total:
        raise ValueError(
            f"{num_right} right of {num_total}; needed: 0 <= right <= total, total >= 1"
        )
    rate, weight = num_right / num_total, z * z / num_total
    centre = (rate + weight / 2) / (1 + weight)
    half = z * math.sqrt(rate * (1 - rate) / num_total + weight / (4 * num_total)) / (1 + weight)
    return max(0.0, centre - half), min(1.0, centre + half)
