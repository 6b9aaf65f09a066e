"""Computes one step: the tokens of several sequences in one row through the language model.

The model is transformers' own class. Its modules are copied without their weights, so that the
paged attention is chosen for the copy alone and the model itself goes on working as before. What a
step consists of is left to :mod:`internvl35.generate.scheduler`. No counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from internvl35.generate.paged_attention import (
    PAGED,
    Chunk,
    PagedCache,
    PagedStep,
    register_paged_attention,
)
from internvl35.generate.replay import AnswerRow, Record, ReplayedSteps, to_device
from internvl35.generate.request import Request
from internvl35.generate.scheduler import Work
from internvl35.model.composite import VisionLanguageModel
from internvl35.model.copies import copy_modules


class LanguageDecoder:
    """The language model over a paged cache.

    Args:
        model: in eval mode. Its weights are shared: if they change in place, the decoder changes.
        num_blocks: blocks of the cache.
        block_size: tokens of a block.
        max_answers: most answers that go on in one step.
        record: records steps in which answers alone go on; None to compute each anew.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        num_blocks: int,
        block_size: int,
        max_answers: int,
        record: Record | None = None,
    ) -> None:
        """Copy the modules of the language model; no weight is copied."""
        register_paged_attention()
        self.model = model
        self.cache = PagedCache(num_blocks + (record is not None), block_size)  # one to spare
        self._language_model = copy_modules(model.language_model)
        self._language_model.set_attn_implementation(PAGED)
        # four dimensions: transformers makes none itself
        self._no_mask = torch.empty(1, 1, 0, 0, device=model.input_device)
        self._replayed = None
        if record is not None:
            self._replayed = ReplayedSteps(
                self._go_on, model.input_device, max_answers, num_blocks * block_size, record
            )

    def run(self, works: Sequence[Work], requests: Mapping[str, Request]) -> Tensor:
        """Compute a step.

        Args:
            works: single tokens first, at least one in all.
            requests: by their ids; visual tokens in place of tiles.

        Returns:
            ``(rows, W)`` logits behind the last token of each work.
        """
        last = np.cumsum([work.count for work in works]) - 1
        return self.logits(works, requests, torch.from_numpy(last))

    @torch.inference_mode()
    def logits(
        self, works: Sequence[Work], requests: Mapping[str, Request], places: Tensor
    ) -> Tensor:
        """Compute a step, and the logits behind some of its tokens.

        Args:
            works: single tokens first, at least one in all.
            requests: by their ids.
            places: ``(rows,)`` int64 of the tokens in the row of the step.

        Returns:
            ``(rows, W)`` logits, in the dtype of the weights.
        """
        device = self.model.input_device
        ids = [
            token_id
            for work in works
            for token_id in work.sequence.token_ids[work.start : work.stop]
        ]
        positions = np.concatenate([np.arange(work.start, work.stop) for work in works])
        if self._replayed is not None and all(map(_goes_on, works)):
            slots, tables, lengths = self._place(works, positions)
            row = AnswerRow(np.array(ids), positions, slots, tables, lengths)
            return self._replayed.run(row)[places.to(device)]
        embeds = self._embed(works, requests, to_device(np.array(ids), device))
        step = self._lay_out(works, positions)
        return self._compute(embeds, to_device(positions, device), step, places.to(device))

    def _go_on(self, row: AnswerRow) -> Tensor:
        """Compute the newest token of every answer from tensors; see :class:`ReplayedSteps`."""
        step = PagedStep(self.cache, row.slots, row.tables, row.lengths, ())
        embeds = self.model.get_input_embeddings()(row.ids)
        return self._compute(embeds, row.positions, step, 0)  # 0 keeps all

    def _compute(
        self, embeds: Tensor, positions: Tensor, step: PagedStep, places: Tensor | int
    ) -> Tensor:
        output = self._language_model(
            inputs_embeds=embeds[None],
            position_ids=positions[None],
            attention_mask=self._no_mask,
            use_cache=False,
            logits_to_keep=places,
            paged=step,
        )
        logits: Tensor = output.logits[0]
        return logits

    def _embed(self, works: Sequence[Work], requests: Mapping[str, Request], ids: Tensor) -> Tensor:
        """Embed tokens, and put the visual tokens in the places kept for them: ``(T, D)``."""
        embeds: Tensor = self.model.get_input_embeddings()(ids)
        first = 0
        for work in works:
            request = requests[work.sequence.request_id]
            if request.features is not None and work.start < work.sequence.num_prompt:
                _show_pictures(embeds[first : first + work.count], work, request)
            first += work.count
        return embeds

    def _lay_out(self, works: Sequence[Work], positions: Any) -> PagedStep:
        size, device = self.cache.block_size, self.model.input_device
        slots, tables, lengths = self._place(works, positions)
        chunks, first = [], 0
        for work in works:
            if work.count > 1:
                blocks = np.asarray(work.sequence.blocks[: -(-work.stop // size)], dtype=np.int64)
                chunks.append(Chunk(first, work.count, work.start, to_device(blocks, device)))
            first += work.count
        return PagedStep(
            self.cache, to_device(slots, device), to_device(tables, device),
            to_device(lengths, device), tuple(chunks),
        )  # fmt: skip

    def _place(self, works: Sequence[Work], positions: Any) -> tuple[Any, Any, Any]:
        """Slots of all tokens, and blocks and lengths of the sequences with a single one."""
        size = self.cache.block_size
        answers = [work for work in works if work.count == 1]
        num_blocks = max((len(work.sequence.blocks) for work in answers), default=0)
        tables = np.zeros((len(answers), num_blocks), dtype=np.int32)
        for row, work in enumerate(answers):
            tables[row, : len(work.sequence.blocks)] = work.sequence.blocks
        slots = np.empty(len(positions), dtype=np.int64)
        first = 0
        for work in works:
            own = positions[first : first + work.count]
            blocks = np.asarray(work.sequence.blocks, dtype=np.int64)
            slots[first : first + work.count] = blocks[own // size] * size + own % size
            first += work.count
        return slots, tables, np.array([work.stop for work in answers], dtype=np.int32)


def _goes_on(work: Work) -> bool:
    """Whether a work is one token behind the prompt, where no picture is."""
    return work.count == 1 and work.start >= work.sequence.num_prompt


def _show_pictures(embeds: Tensor, work: Work, request: Request) -> None:
    """Overwrite the places of pictures among the tokens of a work ``(count, D)``."""
    features, taken = request.features, 0
    assert features is not None
    for span in request.prompt.image_spans:
        start, stop = max(span.start, work.start), min(span.start + span.num_tokens, work.stop)
        if start < stop:
            shown = features[taken + start - span.start : taken + stop - span.start]
            place = slice(start - work.start, stop - work.start)
            embeds[place] = shown.to(embeds.device, embeds.dtype)
        taken += span.num_tokens
