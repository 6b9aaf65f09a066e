"""Computes one step: the tokens of several sequences in one row through the language model.

The model is transformers' own class. Its modules are copied without their weights, so that the
paged attention is chosen for the copy alone and the model itself goes on working as before. What a
step consists of is left to :mod:`internvl35.generate.scheduler`. No counterpart in the paper.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from internvl35.generate.paged_attention import (
    PAGED,
    Chunk,
    PagedCache,
    PagedStep,
    register_paged_attention,
)
from internvl35.generate.request import Request
from internvl35.generate.scheduler import Work
from internvl35.model.composite import VisionLanguageModel


class LanguageDecoder:
    """The language model over a paged cache.

    Args:
        model: in eval mode. Its weights are shared: if they change in place, the decoder changes.
        num_blocks: blocks of the cache.
        block_size: tokens of a block.
    """

    def __init__(self, model: VisionLanguageModel, num_blocks: int, block_size: int) -> None:
        """Copy the modules of the language model; no weight is copied."""
        register_paged_attention()
        self.model = model
        self.cache = PagedCache(num_blocks, block_size)
        self._language_model = _copy_modules(model.language_model)
        self._language_model.set_attn_implementation(PAGED)
        self._no_mask = torch.empty(1, 1, 0, 0)  # four dimensions: transformers makes none itself

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
        output = self._language_model(
            inputs_embeds=self._embed(works, requests, torch.tensor(ids, device=device))[None],
            position_ids=torch.from_numpy(positions)[None].to(device),
            attention_mask=self._no_mask.to(device),
            use_cache=False,
            logits_to_keep=places.to(device),
            paged=self._lay_out(works, positions),
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
        answers = [work for work in works if work.count == 1]
        tables = np.zeros((len(answers), max((len(w.sequence.blocks) for w in answers), default=0)))
        tables = tables.astype(np.int32)
        for row, work in enumerate(answers):
            tables[row, : len(work.sequence.blocks)] = work.sequence.blocks
        slots = np.empty(len(positions), dtype=np.int64)
        chunks, first = [], 0
        for work in works:
            own = positions[first : first + work.count]
            blocks = np.asarray(work.sequence.blocks, dtype=np.int64)
            slots[first : first + work.count] = blocks[own // size] * size + own % size
            if work.count > 1:
                needed = torch.from_numpy(blocks[: -(-work.stop // size)]).to(device)
                chunks.append(Chunk(first, work.count, work.start, needed))
            first += work.count
        lengths = np.array([work.stop for work in answers], dtype=np.int32)
        return PagedStep(
            self.cache, torch.from_numpy(slots).to(device), torch.from_numpy(tables).to(device),
            torch.from_numpy(lengths).to(device), tuple(chunks),
        )  # fmt: skip


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


def _copy_modules(language_model: nn.Module) -> Any:
    """Copy a model's modules and configuration; parameters and buffers stay the same objects."""
    shared: dict[int, Any] = {}
    for module in language_model.modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            shared[id(tensor)] = tensor
        hook = getattr(module, "_hf_hook", None)  # fetches offloaded weights; may hold all of them
        if hook is not None:
            shared[id(hook)] = hook
    return copy.deepcopy(language_model, shared)
