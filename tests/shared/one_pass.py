"""How likely an answer is, by one plain pass over prompt and answer: an oracle for engines."""

from __future__ import annotations

import torch

from internvl35.generate.runner import join_pictures


def score_tokens(chat, request, token_ids):
    """Natural log-probability of each token, before temperature and penalties."""
    if not token_ids:
        return []
    model = chat.model
    ids = torch.tensor([[*request.prompt.token_ids, *token_ids]])
    with torch.inference_mode():
        logits = model(
            input_ids=ids, attention_mask=torch.ones_like(ids), **join_pictures(model, [request]),
            logits_to_keep=len(token_ids) + 1, use_cache=False,
        ).logits[0, :-1]  # fmt: skip
    chosen = torch.tensor(token_ids)[:, None]
    return logits.float().log_softmax(-1).gather(1, chosen)[:, 0].tolist()
