"""The network: vision tower, patch merging, projector, language model, and their weights.

Shapes in this package use one alphabet: ``B`` sequences, ``T`` tokens, ``N`` tiles, ``G`` grid side
in patches, ``V`` visual tokens a tile, ``D`` language width, ``C`` vision width, ``H`` heads, ``K``
head width, ``E`` experts, ``W`` vocabulary, ``R`` rollouts a prompt. Pixels, prompts and tokenizers
are left to :mod:`internvl35.data`. Paper section 2.1.
"""
