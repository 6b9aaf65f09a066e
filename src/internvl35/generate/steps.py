"""Computes what a step consists of and chooses tokens, in parts where memory does not suffice.

What that is, is decided by :mod:`internvl35.generate.scheduler`. No counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from internvl35.generate.decoder import LanguageDecoder
from internvl35.generate.jobs import Job
from internvl35.generate.prompt_logprobs import find_places, note_logprobs
from internvl35.generate.sampler import Choice, Sampler
from internvl35.generate.scheduler import Scheduler, Work
from internvl35.generate.sequence import Sequence


@dataclass(frozen=True)
class StepComputer:
    """Takes works to the tokens that follow them."""

    decoder: LanguageDecoder
    """Computes them."""
    sampler: Sampler
    """Chooses tokens."""
    scheduler: Scheduler
    """Is told what has been computed."""

    def run(self, works: list[Work], jobs: Mapping[str, Job]) -> list[tuple[Sequence, Choice]]:
        """Compute works together; if that fails, in halves; alone, a part of the work.

        Args:
            works: of the scheduler's plan.
            jobs: requests by name.

        Returns:
            The next tokens of sequences that have one, and why computing others failed.
        """
        found = self._run_together(works, jobs)
        if not isinstance(found, str):
            return found
        if len(works) > 1:
            middle = len(works) // 2
            return self.run(works[:middle], jobs) + self.run(works[middle:], jobs)
        (work,) = works
        if work.count > 1:  # what is left comes with the next step
            return self.run([replace(work, count=work.count // 2)], jobs)
        return [(work.sequence, Choice(-1, error=f"computing failed: {found}"))]

    def _run_together(
        self, works: list[Work], jobs: Mapping[str, Job]
    ) -> list[tuple[Sequence, Choice]] | str:
        ready = [work.sequence for work in works if work.is_last]
        names = {work.sequence.request_id for work in works}
        places, asked = find_places(works)
        try:
            requests = {name: jobs[name].request for name in names}
            logits = self.decoder.logits(works, requests, places)
            others = logits[len(ready) :]
            for work in asked:
                others = others[note_logprobs(jobs[work.sequence.request_id], work, others) :]
            rows = [sequence.row for sequence in ready]
            choices = self.sampler.choose(logits[: len(ready)], rows)
        except torch.AcceleratorError:
            raise  # nothing on that device works again in this process
        except RuntimeError as error:  # out of memory, mostly; its frames hold tensors
            return str(error)
        self.scheduler.finish_step(works)
        return list(zip(ready, choices, strict=True))
