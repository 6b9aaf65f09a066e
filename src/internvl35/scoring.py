"""Compare a model's answer with the expected one, and say how sure a rate is.

Shared by evaluation and by rewards; prompts and benchmarks' own rules are left to those who ask.
Knows neither torch nor pictures. Paper section 3 (accuracies), section 2.3 (verifiable rewards).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, get_args

from internvl35.errors import ConfigError

Metric = Literal["acc", "exact_match", "rouge", "edit_distance"]
"""How written answers are compared with expected ones."""

METRICS: tuple[Metric, ...] = get_args(Metric)

_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty"
)
_VALUES = {word: str(value) for value, word in enumerate(_NUMBER_WORDS.split())}
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?!\w|\.\d)")
_CHINESE = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff\u3040-\u30ff"
_ROUGE_TOKEN = re.compile(rf"[{_CHINESE}]|[^\W_{_CHINESE}]+|[^\w\s]|_")


@dataclass(frozen=True)
class Score:
    """What a metric says about many answers."""

    mean: float
    """Mean over the answers, 0 to 1."""
    num_answers: int
    """Answers that were compared."""
    interval: tuple[float, float] | None = None
    """Wilson interval at 95 %, where every single answer is right or wrong."""


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


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """Chance that at least one of k answers is right, estimated without bias from more answers.

    M. Chen et al., Evaluating Large Language Models Trained on Code, arXiv 2107.03374, section 2.1:
    ``1 - C(n - c, k) / C(n, k)``.

    Args:
        num_samples: answers drawn, n.
        num_right: right ones among them, c.
        k: answers that one would draw.

    Returns:
        The chance, 0 to 1.

    Raises:
        ValueError: unless ``0 <= c <= n`` and ``1 <= k <= n``.
    """
    if not 0 <= num_right <= num_samples or not 1 <= k <= num_samples:
        raise ValueError(
            f"{num_right} right of {num_samples}, k is {k}; needed: 0 <= right <= samples and "
            "1 <= k <= samples"
        )
    return 1 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


def rouge_tokens(text: str) -> list[str]:
    """Cut a text into what ROUGE counts.

    Args:
        text: in any language.

    Returns:
        Words in lower case, every Chinese or Japanese character by itself, and every punctuation
        mark by itself: formulas and code consist of them.
    """
    return _ROUGE_TOKEN.findall(text.lower())


def rouge_n(expected: str, answer: str, n: int) -> float:
    """Overlap of an answer with the expected one in stretches of words (ROUGE-N, F-measure).

    C.-Y. Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004. A stretch counts as
    often as it stands in both texts.

    Args:
        expected: the right answer.
        answer: the answer given.
        n: tokens a stretch.

    Returns:
        ``2 P R / (P + R)``, 0 to 1. Texts too short for a stretch agree only if they are equal
        token by token.
    """
    wanted, found = rouge_tokens(expected), rouge_tokens(answer)
    wanted_stretches, found_stretches = _stretches(wanted, n), _stretches(found, n)
    if not wanted_stretches or not found_stretches:
        return float(wanted == found)
    shared = (wanted_stretches & found_stretches).total()
    return _f_measure(shared, found_stretches.total(), wanted_stretches.total())


def rouge_l(expected: str, answer: str) -> float:
    """Overlap of an answer with the expected one in their longest common subsequence (ROUGE-L).

    Args:
        expected: the right answer.
        answer: the answer given.

    Returns:
        The F-measure, 0 to 1; 1 for two texts without tokens.
    """
    wanted, found = rouge_tokens(expected), rouge_tokens(answer)
    if not wanted or not found:
        return float(wanted == found)
    return _f_measure(_longest_common(wanted, found), len(found), len(wanted))


def edit_distance(expected: str, answer: str) -> float:
    """Share of characters that must be inserted, deleted or replaced (Levenshtein).

    Args:
        expected: the right answer; white space around it does not count.
        answer: the answer given; likewise.

    Returns:
        Edits by the length of the longer text: 0 for equal texts, 1 if nothing agrees.
    """
    from rapidfuzz.distance import Levenshtein  # here, since settings name metrics quickly

    return float(Levenshtein.normalized_distance(expected.strip(), answer.strip()))


def score_answers(
    expected: Sequence[str], answers: Sequence[str], metrics: Sequence[Metric]
) -> dict[str, Score]:
    """Compare answers with the expected ones.

    Args:
        expected: the right answers.
        answers: the answers given, one each.
        metrics: ``acc``: equal after :func:`normalize_answer`; ``exact_match``: equal but for white
            space at the ends; ``rouge``: three F-measures; ``edit_distance``.

    Returns:
        Name to score: ``acc``, ``exact_match``, ``rouge-1``, ``rouge-2``, ``rouge-l``,
        ``edit_distance`` and ``edit_similarity`` (1 minus the distance); empty without answers.

    Raises:
        ConfigError: if a metric is unknown.
    """
    if len(expected) != len(answers):
        raise ValueError(f"{len(expected)} expected answers but {len(answers)} answers")
    for metric in metrics:
        if metric not in METRICS:
            raise ConfigError(f"metric {metric!r} is unknown; known: {', '.join(METRICS)}")
    pairs = list(zip(expected, answers, strict=True))
    if not pairs:
        return {}
    scores: dict[str, Score] = {}
    if "acc" in metrics:
        scores["acc"] = _rate([exact_match(*pair) for pair in pairs])
    if "exact_match" in metrics:
        scores["exact_match"] = _rate([right.strip() == given.strip() for right, given in pairs])
    if "rouge" in metrics:
        kinds: dict[str, Callable[[str, str], float]] = {
            "rouge-1": lambda right, given: rouge_n(right, given, 1),
            "rouge-2": lambda right, given: rouge_n(right, given, 2),
            "rouge-l": rouge_l,
        }
        for name, measure in kinds.items():
            scores[name] = Score(fmean(measure(*pair) for pair in pairs), len(pairs))
    if "edit_distance" in metrics:
        mean = fmean(edit_distance(*pair) for pair in pairs)
        scores["edit_distance"] = Score(mean, len(pairs))
        scores["edit_similarity"] = Score(1 - mean, len(pairs))
    return scores


def _rate(is_right: Sequence[bool]) -> Score:
    num_right = sum(is_right)
    interval = wilson_interval(num_right, len(is_right))
    return Score(num_right / len(is_right), len(is_right), interval)


def _stretches(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1))


def _f_measure(num_shared: int, num_found: int, num_wanted: int) -> float:
    return 2 * num_shared / (num_found + num_wanted)  # the harmonic mean of P and R, shortened


def _longest_common(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    from rapidfuzz.distance import LCSseq

    return int(LCSseq.similarity(first, second))
