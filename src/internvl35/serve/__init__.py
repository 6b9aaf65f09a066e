"""Requests of others: OpenAI's wire format in and out, and files of many requests.

Prompts and tiles are left to :mod:`internvl35.chat`, answering to an engine of
:mod:`internvl35.generate`. Nothing here needs more than plain JSON values; no counterpart in the
paper.
"""
