"""How likely the tokens of a prompt were, read off the logits that computing it brings along.

No counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from internvl35.generate.jobs import Job
from internvl35.generate.sampler import find_logprobs
from internvl35.generate.scheduler import Work


def find_places(works: Sequence[Work]) -> tuple[Tensor, list[Work]]:
    """Find the places of a step's row that need logits.

    Args:
        works: of the step, in the order of the row.

    Returns:
        ``(rows,)`` int64: first the ends of sequences whose next token is chosen, then the places
        in front of prompt tokens whose log-probabilities are asked for; and the works of these.
    """
    ends: list[int] = []
    others: list[int] = []
    asked: list[Work] = []
    first = 0
    for work in works:
        if work.is_last:
            ends.append(first + work.count - 1)
        if work.sequence.has_prompt_logprobs and _num_asked(work) > 0:
            others += range(first, first + _num_asked(work))
            asked.append(work)
        first += work.count
    return torch.tensor(ends + others, dtype=torch.int64), asked


def note_logprobs(job: Job, work: Work, logits: Tensor) -> int:
    """Add to a request what a step tells of its prompt.

    Args:
        job: the request.
        work: of the step, one of those that :func:`find_places` returned.
        logits: ``(rows, W)``; the first ones are this work's.

    Returns:
        How many were this work's.
    """
    assert job.prompt_logprobs is not None
    count = _num_asked(work)
    token_ids = work.sequence.token_ids[work.start + 1 : work.start + 1 + count]
    num_top = job.sampling.num_prompt_logprobs or 0
    found = find_logprobs(logits[:count], token_ids, [num_top] * count)
    pictures = set(job.request.prompt.image_places)
    for place, token in enumerate(found, work.start + 1):
        if place == len(job.prompt_logprobs):  # else it is computed again, behind a preemption
            job.prompt_logprobs.append(None if place in pictures else token)
    return count


def _num_asked(work: Work) -> int:
    """Prompt tokens whose log-probability a work's logits tell: all but the first of the prompt."""
    return min(work.stop, work.sequence.num_prompt - 1) - work.start
