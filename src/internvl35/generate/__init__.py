"""From prompts and pictures to answers: sampling settings and batched, streamed generation.

Conversations and media are left to :mod:`internvl35.chat`; the network to :mod:`internvl35.model`.
"""
