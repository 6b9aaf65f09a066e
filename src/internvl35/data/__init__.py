"""Pixels and text on their way to the network: tiles, pictures, videos, prompts, records.

Nothing here knows a network, its weights or its configuration; those are left to
:mod:`internvl35.model`. Shapes use the alphabet written there. Paper section 2.1.
"""
