"""How likely the tokens of a prompt were, read off the logits that computing it brings along.

No counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from internvl35.generate.answers import TokenLogprob
from internvl35.generate.jobs import Job
from internvl35.generate.request import Request
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


def note_logprobs(job: Job, work: Work, logits: Iterator[Tensor]) -> None:
    """Add to a request what a step tells of its prompt.

    Args:
        job: the request.
        work: of the step, one of those that :func:`find_places` returned.
        logits: ``(W,)`` for each place of the step, in order; those of this work are taken.
    """
    assert job.prompt_logprobs is not None
    num_top = job.sampling.num_prompt_logprobs or 0
    for place in range(work.start + 1, work.start + 1 + _num_asked(work)):
        row = next(logits)
        if place < len(job.prompt_logprobs):
            continue  # computed again, behind a preemption
        token_id = work.sequence.token_ids[place]
        is_picture = _is_picture(job.request, place)
        job.prompt_logprobs.append(None if is_picture else _describe(row, token_id, num_top))


def _num_asked(work: Work) -> int:
    """Prompt tokens whose log-probability a work's logits tell: all but the first of the prompt."""
    return min(work.stop, work.sequence.num_prompt - 1) - work.start


def _is_picture(request: Request, place: int) -> bool:
    spans = request.prompt.image_spans
    return any(span.start <= place < span.start + span.num_tokens for span in spans)


def _describe(logits: Tensor, token_id: int, num_top: int) -> TokenLogprob:
    """Pick a token and the likeliest ones out of ``(W,)`` logits."""
    logprobs = logits.float().log_softmax(-1)
    best = logprobs.topk(num_top)
    top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return TokenLogprob(token_id, float(logprobs[token_id]), top)
